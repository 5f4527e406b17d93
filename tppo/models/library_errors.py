"""What torch, transformers and safetensors say of an error, short enough for a sentence of ours."""


def first_line(error: BaseException) -> str:
    """Of its text; its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)

"""Why rollouts are parked: causes of one kind, which operators retry or drop together."""

MAX_KIND = 300  # characters


def kind_of_cause(cause: str) -> str:
    """Its first two parts: causes that differ in a value only are of one kind.

    `no score after 3 attempts: FAILED KeyError: 'x'` is of the kind `no score after 3 attempts: FAILED KeyError`.
    """
    return ": ".join(cause.split(": ")[:2])[:MAX_KIND]

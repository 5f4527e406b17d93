"""Which block of a response is its program."""

import pytest

from services.reward.verifiers.programs.extraction import program_of
from tests.reward.verifiers.programs.scoring import outcome_of

ADD = "def add(a, b):\n    return a + b\n"
BLOCK = f"```python\n{ADD}```\n"


@pytest.mark.parametrize(
    "response",
    [
        BLOCK,
        f"{BLOCK}Sample:\n```\n1 2\n```\n",
        f"{BLOCK}Sample:\n```\n3\n```\n",
        f"{BLOCK}Output:\n```text\nx = 3\n```\n",
        f"{BLOCK}Run it:\n```bash\npython add.py\n```\n",
        f"{BLOCK}In C:\n```cpp\nint add();\n```\n",
        f"{BLOCK}Usage:\n```python\nprint(add(1, 2))\n```\n",
        f"First try:\n```python\ndef add(a, b):\n    return a\n```\nBetter:\n{BLOCK}",
        BLOCK.replace("\n", "\r\n"),
        BLOCK.replace("```", "~~~"),
        BLOCK.replace("```", "````"),
        BLOCK.replace("def add", "\ufeffdef add"),
        BLOCK.replace("python", "Python"),
        BLOCK.replace("python", "py"),
        BLOCK.replace("python", "python3 title='add.py'"),
        BLOCK.replace("python", " {.python .numberLines}"),
        BLOCK.replace("```python", "```"),
        BLOCK.removesuffix("```\n"),
        f"1. Add:\n   {BLOCK.rstrip().replace(chr(10), chr(10) + '   ')}\n",
        f"> {BLOCK.rstrip().replace(chr(10), chr(10) + '> ')}\n",
        f"```python\nold = 1\n{BLOCK}",
        f"<think>```python\nold = 1\n```</think>{BLOCK}",
        f"Use `add` or ```add``` so:\n{BLOCK}",
        f"{BLOCK}```python\nadd(1, 2\n```\n",
    ],
)
def test_the_program_is_found_among_other_blocks(response: str) -> None:
    program = program_of(response, names=["add"])

    assert program is not None
    assert program.rstrip() == ADD.rstrip()


def test_a_script_is_the_last_block_that_reads_its_input() -> None:
    script = "print(sum(map(int, input().split())))\n"
    response = f"```python\n{script}```\nExample:\n```python\nprint(3)\n```"

    assert program_of(response, reads_input=True) == script
    assert program_of(response) == "print(3)\n"


def test_a_fence_within_a_docstring_does_not_end_the_program() -> None:
    program = 'def add(a, b):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n'

    assert program_of(f"```python\n{program}```\n") == program


@pytest.mark.parametrize(
    "response", ["I would rather not.", "```python\nx = 1\n```</think> nothing", "```c\nint x;\n```"]
)
def test_a_response_without_a_program_has_none(response: str) -> None:
    assert program_of(response) is None


def test_a_response_without_a_program_earns_nothing() -> None:
    scored = outcome_of("I would rather not.", ["assert add(1, 2) == 3"])

    assert (scored.score, scored.details) == (0.0, "the response has no block of Python")


@pytest.mark.parametrize(
    "text", ["(" * 10**5, "-" * 10**5 + "1", "a" + ".b" * 10**5, "x = 1\n" * 10**5, "```\n" * 10**4]
)
def test_text_that_is_hard_to_parse_is_taken_in_bounded_time(text: str) -> None:
    assert program_of(f"```python\n{text}\n```") is not None

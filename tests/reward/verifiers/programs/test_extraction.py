"""Which block of a response is its program."""

from typing import Any

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
        ADD,
        f"<think>hm</think>\n{ADD}",
        f"Here is the code: {BLOCK}",
        f"**Solution:** {BLOCK}",
        BLOCK.replace("b\n```", "b```"),
        BLOCK.replace("python", "main.py"),
        BLOCK.replace("python", "python:main.py"),
        BLOCK.replace("python", "Python 3"),
        BLOCK.replace("python", "pypy3"),
        BLOCK.replace("python", "text"),
        BLOCK.replace("python", "solution"),
        f"[PYTHON]\n{ADD}[/PYTHON]",
        f"It is <answer>\n{ADD}</answer>.",
        f"<answer>\n{BLOCK}</answer>",
        f"<code>\n{ADD}</code>",
        f"\\begin{{verbatim}}\n{ADD}\\end{{verbatim}}",
        f"\\begin{{minted}}{{python}}\n{ADD}\\end{{minted}}",
        f"<details>\n\n{BLOCK}\n</details>",
        f"{BLOCK}Its head:\n```python\ndef add(a: int, b: int) -> int: ...\n```",
        f"{BLOCK}Its head:\n```python\ndef add(a, b):\n    pass\n```",
        f"{BLOCK}Its head:\n```python\ndef add(a, b):\n    'Add.'\n    raise NotImplementedError\n```",
        BLOCK.replace("    return", "\xa0\xa0\xa0\xa0return"),
        f"Use it:\n```text\nadd(1, 2)\n```\n{BLOCK}",
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


HELPER = "```python\nimport math\n\ndef helper(a, b):\n    return int(math.fsum([a, b]))\n```\n"
CALLER = "```python\ndef add(a, b):\n    return helper(a, b)\n```\n"
PROMPT = "Complete this:\n\nimport math\nSCALE = 1\n\ndef helper(a, b):\n    return int(SCALE * math.fsum([a, b]))\n\n"
HEAD = 'def add(a, b):\n    """Add."""\n'


def added(response: str, prompt: str = "") -> int:
    scope: dict[str, Any] = {}
    exec(program_of(response, names=["add"], prompt=prompt) or "", scope)
    return int(scope["add"](1, 2))


@pytest.mark.parametrize(
    "response",
    [
        f"{HELPER}Then:\n{CALLER}",
        f"{CALLER}with\n{HELPER}",
        f"{HELPER.replace('[a, b]', '[a]')}Better:\n{HELPER}{CALLER}",
        "```python\nimport math\n```\n```python\ndef add(a, b):\n    return int(math.fsum([a, b]))\n```",
        f"{HELPER}```python\nprint(helper(1, 1))\n1 / 0\n```\n{CALLER}",
    ],
)
def test_a_program_in_several_blocks_is_put_together(response: str) -> None:
    assert added(response) == 3


@pytest.mark.parametrize(
    "response",
    [
        CALLER,
        "```python\ndef add(a, b):\n    return int(math.fsum([a, b]))\n```",
        "```python\n    return helper(a, b)\n```",
        "```\n    total = a + b\n    return total\n```",
    ],
)
@pytest.mark.parametrize("head", [HEAD, f"{HEAD}    pass\n", f"{HEAD}    raise NotImplementedError\n"])
def test_a_program_may_continue_the_code_of_its_prompt(response: str, head: str) -> None:
    assert added(response, f"{PROMPT}{head}") == 3


def test_what_is_tested_is_never_taken_from_the_prompt() -> None:
    program = program_of("```python\nprint(add(1, 2))\n```", names=["add"], prompt=f"For example:\n\n{ADD}")

    assert program == "print(add(1, 2))\n"


def test_a_part_of_a_script_is_put_before_what_reads_the_input() -> None:
    parts = "```python\ndef double(text):\n    return 2 * int(text)\n```\nMain:\n```python\nprint(double(input()))\n```"
    program = program_of(parts, reads_input=True)

    assert program == "def double(text):\n    return 2 * int(text)\nprint(double(input()))\n"


def test_a_fence_within_a_docstring_does_not_end_the_program() -> None:
    program = 'def add(a, b):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n'

    assert program_of(f"```python\n{program}```\n") == program


@pytest.mark.parametrize(
    "response",
    [
        "I would rather not.",
        "```python\nx = 1\n```</think> nothing",
        "```c\nint x;\n```",
        f"```diff\n{ADD}```",
        f"The code is:\n{ADD}and that is all of it.",
        "42",
        "<answer>42</answer>",
        "[PYTHON]def add(a, b[/PYTHON]",
    ],
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

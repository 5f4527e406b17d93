r"""The blocks of a response that may be its program.

Fences as CommonMark has them and as models write them: of backticks or tildes, of three or more, indented in a list,
with attributes, with CRLF, never closed at the response's end, opened where another block still is, or behind text in a
line. Where there is no fence: what stands between tags, or the whole text if it is Python.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from services.reward.verifiers.programs.syntax import parsed

FENCE = re.compile(r"([ \t]*(?:>[ \t]?)*)(`{3,}|~{3,})[ \t]*(.*)")
FENCE_BEHIND_TEXT = re.compile(r"([^`]*[^`\s>])[ \t]*(`{3,}[ \t]*py\w*[ \t]*)", re.IGNORECASE)
LANGUAGE = re.compile(r"\{?\s*\.?([\w+#.-]+)")
PYTHON = ("python", "py2", "py3", "pypy", "pycon", "ipython", "jupyter", "sage", "cython")
UNSURE = {"text", "txt", "plaintext", "plain", "code", "solution", "answer"}
TAGGED = re.compile(
    r"\[PYTHON\](?P<fenced>.*?)\[/PYTHON\]|<(?P<tag>answer|code|solution|python)>(?P<tagged>.*?)</(?P=tag)>"
    r"|\\begin\{(?P<environment>verbatim|lstlisting|minted)\}(?:\[[^\[\]]*\]|\{\w*\})*(?P<set>.*?)\\end\{(?P=environment)\}",
    re.DOTALL,
)
MAX_JOINED = 4  # fences that a docstring may hold


@dataclass(frozen=True)
class Block:
    """A fenced block and what its fence calls it."""

    language: str  # in lower case; empty where the fence names none
    text: str

    @property
    def is_python(self) -> bool:
        """Whether it may be Python, by its name."""
        return self.language in ("", "py") or self.language.startswith(PYTHON) or self.language.endswith(".py")

    @cached_property
    def tree(self) -> ast.Module | None:
        """Its syntax; None when it is no Python."""
        return parsed(self.text)

    @property
    def is_program(self) -> bool:
        """Whether it is Python that does something: a sample of input, such as `3`, does not."""
        return self.tree is not None and any(not _is_value(statement) for statement in self.tree.body)


def blocks_of(text: str) -> Iterator[Block]:
    """In their order."""
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    found = list(_fenced([part for line in text.split("\n") for part in _parts(line)]))
    yield from found or _unfenced(text)


def _is_value(statement: ast.stmt) -> bool:
    """A constant, a name, or several of them: what a sample of input or output looks like."""
    inert = (ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.UnaryOp, ast.expr_context, ast.unaryop)
    return isinstance(statement, ast.Expr) and all(isinstance(node, inert) for node in ast.walk(statement.value))


def _unfenced(text: str) -> Iterator[Block]:
    tagged = [found["fenced"] or found["tagged"] or found["set"] or "" for found in TAGGED.finditer(text)]
    for content in tagged or [text]:
        block = Block("", _spaced(f"{content.strip(chr(10))}\n"))
        if block.is_program:
            yield block


def _parts(line: str) -> Sequence[str]:
    """A line, in two where a fence stands behind text: `The code: ```python`."""
    found = FENCE_BEHIND_TEXT.fullmatch(line)
    return (found[1], found[2]) if found else (line,)


def _fenced(lines: list[str]) -> Iterator[Block]:
    position = 0
    while position < len(lines):
        opening = FENCE.fullmatch(lines[position])
        position += 1
        if opening is None or "`" in opening[3]:  # a code span
            continue
        _close_behind_code(lines, position, opening)
        ends = list(islice(_ends(lines, position, opening[2]), MAX_JOINED)) or [len(lines)]
        end = next((one for one in ends if parsed(_content(lines[position:one], opening[1]))), ends[0])
        named = LANGUAGE.match(opening[3])
        yield Block(named[1].lower() if named else "", _content(lines[position:end], opening[1]))
        position = end if end < len(lines) and _opens_another(lines[end]) else end + 1


def _close_behind_code(lines: list[str], start: int, opening: re.Match[str]) -> None:
    """Give the fence of `return a + b```` a line of its own, where what is before it is Python."""
    for number in range(start, len(lines)):
        if FENCE.fullmatch(lines[number]):
            return
        code = lines[number].rstrip().removesuffix(opening[2])
        if code != lines[number].rstrip() and parsed(_content([*lines[start:number], code], opening[1])):
            lines[number : number + 1] = [code, opening[2]]
            return


def _ends(lines: Sequence[str], start: int, fence: str) -> Iterator[int]:
    """The lines at which a block may end: first the nearest, which is right unless a docstring has fences."""
    for number in range(start, len(lines)):
        if (closing := FENCE.fullmatch(lines[number])) and closing[2].startswith(fence):
            yield number


def _opens_another(line: str) -> bool:
    """A fence with a language where the block before was never closed."""
    found = FENCE.fullmatch(line)
    named = LANGUAGE.match(found[3]) if found else None
    return named is not None and Block(named[1].lower(), "").is_python


def _content(lines: Sequence[str], indent: str) -> str:
    """Without the indentation that the opening fence has, and a quotation's marks."""
    return _spaced("".join(f"{line.removeprefix(indent) if indent else line}\n" for line in lines))


def _spaced(text: str) -> str:
    """With plain spaces, where others keep it from being Python."""
    if "\xa0" not in text or parsed(text) is not None:
        return text
    return text.replace("\xa0", " ")

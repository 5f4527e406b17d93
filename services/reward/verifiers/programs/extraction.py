"""The program that a response states: which of its fenced blocks is meant.

Fences as CommonMark has them and as models write them: of backticks or tildes, of three or more, indented in a list,
with attributes, with CRLF, never closed at the response's end, or opened where another block still is.
"""

import ast
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from services.reward.verifiers.answers import end_of_thought

FENCE = re.compile(r"([ \t]*(?:>[ \t]?)*)(`{3,}|~{3,})[ \t]*(.*)")
LANGUAGE = re.compile(r"\{?\s*\.?([\w+#-]+)")
PYTHON = {"python", "python3", "py", "py3", "python2", "ipython", "sage", "cython"}
READS_INPUT = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|/dev/stdin|\bfileinput\b")
MAX_PARSED_CHARS = 60_000  # a longer block is taken as it is
MAX_JOINED = 4  # fences that a docstring may hold


@dataclass(frozen=True)
class Block:
    """A fenced block and what its fence calls it."""

    language: str  # in lower case; empty where the fence names none
    text: str

    @cached_property
    def tree(self) -> ast.Module | None:
        """Its syntax; None when it is no Python."""
        return parsed(self.text)

    @property
    def is_program(self) -> bool:
        """Whether it is Python that does something: a sample of input, such as `3`, does not."""
        return self.tree is not None and any(not _is_value(statement) for statement in self.tree.body)


def program_of(response: str, *, names: Collection[str] = (), reads_input: bool = False) -> str | None:
    """The last block behind the last thought that can be meant: it defines what is tested, or reads what is given.

    A block in another language never is. None without a block.
    """
    blocks = [block for block in _blocks(response[end_of_thought(response) :]) if block.language in {"", *PYTHON}]
    labelled = [block for block in blocks if block.language]
    for chosen in (labelled, blocks):
        programs = [block for block in chosen if block.is_program]
        if programs:
            fitting = [block for block in programs if _fits(block, names, reads_input=reads_input)]
            return (fitting or programs)[-1].text
    return (labelled or blocks)[-1].text if blocks else None


def parsed(source: str) -> ast.Module | None:
    """The syntax of Python source; None for another text."""
    if len(source) > MAX_PARSED_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in what a model wrote
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defined_names(tree: ast.Module) -> Iterator[str]:
    """What the module's own statements bind, in their order."""
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)


def _fits(block: Block, names: Collection[str], *, reads_input: bool) -> bool:
    if names:
        return block.tree is not None and not set(names).isdisjoint(defined_names(block.tree))
    return not reads_input or READS_INPUT.search(block.text) is not None


def _is_value(statement: ast.stmt) -> bool:
    """A constant, a name, or several of them: what a sample of input or output looks like."""
    inert = (ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.UnaryOp, ast.expr_context, ast.unaryop)
    return isinstance(statement, ast.Expr) and all(isinstance(node, inert) for node in ast.walk(statement.value))


def _blocks(text: str) -> Iterator[Block]:
    lines = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    position = 0
    while position < len(lines):
        opening = FENCE.fullmatch(lines[position])
        position += 1
        if opening is None or "`" in opening[3]:  # a code span
            continue
        ends = list(islice(_ends(lines, position, opening[2]), MAX_JOINED)) or [len(lines)]
        end = next((one for one in ends if parsed(_content(lines[position:one], opening[1]))), ends[0])
        named = LANGUAGE.match(opening[3])
        yield Block(named[1].lower() if named else "", _content(lines[position:end], opening[1]))
        position = end if end < len(lines) and _opens_another(lines[end]) else end + 1


def _ends(lines: Sequence[str], start: int, fence: str) -> Iterator[int]:
    """The lines at which a block may end: first the nearest, which is right unless a docstring has fences."""
    for number in range(start, len(lines)):
        if (closing := FENCE.fullmatch(lines[number])) and closing[2].startswith(fence):
            yield number


def _opens_another(line: str) -> bool:
    """A fence with a language where the block before was never closed."""
    found = FENCE.fullmatch(line)
    named = LANGUAGE.match(found[3]) if found else None
    return named is not None and named[1].lower() in PYTHON


def _content(lines: Sequence[str], indent: str) -> str:
    """Without the indentation that the opening fence has, and a quotation's marks."""
    return "".join(f"{line.removeprefix(indent) if indent else line}\n" for line in lines)

"""The program that a response states: which of its blocks is meant, and what else it counts on.

A model that answers in two blocks, or that continues the code of its prompt as HumanEval has it, is no less right. What
is put before the program are definitions alone, each only when the program uses its name and does not bind it.
"""

import ast
import re
from collections.abc import Collection, Iterator, Sequence

from services.reward.verifiers.answers import end_of_thought
from services.reward.verifiers.programs.blocks import UNSURE, Block, blocks_of
from services.reward.verifiers.programs.free_names import free_names
from services.reward.verifiers.programs.syntax import DEFINITIONS, bound_names, is_stub, parsed

READS_INPUT = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|/dev/stdin|\bfileinput\b|\bread\s*\(\s*0\b")
CODE_OF_PROMPT = re.compile(r"^(?:(?:async )?def \w+|class \w+|from \w|import \w|\w+ = )", re.MULTILINE)
MAX_ADDED = 20


def program_of(
    response: str, *, names: Collection[str] = (), reads_input: bool = False, prompt: str = ""
) -> str | None:
    """The last block behind the last thought that can be meant: it defines what is tested, or reads what is given.

    A block in another language never is. What it uses and only another block, or the code of the prompt, defines is
    put before it. None without a block.
    """
    blocks = list(blocks_of(response[end_of_thought(response) :]))
    chosen = _chosen(blocks, names, reads_input=reads_input)
    if chosen is None:
        return None
    place = blocks.index(chosen)
    others = [block.tree for block in (*blocks[place + 1 :][::-1], *blocks[:place]) if block.is_python and block.tree]
    return _completed(chosen.text, names, others, prompt)


def _chosen(blocks: Sequence[Block], names: Collection[str], *, reads_input: bool) -> Block | None:
    possible = [block for block in blocks if block.is_python]
    labelled = [block for block in possible if block.language]
    unsure = [block for block in blocks if block.language in UNSURE]
    for alike in (labelled, possible, unsure):
        programs = [block for block in alike if block.is_program]
        for fits in (_fits, _fits_by_head):
            if fitting := [block for block in programs if fits(block, names, reads_input=reads_input)]:
                return fitting[-1]
        if programs and alike is not unsure:
            return programs[-1]
    return (labelled or possible)[-1] if possible else None


def _fits(block: Block, names: Collection[str], *, reads_input: bool) -> bool:
    if names:
        defined = [statement for statement in block.tree.body if not is_stub(statement)] if block.tree else []
        return any(name in names for statement in defined for name in bound_names(statement))
    return not reads_input or READS_INPUT.search(block.text) is not None


def _fits_by_head(block: Block, names: Collection[str], *, reads_input: bool) -> bool:
    """Where nothing but the head of a function is there."""
    bound = {name for statement in block.tree.body for name in bound_names(statement)} if block.tree else set()
    return not bound.isdisjoint(names) and not reads_input


def _completed(program: str, names: Collection[str], others: Sequence[ast.Module], prompt: str) -> str:
    """The program with the definitions that it lacks, from the others (the nearest last), else from the prompt."""
    statements = list(_of_prompt(prompt))
    tree = parsed(program)
    if tree is None:
        return _continued(program, names, statements) or program
    if any(isinstance(one, ast.ImportFrom) and one.module == "__future__" for one in tree.body):
        return program
    sources = _given(statements, names)
    sources += [one for other in others for one in other.body if isinstance(one, DEFINITIONS) and not is_stub(one)]
    return _with_missing(program, sources)


def _with_missing(program: str, sources: Sequence[ast.stmt]) -> str:
    """Until nothing is missing that one of the sources defines."""
    added: set[int] = set()
    code = program
    while len(added) < MAX_ADDED:
        missing = _missing(code)
        places = {place for place, source in enumerate(sources) if not missing.isdisjoint(bound_names(source))}
        new = _last_of_each_name(places, sources) - added
        if not new:
            break
        added |= new
        head = ast.unparse(ast.Module([sources[place] for place in sorted(added)], []))
        code = f"{head}\n{program}"
    return code


def _given(statements: Sequence[ast.stmt], names: Collection[str]) -> list[ast.stmt]:
    """What a prompt gives: never what is tested."""
    return [one for one in statements if not is_stub(one) and set(names).isdisjoint(bound_names(one))]


def _last_of_each_name(places: Collection[int], sources: Sequence[ast.stmt]) -> set[int]:
    return {*{name: place for place in sorted(places) for name in bound_names(sources[place])}.values()}


def _missing(code: str) -> set[str]:
    tree = parsed(code)
    try:
        return set(free_names(code, tree)) if tree else set()
    except (SyntaxError, ValueError, RecursionError):
        return set()


def _of_prompt(prompt: str) -> Iterator[ast.stmt]:
    """The statements of the code that the prompt holds, as far as they are whole."""
    for found in CODE_OF_PROMPT.finditer(prompt):
        lines = prompt[found.start() :].split("\n")
        is_block = re.match(r"(?:async )?def |class ", lines[0]) is not None
        length = next((n for n, line in enumerate(lines) if n and line and not line[0].isspace()), len(lines))
        tree = parsed("\n".join(lines[: length if is_block else 1]))
        if tree:
            yield from (one for one in tree.body if isinstance(one, DEFINITIONS))


def _continued(program: str, names: Collection[str], statements: Sequence[ast.stmt]) -> str | None:
    """The body of a function whose head is in the prompt; None where the program is no such."""
    first = next((line for line in program.split("\n") if line.strip()), "")
    heads = [one for one in statements if isinstance(one, ast.FunctionDef) and is_stub(one)]
    head = next((one for one in reversed(heads) if not names or one.name in names), None)
    if head is None or not first[:1].isspace():
        return None
    body = "\n".join(f"    {line}" for line in _dedented(program))
    head.body = [ast.Pass()]
    code = f"{ast.unparse(head)}\n{body}\n"
    return _with_missing(code, _given(statements, names)) if parsed(code) else None


def _dedented(program: str) -> Sequence[str]:
    lines = program.split("\n")
    depth = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return [line[depth:] for line in lines]

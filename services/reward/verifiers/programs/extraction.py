"""The program that a response states: which of its blocks is meant, and what else of them belongs to it."""

import re
from collections.abc import Collection, Sequence

from services.reward.verifiers.answers import end_of_thought
from services.reward.verifiers.programs.blocks import UNSURE, Block, blocks_of
from services.reward.verifiers.programs.completion import completed
from services.reward.verifiers.programs.syntax import bound_names, is_stub

READS_INPUT = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0\b|/dev/stdin|\bfileinput\b|\bread\s*\(\s*0\b")


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
    return completed(chosen.text, names, others, prompt)


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

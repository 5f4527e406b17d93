"""A text looked for in the kept responses, the newest first, bounded in time."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.dashboard.history.responses import PREVIEW_CHARACTERS, KeptResponse, TextReader

NUM_CHARACTERS_BEFORE = 60


@dataclass(frozen=True, slots=True)
class Passage:
    """Where the text stands in a response, and what stands around it."""

    before: str
    found: str
    after: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was found until the search ended."""

    hits: list[tuple[KeptResponse, Passage]]
    num_searched: int
    older_than: float | None = None
    """Those scored before this time were not searched; None: all were."""
    is_out_of_time: bool = False


def search(
    candidates: Sequence[KeptResponse],
    text: str,
    *,
    limit: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """Responses that have the text, in upper or lower case, until there are `limit` or the time is over."""
    pattern, deadline = re.compile(re.escape(text), re.IGNORECASE), clock() + seconds
    hits: list[tuple[KeptResponse, Passage]] = []
    in_bytes = _pattern_in_bytes(text)
    with TextReader() as texts:
        for number, kept in enumerate(candidates):
            is_out_of_time = clock() > deadline
            if number and (is_out_of_time or len(hits) >= limit):
                return SearchResult(hits, number, candidates[number - 1].time, is_out_of_time)
            line = texts.line_of(kept, having=in_bytes)
            match = pattern.search(line["response"]) if line else None
            if match:
                hits.append((kept, _passage(match)))
    return SearchResult(hits, len(candidates))


def _pattern_in_bytes(text: str) -> re.Pattern[bytes] | None:
    """What a line has that has the text: looked for before the line is parsed, it saves most of a search's time.

    None where upper and lower case look different in JSON, which has escapes for letters beyond ASCII.
    """
    return re.compile(re.escape(json.dumps(text)[1:-1].encode()), re.IGNORECASE) if text.isascii() else None


def _passage(match: re.Match[str]) -> Passage:
    response, (start, end) = match.string, match.span()
    begin = max(0, start - NUM_CHARACTERS_BEFORE)
    return Passage(
        before=("… " if begin else "") + response[begin:start],
        found=match[0],
        after=response[end : end + PREVIEW_CHARACTERS],
    )

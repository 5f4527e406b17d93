"""The responses that a run has kept (`responses/*.jsonl`), followed: where each text lies, and how it begins.

The texts stay on the disk. They are read in threads, a bounded part at a time; a later call reads on.
"""

import asyncio
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self

from tppo.rollout import EVALUATION_PREFIX, prompt_of
from tppo.run_folder.json_lines import LONGEST_LINE_BYTES, Fields, parsed_object
from tppo.run_folder.response_lines import is_response_line

REFRESH_BYTES = 8 * 2**20
"""Of new lines in one call, which take some 0.6 s of one core; a longer file takes several calls."""
START_BYTES = 512 * 2**20
"""Of a longer file, the older lines are left out."""
MAX_KEPT = 50_000
"""Some 30 MB of memory; the oldest are left out first."""
PREVIEW_CHARACTERS = 200

PromptKey = tuple[bool, str]
"""Whether it is one of evaluation, and its number."""


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """The newest score of a rollout whose response is kept, and the place of its line."""

    rollout: str
    is_evaluation: bool
    status: str
    score: float | None
    num_tokens: int
    time: float  # when it was scored, seconds since the epoch
    preview: str
    file: Path
    start: int
    num_bytes: int

    @property
    def prompt(self) -> PromptKey:
        """Of all responses to the same prompt."""
        return self.is_evaluation, prompt_of(self.rollout)


@dataclass(frozen=True, slots=True)
class FilePlace:
    """How far a file was read."""

    inode: int
    offset: int


@dataclass(frozen=True, slots=True)
class NewResponses:
    """What one look has found."""

    kept: list[KeptResponse] = field(default_factory=list)
    places: dict[Path, FilePlace] = field(default_factory=dict)
    num_unread_bytes: int = 0
    is_replaced: bool = False
    """A file was replaced or is gone: what was read before does not hold."""


class ResponseIndex:
    """The kept responses of one run by rollout and by prompt; in memory are their places and their beginnings."""

    def __init__(self, folder: Path, *, max_kept: int = MAX_KEPT) -> None:
        self._folder = folder
        self._max_kept = max_kept
        self._lock = asyncio.Lock()
        self._by_rollout: OrderedDict[str, KeptResponse] = OrderedDict()
        self._by_prompt: dict[PromptKey, dict[str, None]] = {}
        self._places: Mapping[Path, FilePlace] = {}
        self.num_unread_bytes = 0
        self.num_forgotten = 0

    def __len__(self) -> int:
        return len(self._by_rollout)

    async def refresh(self) -> None:
        """Read what is new, or a bounded part of it."""
        async with self._lock:
            try:
                found = await asyncio.to_thread(new_responses, self._folder, self._places)
            except OSError:  # a file was removed meanwhile: the next look finds it gone
                return
            if found.is_replaced:
                self._by_rollout.clear()
                self._by_prompt.clear()
                self.num_forgotten = 0
            self._places, self.num_unread_bytes = found.places, found.num_unread_bytes
            for kept in found.kept:
                self._add(kept)

    def of(self, rollout: str) -> KeptResponse | None:
        """That of a rollout."""
        return self._by_rollout.get(rollout)

    def newest_first(self) -> list[KeptResponse]:
        """All of them, by the time of their scores."""
        return sorted(self._by_rollout.values(), key=lambda kept: kept.time, reverse=True)

    def of_same_prompt(self, rollout: str) -> list[KeptResponse]:
        """The responses to the rollout's prompt, its own among them, by the time of their scores."""
        known = self.of(rollout)
        prompt = known.prompt if known else (rollout.startswith(f"{EVALUATION_PREFIX}-"), prompt_of(rollout))
        kept = [self._by_rollout[name] for name in self._by_prompt.get(prompt, ())]
        return sorted(kept, key=lambda one: one.time)

    def _add(self, kept: KeptResponse) -> None:
        known = self._by_rollout.get(kept.rollout)
        if known is not None and known.time > kept.time:
            return
        self._by_rollout[kept.rollout] = kept
        self._by_prompt.setdefault(kept.prompt, {})[kept.rollout] = None
        if len(self._by_rollout) > self._max_kept:
            name, forgotten = self._by_rollout.popitem(last=False)
            self._by_prompt[forgotten.prompt].pop(name, None)
            self.num_forgotten += 1


class TextReader:
    """Reads the lines behind entries of the index; each file is opened once, until the end of the block."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._files: dict[Path, BinaryIO | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def line_of(self, kept: KeptResponse, having: re.Pattern[bytes] | None = None) -> Fields | None:
        """The whole line; None where the file does not hold it any more, or its bytes do not have the pattern."""
        if kept.file not in self._files:
            self._files[kept.file] = self._open(kept.file)
        file = self._files[kept.file]
        if file is None:
            return None
        file.seek(kept.start)
        line = file.read(kept.num_bytes)
        if having is not None and not having.search(line):
            return None
        fields = parsed_object(line)
        return fields if fields and is_response_line(fields) and fields["rollout_id"] == kept.rollout else None

    def _open(self, path: Path) -> BinaryIO | None:
        try:
            return self._opened.enter_context(path.open("rb"))
        except OSError:
            return None


def text_of(kept: KeptResponse) -> str | None:
    """The whole response; None where its line is gone."""
    with TextReader() as texts:
        line = texts.line_of(kept)
        return line["response"] if line else None


def new_responses(folder: Path, places: Mapping[Path, FilePlace], *, max_bytes: int = REFRESH_BYTES) -> NewResponses:
    """What the files of the folder hold behind these places; links are not followed."""
    states = {path: path.stat() for path in sorted(folder.glob("*.jsonl")) if path.is_file() and not path.is_symlink()}
    if any(_is_replaced(states.get(path), place) for path, place in places.items()):
        return replace(new_responses(folder, {}, max_bytes=max_bytes), is_replaced=True)
    found = NewResponses()
    num_unread = num_read = 0
    for path, state in states.items():
        with path.open("rb") as file:
            place = places.get(path) or FilePlace(state.st_ino, _start(file, state.st_size))
            kept, offset = _read_on(file, path, place.offset, max_bytes - num_read)
        found.kept.extend(kept)
        found.places[path] = replace(place, offset=offset)
        num_read += offset - place.offset
        num_unread += max(0, state.st_size - offset)
    return replace(found, num_unread_bytes=num_unread)


def _is_replaced(state: os.stat_result | None, place: FilePlace) -> bool:
    return state is None or state.st_ino != place.inode or state.st_size < place.offset


def _start(file: BinaryIO, size: int) -> int:
    """Where the first whole line begins that is read."""
    if size <= START_BYTES:
        return 0
    file.seek(size - START_BYTES)
    file.readline(LONGEST_LINE_BYTES)
    return file.tell()


def _read_on(file: BinaryIO, path: Path, offset: int, max_bytes: int) -> tuple[list[KeptResponse], int]:
    """Whole lines until these bytes are read, and where the next one begins."""
    found: list[KeptResponse] = []
    end = offset + max_bytes
    file.seek(offset)
    while offset < end and (line := file.readline(LONGEST_LINE_BYTES)):
        if not line.endswith(b"\n") and len(line) < LONGEST_LINE_BYTES:
            break  # it is still being written
        fields = parsed_object(line)
        if fields is not None and is_response_line(fields):
            found.append(_kept(fields, path, offset, len(line)))
        offset += len(line)
    return found, offset


def _kept(fields: Fields, path: Path, start: int, num_bytes: int) -> KeptResponse:
    return KeptResponse(
        rollout=fields["rollout_id"],
        is_evaluation=fields["is_evaluation"],
        status=fields["status"],
        score=fields["score"],
        num_tokens=fields["num_response_tokens"],
        time=fields["time"],
        preview=fields["response"][:PREVIEW_CHARACTERS],
        file=path,
        start=start,
        num_bytes=num_bytes,
    )

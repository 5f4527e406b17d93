"""Safetensors files that all ranks write together, each its share, hashed on the way to the disk.

A rank writes whole tensors, each of which the others send it just before: no rank holds more than one of them besides
its own rows. So a model's files are those of a Hugging Face folder however many ranks wrote them, and any number of
ranks reads them. A rank whose disk is full goes on sending its rows, and reports the error in the end.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, zip_longest
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from learner.parallel.gathering import exchanged, whole_at
from learner.parallel.group import Group
from learner.parallel.tensor_file import HashedFile, WrittenFile
from tppo.process.event_loop import warn_on_event_loop
from tppo.run_folder.json_files import write_object
from tppo.weights import TensorFacts, TensorLayout, TensorsDigest

MAX_FILE_BYTES = 5 * 10**9


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that ranks hold, and the pieces of it that files have."""

    tensor: Tensor
    facts: tuple[TensorFacts, ...]
    pieces: Callable[[Tensor], Mapping[str, Tensor]]  # of the whole tensor

    @classmethod
    def named(cls, name: str, tensor: Tensor) -> Self:
        """In one piece."""
        return cls(tensor, (TensorFacts.of(name, tensor),), lambda whole: {name: whole})

    @property
    def num_bytes(self) -> int:
        """Of the whole tensor."""
        return sum(one.num_bytes for one in self.facts)

    @property
    def item_bytes(self) -> int:
        """Of a number."""
        return self.facts[0].item_bytes


Stored = Sequence[StoredTensor]


@dataclass(frozen=True, slots=True)
class WrittenTogether:
    """Of all ranks."""

    files: Mapping[str, WrittenFile]  # by path in the folder
    digests: Mapping[str, str]  # of the tensors of each stem
    error: str = ""  # why not all of it is written; no exception, which would end one rank alone


@dataclass(frozen=True, slots=True)
class _PlannedFile:
    name: str
    stem: str
    tensors: Stored


_Plan = Sequence[_PlannedFile]
"""What one rank writes."""


def stored(tensors: Mapping[str, Tensor]) -> list[StoredTensor]:
    """Tensors that files have as they are."""
    return [StoredTensor.named(name, tensor) for name, tensor in tensors.items()]


def write_together(
    folder: Path,
    tensors: Mapping[str, Stored],
    group: Group,
    *,
    in_one_file: Collection[str] = (),
    max_file_bytes: int = MAX_FILE_BYTES,
    beside: Callable[[], None] = lambda: None,
) -> WrittenTogether:
    """Of each stem, a path in the folder, `STEM.safetensors`, or several files and their index.

    Each rank's are on the disk when this returns. Rank 0 alone writes those of the stems `in_one_file`, and `beside`.
    """
    warn_on_event_loop(f"writing of {', '.join(tensors)}")
    shares = {stem: _shares(of_stem, 1 if stem in in_one_file else group.size) for stem, of_stem in tensors.items()}
    limits = {stem: sys.maxsize if stem in in_one_file else max_file_bytes for stem in tensors}
    plans = _plans(shares, limits, group.size)
    digests, files, error = {stem: TensorsDigest() for stem in tensors}, dict[str, WrittenFile](), ""
    received = _received(plans, group)
    try:
        for stem in tensors:
            (folder / stem).parent.mkdir(parents=True, exist_ok=True)
        files = dict(_written(folder, plans[group.rank], received, digests))
        if group.rank == 0:
            for stem in tensors:
                _write_index(folder, stem, [file for plan in plans for file in plan if file.stem == stem])
            beside()
    except OSError as found:
        error = f"rank {group.rank}: {found}" if group.size > 1 else str(found)
    for _ in received:
        pass  # the other ranks need this one's rows
    own = {name: [file.num_bytes, file.digest] for name, file in files.items()}
    of_tensors = {stem: digest.of_tensors for stem, digest in digests.items()}
    reports = exchanged({"files": own, "tensors": of_tensors, "error": error}, group)
    return _joined(reports, tensors, error=_error_in(reports) or _missing(folder, reports))


def _plans(
    shares: Mapping[str, Sequence[Stored]], max_bytes: Mapping[str, int], num_ranks: int
) -> list[Sequence[_PlannedFile]]:
    """Of each rank; a function of the tensors, so that every rank has the same."""
    plans: list[list[_PlannedFile]] = [[] for _ in range(num_ranks)]
    for stem, of_ranks in shares.items():
        files = [list(_files(share, max_bytes[stem])) for share in of_ranks]
        total = sum(map(len, files))
        numbers = count(1)
        for plan, of_rank in zip(plans, files, strict=False):
            for file in of_rank:
                suffix = f"-{next(numbers):05}-of-{total:05}" if total > 1 else ""
                plan.append(_PlannedFile(f"{stem}{suffix}.safetensors", stem, file))
    return [*plans]


def _shares(tensors: Stored, num_ranks: int) -> list[list[StoredTensor]]:
    """Whole tensors, the largest first and there and back over the ranks: in each round they are of like size."""
    if num_ranks == 1:
        return [list(tensors)]
    shares: list[list[StoredTensor]] = [[] for _ in range(num_ranks)]
    by_size = sorted(tensors, key=lambda one: (-one.item_bytes, -one.num_bytes, one.facts[0].name))
    for place, one in enumerate(by_size):
        is_way_back, rank = divmod(place % (2 * num_ranks), num_ranks)
        shares[num_ranks - 1 - rank if is_way_back else rank].append(one)
    return shares


def _files(share: Stored, max_bytes: int) -> Iterator[Stored]:
    """In order; one with a single tensor may be larger. None where there is no tensor."""
    file: list[StoredTensor] = []
    num_bytes = 0
    for one in share:
        if file and num_bytes + one.num_bytes > max_bytes:
            yield _aligned(file)
            file, num_bytes = [], 0
        file.append(one)
        num_bytes += one.num_bytes
    if file:
        yield _aligned(file)


def _aligned(file: Stored) -> Stored:
    return sorted(file, key=lambda one: -one.item_bytes)


def _received(plans: Sequence[_Plan], group: Group) -> Iterator[Tensor]:
    """This rank's tensors, whole, in the order of its plan; the others' are gathered in between, a round at a time."""
    by_rank = [[one for file in plan for one in file.tensors] for plan in plans]
    for round_of in zip_longest(*by_rank):
        own: Tensor | None = None
        for owner, one in enumerate(round_of):
            if one is not None:
                whole = whole_at(owner, one.tensor)
                own = whole if owner == group.rank else own
        if own is not None:
            yield own


def _written(
    folder: Path, plan: _Plan, received: Iterator[Tensor], digests: Mapping[str, TensorsDigest]
) -> Iterator[tuple[str, WrittenFile]]:
    for planned in plan:
        layout = TensorLayout((facts for one in planned.tensors for facts in one.facts), is_ordered=True)
        with HashedFile(folder / planned.name, layout, {"format": "pt"}, digests[planned.stem]) as file:
            for one in planned.tensors:
                pieces = one.pieces(next(received))
                for facts in one.facts:
                    file.put(facts, pieces[facts.name])
        yield planned.name, file.written


def _error_in(reports: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(report["error"] for report in reports if report["error"])


def _missing(folder: Path, reports: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about the first file that is not here as a rank has written it."""
    sizes = ({name: facts[0] for name, facts in report["files"].items()} for report in reports)
    found = (missing_file(folder, of_rank, writer=f"rank {rank}") for rank, of_rank in enumerate(sizes))
    return next((sentence for sentence in found if sentence), "")


def missing_file(folder: Path, sizes: Mapping[str, int], *, writer: str) -> str:
    """A sentence about the first of these files that is not here as it was written; empty where all are."""
    for name, num_bytes in sizes.items():
        if not (path := folder / name).is_file() or path.stat().st_size != num_bytes:
            return (
                f"{writer} has written {num_bytes} bytes to {path}, which this rank does not find there; "
                "expected a run's folder that all nodes share"
            )
    return ""


def _write_index(folder: Path, stem: str, files: _Plan) -> None:
    """As Hugging Face folders have it, where there are several files."""
    if len(files) > 1:
        weight_map = {facts.name: Path(file.name).name for file in files for one in file.tensors for facts in one.facts}
        total = sum(one.num_bytes for file in files for one in file.tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_object(folder / f"{stem}.safetensors.index.json", index)


def _joined(reports: Sequence[Mapping[str, Any]], tensors: Mapping[str, Stored], *, error: str) -> WrittenTogether:
    digests = {}
    for stem, of_stem in tensors.items():
        whole = TensorsDigest()
        of_tensors = {name: digest for report in reports for name, digest in report["tensors"][stem].items()}
        for one in of_stem:
            for facts in one.facts:
                whole.note(facts, of_tensors.get(facts.name, ""))
        digests[stem] = whole.text()
    files = {name: WrittenFile(*facts) for report in reports for name, facts in report["files"].items()}
    return WrittenTogether(files, digests, error)

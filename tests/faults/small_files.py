"""Small files of a run's folder, damaged while nothing runs: by a broken disk, a full one, or a hand."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths

Damage = Callable[[Path, random.Random], None]


def flip_bits(path: Path, source: random.Random) -> None:
    """One to three of them."""
    content = bytearray(path.read_bytes())
    for _ in range(source.randint(1, 3)):
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    path.write_bytes(content)


def empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def truncate(path: Path, source: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: source.randrange(len(content))])


def overwrite(path: Path, source: random.Random) -> None:
    """By as many random bytes."""
    path.write_bytes(source.randbytes(path.stat().st_size))


def add_foreign_lines(path: Path, source: random.Random) -> None:
    """Between the lines, and a torn one at the end. Other damage to such a file takes the lines that it hits."""
    lines = path.read_bytes().splitlines(keepends=True)
    foreign = [
        b"\n",
        b"no JSON\n",
        b'{"kind": "step"}\n',
        b'{"step": "x"}\n',
        b"[1]\n",
        b"7\n",
        source.randbytes(9) + b"\n",
    ]
    for line in source.sample(foreign, 3):
        lines.insert(source.randint(0, len(lines)), line)
    path.write_bytes(b"".join(lines) + b'{"kind": "st')


def _newest(folder: Path) -> Path:
    checkpoints = CheckpointFolder(RunPaths(folder).checkpoints)
    return checkpoints.of_step(checkpoints.complete_steps()[-1])


def _one_of_newest(folder: Path, source: random.Random) -> Path:
    """A checkpoint before it must be there to go back to."""
    return source.choice(sorted(path for path in _newest(folder).rglob("*") if path.is_file() and path.stat().st_size))


HOW: dict[str, Damage] = {"bits flipped": flip_bits, "emptied": empty, "truncated": truncate, "overwritten": overwrite}
WHICH: dict[str, Callable[[RunPaths], Path]] = {
    "summary.json": lambda paths: paths.summary,
    "identity.json": lambda paths: paths.identity,
    "checkpoints/latest": lambda paths: CheckpointFolder(paths.checkpoints).latest,
    "checkpoints/best.json": lambda paths: CheckpointFolder(paths.checkpoints).best_record,
    "config.toml": lambda paths: paths.config,
    "lock": lambda paths: paths.lock,
    "generation.token": lambda paths: paths.token("generation"),
    "dashboard.token": lambda paths: paths.token("dashboard"),
}
LINES: dict[str, Callable[[RunPaths], Path]] = {
    "metrics.jsonl": lambda paths: paths.metrics,
    "journal.jsonl": lambda paths: paths.journal,
    "committed.jsonl": lambda paths: CheckpointFolder(paths.checkpoints).committed_log,
}
NEWEST = "the newest checkpoint"
FOREIGN = "foreign lines"
KINDS: tuple[str, ...] = (
    *(f"{name}: {how}" for name in (*WHICH, NEWEST) for how in HOW),
    *(f"{name}: {FOREIGN}" for name in LINES),
)


def damage(folder: Path, kind: str, source: random.Random) -> Path | None:
    """The file of this run's folder that was damaged in this way; None where the run has none that is not empty."""
    name, _, how = kind.partition(": ")
    paths = RunPaths(folder)
    if name in LINES:
        path = LINES[name](paths)
    elif name == NEWEST:
        if len(CheckpointFolder(paths.checkpoints).complete_steps()) < 2:
            return None
        path = _one_of_newest(folder, source)
    else:
        path = WHICH[name](paths)
    if not path.is_file() or not path.stat().st_size:
        return None
    (add_foreign_lines if how == FOREIGN else HOW[how])(path, source)
    return path


def drawn(source: random.Random, count: int, kinds: Iterable[str] = KINDS) -> list[str]:
    """So many kinds of damage, each to another file."""
    chosen: dict[str, str] = {}
    for kind in source.sample(sorted(kinds), len(list(kinds))):
        chosen.setdefault(kind.partition(": ")[0], kind)
    return list(chosen.values())[:count]

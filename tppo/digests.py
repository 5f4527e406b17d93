"""Digests that name their algorithm, `blake3:9f86d0...`: a reader computes that one, or says that it cannot."""

import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from tppo.process.event_loop import warn_on_event_loop

READ_BYTES = 2**20


class Hasher(Protocol):
    """What every algorithm offers."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes; releases the interpreter's lock."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


def _blake3() -> Hasher:
    from blake3 import blake3  # compiled: it comes with what handles weights, and not with the wheel

    made: Hasher = blake3()
    return made


ALGORITHMS: Mapping[str, Callable[[], Hasher]] = {
    **({"blake3": _blake3} if find_spec("blake3") else {}),
    "sha256": hashlib.sha256,
}
"""Those that are installed, the fastest first: on a core with AVX-512, BLAKE3 hashes 4 GB/s and SHA-256 1.6."""
ALGORITHM = next(iter(ALGORITHMS))
"""Of new digests."""


class UnreadableHereError(ValueError):
    """What this release, with the packages that are installed, cannot read; it may be whole all the same."""


class UnknownAlgorithmError(UnreadableHereError):
    """A digest that cannot be compared here."""


def new_hasher(algorithm: str = ALGORITHM) -> Hasher:
    """Of one of `ALGORITHMS`."""
    return ALGORITHMS[algorithm]()


def named(algorithm: str, hasher: Hasher) -> str:
    """The digest, with its algorithm's name before it."""
    return f"{algorithm}:{hasher.hexdigest()}"


def algorithm_of(digest: str) -> str:
    """The name before the digest. Raises `UnknownAlgorithmError`."""
    name, colon, _ = digest.partition(":")
    if not colon or name not in ALGORITHMS:
        what = "" if colon else " names no algorithm, as those of earlier versions of tppo"
        expected = f"one that begins with {', '.join(f'{one}:' for one in ALGORITHMS)}, which are installed here"
        raise UnknownAlgorithmError(f"digest {digest[:80]!r}{what}; expected {expected}")
    return name


def file_digest(path: Path, algorithm: str = ALGORITHM) -> str:
    """Of the file's bytes."""
    warn_on_event_loop(f"hashing of {path.name}")
    hasher = new_hasher(algorithm)
    with path.open("rb") as file:
        while read := file.read(READ_BYTES):
            hasher.update(read)
    return named(algorithm, hasher)

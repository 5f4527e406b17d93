"""What crashes, full disks and foreign programs leave of a small file."""

from collections.abc import Callable, Mapping
from pathlib import Path

DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "torn": lambda content: content[: len(content) // 2],
    "flipped": lambda content: bytes([content[0] ^ 0x40]) + content[1:],
    "another type": lambda content: b"[1, 2]\n",
    "a number": lambda content: b"17\n",
    "null": lambda content: b"null\n",
    "without its fields": lambda content: b"{}\n",
    "fields of other types": lambda content: b'{"step": "x", "run_id": 7, "version": [], "files": 1}\n',
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "garbage": lambda content: bytes(range(256)),
    "too deep": lambda content: b"[" * 100_000,
    "too large a number": lambda content: b"9" * 10_000,
}


def damage(path: Path, kind: str) -> None:
    """The file as this kind of damage leaves it."""
    path.write_bytes(DAMAGES[kind](path.read_bytes()))

"""JSON that others wrote, made fit to be passed on: whole characters only, and no deeper than an answer can be."""

import json
from typing import Any

MAX_DEPTH = 16
"""Deeper values are cut: the serializer gives up at some depth, and nothing of ours goes beyond four."""


def parsed_object(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None for what a broken disk or a stranger left there."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    has_escapes = b"\\u" in line or not line.isascii()
    cleaned: dict[str, Any] = plain(value) if has_escapes else value
    return cleaned


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value with half surrogate pairs replaced, and cut where it is too deep."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {plain(key): plain(item, depth - 1) for key, item in value.items()} if depth else "(too deep)"
    if isinstance(value, list):
        return [plain(item, depth - 1) for item in value] if depth else "(too deep)"
    return value

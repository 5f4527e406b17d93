"""Whether a program printed or returned what its row expects."""

import math
from collections.abc import Sequence
from typing import Any

EXACT = 1e-9  # relative; the last bits of a float depend on the order of its sums


def are_same(expected: Any, got: Any, *, tolerance: float = 0.0) -> bool:
    """Equal as JSON has values: tuples are lists, and keys are texts; floats to nine digits, or to the tolerance."""
    if isinstance(expected, list):
        is_list = isinstance(got, list | tuple) and len(got) == len(expected)
        return is_list and all(are_same(*pair, tolerance=tolerance) for pair in zip(expected, got, strict=True))
    if isinstance(expected, dict):
        found = {_key(key): value for key, value in got.items()} if isinstance(got, dict) else {}
        is_table = isinstance(got, dict) and found.keys() == expected.keys()
        return is_table and all(are_same(value, found[key], tolerance=tolerance) for key, value in expected.items())
    if isinstance(expected, str) or expected is None:
        return type(got) is type(expected) and got == expected
    if not isinstance(got, int | float) and not hasattr(got, "__float__"):
        return False
    if isinstance(expected, float) or isinstance(got, float):
        return is_close(float(expected), float(got), tolerance)
    return bool(expected == got)


def is_close(expected: float, got: float, tolerance: float) -> bool:
    """Within the tolerance, absolute or relative to what was expected."""
    return math.isclose(expected, got, rel_tol=max(tolerance, EXACT), abs_tol=tolerance)


def _key(key: object) -> str:
    """As JSON writes it."""
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return str(key)


def is_same_output(expected: str, got: str, tolerance: float = 0.0) -> bool:
    """Line by line without trailing spaces and trailing empty lines; with a tolerance, numbers by their values."""
    lines, found = _lines(expected), _lines(got)
    if lines == found:
        return True
    if not tolerance or len(lines) != len(found):
        return False
    return all(_are_close(*pair, tolerance) for pair in zip(lines, found, strict=True))


def _are_close(expected: str, got: str, tolerance: float) -> bool:
    words, found = expected.split(), got.split()
    return len(words) == len(found) and all(
        one == other or _is_close_number(one, other, tolerance) for one, other in zip(words, found, strict=True)
    )


def _is_close_number(expected: str, got: str, tolerance: float) -> bool:
    """For decimals: an integer is right or wrong."""
    if "." not in expected and "e" not in expected.lower():
        return False
    try:
        return is_close(float(expected), float(got), tolerance)
    except ValueError:
        return False


def _lines(text: str) -> Sequence[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]

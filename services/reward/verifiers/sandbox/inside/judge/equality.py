"""Whether a program printed or returned what its row expects."""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

EXACT = 1e-9  # relative; the last bits of a float depend on the order of its sums

ARRAYS = {
    "numpy": ("allclose", "isclose"),
    "numpy.testing": ("assert_allclose", "assert_almost_equal", "assert_array_almost_equal", "assert_array_equal"),
}


def are_same(expected: Any, got: Any, *, tolerance: float = 0.0) -> bool:
    """Equal as JSON has values: tuples are lists, keys are texts; for floats to nine digits or the tolerance."""
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
    if isinstance(expected, float):
        return is_close(expected, float(got), tolerance)
    if isinstance(got, float):  # an integer is right or wrong: nine digits of it are not
        return bool(abs(got - expected) <= EXACT)
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


def refuse_empty_arrays() -> None:
    """For the tests of this process: to NumPy an array without elements is close to every number."""
    for module, names in ARRAYS.items():
        loaded = importlib.import_module(module)
        for name in names:
            setattr(loaded, name, _with_elements(getattr(loaded, name)))


def refuse_empty_approximations(kind: Any) -> None:
    """And so it is to `pytest.approx`; `kind`: the class of one of a number."""
    is_equal = kind.__eq__
    kind.__eq__ = lambda self, actual: not _is_empty(actual) and is_equal(self, actual)


def _with_elements(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def compared(*args: Any, **kwargs: Any) -> Any:
        one, other, *_ = [*args, *kwargs.values()]
        if _is_empty(one) != _is_empty(other):
            raise AssertionError("an array without elements where one with elements was expected")
        return function(*args, **kwargs)

    return compared


def _is_empty(value: Any) -> bool:
    """Whether it is an array, or a list of lists, that holds no number."""
    if isinstance(value, list | tuple):
        return all(isinstance(one, list | tuple) and _is_empty(one) for one in value)
    return getattr(value, "size", 1) == 0

"""What one check came to."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tppo.config import ConfigError


class Severity(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it runs, slower or with less
    PROBLEM = "problem"  # something will not run


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of the table."""

    check: str
    state: Severity
    found: str
    what_to_do: str = ""  # empty where nothing is wrong


Check = Callable[[], Iterable[Diagnosis]]


def ok(check: str, found: str) -> Diagnosis:
    """Nothing to do."""
    return Diagnosis(check, Severity.OK, found)


def warning(check: str, found: str, what_to_do: str) -> Diagnosis:
    """It runs all the same."""
    return Diagnosis(check, Severity.WARNING, found, what_to_do)


def problem(check: str, found: str, what_to_do: str) -> Diagnosis:
    """It will not run."""
    return Diagnosis(check, Severity.PROBLEM, found, what_to_do)


def refusal(check: str, found: str, call: Callable[[], object]) -> Iterator[Diagnosis]:
    """What a check of `tppo run` refuses; its sentence says what is expected."""
    try:
        call()
    except ConfigError as error:
        said, _, expected = str(error).partition("; expected ")
        yield problem(check, said, f"expected {expected}" if expected else "correct it")
    else:
        yield ok(check, found)


def diagnoses_of(checks: Iterable[tuple[str, Check]]) -> Iterator[Diagnosis]:
    """Of all checks, in their order; one that fails itself is a problem and stops no other."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:
            yield problem(name, f"the check failed: {type(error).__name__}: {error}", "report it; the rest is checked")

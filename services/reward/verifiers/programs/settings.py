"""What the configuration says of `code`, and what comes of it."""

from dataclasses import dataclass

from services.reward.verifiers.sandbox.isolation import ResourceLimits

MAX_ERRORS_CHARS = 600
MAX_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class CodeSettings:
    """How programs are tested."""

    seconds: float  # of its own time, for each test
    limits: ResourceLimits
    has_partial_credit: bool = False  # else the first test that fails is the last
    tolerance: float = 0.0  # between floats
    form: str = ""  # of the tests; empty: whichever they have


@dataclass(frozen=True, slots=True)
class ProgramVerdict:
    """How many tests a program passed, and what is to be said of the first that it did not."""

    num_passed: int
    num_tests: int
    details: str = ""

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.num_passed / max(1, self.num_tests)

    @property
    def is_right(self) -> bool:
        """Whether all tests passed."""
        return 0 < self.num_tests == self.num_passed


def shown(text: str, max_chars: int = MAX_SHOWN_CHARS) -> str:
    """As a literal, cut in the middle."""
    half = max_chars // 2
    return repr(text if len(text) <= max_chars else f"{text[:half]}...{text[-half:]}")


def with_errors(problem: str, errors: str) -> str:
    """The problem and the end of what the program wrote to standard error."""
    errors = errors.strip()
    return f"{problem}; stderr: {errors[-MAX_ERRORS_CHARS:]}" if errors else problem

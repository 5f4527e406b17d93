"""Iterated map: apply x -> 37x + 11 (mod 97) k times, one step at a time, counting down.

The prompt ``?000342`` says three steps to go, from 42. Worked through, the response is ``000213`` ``000107`` ``000076``
``#76``, without the gaps: after each step the number of steps still to go (four digits) and the value (two), and after
``#`` the result. With one token for two digits that is 3k + 3 tokens, the end of the sequence included. The number of
steps is heavy-tailed, and so are the lengths: most are short, a few as long as a response may be.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

DATA_SOURCE = "iterated_map"
# 37 generates all residues of the prime 97, so the map returns to a value after 96 steps only: with a cycle that
# divides 100, a response could leave out hundreds of steps and still be right.
MULTIPLIER, INCREMENT, MODULUS = 37, 11, 97
FEWEST_STEPS, MOST_STEPS = 2, 680
MAX_RESPONSE_LENGTH = 2048  # tokens; the longest worked response has 2043
TAIL_EXPONENT = 0.6  # of the number of steps; smaller is heavier


@dataclass(frozen=True)
class Problem:
    """A start value and how often the map is applied to it."""

    start: int
    num_steps: int

    @property
    def prompt(self) -> str:
        """The problem as the model sees it."""
        return f"?{self.num_steps:04d}{self.start:02d}"

    @property
    def result(self) -> str:
        """The two digits that a right response ends in."""
        *_, last = self.values()
        return f"{last:02d}"

    @property
    def is_held_out(self) -> bool:
        """True for the eighth of all problems that is kept for validation."""
        return (self.start + self.num_steps) % 8 == 0

    def values(self) -> Iterator[int]:
        """The value after each step."""
        value = self.start
        for _ in range(self.num_steps):
            value = (MULTIPLIER * value + INCREMENT) % MODULUS
            yield value

    def steps(self) -> list[str]:
        """The worked steps: four digits of steps to go, two of the new value."""
        return [f"{self.num_steps - done:04d}{value:02d}" for done, value in enumerate(self.values(), start=1)]

    def solution(self) -> str:
        """The response worked through to its end."""
        return "".join(self.steps()) + f"#{self.result}"


def draw_num_steps(generator: random.Random, *, tail_exponent: float = TAIL_EXPONENT, most: int = MOST_STEPS) -> int:
    """Draw from a Pareto distribution on FEWEST_STEPS..most, cut off at its upper end."""
    share_below_the_cut = 1 - (FEWEST_STEPS / (most + 1)) ** tail_exponent
    return int(FEWEST_STEPS * (1 - generator.random() * share_below_the_cut) ** (-1 / tail_exponent))


def draw_problem(generator: random.Random, *, tail_exponent: float = TAIL_EXPONENT, most: int = MOST_STEPS) -> Problem:
    """Draw a start value and a number of steps."""
    num_steps = draw_num_steps(generator, tail_exponent=tail_exponent, most=most)
    return Problem(generator.randrange(MODULUS), num_steps)


def draw_problems(num_problems: int, *, seed: int, is_held_out: bool) -> list[Problem]:
    """Draw problems of one side of the split; the same seed gives the same problems."""
    generator = random.Random(seed)
    problems: list[Problem] = []
    while len(problems) < num_problems:
        problem = draw_problem(generator)
        if problem.is_held_out == is_held_out:
            problems.append(problem)
    return problems


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None) -> float:
    """Return 1.0 for a response that ends in ``#`` and exactly the right result, else 0.0 (verl's signature)."""
    _, mark, answer = solution_str.rpartition("#")
    return float(bool(mark) and answer.strip() == ground_truth)

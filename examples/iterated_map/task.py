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


@dataclass(frozen=True, kw_only=True)
class Map:
    """x -> multiplier * x + increment (mod modulus), and how often it is applied.

    The multiplier generates all residues of the prime modulus, so the map returns to a value after modulus - 1 steps
    only: with a cycle that divides 100, a response could leave out hundreds of steps and still be right.
    """

    multiplier: int
    increment: int
    modulus: int
    fewest_steps: int
    most_steps: int
    tail_exponent: float  # of the number of steps; smaller is heavier
    max_response_length: int  # tokens; a worked response has 3 * num_steps + 3


QUICKSTART = Map(
    multiplier=37,
    increment=11,
    modulus=97,
    fewest_steps=2,
    most_steps=680,
    tail_exponent=0.6,
    max_response_length=2048,
)
SHORTER = Map(
    multiplier=29,
    increment=7,
    modulus=89,
    fewest_steps=4,
    most_steps=168,
    tail_exponent=0.2,
    max_response_length=512,
)
"""A second task, of a longer mean and a shorter tail: settings that were chosen on the first are checked on it."""


@dataclass(frozen=True)
class Problem:
    """A start value and how often the map is applied to it."""

    start: int
    num_steps: int
    map: Map = QUICKSTART

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
            value = (self.map.multiplier * value + self.map.increment) % self.map.modulus
            yield value

    def steps(self) -> list[str]:
        """The worked steps: four digits of steps to go, two of the new value."""
        return [f"{self.num_steps - done:04d}{value:02d}" for done, value in enumerate(self.values(), start=1)]

    def solution(self) -> str:
        """The response worked through to its end."""
        return "".join(self.steps()) + f"#{self.result}"


def draw_num_steps(generator: random.Random, kind: Map, *, tail_exponent: float, most: int) -> int:
    """Draw from a Pareto distribution on fewest_steps..most, cut off at its upper end."""
    share_below_the_cut = 1 - (kind.fewest_steps / (most + 1)) ** tail_exponent
    return int(kind.fewest_steps * (1 - generator.random() * share_below_the_cut) ** (-1 / tail_exponent))


def draw_problem(
    generator: random.Random, kind: Map = QUICKSTART, *, tail_exponent: float | None = None, most: int | None = None
) -> Problem:
    """Draw a start value and a number of steps."""
    num_steps = draw_num_steps(
        generator, kind, tail_exponent=tail_exponent or kind.tail_exponent, most=most or kind.most_steps
    )
    return Problem(generator.randrange(kind.modulus), num_steps, kind)


def draw_problems(num_problems: int, kind: Map = QUICKSTART, *, seed: int, is_held_out: bool) -> list[Problem]:
    """Draw problems of one side of the split; the same seed gives the same problems."""
    generator = random.Random(seed)
    problems: list[Problem] = []
    while len(problems) < num_problems:
        problem = draw_problem(generator, kind)
        if problem.is_held_out == is_held_out:
            problems.append(problem)
    return problems


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None) -> float:
    """Return 1.0 for a response that ends in ``#`` and exactly the right result, else 0.0 (verl's signature)."""
    _, mark, answer = solution_str.rpartition("#")
    return float(bool(mark) and answer.strip() == ground_truth)

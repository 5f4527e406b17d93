"""The verdicts of `math` and of math-verify with its defaults on the project's own cases.

    OMP_NUM_THREADS=1 python -m benchmarks.reward_verdicts

A false positive is credit for a wrong answer. Hazards are left out: with its defaults, some of them end the process.
"""

import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from math_verify import parse, verify

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.reward.verifiers.mathematics.verifier import is_correct
from tests.reward.verifiers import math_cases, math_classes, math_conventions
from tests.reward.verifiers.math_cases import Case

CASES = (*math_cases.CASES, *math_classes.CASES, *math_conventions.CASES)
Verdict = Callable[[Case], bool]


def of_ours(case: Case) -> bool:
    return is_correct(f"It follows that \\boxed{{{case.answer}}}.", case.gold) is True


def of_math_verify(case: Case) -> bool:
    answer = parse(f"It follows that \\boxed{{{case.answer}}}.", raise_on_error=False)
    return bool(verify(parse(f"${case.gold}$", raise_on_error=False), answer, raise_on_error=False))


def tally(verdict: Verdict) -> tuple[Counter[str], int]:
    """How many cases of each category are right, and how many wrong answers got credit."""
    right, num_false_positives = Counter[str](), 0
    for case in CASES:
        if case.category != "hazard":
            given = verdict(case)
            right[case.category] += given == case.is_correct
            num_false_positives += given and not case.is_correct
    return right, num_false_positives


def main() -> None:
    logging.disable(logging.ERROR)
    num_cases = Counter(case.category for case in CASES if case.category != "hazard")
    ours, theirs = tally(of_ours), tally(of_math_verify)
    print("| category | cases | `math` right | math-verify right |\n|---|---|---|---|")
    for category, count in sorted(num_cases.items()):
        print(f"| {category} | {count} | {ours[0][category]} | {theirs[0][category]} |")
    print(f"| **all** | {num_cases.total()} | {ours[0].total()} | {theirs[0].total()} |")
    print(f"| credit for a wrong answer | | {ours[1]} | {theirs[1]} |")


if __name__ == "__main__":
    main()

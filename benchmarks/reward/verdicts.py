"""The verdicts of `math` and of math-verify with its defaults on the project's own cases, or on those of a file.

    OMP_NUM_THREADS=1 python -m benchmarks.reward.verdicts [CASES.jsonl]

A false positive is credit for a wrong answer. Hazards are left out: with its defaults, some of them end the process.
A file has a case a line: `response`, `ground_truth`, `function` (`math` or `code`), `class`, `expected` (a score, or in
words a status or several), and what an earlier commit made of it in a key that begins with `got_at_`.
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from math_verify import parse, verify

sys.path.insert(0, str(Path(__file__).parents[2]))

from services.reward.verifiers.functions import load, outcome_of_call
from services.reward.verifiers.mathematics.verifier import is_correct
from tests.reward.verifiers import math_cases, math_classes, math_conventions
from tests.reward.verifiers.math_cases import Case
from tppo.rollout import RewardRequest

CASES = (*math_cases.CASES, *math_classes.CASES, *math_conventions.CASES)
SIDES = ("cases", "before", "now")
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


def of_file(path: Path) -> None:
    """Print the table of the cases of a file, by class."""
    right = {side: Counter[str]() for side in (*SIDES, "math-verify")}
    for case in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        before = next((value for key, value in case.items() if key.startswith("got_at_")), None)
        request = RewardRequest("r", 0, "", "", case["response"], case["ground_truth"])
        now = outcome_of_call(load(case["function"]), request)
        score = now.status.name if now.score is None else now.score
        right["cases"][case["class"]] += 1
        right["before"][case["class"]] += is_expected(before, case["expected"])
        right["now"][case["class"]] += is_expected(score, case["expected"])
        if case["function"] == "math":
            gold = parse(f"${case['ground_truth']}$", raise_on_error=False)
            answer = parse(case["response"], raise_on_error=False)
            theirs = float(verify(gold, answer, raise_on_error=False))
            right["math-verify"][case["class"]] += is_expected(theirs, case["expected"])
    print("| class | cases | right before | right now | math-verify right |\n|---|---|---|---|---|")
    for name in sorted(right["cases"]):
        theirs_right = right["math-verify"].get(name, "-")  # it judges no programs
        print(f"| {name} | {' | '.join(str(right[side][name]) for side in SIDES)} | {theirs_right} |")
    print(f"| **all** | {' | '.join(str(counts.total()) for counts in right.values())} |")


def is_expected(got: object, expected: object) -> bool:
    """Whether a score or a status is the one that was expected; words name several."""
    return str(got).split()[0].rstrip(":") in str(expected).split() or got == expected


def main() -> None:
    logging.disable(logging.ERROR)
    if len(sys.argv) > 1:
        of_file(Path(sys.argv[1]))
        return
    num_cases = Counter(case.category for case in CASES if case.category != "hazard")
    ours, theirs = tally(of_ours), tally(of_math_verify)
    print("| category | cases | `math` right | math-verify right |\n|---|---|---|---|")
    for category, count in sorted(num_cases.items()):
        print(f"| {category} | {count} | {ours[0][category]} | {theirs[0][category]} |")
    print(f"| **all** | {num_cases.total()} | {ours[0].total()} | {theirs[0].total()} |")
    print(f"| credit for a wrong answer | | {ours[1]} | {theirs[1]} |")


if __name__ == "__main__":
    main()

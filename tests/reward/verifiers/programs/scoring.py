"""Scores a program by the tests of a row, in this process."""

import json

from services.reward.verifiers.functions import load, outcome_of_call
from tppo.rollout import RewardRequest
from tppo.scoring.outcome import Outcome

ADD = "def add(a, b):\n    return a + b\n"
WRONG_ADD = "def add(a, b):\n    return 0\n"
SUM_OF_INPUT = "print(sum(map(int, input().split())))"


def outcome(
    program: str, ground_truth: object, *, function: str = "code", prompt: str = "", extra_info: str = "{}"
) -> Outcome:
    """Of a response that holds the program in a block; `ground_truth` as text, or as what its JSON holds."""
    return outcome_of(f"Here:\n```python\n{program}\n```\n", ground_truth, function, prompt, extra_info)


def outcome_of(
    response: str, ground_truth: object, function: str = "code", prompt: str = "", extra_info: str = "{}"
) -> Outcome:
    text = ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth)
    return outcome_of_call(load(function), RewardRequest("r", 0, "code", prompt, response, text, extra_info))

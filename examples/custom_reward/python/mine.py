"""A reward function in a process of its own: python mine.py 127.0.0.1:50052"""

import sys

from tppo.reward_client import reward_function, serve


@reward_function("mine", min_score=0.0, max_score=1.0)
def score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, object]) -> float:
    return float(ground_truth in solution_str)


if __name__ == "__main__":
    serve(*sys.argv[1:])

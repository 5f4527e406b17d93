"""The mean reward of a run's first and of its last third, with standard errors over responses.

python -m examples.smollm2.thirds runs/smollm2
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tppo.config import load
from tppo.run_folder.metric_lines import STEP, read_metric_lines
from tppo.run_folder.paths import RunPaths


@dataclass(frozen=True, slots=True)
class Third:
    """Of a run whose rewards are 1 or 0."""

    num_responses: int
    mean: float

    @property
    def stderr(self) -> float:
        """Of the mean."""
        return math.sqrt(self.mean * (1 - self.mean) / self.num_responses)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.stderr:.3f} ({self.num_responses} responses)"


def third_of(steps: Sequence[dict[str, Any]], rollouts_per_step: int) -> Third:
    """A step's reward is the mean of the responses that finished in it."""
    counts = [round(line["response/finished_fraction"] * rollouts_per_step) for line in steps]
    total = sum(count * line["reward/mean"] for count, line in zip(counts, steps, strict=True) if count)
    return Third(sum(counts), total / sum(counts))


def comparison(steps: Sequence[dict[str, Any]], rollouts_per_step: int) -> str:
    """One line."""
    length = len(steps) // 3
    first, last = (third_of(part, rollouts_per_step) for part in (steps[:length], steps[-length:]))
    num_errors = (last.mean - first.mean) / math.hypot(first.stderr, last.stderr)
    return f"first third {first}, last third {last}: {num_errors:+.1f} standard errors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    paths = RunPaths(parser.parse_args().run)
    steps = [line for line in read_metric_lines(paths.metrics) if line["kind"] == STEP]
    print(comparison(steps, load(paths.config).run.rollouts_per_step))


if __name__ == "__main__":
    main()

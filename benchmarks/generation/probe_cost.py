"""What the proof of a weight update costs: its share of a training step, and of the generation of a step's tokens.

    OMP_NUM_THREADS=1 python -m benchmarks.generation.probe_cost

The learner replays the recorded steps of the quick start (benchmarks/recordings/), with its mini-batches of today, and
computes the probe after each.
Our engine generates tokens in 32 slots, with and without answers to the same rows beside them, in turns. CPU seconds of
one run.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.as_in_a_run import compute_as_in_a_run
from benchmarks.generation.engines_beside import QUICKSTART, our_engine
from benchmarks.generation.speed import engine_seconds, equal_rows, model_of
from benchmarks.learner.step import NUM_WARM_UP, recorded_run
from learner.commands.replay.__main__ import main as replay
from learner.step.trainer import Trainer
from tppo.weight_probe import WeightProbe

SLOTS, LONGEST = 32, 256
ANSWERS = 16  # while all rows run, for 128 steps
MINI_BATCHES = 4  # of each model's step


class StepCost(NamedTuple):
    """CPU seconds of a step of the learner and of its probe, and the tokens that it trained."""

    step: float
    probe: float
    num_tokens: int


def learner_costs(num_steps: int) -> tuple[list[StepCost], WeightProbe]:
    """Of the recorded steps behind the first few; and the last probe."""
    costs: list[StepCost] = []
    probes: list[WeightProbe] = []
    step = Trainer.step

    def timed(self: Trainer, *arguments: Any, **options: Any) -> Any:
        began = time.thread_time()
        result = step(self, *arguments, **options)
        ended = time.thread_time()
        probes.append(self.probe())
        costs.append(StepCost(ended - began, time.thread_time() - ended, int(result.metrics["tokens/window"] or 0)))
        return result

    Trainer.step = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        variant = [f"--with={model}.ppo_mini_batches={MINI_BATCHES}" for model in ("actor", "critic")]
        replay([str(recorded_run(Path(name) / "quickstart")), "--until", str(num_steps), *variant])
    return costs[NUM_WARM_UP:], probes[-1]


async def engine_costs(probe: WeightProbe, repeats: int) -> tuple[float, float]:
    """CPU seconds of a token, and of an answer to the probe."""
    model, config = model_of(str(QUICKSTART))
    engine = await our_engine(model, config, argparse.Namespace(slots=SLOTS, longest=LONGEST))
    rows = equal_rows(SLOTS, vocabulary_size=config.vocab_size, longest=LONGEST)
    num_tokens = sum(row.response_length for row in rows)

    async def answers() -> None:
        for _ in range(ANSWERS):
            await engine.probe(probe.rows, temperature=probe.temperature)

    alone, beside = [], []
    for _ in range(repeats):
        alone.append(await engine_seconds(engine, rows))
        answering = asyncio.create_task(answers())
        beside.append(await engine_seconds(engine, rows))
        assert answering.done()
    await engine.close()
    of_answer = statistics.median(beside) - statistics.median(alone)
    return statistics.median(alone) / num_tokens, of_answer / ANSWERS


def main(argv: Sequence[str]) -> int:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args(argv)
    compute_as_in_a_run()
    steps, probe = learner_costs(arguments.steps)
    step, of_probe, num_tokens = (statistics.fmean(column) for column in zip(*steps, strict=True))
    of_token, of_answer = asyncio.run(engine_costs(probe, arguments.repeats))
    generation = of_token * num_tokens
    print(f"\nThe probe has rows of {[len(row.tokens) for row in probe.rows]} tokens; a step has {num_tokens:.0f}.\n")
    print("| where | probe, CPU ms | a step's work, CPU ms | share |\n|---|---|---|---|")
    for where, part, whole in (("learner", of_probe, step), ("generator", of_answer, generation)):
        print(f"| {where} | {1e3 * part:.1f} | {1e3 * whole:.0f} | {part / whole:.2%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The faults that strike a run while it trains, by name, and how they are drawn from a seed."""

import random
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.faults import poison
from tests.faults.chaotic_run import LONG_FREEZE_SECONDS, MINUTE_SECONDS, ChaoticRun
from tests.support.proxy import Mood

Fault = Callable[[ChaoticRun, random.Random], object]


def _plain(fault: Callable[[ChaoticRun], object]) -> Fault:
    """One that draws nothing."""
    return lambda run, _: fault(run)


def _poison(kind: str) -> Fault:
    return lambda run, source: run.poison(kind, source)


PROCESSES: dict[str, Callable[[ChaoticRun], object]] = {
    "SIGKILL generation": lambda run: run.kill("generation-0"),
    "SIGTERM generation with notice": lambda run: run.terminate("generation-0"),
    "SIGKILL generation in a weight transfer": lambda run: run.kill_in_transfer(),
    "SIGKILL reward": lambda run: run.kill("reward-0"),
    "SIGKILL learner": lambda run: run.kill("learner"),
    "SIGKILL learner in a checkpoint": lambda run: run.kill_in_checkpoint(),
    "SIGKILL Redis": lambda run: run.kill_redis(),
    "Redis loses its last second": lambda run: run.lose_last_second(),
    "Redis' disk is full": lambda run: run.fill_disk_of_redis(),
    "SIGSTOP generation": lambda run: run.freeze("generation-0"),
    "SIGSTOP reward": lambda run: run.freeze("reward-0"),
    "SIGSTOP learner": lambda run: run.freeze("learner"),
    "SIGSTOP Redis": lambda run: run.freeze_redis(),
    "SIGSTOP Redis beyond every time-out": lambda run: run.freeze_redis(LONG_FREEZE_SECONDS),
    "SIGSTOP Redis for a minute": lambda run: run.freeze_redis(MINUTE_SECONDS),
    "connections cut": lambda run: run.trouble(Mood.CUT),
    "connections delayed": lambda run: run.trouble(Mood.DELAY),
    "connections silent": lambda run: run.trouble(Mood.BLACK_HOLE),
    "replies dropped": lambda run: run.trouble(Mood.DROP_REPLIES),
    "weight transfer cut": lambda run: run.trouble_weights(Mood.CUT),
    "weight transfer cut in the middle": lambda run: run.trouble_weights(Mood.CUT_IN_THE_MIDDLE),
    "weight transfer silent": lambda run: run.trouble_weights(Mood.BLACK_HOLE),
    "weight transfer answered by nobody": lambda run: run.trouble_weights(Mood.DROP_REPLIES),
}
EDGES: dict[str, Callable[[ChaoticRun], object]] = {
    "Redis is flushed": lambda run: run.flush_redis(),
    "Redis comes back empty with its clock behind": lambda run: run.flush_redis_with_its_clock_behind(),
    "Redis is full while the learner starts": lambda run: run.fill_redis_while_the_learner_starts(),
}
RANKS: dict[str, Callable[[ChaoticRun], object]] = {
    "SIGKILL rank 1 of the learner": lambda run: run.lose_rank("learner-rank-1", signal.SIGKILL),
    "SIGKILL rank 0 of the learner": lambda run: run.lose_rank("learner", signal.SIGKILL),
    "SIGSTOP rank 1 of the learner": lambda run: run.lose_rank("learner-rank-1", signal.SIGSTOP),
    "SIGSTOP rank 0 of the learner": lambda run: run.lose_rank("learner", signal.SIGSTOP),
}
"""Of a learner of two processes, which have both models, or one each."""
POISON: dict[str, Fault] = {f"poison: {kind}": _poison(kind) for kind in poison.KINDS}
NEW = (*EDGES, *POISON, *RANKS)
PLAIN = {**PROCESSES, **EDGES, **RANKS}
FAULTS: dict[str, Fault] = {**{name: _plain(fault) for name, fault in PLAIN.items()}, **POISON}
MOST_PER_RUN = 3  # of one fault: the supervisor gives up a process that fails six times in a row


@dataclass(frozen=True)
class Injection:
    """A fault, and how long it took until the next step was done; None where that was not measured."""

    name: str
    recovered_seconds: float | None = None


def drawn_faults(source: random.Random, count: int, names: Iterable[str] = FAULTS) -> list[str]:
    """An order of at most so many of these faults, in which none comes too often."""
    choice = sorted(names) * MOST_PER_RUN
    return source.sample(choice, min(count, len(choice)))


def inject(run: ChaoticRun, name: str, source: random.Random) -> Injection:
    """At a moment of the next step, and wait until the run has recovered."""
    run.wait_for_step(run.num_steps_done + 1)
    time.sleep(source.uniform(0, 0.5))
    began = time.monotonic()
    FAULTS[name](run, source)
    run.wait_for_step(run.num_steps_done + 1)
    return Injection(name, time.monotonic() - began)

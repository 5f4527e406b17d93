"""What happens to one run, drawn from its seed: faults while it trains, its end, damages, and how it is continued."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults import kinds, small_files
from tests.faults.chaotic_run import SEVERAL_RANKS, VALUE_MODEL_APART

INTERRUPTED = "interrupted"
KILLED = "everything is killed"
KILLED_AND_FLUSHED = "everything is killed, and Redis is flushed"
FINISHED = "finished, and extended"
OTHER_SETTINGS = "continued with other settings"
ENDINGS = (INTERRUPTED, KILLED, KILLED_AND_FLUSHED)
GROUPS = (SEVERAL_RANKS, VALUE_MODEL_APART)
SLOW = {"SIGSTOP Redis for a minute"}
"""Drawn only where it is named."""
CHANGES: Sequence[Mapping[str, str]] = (
    {"actor.lr": "1e-4"},
    {"actor.lr": "2e-5", "critic.lr": "5e-4"},
    {"run.max_token_lag": "3", "algorithm.lam": "0.9"},
    {"evaluation.test_freq": "2", "generation.temperature": "0.8"},
)


@dataclass(frozen=True)
class Continuation:
    """How the run ended, what was damaged then, and how it goes on until it is finished."""

    ending: str
    damages: Sequence[str]
    num_more_steps: int
    changes: Mapping[str, str]


@dataclass(frozen=True)
class Story:
    """Of one run."""

    faults: Sequence[str]
    continuations: Sequence[Continuation]
    group: Mapping[str, str] = field(
        default_factory=dict
    )  # settings of a learner of two processes, of those whose faults strike one of them

    @property
    def settings(self) -> Mapping[str, str]:
        """Its learner is several processes where a fault strikes one of them."""
        return self.group if any(name in kinds.RANKS for name in self.faults) else {}


def drawn_story(source: random.Random, only: Sequence[str] = ()) -> Story:
    """`only`: the faults and damages to draw from, where any are named."""
    faults = [name for name in kinds.FAULTS if name in only] or _unnamed_faults(only)
    new = [name for name in faults if name in kinds.NEW]
    old = [name for name in faults if name not in kinds.NEW]
    fewest = 0 if new else 1  # the run has a checkpoint when it ends
    drawn = kinds.drawn_faults(source, source.randint(1, 2), new) + kinds.drawn_faults(
        source, source.randint(fewest, fewest + 1), old
    )
    source.shuffle(drawn)
    damages = [kind for kind in small_files.KINDS if kind in only] or small_files.KINDS
    first = _continuation(source, source.choice(ENDINGS), damages)
    extended = [_continuation(source, FINISHED, damages)] if source.random() < 0.5 else []
    return Story(drawn, [first, *extended], source.choice(GROUPS))


def _unnamed_faults(only: Sequence[str]) -> list[str]:
    """None, where only damages are named."""
    return [] if only else [name for name in kinds.FAULTS if name not in SLOW]


def _continuation(source: random.Random, ending: str, damages: Sequence[str]) -> Continuation:
    return Continuation(
        ending=ending,
        damages=small_files.drawn(source, source.randint(0, 2), damages),
        num_more_steps=source.randint(2, 5),
        changes=source.choice(CHANGES) if source.random() < 0.5 else {},
    )

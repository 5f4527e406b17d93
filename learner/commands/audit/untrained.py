"""What of a run is sampled, or asked for, and has not trained yet: by the ledger of its newest checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from learner.commands.audit.evidence import Evidence

WAITING = {"requested": "asked for", "scoring": "waiting for a score", "ready": "ready", "parked": "parked"}


@dataclass(frozen=True, slots=True)
class Untrained:
    """Some of what has not trained."""

    what: str
    windows: int | None
    tokens: int


def untrained(evidence: Evidence) -> list[Untrained]:
    """Windows by their state; tokens that the value model still waits for; tokens that the policy never trains."""
    rollouts = evidence.ledger.rollouts
    by_state = [_in_state(rollouts, state, words) for state, words in WAITING.items()]
    num_prefix = sum(rollout["window_start"] for rollout in rollouts)
    left_out = evidence.tokens.filter(pc.field("in_window") & ~pc.field("policy_mask"))
    return [
        *by_state,
        Untrained("trained by the policy, response not finished", None, num_prefix),
        Untrained("left out of the policy's loss: tails of cuts, too old, or during the warm-up", None, len(left_out)),
    ]


def _in_state(rollouts: Sequence[Mapping[str, Any]], state: str, words: str) -> Untrained:
    """The windows in a state, and how many tokens they have so far."""
    found = [rollout for rollout in rollouts if rollout["state"] == state]
    num_tokens = sum(rollout["lengths"]["response_tokens"] - rollout["window_start"] for rollout in found)
    return Untrained(words, len(found), num_tokens)

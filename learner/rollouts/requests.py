"""The requests that the ledger makes for a rollout: windows to be sampled, responses to be scored."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tppo.rollout import RewardRequest, WindowRequest, tokens

if TYPE_CHECKING:
    from array import array

    from learner.rollouts.ledger import Rollout


@dataclass(frozen=True, slots=True)
class Limits:
    """Lengths in tokens, and what else shapes a request."""

    window_length: int
    max_response_length: int
    max_score_attempts: int
    stop_token_ids: tuple[int, ...]
    temperature: float
    evaluation_temperature: float
    seed: int


def window_request(rollout: "Rollout", limits: Limits) -> WindowRequest:
    """For a rollout's current window."""
    window_length = limits.max_response_length if rollout.is_evaluation else limits.window_length
    temperature = limits.evaluation_temperature if rollout.is_evaluation else limits.temperature
    return WindowRequest(
        rollout_id=rollout.rollout_id,
        window_index=rollout.window_index,
        prompt_tokens=rollout.prompt.token_ids,
        response_tokens=tokens(rollout.response_tokens),
        max_new_tokens=min(window_length, limits.max_response_length - len(rollout.response_tokens)),
        stop_token_ids=limits.stop_token_ids,
        temperature=temperature,
        seed=sampling_seed(limits.seed, rollout.rollout_id),
        min_policy_version=rollout.min_policy_version,
        is_evaluation=rollout.is_evaluation,
    )


def reward_request(rollout: "Rollout", decode: "Callable[[array[int]], str]") -> RewardRequest:
    """For a finished rollout's score."""
    return RewardRequest(
        rollout_id=rollout.rollout_id,
        attempt=rollout.attempt,
        data_source=rollout.prompt.data_source,
        prompt=rollout.prompt.text,
        response=decode(rollout.response_tokens),
        ground_truth=rollout.prompt.ground_truth,
        extra_info=rollout.prompt.extra_info,
        num_response_tokens=len(rollout.response_tokens),
        is_evaluation=rollout.is_evaluation,
    )


def sampling_seed(run_seed: int, rollout_id: str) -> int:
    """64 bits that belong to a rollout, so that where its windows are cut does not change what is sampled."""
    digest = hashlib.blake2b(f"{run_seed}/{rollout_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")

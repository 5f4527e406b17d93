"""The requests that the ledger makes for a rollout: windows to be sampled, responses to be scored."""

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from learner.rollouts.rollout import Rollout
from tppo.config.schema import EvaluationSection, GenerationSection, RunSection
from tppo.rollout import RewardRequest, WindowRequest, tokens


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What the configuration says about requests; lengths in tokens."""

    window_length: int
    max_response_length: int
    max_score_attempts: int
    stop_token_ids: tuple[int, ...]
    temperature: float
    evaluation_temperature: float
    seed: int

    @classmethod
    def of(
        cls,
        run: RunSection,
        generation: GenerationSection,
        evaluation: EvaluationSection,
        *,
        max_score_attempts: int,
        stop_token_ids: tuple[int, ...],
    ) -> Self:
        """The rules of a run."""
        return cls(
            window_length=run.window_length,
            max_response_length=run.max_response_length,
            max_score_attempts=max_score_attempts,
            stop_token_ids=stop_token_ids,
            temperature=generation.temperature,
            evaluation_temperature=evaluation.temperature,
            seed=run.seed,
        )


def window_request(rollout: Rollout, rules: RequestRules) -> WindowRequest:
    """For a rollout's current window."""
    window_length = rules.max_response_length if rollout.is_evaluation else rules.window_length
    temperature = rules.evaluation_temperature if rollout.is_evaluation else rules.temperature
    return WindowRequest(
        rollout_id=rollout.rollout_id,
        window_index=rollout.window_index,
        prompt_tokens=rollout.prompt.token_ids,
        response_tokens=tokens(rollout.response_tokens),
        max_new_tokens=min(window_length, rules.max_response_length - len(rollout.response_tokens)),
        stop_token_ids=rules.stop_token_ids,
        temperature=temperature,
        seed=sampling_seed(rules.seed, rollout.rollout_id),
        min_policy_version=rollout.min_policy_version,
        is_evaluation=rollout.is_evaluation,
    )


def reward_request(rollout: Rollout, decode: Callable[["array[int]"], str]) -> RewardRequest:
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

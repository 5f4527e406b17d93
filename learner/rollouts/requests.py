"""The requests that the ledger makes for a rollout (windows to be sampled, responses to be scored), and their keys."""

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout, State
from tppo.config.schema import EvaluationSection, GenerationSection, RunSection
from tppo.rollout import FinishReason, RewardRequest, Score, Window, WindowRequest, tokens

RequestKey = tuple[str, str, int]  # kind, rollout, and window index or attempt


@dataclass(frozen=True, slots=True)
class UnscoredResponse:
    """A finished response that is to be scored: a `RewardRequest` without the text.

    The text is made where requests are sent, of a long one in a thread: a tokenizer takes milliseconds for it.
    """

    rollout_id: str
    attempt: int
    prompt: Prompt
    tokens: "array[int]"  # the rollout's own, which grow no more
    finish_reason: FinishReason
    num_not_sampled_tokens: int
    is_evaluation: bool

    @property
    def key(self) -> tuple[str, int]:
        """As the request's."""
        return self.rollout_id, self.attempt

    def request(self, decode: Callable[["array[int]"], str]) -> RewardRequest:
        """With the text."""
        return RewardRequest(
            rollout_id=self.rollout_id,
            attempt=self.attempt,
            data_source=self.prompt.data_source,
            prompt=self.prompt.text,
            response=decode(self.tokens),
            ground_truth=self.prompt.ground_truth,
            extra_info=self.prompt.extra_info,
            num_response_tokens=len(self.tokens),
            is_evaluation=self.is_evaluation,
            finish_reason=self.finish_reason,
            num_not_sampled_tokens=self.num_not_sampled_tokens,
        )


Request = WindowRequest | UnscoredResponse


def key_of(request: Request | RewardRequest) -> RequestKey:
    """What distinguishes one request from every other."""
    kind = WindowRequest if isinstance(request, WindowRequest) else RewardRequest
    return kind.__name__, *request.key


def answered_by(record: Window | Score) -> RequestKey:
    """The request that this record answers."""
    return (WindowRequest if isinstance(record, Window) else RewardRequest).__name__, *record.key


def awaited_by(rollout: Rollout) -> RequestKey | None:
    """The request that the rollout waits for; None when it waits for none."""
    if rollout.state is State.REQUESTED:
        return WindowRequest.__name__, rollout.rollout_id, rollout.window_index
    if rollout.state is State.SCORING:
        return RewardRequest.__name__, rollout.rollout_id, rollout.attempt
    return None


class Arrival(Enum):
    """When a record comes, as the ledger sees it."""

    EARLY = auto()  # before its request was made
    AWAITED = auto()
    LATE = auto()  # a duplicate, or its rollout goes no further


def arrival(key: RequestKey, rollout: Rollout) -> Arrival:
    """Of a record that answers a request for this rollout."""
    kind, _, number = key
    if key == awaited_by(rollout):
        return Arrival.AWAITED
    if kind == WindowRequest.__name__:
        is_early = number >= rollout.next_window_index
    else:
        is_early = number > rollout.attempt or not rollout.is_finished
    return Arrival.EARLY if is_early else Arrival.LATE


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


def unscored_response(rollout: Rollout, stop_token_ids: tuple[int, ...]) -> UnscoredResponse:
    """For a finished rollout's score."""
    is_stopped = rollout.is_sampled()[-1:] == b"\1" and rollout.response_tokens[-1] in stop_token_ids
    return UnscoredResponse(
        rollout_id=rollout.rollout_id,
        attempt=rollout.attempt,
        prompt=rollout.prompt,
        tokens=rollout.response_tokens,
        finish_reason=FinishReason.STOP if is_stopped else FinishReason.LENGTH,
        num_not_sampled_tokens=rollout.num_not_sampled,
        is_evaluation=rollout.is_evaluation,
    )


def sampling_seed(run_seed: int, rollout_id: str) -> int:
    """64 bits that belong to a rollout, so that where its windows are cut does not change what is sampled."""
    digest = hashlib.blake2b(f"{run_seed}/{rollout_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")

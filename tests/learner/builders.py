"""Small prompts, configurations, manager, records and rollouts."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load

from learner.rollouts.ledger import Ledger
from learner.rollouts.ledger_state import LedgerCapture, LedgerState
from learner.rollouts.manager import RolloutManager, open_manager
from learner.rollouts.prompts import Prompt
from learner.rollouts.requests import RequestRules
from learner.rollouts.rollout import Rollout, State
from tppo.config.schema import Config
from tppo.rollout import FinishReason, Score, ScoreStatus, VersionSpan, Window, logprobs, tokens
from tppo.weights import TensorLayout

STOP_TOKEN = 1


def a_config(**sections: dict[str, Any]) -> Config:
    needed: dict[str, Any] = {"model": {"path": Path("model")}, "data": {"train_files": [Path("train.jsonl")]}}
    return Config.model_validate(needed | sections)


def a_prompt(index: int = 0, *, token_ids: tuple[int, ...] = (5, 6, 7)) -> Prompt:
    return Prompt(index, f"prompt {index}", tokens(token_ids), "sums", f"answer {index}", "{}")


def rules_of(config: Config) -> RequestRules:
    return RequestRules.of(
        config.run,
        config.generation,
        config.evaluation,
        max_score_attempts=config.reward.max_attempts,
        stop_token_ids=(STOP_TOKEN,),
    )


def a_manager(config: Config, *, num_prompts: int = 20, num_evaluation_prompts: int = 0) -> RolloutManager:
    return open_manager(
        config.run,
        config.data,
        rules_of(config),
        num_cohort_steps=config.critic.warmup_steps,
        prompts=[a_prompt(index) for index in range(num_prompts)],
        evaluation_prompts=[a_prompt(index) for index in range(num_evaluation_prompts)],
        num_evaluation_samples=config.evaluation.samples_per_prompt,
        decode=lambda response: " ".join(map(str, response)),
    )


def no_rollouts() -> LedgerCapture:
    """What a checkpoint without a ledger is to keep."""
    return LedgerCapture({"gathered": {}}, [], {}, [], [], [], [], [])


def kept(capture: LedgerCapture) -> LedgerState:
    """What a checkpoint has kept of it, through JSON and the bytes of tensors."""
    tensors = capture.tensors()
    layout = TensorLayout(tensors)
    content = b"".join(part for facts in layout.tensors for part in tensors[facts])
    return LedgerState(json.loads("".join(capture.json_parts())), load(layout.header({}) + content))


def a_ledger(*, window_length: int = 4, max_response_length: int = 10, max_score_attempts: int = 2) -> Ledger:
    """A ledger for which every rollout that it does not hold, named `past-...`, was started at some time."""
    rules = RequestRules(
        window_length=window_length,
        max_response_length=max_response_length,
        max_score_attempts=max_score_attempts,
        stop_token_ids=(STOP_TOKEN,),
        temperature=1.0,
        evaluation_temperature=0.5,
        seed=3,
    )
    return Ledger(
        rules,
        decode=lambda response: " ".join(map(str, response)),
        is_past=lambda rollout_id: rollout_id.startswith("past"),
    )


def a_window(
    rollout_id: str, window_index: int = 0, *, num_tokens: int = 4, stops: bool = False, policy_version: int = 0
) -> Window:
    """Tokens 10, 11, ...; the last one is the stop token when it stops."""
    sampled = tokens([*range(10, 9 + num_tokens), STOP_TOKEN] if stops else range(10, 10 + num_tokens))
    return Window(
        rollout_id,
        window_index,
        sampled,
        logprobs([-1.0] * num_tokens),
        (VersionSpan(policy_version, num_tokens),) if num_tokens else (),
        FinishReason.STOP if stops else FinishReason.LENGTH,
    )


def ending(window: Window, reason: FinishReason, *, not_sampled: Sequence[int] = ()) -> Window:
    """The same window with this finish reason; `not_sampled`: places of the tokens that the policy did not sample."""
    mask = bytes(place not in not_sampled for place in range(len(window.tokens)))
    numbers = logprobs(0.0 if place in not_sampled else one for place, one in enumerate(window.logprobs))
    return replace(window, finish_reason=reason, sampled_mask=mask if not_sampled else b"", logprobs=numbers)


def a_failed_window(rollout_id: str, window_index: int = 0, *, error: str = "out of memory") -> Window:
    return Window(rollout_id, window_index, tokens(), logprobs(), (), FinishReason.FAILED, error=error)


def a_score(rollout_id: str, score: float = 1.0, *, attempt: int = 0) -> Score:
    return Score(rollout_id, attempt, ScoreStatus.SCORED, score)


def a_failed_score(rollout_id: str, status: ScoreStatus = ScoreStatus.FAILED, *, attempt: int = 0) -> Score:
    return Score(rollout_id, attempt, status, error="no verdict")


def a_row(
    response: list[int],
    *,
    window_start: int = 0,
    score: float | None = None,
    versions: list[int] | None = None,
    rollout_logprobs: list[float] | None = None,
    earlier_values: list[float] | None = None,
    not_sampled: Sequence[int] = (),
    prompt: tuple[int, ...] = (5, 6, 7),
) -> Rollout:
    """A row that is ready for a training step; finished when it has a score. `not_sampled`: places in the response."""
    length = len(response)
    return Rollout(
        rollout_id="row",
        prompt=a_prompt(token_ids=prompt),
        ordinal=0,
        state=State.READY,
        window_index=1 if window_start else 0,
        window_start=window_start,
        response_tokens=tokens(response),
        rollout_logprobs=logprobs(rollout_logprobs or [-2.0] * length),
        token_versions=tokens(versions or [0] * length),
        values=logprobs(earlier_values or [0.0] * window_start),
        sampled_mask=array("b", [place not in not_sampled for place in range(length)] if not_sampled else []),
        is_finished=score is not None,
        score=score,
    )


def a_requested_rollout(ledger: Ledger, rollout_id: str = "r", *, is_evaluation: bool = False) -> Rollout:
    rollout = ledger.start(rollout_id, a_prompt(), ordinal=0, is_evaluation=is_evaluation)
    ledger.request_window(rollout, cohort=0, min_policy_version=0)
    return rollout


def train_row(ledger: Ledger, rollout: Rollout) -> None:
    ledger.take([rollout])
    ledger.mark_trained(rollout, logprobs([0.5] * len(rollout.window_tokens)))


def a_trained_rollout(ledger: Ledger) -> Rollout:
    """Its first window of four tokens is trained."""
    rollout = a_requested_rollout(ledger)
    ledger.add_window((1, 0), a_window("r"))
    train_row(ledger, rollout)
    return rollout

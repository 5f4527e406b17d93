"""One training step: rows in, two updated models and the step's numbers out.

    values  ->  advantages  ->  masks  ->  whitening  ->  value model's update  ->  policy's update

What T-PPO and the systems that it is compared with do differently is behind `Objective`. Decisions where the paper is
silent are named in docs/algorithm.md. What becomes a mini-batch or a micro-batch is a function of the rows alone, so
the same rows give the same weights.
"""

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow
import torch
from torch import Tensor

from learner.algorithm import masked_stats, token_filter
from learner.models.outputs import Policy, ValueModel, token_and_boundary_values
from learner.models.packing import pack, pad_rows, unpack
from learner.rollouts.rollout import Rollout
from learner.step import metrics as step_metrics
from learner.step import policy_update, response_diagnostics, value_update
from learner.step.experience import Estimates, Sampled, gather, with_overlong_penalty
from learner.step.metrics import Metrics
from learner.step.optimization import Optimization
from learner.step.policy_update import PolicyResult, TokenOutcome
from learner.step.trace_rows import trace_table
from learner.systems import objective_for
from learner.systems.estimators import gae_lambda
from tppo.config import Config


def _unwhitened(advantages: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, advantages, 0.0)


WHITENING = {"full": masked_stats.whiten_full, "scale_only": masked_stats.scale_only, "none": _unwhitened}


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves behind besides the updated models."""

    values: "list[array[float]]"  # per row: value of each token of its window, as predicted before the update
    metrics: Metrics
    trace: pyarrow.Table | None = None  # where traces are kept


class Trainer:
    """Owns the two models and their optimizers."""

    def __init__(self, config: Config, policy: Policy, value_model: ValueModel) -> None:
        self.policy, self.value_model = policy, value_model
        self._config = config
        steps = config.run.total_training_steps
        actor_steps = max(1, steps - config.critic.warmup_steps)
        self.actor = Optimization(policy.network.parameters(), config.actor, num_steps=actor_steps)
        self.critic = Optimization(value_model.network.parameters(), config.critic, num_steps=steps)
        self.objective = objective_for(config, policy)

    def step(self, rows: Sequence[Rollout], *, policy_version: int) -> StepResult:
        """Train on the rows; the policy's weights before the step are `policy_version`."""
        started = time.perf_counter()
        sampled = self.objective.trained_rows(self._gathered(rows), policy_version=policy_version)
        estimates = self._estimates(sampled, policy_version)
        estimated = time.perf_counter()
        arrived, of_arrived = sampled.first(len(rows)), estimates.first(len(rows))
        metrics = step_metrics.sampled_metrics(arrived, policy_version)
        metrics |= step_metrics.estimate_metrics(sampled, estimates)
        metrics |= response_diagnostics.prefix_age(rows, policy_version)
        metrics |= response_diagnostics.metrics(
            arrived, of_arrived, gae_lambda=gae_lambda(arrived, self._config), config=self._config
        )
        metrics |= value_update.train(
            self.value_model, self.critic, sampled, estimates, objective=self.objective, config=self._config
        )
        values_trained = time.perf_counter()
        outcomes: Mapping[int, TokenOutcome] = {}
        if policy_version >= self._config.critic.warmup_steps:
            update = self._train_policy(sampled, estimates)
            metrics, outcomes = metrics | update.metrics, update.outcomes
        metrics |= {
            "timing_s/values": estimated - started,
            "timing_s/update_critic": values_trained - estimated,
            "timing_s/update_actor": time.perf_counter() - values_trained,
        }
        values = [array("f", arrived.window_part(index, of_arrived.values).tolist()) for index in range(len(rows))]
        trace = None
        if self._config.trace.enabled:
            of_rows = {row: outcome for row, outcome in outcomes.items() if row < len(rows)}
            trace = trace_table(rows, arrived, of_arrived, of_rows, policy_version=policy_version, config=self._config)
        return StepResult(values, metrics, trace)

    def set_temperature(self, temperature: float) -> None:
        """From the next step on the policy is the one under this sampling temperature."""
        self.policy.temperature = temperature

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the two models."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.objective.load_state_dict(state["objective"])

    def _gathered(self, rows: Sequence[Rollout]) -> Sampled:
        options = self._config.algorithm
        if not options.overlong_buffer_length:
            return gather(rows)
        return with_overlong_penalty(
            gather(rows),
            max_response_length=self._config.run.max_response_length,
            buffer_length=options.overlong_buffer_length,
            max_penalty=options.overlong_penalty_factor,
        )

    def _train_policy(self, sampled: Sampled, estimates: Estimates) -> PolicyResult:
        result = policy_update.train(
            self.policy, self.actor, sampled, estimates, objective=self.objective, config=self._config
        )
        own_metrics = self.objective.after_step(sampled, estimates, self.actor)
        return replace(result, metrics={**result.metrics, **own_metrics})

    @torch.no_grad()
    def _estimates(self, sampled: Sampled, policy_version: int) -> Estimates:
        options = self._config.algorithm
        values, boundary_values = self._predicted_values(sampled)
        advantages = self.objective.advantages(sampled, values, boundary_values)
        counted = token_filter.policy_mask(
            sampled.response_mask, sampled.is_finished, num_ignored_tail_tokens=options.num_ignored_tail_tokens
        )
        is_recent = token_filter.recent_mask(
            sampled.token_versions, policy_version=policy_version, max_token_lag=self._config.run.max_token_lag
        )
        policy_mask = counted & is_recent
        whitened = WHITENING[options.advantage_whitening](advantages.raw, policy_mask)
        return Estimates(
            values=values,
            raw_advantages=advantages.raw,
            advantages=masked_stats.clamp_advantages(whitened),
            policy_mask=policy_mask,
            value_mask=token_filter.value_mask(sampled.all_windows_mask(), sampled.is_finished),
            num_too_old=int((counted & ~is_recent).sum()),
            old_logprobs=advantages.old_logprobs,
        )

    def _predicted_values(self, sampled: Sampled) -> tuple[Tensor, Tensor]:
        """V(s_t) [batch, time], and V of the state after the last token [batch]."""
        batches = pack(sampled.window_rows(), max_tokens=self._config.critic.max_tokens_per_microbatch)
        outputs = [token_and_boundary_values(self.value_model, batch) for batch in batches]
        values = unpack(batches, [of_tokens.cpu() for of_tokens, _ in outputs])
        boundary = torch.empty(sampled.num_rows)
        for batch, (_, after_last) in zip(batches, outputs, strict=True):
            boundary[list(batch.row_indices)] = after_last.cpu()
        return pad_rows(values).values, boundary

"""One training step: rows in, two updated models and the step's numbers out.

    values  ->  advantages  ->  masks  ->  whitening  ->  value model's update  ->  policy's update

What T-PPO and the systems that it is compared with do differently is behind `System`. Decisions where the paper is
silent are named in docs/algorithm.md. What becomes a mini-batch or a micro-batch is a function of the rows alone, so
the same rows give the same weights.
"""

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow
from torch import Tensor

from learner.models.loading.agreement import weight_probe
from learner.models.loading.named_tensors import stored_by_ranks
from learner.models.passes.outputs import (
    Policy,
    ValueModel,
    holding,
    sequence_probabilities,
)
from learner.models.passes.packing import TokenRow
from learner.models.weights.master_weights import MasterWeights
from learner.parallel.gathering import in_memory_of_first, is_divided
from learner.parallel.shard_files import WrittenTogether
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout
from learner.step.estimation.estimates import estimate
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, Sampled, gather, with_overlong_penalty
from learner.step.measurements import metrics as step_metrics
from learner.step.measurements import response_diagnostics
from learner.step.measurements.engine_check import EngineCheck
from learner.step.measurements.metrics import Metrics
from learner.step.measurements.trace_rows import trace_table
from learner.step.measurements.trace_schema import Header
from learner.step.system import System
from learner.step.trainer_state import StateParts, StoredModel, TrainerState
from learner.step.updates import policy_update
from learner.step.updates.loss_normalizer import LossNormalizer
from learner.step.updates.optimization import Optimization
from learner.step.updates.policy_update import PolicyResult, TokenOutcome
from learner.step.updates.value_update import BegunPass, ValueUpdate
from tppo.config.schema import ActorSection, CriticSection, OptimizerSection, RunSection
from tppo.weight_probe import WeightProbe, update_rows
from tppo.weights import MemoryFile

Model = Literal["actor", "critic"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves behind besides the updated models."""

    values: "list[array[float]]"  # per row: value of each token of its window, as predicted before the update
    metrics: Metrics
    trace: pyarrow.Table | None = None  # where traces are kept


class Trainer:
    """Owns the two models and their optimizers."""

    def __init__(
        self,
        policy: Policy,
        value_model: ValueModel,
        system: System,
        *,
        estimators: Estimators,
        run: RunSection,
        actor: ActorSection,
        critic: CriticSection,
        keeps_traces: bool,
    ) -> None:
        self.policy, self.value_model, self.system = policy, value_model, system
        self._estimators, self._algorithm = estimators, estimators.algorithm
        self._run, self._actor_section, self._critic_section = run, actor, critic
        self._keeps_traces = keeps_traces
        steps = run.total_training_steps
        self._engine_check = EngineCheck(
            actor.max_tokens_per_microbatch,
            keeps_weights=run.mode != "lockstep",
            max_kl=None if (bound := estimators.algorithm.max_engine_kl) == "none" else bound,
        )
        self._normalizer = LossNormalizer(estimators.algorithm.loss_normalizer, run.window_length)
        self.actor = _optimization(policy.weights, actor, num_steps=max(1, steps - critic.warmup_steps))
        self.critic = _optimization(value_model.weights, critic, num_steps=steps)

    def step(self, rows: Sequence[Rollout], *, policy_version: int) -> StepResult:
        """Train on the rows; the policy's weights before the step are `policy_version`."""
        started = time.perf_counter()
        sampled = self.system.trained_rows(self._gathered(rows), policy_version=policy_version)
        held_rows = self._engine_check.held_rows(rows)
        seed = self._seed(policy_version)
        value_update = ValueUpdate(self.value_model, self.critic, sampled, self._critic_section, seed)
        predicted = value_update.predicted()
        estimates = estimate(
            sampled,
            predicted.values,
            predicted.boundary_values,
            system=self.system,
            algorithm=self._algorithm,
            policy_version=policy_version,
            max_token_lag=self._run.max_token_lag,
            held_rows=held_rows,
        )
        estimated = time.perf_counter()
        arrived, of_arrived = sampled.first(len(rows)), estimates.first(len(rows))
        limit = self._run.max_response_length
        metrics = step_metrics.sampled_metrics(arrived, policy_version, max_response_length=limit)
        metrics |= step_metrics.estimate_metrics(sampled, estimates)
        metrics |= response_diagnostics.prefix_age(rows, policy_version)
        metrics |= response_diagnostics.metrics(
            arrived, of_arrived, estimators=self._estimators, max_response_length=limit
        )
        metrics |= self._train_value_model(value_update, estimates, predicted.begun)
        values_trained = time.perf_counter()
        is_warming_up = policy_version < self._critic_section.warmup_steps
        self._engine_check.keep_weights(self.policy, policy_version)
        self._engine_check.score_held(self.policy, rows, arrived, policy_version)
        update = PolicyResult({}) if is_warming_up else self._train_policy(sampled, estimates, policy_version)
        metrics |= update.metrics | {
            "tokens/held": int(sampled.response_mask[held_rows].sum()),
            "timing_s/values": estimated - started,
            "timing_s/update_critic": values_trained - estimated,
            "timing_s/update_actor": time.perf_counter() - values_trained,
        }
        values = [array("f", arrived.window_part(index, of_arrived.values).tolist()) for index in range(len(rows))]
        outcomes = {row: outcome for row, outcome in update.outcomes.items() if row < len(rows)}
        old_logprobs = {row: outcome.old_logprobs for row, outcome in outcomes.items()}
        metrics |= self._engine_check.metrics(self.policy, rows, arrived, old_logprobs, policy_version)
        trace = self._trace(rows, arrived, of_arrived, outcomes, policy_version) if self._keeps_traces else None
        return StepResult(values, metrics, trace)

    def solution_probabilities(
        self, prompts: Sequence[Prompt], *, temperature: float, weights: Mapping[str, Tensor] | None = None
    ) -> list[float]:
        """Per prompt, how likely the policy, or that of `weights`, is to answer by the prompt's worked solution.

        0 for a solution that is longer than a response may be.
        """
        rows = {
            index: TokenRow(prompt.token_ids + prompt.solution, start=len(prompt.token_ids))
            for index, prompt in enumerate(prompts)
            if prompt.solution is not None and len(prompt.solution) <= self._run.max_response_length
        }
        policy = holding(self.policy, weights)
        probabilities = sequence_probabilities(
            replace(policy, temperature=temperature),
            list(rows.values()),
            max_tokens=self._actor_section.max_tokens_per_microbatch,
        )
        by_index = dict(zip(rows, probabilities, strict=True))
        return [by_index.get(index, 0.0) for index in range(len(prompts))]

    def probe(self, weights: Mapping[str, Tensor] | None = None) -> WeightProbe:
        """What the policy, or that of `weights`, says of the run's probe."""
        policy, run = holding(self.policy, weights), self._run
        rows = update_rows(
            f"{run.name}/{run.seed}",
            policy.network.config.get_text_config().vocab_size,
            capacity=run.max_prompt_length + run.max_response_length,
            step_tokens=run.rollouts_per_step * run.window_length,
        )
        return weight_probe(
            policy, rows, max_tokens=self._actor_section.max_tokens_per_microbatch, frees_cache=run.mode == "lockstep"
        )

    @property
    def is_divided(self) -> bool:
        """Whether each rank holds rows alone of whatever trains."""
        trained = (*self.policy.weights.parameters(), *self.value_model.weights.parameters())
        return all(map(is_divided, trained))

    def policy_in_memory(self, nonce: str) -> MemoryFile | None:
        """A copy of what the policy computes with, for generators to map; rank 0's alone."""
        self.policy.take_turn()
        return in_memory_of_first(self.policy.weights.computed(), self.policy.group, nonce=nonce)

    def set_temperature(self, temperature: float) -> None:
        """From the next step on the policy is the one under this sampling temperature, in every system."""
        self.policy.temperature = temperature

    def set_learning_rate(self, model: Model, peak: float) -> None:
        """Another peak rate for the same schedule."""
        (self.actor if model == "actor" else self.critic).set_peak(peak)

    def take_over(self, other: "Trainer") -> None:
        """Go on with this one's models and state as `other`, which was made for another configuration."""
        other.load_state_dict(self.state_dict())
        self.actor, self.critic, self.system = other.actor, other.critic, other.system
        self._estimators, self._algorithm, self._run = other._estimators, other._algorithm, other._run
        self._actor_section, self._critic_section = other._actor_section, other._critic_section
        self._engine_check.max_kl = other._engine_check.max_kl

    def captured(self) -> TrainerState:
        """What a checkpoint of this moment keeps."""
        actor, critic = (
            StoredModel(
                f"{folder}/{weights.stem}",
                stored_by_ranks(weights.network, weights.tensors()),
                is_one_file=weights.adapter is not None,  # peft reads no other
            )
            for folder, weights in (("actor", self.policy.weights), ("critic", self.value_model.weights))
        )
        return TrainerState(actor, critic, StateParts.of(self.state_dict()))

    def write(self, state: TrainerState, folder: Path) -> WrittenTogether:
        """What was `captured` here, into a checkpoint's folder."""
        return state.write(folder, self.policy.group)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the two models."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "system": self.system.state_dict(),
            "mean_row_length": self._normalizer.mean_length,
            "held_generators": sorted(self._engine_check.held),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.system.load_state_dict(state["system"])
        self._normalizer.mean_length = state.get("mean_row_length")
        self._engine_check.held = set(state.get("held_generators", ()))

    def _seed(self, policy_version: int) -> str:
        return f"{self._run.seed}/{policy_version}"

    def _gathered(self, rows: Sequence[Rollout]) -> Sampled:
        if not self._algorithm.overlong_buffer_length:
            return gather(rows)
        return with_overlong_penalty(
            gather(rows),
            max_response_length=self._run.max_response_length,
            buffer_length=self._algorithm.overlong_buffer_length,
            max_penalty=self._algorithm.overlong_penalty_factor,
        )

    def _train_value_model(self, update: ValueUpdate, estimates: Estimates, begun: BegunPass | None) -> Metrics:
        weights = self.value_model.weights
        self.value_model.take_turn()
        before = weights.sample()
        metrics = update.train(estimates, self.system, begun)
        return metrics | {"critic/weights_changed_fraction": weights.changed_fraction(since=before)}

    def _train_policy(self, sampled: Sampled, estimates: Estimates, policy_version: int) -> PolicyResult:
        entropy_freq = self._actor_section.entropy_freq
        self.policy.take_turn()
        before = self.policy.weights.sample()
        result = policy_update.train(
            self.policy,
            self.actor,
            sampled,
            estimates,
            system=self.system,
            normalizer=self._normalizer,
            actor=self._actor_section,
            algorithm=self._algorithm,
            seed=self._seed(policy_version),
            with_entropy=entropy_freq > 0 and (policy_version + 1) % entropy_freq == 0,
        )
        own_metrics = self.system.after_step(sampled, estimates, self.actor)
        changed = {"actor/weights_changed_fraction": self.policy.weights.changed_fraction(since=before)}
        return replace(result, metrics={**result.metrics, **changed, **own_metrics})

    def _trace(
        self,
        rows: Sequence[Rollout],
        sampled: Sampled,
        estimates: Estimates,
        outcomes: Mapping[int, TokenOutcome],
        policy_version: int,
    ) -> pyarrow.Table:
        header = Header(policy_version + 1, self._run.algorithm, self._run.mode, self._run.max_token_lag)
        return trace_table(rows, sampled, estimates, outcomes, header=header, gamma=self._algorithm.gamma)


def _optimization(weights: MasterWeights, section: OptimizerSection, *, num_steps: int) -> Optimization:
    return Optimization(
        weights.parameters(),
        section,
        num_steps=num_steps,
        before_update=weights.complete_gradients,
        after_update=weights.cast,
    )

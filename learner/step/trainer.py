"""One training step: rows in, two updated models and the step's numbers out.

    values  ->  advantages  ->  masks  ->  whitening  ->  value model's update  ->  policy's update

What T-PPO and the systems that it is compared with do differently is behind `System`. Decisions where the paper is
silent are named in docs/algorithm.md. What becomes a mini-batch or a micro-batch is a function of the rows alone, so
the same rows give the same weights.

Where each model has processes of its own, all of them take the step with the same rows, each with its own model; they
exchange what it predicts of the rows, and in the end the step's numbers.
"""

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow
from torch import Tensor

from learner.models.passes.outputs import Policy, ValueModel
from learner.models.weights.master_weights import MasterWeights
from learner.parallel.gathering import in_memory_of_first, is_divided
from learner.parallel.roles import TOGETHER, Roles
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout
from learner.step.estimation.estimates import PolicyMask, estimate
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Sampled, gather, with_overlong_penalty
from learner.step.measurements.metrics import Metrics
from learner.step.measurements.trace_rows import trace_table
from learner.step.measurements.trace_schema import Header
from learner.step.sides import Experience, PolicySide, ValueSide
from learner.step.system import Predictions, System
from learner.step.trainer_state import (
    Describe,
    StateParts,
    StoredModel,
    TrainerState,
    WrittenState,
    without_description,
)
from learner.step.updates.optimization import Optimization
from learner.step.updates.policy_update import PolicyResult
from tppo.config.schema import ActorSection, CriticSection, RunSection
from tppo.weight_probe import WeightProbe
from tppo.weights import MemoryFile

Model = Literal["actor", "critic"]
FOLDERS: tuple[Model, ...] = ("actor", "critic")
NUMBERS_OF_A_WEIGHT = 3  # itself and two moments


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves behind besides the updated models."""

    values: "list[array[float]]"  # per row: value of each token of its window, as predicted before the update
    metrics: Metrics
    trace: pyarrow.Table | None = None  # where traces are kept


class Trainer:
    """Owns the two models and their optimizers, or one of them where other processes have the other."""

    def __init__(
        self,
        policy: Policy | None,
        value_model: ValueModel | None,
        system: System,
        *,
        estimators: Estimators,
        run: RunSection,
        actor: ActorSection,
        critic: CriticSection,
        keeps_traces: bool,
        roles: Roles = TOGETHER,
    ) -> None:
        self.system, self.roles = system, roles
        self._estimators, self._algorithm = estimators, estimators.algorithm
        self._run = run
        self._keeps_traces = keeps_traces
        self._bytes_elsewhere = 0  # of the state of other processes' model
        self.policy_side: PolicySide | None = None
        self.value_side: ValueSide | None = None
        if policy is not None:
            self.policy_side = PolicySide(
                policy,
                system,
                algorithm=self._algorithm,
                run=run,
                actor=actor,
                num_warmup_steps=critic.warmup_steps,
            )
        if value_model is not None:
            self.value_side = ValueSide(value_model, system, critic=critic, num_steps=run.total_training_steps)

    @property
    def policy(self) -> Policy:
        """Of a process that has it."""
        return self._having_policy.policy

    @property
    def actor(self) -> Optimization:
        """The policy's."""
        return self._having_policy.optimization

    @property
    def value_model(self) -> ValueModel:
        """Of a process that has it."""
        return self._having_value_model.value_model

    @property
    def critic(self) -> Optimization:
        """The value model's."""
        return self._having_value_model.optimization

    @property
    def _having_policy(self) -> PolicySide:
        assert self.policy_side is not None, "other processes have the policy"
        return self.policy_side

    @property
    def _having_value_model(self) -> ValueSide:
        assert self.value_side is not None, "other processes have the value model"
        return self.value_side

    def step(self, rows: Sequence[Rollout], *, policy_version: int) -> StepResult:
        """Train on the rows; the policy's weights before the step are `policy_version`."""
        seed = f"{self._run.seed}/{policy_version}"
        experience, metrics = self._experience(rows, policy_version, seed)
        if self.value_side is not None:
            metrics |= self.value_side.train(experience)
        update = PolicyResult({})
        if self.policy_side is not None:
            update = self.policy_side.train(experience, seed=seed)
        metrics = self._of_all_processes(metrics | update.metrics)
        padded = experience.estimates.values.numpy()
        values = [array("f", padded[index, : row.num_window_tokens].tobytes()) for index, row in enumerate(rows)]
        return StepResult(values, metrics, self._trace(experience, update) if self._keeps_traces else None)

    def _experience(self, rows: Sequence[Rollout], policy_version: int, seed: str) -> tuple[Experience, Metrics]:
        """What both models train on, and its numbers."""
        began = time.perf_counter()
        limit = self._run.max_response_length
        gathered = with_overlong_penalty(gather(rows), self._algorithm, max_response_length=limit)
        sampled = self.system.trained_rows(gathered, policy_version=policy_version)
        held_rows = [] if self.policy_side is None else self.policy_side.held_rows(rows)
        mask = PolicyMask.of(
            sampled,
            algorithm=self._algorithm,
            policy_version=policy_version,
            max_token_lag=self._run.max_token_lag,
            held_rows=held_rows,
        )
        scored: Mapping[int, Tensor] = {}
        if self.policy_side is not None and self.roles.is_apart:  # while others predict values
            scored = self.policy_side.scored(sampled, mask, policy_version)
        predictions = self._predictions(sampled, seed)
        estimates = estimate(sampled, predictions, mask, system=self.system, algorithm=self._algorithm)
        seconds = {"timing_s/values": time.perf_counter() - began}
        experience = Experience(rows, sampled, estimates, policy_version, held_rows, scored)
        return experience, experience.metrics(self._estimators, max_response_length=limit) | seconds

    def _predictions(self, sampled: Sampled, seed: str) -> Predictions:
        """Of both models, at the same time where each has processes of its own."""
        values = boundary_values = old_logprobs = None
        if self.value_side is not None:
            values, boundary_values = self.value_side.predicted(sampled, seed=seed)
        if self.policy_side is not None and self.system.needs_old_logprobs:
            old_logprobs = self.system.old_logprobs(sampled)
        shape = sampled.response_mask.shape
        from_policy, from_value_model = self.roles.from_policy, self.roles.from_value_model
        return Predictions(
            values=from_value_model(values, shape),
            boundary_values=from_value_model(boundary_values, shape[:1]),
            old_logprobs=from_policy(old_logprobs, shape) if self.system.needs_old_logprobs else None,
        )

    def _of_all_processes(self, own: Metrics) -> Metrics:
        """The step's numbers; of what all have computed, those of rank 0."""
        if not self.roles.is_apart:
            return own
        parameters = [one for weights in self._weights().values() for one in weights.parameters()]
        num_bytes = NUMBERS_OF_A_WEIGHT * sum(one.numel() * one.element_size() for one in parameters)
        of_policy, of_value_model = self.roles.reports({"metrics": own, "num_bytes": num_bytes})
        self._bytes_elsewhere = of_value_model["num_bytes"]
        return {**of_value_model["metrics"], **of_policy["metrics"]}

    def solution_probabilities(
        self, prompts: Sequence[Prompt], *, temperature: float, weights: Mapping[str, Tensor] | None = None
    ) -> list[float]:
        """Per prompt, how likely the policy, or that of `weights`, is to answer by the prompt's worked solution.

        0 for a solution that is longer than a response may be.
        """
        return self._having_policy.solution_probabilities(prompts, temperature=temperature, weights=weights)

    def probe(self, weights: Mapping[str, Tensor] | None = None) -> WeightProbe:
        """What the policy, or that of `weights`, says of the run's probe."""
        return self._having_policy.probe(weights)

    @property
    def absent(self) -> list[str]:
        """The models that other processes have, by their folders in a checkpoint."""
        return [folder for folder in FOLDERS if folder not in self._weights()]

    @property
    def is_divided(self) -> bool:
        """Whether each rank holds rows alone of whatever trains here."""
        return all(is_divided(one) for weights in self._weights().values() for one in weights.parameters())

    def policy_in_memory(self, nonce: str) -> MemoryFile | None:
        """A copy of what the policy computes with, for generators to map; rank 0's alone."""
        self.policy.take_turn()
        return in_memory_of_first(self.policy.weights.computed(), self.policy.group, nonce=nonce)

    def set_temperature(self, temperature: float) -> None:
        """From the next step on the policy is the one under this sampling temperature, in every system."""
        self.policy.temperature = temperature

    def set_learning_rate(self, model: Model, peak: float) -> None:
        """Another peak rate for the same schedule, in the processes that have the model."""
        for side in self._sides():
            if side.folder == model:
                side.optimization.set_peak(peak)

    def take_over(self, other: "Trainer") -> None:
        """Go on with this one's models and state as `other`, which was made for another configuration."""
        other.load_state_dict(self.state_dict())
        if self.policy_side is not None and other.policy_side is not None:
            self.policy_side.take_over(other.policy_side)
        self.value_side, self.system = other.value_side, other.system
        self._estimators, self._algorithm, self._run = other._estimators, other._algorithm, other._run

    def captured(self) -> TrainerState:
        """What a checkpoint of this moment keeps, of the models that are here."""
        models = {name: StoredModel.of(name, weights) for name, weights in self._weights().items()}
        state = self.state_dict()
        if self.policy_side is None:
            del state["system"]  # which the policy's processes keep
        return TrainerState(models, StateParts.of(state), self._bytes_elsewhere)

    def write(self, state: TrainerState, folder: Path, describe: Describe = without_description) -> WrittenState:
        """What was `captured` here, into a checkpoint's folder; `describe` writes what stands beside each model."""

        def beside() -> None:
            for name, weights in self._weights().items():
                describe(folder / name, weights, state.models[name].tensors)

        return state.write(folder, self.roles, beside)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the models that are here."""
        state: dict[str, Any] = {"system": self.system.state_dict()}
        for side in self._sides():
            state |= side.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`, that of both models where this process has one of them alone."""
        for side in self._sides():
            side.load_state_dict(state)
        self.system.load_state_dict(state["system"])

    def _weights(self) -> dict[str, MasterWeights]:
        """Of the models that are here, by their folders in a checkpoint."""
        return {side.folder: side.weights for side in self._sides()}

    def _sides(self) -> list[PolicySide | ValueSide]:
        return [side for side in (self.policy_side, self.value_side) if side is not None]

    def _trace(self, experience: Experience, update: PolicyResult) -> pyarrow.Table:
        header = Header(experience.policy_version + 1, self._run.algorithm, self._run.mode, self._run.max_token_lag)
        return trace_table(
            experience.rows,
            experience.arrived,
            experience.of_arrived,
            update.outcomes,
            header=header,
            gamma=self._algorithm.gamma,
        )

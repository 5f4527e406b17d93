"""The two sides of a training step: the policy with its optimizer, and the value model with its own.

A process has both, or one of them where each model has processes of its own. They share the rows and what is predicted
of them before any update, and nothing else; so they may train at the same time.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from learner.models.loading.agreement import weight_probe
from learner.models.passes.outputs import Policy, ValueModel, holding, sequence_probabilities
from learner.models.passes.packing import TokenRow
from learner.models.weights.master_weights import MasterWeights
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout
from learner.step.estimation.estimates import PolicyMask
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements import metrics as step_metrics
from learner.step.measurements import response_diagnostics
from learner.step.measurements.engine_check import EngineCheck
from learner.step.measurements.metrics import Metrics
from learner.step.system import System
from learner.step.updates import policy_update
from learner.step.updates.loss_normalizer import LossNormalizer
from learner.step.updates.optimization import Optimization
from learner.step.updates.policy_update import PolicyResult
from learner.step.updates.selection import scored_before
from learner.step.updates.value_update import BegunPass, ValueUpdate
from tppo.config.schema import ActorSection, AlgorithmSection, CriticSection, OptimizerSection, RunSection
from tppo.weight_probe import WeightProbe, update_rows


@dataclass(frozen=True, slots=True)
class Experience:
    """What both sides train on."""

    rows: Sequence[Rollout]
    sampled: Sampled  # of the rows that the system trains on; those that arrived come first
    estimates: Estimates
    policy_version: int
    held_rows: Sequence[int]  # which the policy does not train on
    scored: Mapping[int, Tensor]  # by row, what the policy said of it already

    @property
    def arrived(self) -> Sampled:
        """Of the rows that arrived."""
        return self.sampled.first(len(self.rows))

    @property
    def of_arrived(self) -> Estimates:
        """Of the rows that arrived."""
        return self.estimates.first(len(self.rows))

    def metrics(self, estimators: Estimators, *, max_response_length: int) -> Metrics:
        """What the rows look like, and what follows from the predictions, before any update."""
        arrived, version = self.arrived, self.policy_version
        return {
            **step_metrics.sampled_metrics(arrived, version, max_response_length=max_response_length),
            **step_metrics.estimate_metrics(self.sampled, self.estimates),
            **response_diagnostics.prefix_age(self.rows, version),
            **response_diagnostics.metrics(
                arrived, self.of_arrived, estimators=estimators, max_response_length=max_response_length
            ),
            "tokens/held": int(self.sampled.response_mask[list(self.held_rows)].sum()),
        }


class PolicySide:
    """The policy, its optimizer, and what it keeps between steps."""

    folder = "actor"  # of a checkpoint

    def __init__(
        self,
        policy: Policy,
        system: System,
        *,
        algorithm: AlgorithmSection,
        run: RunSection,
        actor: ActorSection,
        num_warmup_steps: int,
    ) -> None:
        """`num_warmup_steps`: first ones, in which it does not train."""
        self.policy, self.system = policy, system
        self._algorithm, self._run, self._section = algorithm, run, actor
        self._num_warmup_steps = num_warmup_steps
        self._engine_check = EngineCheck(
            actor.max_tokens_per_microbatch,
            keeps_weights=run.mode != "lockstep",
            max_kl=None if (bound := algorithm.max_engine_kl) == "none" else bound,
        )
        self._normalizer = LossNormalizer(algorithm.loss_normalizer, run.window_length)
        self.optimization = optimization_of(
            policy.weights, actor, num_steps=max(1, run.total_training_steps - num_warmup_steps)
        )

    @property
    def weights(self) -> MasterWeights:
        """Of the policy."""
        return self.policy.weights

    def held_rows(self, rows: Sequence[Rollout]) -> list[int]:
        """Those that it is not to train on."""
        return self._engine_check.held_rows(rows)

    def scored(self, sampled: Sampled, mask: PolicyMask, policy_version: int) -> dict[int, Tensor]:
        """What it says of rows before any update, as far as values are not needed; by row."""
        if policy_version < self._num_warmup_steps or self.system.needs_old_logprobs:
            return {}
        return scored_before(self.policy, sampled, mask.tokens, actor=self._section, algorithm=self._algorithm)

    def train(self, experience: Experience, *, seed: str) -> PolicyResult:
        """One step's updates, and how far each engine is from the policy before them."""
        began = time.perf_counter()
        rows, version, arrived = experience.rows, experience.policy_version, experience.arrived
        is_warming_up = version < self._num_warmup_steps
        self._engine_check.keep_weights(self.policy, version)
        self._engine_check.score_held(self.policy, rows, arrived, version)
        result = PolicyResult({}) if is_warming_up else self._update(experience, seed)
        seconds = {"timing_s/update_actor": time.perf_counter() - began}
        outcomes = {row: outcome for row, outcome in result.outcomes.items() if row < len(rows)}
        before = {row: logprobs for row, logprobs in result.before.items() if row < len(rows)}
        of_engines = self._engine_check.metrics(self.policy, rows, arrived, before, version)
        return PolicyResult({**result.metrics, **seconds, **of_engines}, outcomes, before)

    def _update(self, experience: Experience, seed: str) -> PolicyResult:
        entropy_freq = self._section.entropy_freq
        self.policy.take_turn()
        before = self.weights.sample()
        result = policy_update.train(
            self.policy,
            self.optimization,
            experience.sampled,
            experience.estimates,
            system=self.system,
            normalizer=self._normalizer,
            actor=self._section,
            algorithm=self._algorithm,
            seed=seed,
            scored=experience.scored,
            with_entropy=entropy_freq > 0 and (experience.policy_version + 1) % entropy_freq == 0,
        )
        of_system = self.system.after_step(experience.sampled, experience.estimates, self.optimization)
        changed = {"actor/weights_changed_fraction": self.weights.changed_fraction(since=before)}
        return replace(result, metrics={**result.metrics, **changed, **of_system})

    def solution_probabilities(
        self, prompts: Sequence[Prompt], *, temperature: float, weights: Mapping[str, Tensor] | None
    ) -> list[float]:
        """See `Trainer`."""
        rows = {
            index: TokenRow(prompt.token_ids + prompt.solution, start=len(prompt.token_ids))
            for index, prompt in enumerate(prompts)
            if prompt.solution is not None and len(prompt.solution) <= self._run.max_response_length
        }
        policy = holding(self.policy, weights)
        probabilities = sequence_probabilities(
            replace(policy, temperature=temperature),
            list(rows.values()),
            max_tokens=self._section.max_tokens_per_microbatch,
        )
        by_index = dict(zip(rows, probabilities, strict=True))
        return [by_index.get(index, 0.0) for index in range(len(prompts))]

    def probe(self, weights: Mapping[str, Tensor] | None) -> WeightProbe:
        """See `Trainer`."""
        policy, run = holding(self.policy, weights), self._run
        rows = update_rows(
            f"{run.name}/{run.seed}",
            policy.network.config.get_text_config().vocab_size,
            capacity=run.max_prompt_length + run.max_response_length,
            step_tokens=run.rollouts_per_step * run.window_length,
        )
        return weight_probe(
            policy, rows, max_tokens=self._section.max_tokens_per_microbatch, frees_cache=run.mode == "lockstep"
        )

    def take_over(self, other: "PolicySide") -> None:
        """Go on with the present policy as `other`, which has this one's state."""
        kept, configured = self._engine_check, other._engine_check
        kept.max_kl, kept.max_tokens = configured.max_kl, configured.max_tokens
        vars(self).update(vars(other) | {"_engine_check": kept})

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the policy."""
        return {
            "actor": self.optimization.state_dict(),
            "mean_row_length": self._normalizer.mean_length,
            "held_generators": sorted(self._engine_check.held),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.optimization.load_state_dict(state["actor"])
        self._normalizer.mean_length = state.get("mean_row_length")
        self._engine_check.held = set(state.get("held_generators", ()))


class ValueSide:
    """The value model and its optimizer."""

    folder = "critic"  # of a checkpoint

    def __init__(self, value_model: ValueModel, system: System, *, critic: CriticSection, num_steps: int) -> None:
        self.value_model, self.system, self._section = value_model, system, critic
        self.optimization = optimization_of(value_model.weights, critic, num_steps=num_steps)
        self._begun: tuple[ValueUpdate, BegunPass | None] | None = None

    @property
    def weights(self) -> MasterWeights:
        """Of the value model."""
        return self.value_model.weights

    def predicted(self, sampled: Sampled, *, seed: str) -> tuple[Tensor, Tensor]:
        """Of the windows' tokens, and of the states after the last ones; the step's update begins with that."""
        update = ValueUpdate(self.value_model, self.optimization, sampled, self._section, seed)
        predicted = update.predicted()
        self._begun = update, predicted.begun
        return predicted.values, predicted.boundary_values

    def train(self, experience: Experience) -> Metrics:
        """One step's updates, behind `predicted`."""
        began = time.perf_counter()
        assert self._begun is not None, "values are predicted first"
        (update, begun), self._begun = self._begun, None
        self.value_model.take_turn()
        before = self.weights.sample()
        metrics = update.train(experience.estimates, self.system, begun)
        changed = {"critic/weights_changed_fraction": self.weights.changed_fraction(since=before)}
        return {**metrics, **changed, "timing_s/update_critic": time.perf_counter() - began}

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs besides the value model."""
        return {"critic": self.optimization.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.optimization.load_state_dict(state["critic"])


def optimization_of(weights: MasterWeights, section: OptimizerSection, *, num_steps: int) -> Optimization:
    """The optimizer of a model."""
    return Optimization(
        weights.parameters(),
        section,
        num_steps=num_steps,
        before_update=weights.complete_gradients,
        after_update=weights.cast,
    )

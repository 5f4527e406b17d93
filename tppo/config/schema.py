"""A whole run: one section for each table of its TOML file. docs/configuration.md lists every key."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, model_validator

from tppo.config import presets
from tppo.config.recipes import with_recipe
from tppo.config.sections.algorithm import AlgorithmSection
from tppo.config.sections.devices import PlacementSection, Sleep
from tppo.config.sections.endpoint import EndpointSection
from tppo.config.sections.generation import GenerationSection
from tppo.config.sections.placement import LearnerSection, Placement
from tppo.config.sections.results import CheckpointSection, EvaluationSection, TraceSection, TrackersSection
from tppo.config.sections.run import RunSection
from tppo.config.sections.section import Section
from tppo.config.sections.services import (
    DashboardSection,
    PrometheusSection,
    RedisSection,
    RewardSection,
)
from tppo.config.sections.training import ActorSection, CriticSection, DataSection, ModelSection, OptimizerSection

DEFAULT_IMPORTANCE_CAP = 2.0


class Config(Section):
    """A whole run."""

    run: RunSection = RunSection()
    model: ModelSection
    learner: LearnerSection = LearnerSection()
    data: DataSection
    algorithm: AlgorithmSection = AlgorithmSection()
    actor: ActorSection = ActorSection()
    critic: CriticSection = CriticSection()
    placement: PlacementSection = PlacementSection()
    generation: GenerationSection = GenerationSection()
    endpoint: EndpointSection = EndpointSection()
    reward: RewardSection = RewardSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    trace: TraceSection = TraceSection()
    trackers: TrackersSection = TrackersSection()
    redis: RedisSection = RedisSection()
    dashboard: DashboardSection = DashboardSection()
    prometheus: PrometheusSection = PrometheusSection()

    @model_validator(mode="before")
    @classmethod
    def _follows_its_algorithm(cls, table: Any) -> Any:
        return presets.completed(with_recipe(table), _default_of) if isinstance(table, dict) else table

    @model_validator(mode="after")
    def _keeps_what_it_reuses(self) -> "Config":
        num_reused, max_lag = self.algorithm.num_reused_batches, self.run.max_token_lag
        if self.run.algorithm == "geppo" and num_reused > max_lag + 1:
            raise ValueError(
                f"algorithm.num_reused_batches = {num_reused} with run.max_token_lag = {max_lag}: "
                f"the oldest windows would be masked; expected at most {max_lag + 1}"
            )
        return self

    @property
    def importance_cap(self) -> float | None:
        """`algorithm.importance_cap`; when unset, one wherever tokens may be stale or engine and learner round."""
        cap = self.algorithm.importance_cap
        if cap is None:
            if self.algorithm.old_logprobs == "rollout":  # the ratio has them already
                return None
            is_exact = self.policy_placement.compute_dtype == self.generator_placement.compute_dtype == "float32"
            return None if self.run.mode == "lockstep" and is_exact else DEFAULT_IMPORTANCE_CAP
        return None if cap == "none" else cap

    @property
    def policy_placement(self) -> Placement:
        """Of the policy in the learner; placed, it is on the first device that a process is shown, or on its own."""
        if self.placement.policy is not None:
            return Placement(self.learner.compute_dtype, "cuda", "placement.policy")
        return Placement(self.learner.compute_dtype, self.learner.device, "learner.device")

    @property
    def value_model_placement(self) -> Placement:
        """Of the value model, which may have a device beside that of a learner of one process."""
        placed = self._placement_of(self.critic, "critic.device")
        numbers = self.placement.value_model_numbers
        if not numbers or numbers == self.placement.policy_numbers or self.critic.num_processes:
            return placed
        index = self.placement.learner_numbers.index(numbers[0])
        return placed._replace(device=f"cuda:{index}", device_key="placement.value_model")

    @property
    def generator_placement(self) -> Placement:
        """Of the policy in each generator, which sees its own devices alone."""
        placed = self._placement_of(self.generation, "generation.device")
        return placed._replace(device="cuda", device_key="placement.generation") if self.placement.policy else placed

    @property
    def engine_sleep(self) -> Sleep:
        """`placement.sleep`; `auto` resolved."""
        if self.placement.sleep != "auto":
            return self.placement.sleep
        return "kv_cache" if self.run.mode == "lockstep" and self.placement.is_shared else "off"

    def _placement_of(self, section: CriticSection | GenerationSection, device_key: str) -> Placement:
        policy = self.policy_placement
        return Placement(
            section.compute_dtype or policy.compute_dtype,
            section.device or policy.device,
            device_key if section.device else policy.device_key,
        )

    @property
    def responses_path(self) -> Path:
        """Of the run's folder in which the reward services keep responses."""
        return (self.reward.responses_directory or self.run.directory) / self.run.name

    @property
    def max_consecutive_failures(self) -> int:
        """`reward.max_consecutive_failures`; when unset, every attempt of as many responses as a step has rows."""
        return self.reward.max_consecutive_failures or self.reward.max_attempts * self.run.rollouts_per_step

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but may not be meant; the learner logs it, and `tppo run` prints it."""
        return (*self._short_warm_up(), *(text for _, text in self.warm_ups_beyond_the_run))

    @property
    def warm_ups_beyond_the_run(self) -> tuple[tuple[str, str], ...]:
        """Keys whose warm-up does not end before the run does, with a sentence; refused where it was meant so."""
        steps = self.run.total_training_steps
        run = f"run.total_training_steps = {steps}"
        found = []
        num_warming = self.critic.warmup_steps
        if num_warming >= steps:
            text = f"critic.warmup_steps = {num_warming} with {run}: the policy would never train"
            found.append(("critic.warmup_steps", f"{text}; expected fewer than {steps}"))
        for name, section, num_steps in (
            ("actor", self.actor, steps - num_warming),
            ("critic", self.critic, steps),
        ):
            key, value = f"{name}.lr_warmup_steps", section.lr_warmup_steps
            num_updates = max(1, num_steps) * section.ppo_epochs * section.ppo_mini_batches
            if value > num_updates:
                text = f"{key} = {value} with {run}: the learning rate would not reach its peak"
                found.append((key, f"{text}; expected at most {num_updates} updates"))
        return tuple(found)

    def _short_warm_up(self) -> tuple[str, ...]:
        num_steps, run = self.run.num_windows_at_limit, self.run
        if self.model.critic_path is not None or self.critic.warmup_steps >= num_steps:
            return ()
        return (
            f"critic.warmup_steps = {self.critic.warmup_steps}: a response of run.max_response_length = "
            f"{run.max_response_length} needs {num_steps} steps of {run.window_length} tokens, so the policy trains "
            f"before the value model has seen one; expected {num_steps} or more, or model.critic_path",
        )


def _default_of(key: str) -> Any:
    """The default of `section.name`."""
    section, name = key.split(".")
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model.model_fields[name].default


__all__ = [
    "ActorSection",
    "AlgorithmSection",
    "CheckpointSection",
    "Config",
    "CriticSection",
    "DashboardSection",
    "DataSection",
    "EndpointSection",
    "EvaluationSection",
    "GenerationSection",
    "LearnerSection",
    "ModelSection",
    "OptimizerSection",
    "PlacementSection",
    "PrometheusSection",
    "RedisSection",
    "RewardSection",
    "RunSection",
    "TraceSection",
    "TrackersSection",
]

"""Every key of a run's TOML file: its type, default, meaning and unit. Names follow verl where it has one."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from tppo.config import presets
from tppo.config.algorithm import AlgorithmSection
from tppo.config.reward import RewardSection
from tppo.config.section import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section

Mode = Literal["lockstep", "overlapped", "streaming"]
DEFAULT_POLICY_LAG: dict[Mode, int] = {"lockstep": 0, "overlapped": 1, "streaming": 1}


class RunSection(Section):
    """`[run]`: what all processes must agree on."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run's folder and its keys in Redis."""
    directory: Path = Path("runs")
    """Folder that holds the run's folder."""
    seed: NonNegativeInt = 0
    """Determines prompt order, sampling seeds and initialisation."""
    algorithm: presets.Algorithm = "tppo"
    """What the learner computes; a word other than tppo brings settings along: see docs/comparison.md."""
    mode: Mode = "streaming"
    """How generation and training overlap: see docs/architecture.md."""
    total_training_steps: PositiveInt = 100
    """The run ends after this many optimizer steps of the loop."""
    rollouts_per_step: PositiveInt = 32
    """Windows that make one training step."""
    window_length: PositiveInt = 256
    """Most tokens that one step generates for a response."""
    max_prompt_length: PositiveInt = 1024
    """Longest prompt in tokens; a longer one is refused when the data is read."""
    max_response_length: PositiveInt = 2048
    """Limit of a response in tokens."""
    max_policy_lag: NonNegativeInt | None = None
    """Admission: (max_policy_lag + 1) * rollouts_per_step windows are out at most. Unset: 0 in lockstep, else 1."""
    max_token_lag: NonNegativeInt = 32
    """Tokens sampled by weights more than this many steps older are masked out of the policy loss and counted."""

    archive_inbox: bool = False
    """Keep every window and score in the run's folder, for `tppo replay`."""
    watchdog_seconds: PositiveFloat = 60.0
    """Without a training step for this long, log and status say what everything waits for."""

    @property
    def policy_lag_bound(self) -> int:
        """`max_policy_lag`, or the mode's own when unset."""
        return DEFAULT_POLICY_LAG[self.mode] if self.max_policy_lag is None else self.max_policy_lag

    @property
    def max_windows_out(self) -> int:
        """How many windows may be asked for and not yet trained."""
        return (self.policy_lag_bound + 1) * self.rollouts_per_step

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return self.directory / self.name

    @model_validator(mode="after")
    def _lengths_and_lags_fit(self) -> "RunSection":
        if self.window_length > self.max_response_length:
            raise ValueError(
                f"window_length = {self.window_length} is longer than max_response_length = "
                f"{self.max_response_length}; expected a window of at most the limit"
            )
        if self.mode == "lockstep" and self.max_policy_lag not in (None, 0):
            raise ValueError(f"max_policy_lag = {self.max_policy_lag} in mode lockstep; expected 0 or no such key")
        if self.mode == "overlapped" and self.max_policy_lag not in (None, 1):
            raise ValueError(f"max_policy_lag = {self.max_policy_lag} in mode overlapped; expected 1 or no such key")
        return self


class RedisSection(Section):
    """`[redis]`: where the streams live."""

    url: str = ""
    """redis://host:port/db; empty: `tppo run` starts an embedded server."""
    lease_seconds: PositiveFloat = 15.0
    """A request whose worker is silent for this long goes to another."""
    max_deliveries: Annotated[int, Field(ge=2)] = 3
    """A request that so many workers died over fails with that cause; the last of them serves it alone."""
    memory_limit_mb: PositiveInt = 1024
    """Bound of the embedded server in MiB; when reached, writers wait."""


class ModelSection(Section):
    """`[model]`: the networks."""

    path: Path
    """Folder of the policy: any causal LM that transformers loads, with its tokenizer."""
    critic_path: Path | None = None
    """Folder of the value model (token classification, one label); unset: the policy's body with a zero head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in learner and generators."""
    device: str = "auto"
    """torch device; auto takes CUDA when there is one."""


class DataSection(Section):
    """`[data]`: prompts, in parquet or JSONL with verl's columns."""

    train_files: list[Path] = Field(min_length=1)
    """Prompts to train on."""
    val_files: list[Path] = Field(default_factory=list)
    """Prompts to evaluate on; none: no evaluation."""
    prompt_key: str = "prompt"
    """Column of the prompt: a text, or chat messages that the tokenizer's template renders."""
    reward_fn_key: str = "data_source"
    """Column that chooses the reward function."""
    shuffle: bool = True
    """Another order of the prompts in each epoch, drawn from run.seed."""
    samples_per_prompt: PositiveInt = 1
    """Rollouts of each prompt (verl: rollout.n)."""


class OptimizerSection(Section):
    """Keys that actor and critic share."""

    lr: PositiveFloat
    """Peak learning rate."""
    lr_warmup_steps: NonNegativeInt = 0
    """Updates of linear warm-up."""
    lr_decay: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the rate from the peak to the last step."""
    min_lr_ratio: Fraction = 0.05
    """Rate at the last step, as a share of the peak."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW."""
    grad_clip: PositiveFloat = 1.0
    """Bound of the gradient's norm."""
    ppo_epochs: PositiveInt = 1
    """Passes over a step's rows."""
    ppo_mini_batches: PositiveInt = 1
    """Optimizer updates per pass."""
    max_tokens_per_microbatch: PositiveInt = 4096
    """Packed tokens per forward and backward pass; bounds memory."""


class ActorSection(OptimizerSection):
    """`[actor]`: the policy's optimizer."""

    lr: PositiveFloat = 1e-6


class CriticSection(OptimizerSection):
    """`[critic]`: the value model's optimizer."""

    lr: PositiveFloat = 2e-6
    warmup_steps: NonNegativeInt = 10
    """First steps in which only the value model trains (verl: trainer.critic_warmup)."""
    cliprange_value_low: PositiveFloat | None = 0.5
    """Values move at most this far down from the old ones; unset: no clip."""
    cliprange_value_high: PositiveFloat | None = 0.6
    """Values move at most this far up from the old ones; unset: no clip."""
    loss_aggregation: Literal["row_mean", "token_mean"] = "row_mean"
    """Finished rows weigh alike (the recipe), or their tokens do."""


class GenerationSection(Section):
    """`[generation]`: the engines that sample."""

    engine: Literal["transformers"] = "transformers"
    """Which engine serves."""
    replicas: PositiveInt = 1
    """Generators that `tppo run` starts."""
    num_slots: PositiveInt = 32
    """Responses that one generator extends at once."""
    num_prefetched: NonNegativeInt = 32
    """Requests leased ahead, so that a freed slot is refilled at once."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature in training."""
    weight_update: Literal["in_flight", "between_windows"] = "in_flight"
    """Take new weights in mid-window, or when the running windows have ended."""
    recompute_cache_on_update: bool = True
    """After an update in mid-window, recompute the cache of the running rows under the new weights."""
    host: str = "127.0.0.1"
    """Address on which the generator takes weights; beyond the loopback it demands the token TPPO_TOKEN."""
    advertise_host: str = ""
    """Host by which others reach it; empty: `host`, or this machine's name where `host` is every address."""
    port: NonNegativeInt = 0
    """Port of the first replica; 0: any free one."""


class EvaluationSection(Section):
    """`[evaluation]`: accuracy on the fixed prompts of data.val_files."""

    test_freq: NonNegativeInt = 20
    """Evaluate every so many steps, and always before the first and after the last; 0: never."""
    after_training: bool = False
    """Put the weights aside instead, and evaluate them after the last step: training has the machine to itself."""
    num_prompts: PositiveInt | None = None
    """The first so many prompts; unset: all."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature; 0: greedy."""


class CheckpointSection(Section):
    """`[checkpoint]`: what a resume starts from."""

    save_freq: NonNegativeInt = 20
    """Commit a checkpoint every so many steps, and always at the end; 0: only at the end."""
    keep: PositiveInt = 2
    """Newest checkpoints kept, beside the one that did best in an evaluation."""


class TraceSection(Section):
    """`[trace]`: what each step did with each token (docs/traces.md), for `tppo audit`."""

    enabled: bool = False
    """Write traces/step_N.parquet: about 25 bytes a token."""


class TrackersSection(Section):
    """`[trackers]`: where else the lines of metrics.jsonl go (docs/metrics.md); needs tppo[trackers]."""

    tensorboard: bool = False
    """Write event files to tensorboard/ in the run's folder."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases: write to wandb/ in the run's folder, and, online, upload; the key comes from WANDB_API_KEY."""
    wandb_project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] = "tppo"
    """Project of W&B that the run belongs to."""


class DashboardSection(Section):
    """`[dashboard]`: the run's page and REST interface (docs/dashboard.md)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8265
    """Port to listen on; 0: any free one."""


class PrometheusSection(Section):
    """`[prometheus]`: the metrics of generators, reward services and learner (docs/prometheus.md)."""

    enabled: bool = True
    """Each of them serves /metrics and /healthz; the dashboard does so at its own address, always."""
    host: str = "127.0.0.1"
    """Address to listen on; beyond the loopback it demands the token TPPO_TOKEN."""
    advertise_host: str = ""
    """Host by which Prometheus reaches it; empty: `host`, or this machine's name where `host` is every address."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port; `tppo run` counts up from it, process by process. 0: any free one, which the dashboard tells."""


class Config(Section):
    """A whole run."""

    run: RunSection = RunSection()
    redis: RedisSection = RedisSection()
    model: ModelSection
    data: DataSection
    algorithm: AlgorithmSection = AlgorithmSection()
    actor: ActorSection = ActorSection()
    critic: CriticSection = CriticSection()
    generation: GenerationSection = GenerationSection()
    reward: RewardSection = RewardSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    trace: TraceSection = TraceSection()
    trackers: TrackersSection = TrackersSection()
    dashboard: DashboardSection = DashboardSection()
    prometheus: PrometheusSection = PrometheusSection()

    @model_validator(mode="before")
    @classmethod
    def _follows_its_algorithm(cls, table: Any) -> Any:
        return presets.completed(table, _default_of) if isinstance(table, dict) else table

    @model_validator(mode="after")
    def _keeps_what_it_reuses(self) -> "Config":
        num_reused, max_lag = self.algorithm.num_reused_batches, self.run.max_token_lag
        if self.run.algorithm == "geppo" and num_reused > max_lag + 1:
            raise ValueError(
                f"algorithm.num_reused_batches = {num_reused} with run.max_token_lag = {max_lag}: "
                f"the oldest rows would be masked; expected at most {max_lag + 1}"
            )
        return self

    @property
    def importance_cap(self) -> float | None:
        """`algorithm.importance_cap`, or the mode's own when unset: stale tokens need the correction."""
        cap = self.algorithm.importance_cap
        return cap if cap is not None or self.run.mode == "lockstep" else 2.0


def _default_of(key: str) -> Any:
    """The default of `section.name`."""
    section, name = key.split(".")
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model.model_fields[name].default

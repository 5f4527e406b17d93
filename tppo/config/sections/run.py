"""`[run]`: name, lengths, and how far generation and training may overlap."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tppo.config.presets import Algorithm
from tppo.config.sections.section import (
    Flag,
    NamedPath,
    PositiveInt,
    Seconds,
    Section,
    Steps,
    StepsOrZero,
    Tokens,
    expecting,
)

Mode = Literal["lockstep", "overlapped", "streaming"]
RunName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"),
    expecting("1 to 100 letters, digits, '.', '_' or '-', the first a letter or a digit"),
]
DEFAULT_POLICY_LAG: dict[Mode, int] = {"lockstep": 0, "overlapped": 1, "streaming": 1}


class RunSection(Section):
    """What all processes must agree on."""

    name: RunName = "run"
    """Name of the run: its folder, and its keys in Redis.

    For every new run: a name whose folder holds checkpoints is refused without `--resume`.
    """
    directory: NamedPath = Path("runs")
    """Folder that holds the run's folder.

    When results belong on another disk. Relative to the current folder, not to the TOML file's.
    """
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = 0
    """Determines the order of the prompts, the sampling seeds and the initialisation.

    To repeat an experiment with other random draws; three seeds show the spread.
    """
    algorithm: Algorithm = "tppo"
    """What the learner computes. Every system but tppo sets other keys as well (docs/comparison.md).

    To compare T-PPO with another system, as `--set run.algorithm=ppo`.
    """
    mode: Mode = "streaming"
    """How generation and training overlap (docs/architecture.md).

    `lockstep` for the paper's synchronous step with lag 0, `overlapped` for a lag of 1 at most, `streaming` for speed.
    """
    total_training_steps: Steps = 100
    """The run ends after this many training steps. [steps]

    Up while the accuracy still rises at the end. In a run that is resumed with another number the learning rates go on
    from where they stand and decay to the new end. verl: `total_training_steps`.
    """
    rollouts_per_step: PositiveInt = 32
    """Windows that make one training step. [windows]

    Up for a steadier gradient, down for more updates from the same tokens. verl: `data.train_batch_size` * `rollout.n`.
    """
    window_length: Tokens = 256
    """Most tokens that one step generates for a response. [tokens]

    Shorter windows fill the slots better and need fewer decode steps; longer ones let more responses finish in a step.
    An eighth of `max_response_length` is a good first choice. As long as the usual response, and most finish in one
    step, as in PPO; a few dozen tokens, and the prefills take the time: each window reads prompt and prefix again.
    """
    max_prompt_length: Tokens = 1024
    """Longest prompt; a longer one is refused when the data is read. [tokens]

    To the longest prompt of your data. verl: `data.max_prompt_length`.
    """
    max_response_length: Tokens = 2048
    """Limit of a response; one that reaches it counts as finished. [tokens]

    Up when `response_length/p90` is at the limit. verl: `data.max_response_length`.
    """
    max_policy_lag: Annotated[int, Field(strict=True, ge=0, le=1000)] | None = None
    """At most (max_policy_lag + 1) * rollouts_per_step windows are out. Unset: 0 in lockstep, else 1. [steps]

    In `streaming` only: up when generators idle while the learner trains; each step more makes tokens older.
    """
    max_token_lag: StepsOrZero = 32
    """A token sampled by weights more than this many steps older is masked out of the policy loss and counted. [steps]

    Up when `tokens/too_old` is not 0; down for a stricter bound on stale tokens.
    """
    archive_inbox: Flag = True
    """Keep every window and score in the run's folder, on the disk before a training step uses it.

    Off where disk space is scarce: 8 bytes a token; then a lost Redis costs the work since the last checkpoint, and
    `tppo replay` has nothing to repeat.
    """
    watchdog_seconds: Seconds = 60.0
    """Without a training step for this long, log and status say what the run waits for. [s]

    Above the usual duration of a step, where steps take minutes.
    """

    @property
    def policy_lag_bound(self) -> int:
        """`max_policy_lag`, or the mode's own when unset."""
        return DEFAULT_POLICY_LAG[self.mode] if self.max_policy_lag is None else self.max_policy_lag

    @property
    def max_windows_out(self) -> int:
        """How many windows may be requested and not yet trained."""
        return (self.policy_lag_bound + 1) * self.rollouts_per_step

    @property
    def num_windows_at_limit(self) -> int:
        """Windows of a response of `max_response_length` tokens; also the fewest steps in which it can finish."""
        return math.ceil(self.max_response_length / self.window_length)

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

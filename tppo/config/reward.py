"""`[reward]`: who scores finished responses (docs/rewards.md)."""

from pydantic import Field

from tppo.config.section import NonNegativeInt, PositiveFloat, PositiveInt, Section


class RewardSection(Section):
    """`[reward]`: who scores finished responses (docs/rewards.md)."""

    functions: dict[str, str] = Field(default_factory=dict)
    """data_source -> function: a built-in such as `math`, `path/to/file.py:name`, `grpc:name`, or a weighted sum."""
    default_function: str = ""
    """For data sources that are not listed; empty: refused when the data is read."""
    replicas: PositiveInt = 1
    """Reward services that `tppo run` starts."""
    num_workers: PositiveInt = 1
    """Processes in which one service runs functions."""
    timeout_seconds: PositiveFloat = 30.0
    """Deadline of one score, from the moment a worker, or a user's own process, takes it."""
    attach_wait_seconds: PositiveFloat = 30.0
    """How long a response waits while no process offers its `grpc:name`, before that attempt counts as failed."""
    memory_limit_mb: PositiveInt = 4096
    """Address space of one worker in MiB; a function that needs more fails."""
    max_attempts: PositiveInt = 3
    """Attempts before a response without a score is parked."""
    log_responses: bool = False
    """Write each response with its score to responses/NAME.jsonl in the run's folder, for `tppo rescore`."""
    host: str = "127.0.0.1"
    """Address on which users' own processes attach; beyond the loopback it demands the token TPPO_TOKEN."""
    advertise_host: str = ""
    """Host by which others reach it; empty: `host`, or this machine's name where `host` is every address."""
    port: NonNegativeInt = 0
    """Port of the first replica; 0: any free one, which the log and the dashboard tell."""

"""`[reward]`, `[redis]`, `[dashboard]`, `[prometheus]`: the processes around the learner."""

from typing import Annotated

from pydantic import Field

from tppo.config.sections.section import (
    Flag,
    Fraction,
    Host,
    HostOrEmpty,
    Mebibytes,
    NamedPath,
    Port,
    PositiveInt,
    Processes,
    Seconds,
    Section,
    Text,
)

Lease = Annotated[float, Field(strict=True, ge=1, le=86400)]
DASHBOARD_PORTS = range(8265, 8285)
"""Those tried one after another where none is configured."""
Attempts = Annotated[int, Field(strict=True, ge=1, le=1000)]


class RewardSection(Section):
    """Who scores finished responses; docs/rewards.md."""

    functions: dict[str, Text] = Field(default_factory=dict)
    """data_source -> function: a built-in such as `math`, `path/to/file.py:name`, `grpc:name`, or a weighted sum.

    For every task: its rows name the data source.
    """
    default_function: str = ""
    """For data sources that are not listed; empty: refused when the data is read.

    When all rows have one function.
    """
    replicas: Processes = 1
    """Reward services that `tppo run` starts. [processes]

    Rarely: `num_workers` comes first.
    """
    num_workers: Processes = 1
    """Processes in which one service runs functions. [processes]

    Up when scores arrive late (`tppo_queue_waiting_requests`).
    """
    concurrency: Annotated[int, Field(strict=True, ge=1, le=4096)] = 64
    """Calls of an `async def` function in a file that one worker makes at once. [calls]

    Down to what your judge's server allows; up while it idles and scores arrive late.
    """
    timeout_seconds: Seconds = 30.0
    """Deadline of one score, from the moment a worker, or a user's own process, starts its call. [s]

    Above the slowest honest score.
    """
    attach_wait_seconds: Seconds = 30.0
    """How long a response waits while no process offers its `grpc:name`, before that attempt counts as failed. [s]

    Up when your process takes longer to start.
    """
    memory_limit_mb: Mebibytes = 4096
    """Address space of one worker; a function that needs more fails. [MiB]

    Up when a function loads a model or large tables.
    """
    allow_unsandboxed: Flag = False
    """Run the programs that `code` scores with all rights of the service where they cannot be isolated.

    On only where the service itself is isolated and holds no secret: docs/rewards.md.
    """
    max_attempts: Attempts = 3
    """Attempts before a response without a score is parked. [attempts]

    Up when a function depends on a service that is sometimes away.
    """
    max_consecutive_failures: PositiveInt | None = None
    """So many failures of one cause, with no response scored between them, end the run; unset: those of all attempts
    of `rollouts_per_step` responses. [failures]

    Up when a function depends on a service that may be away for longer; `--resume --retry-parked` continues.
    """
    log_responses: Flag = False
    """Write each response with its score to responses/NAME.jsonl in the run's folder; off: a sample of them.

    On when `tppo rescore` shall judge the whole run by another function.
    """
    kept_prompts: Fraction = 0.02
    """The sample: this share of the prompts, the same ones in every epoch, with all their responses. Of evaluations all
    are kept; 0: none of either. [share of the prompts]

    Up to 1 for small data, to 0 where responses must not be on the disk.
    """
    kept_responses_mb: Mebibytes = 256
    """The sample's file stays below this size: the fuller it is, the fewer of the prompts are still kept. [MiB]

    Up for long runs of long responses.
    """
    responses_directory: NamedPath | None = None
    """Folder that holds the run's folder with its kept responses and nothing else; unset: `run.directory`.

    Where reward services are to see nothing else of a run, as in containers; the dashboard needs the same value.
    """
    host: Host = "127.0.0.1"
    """Address on which users' own processes attach; beyond the loopback it needs TPPO_REWARD_TOKEN or TPPO_TOKEN.

    To `0.0.0.0` when they run on other machines.
    """
    advertise_host: HostOrEmpty = ""
    """Host by which others reach it; empty: `host`, or this machine's name where `host` is every address.

    As `generation.advertise_host`.
    """
    port: Port = 0
    """Port of the first replica; 0: any free one, which the log and the dashboard show.

    When processes attach from outside: they need to know it.
    """

    def function_of(self, data_source: str) -> str:
        """The function that scores its responses; empty: none does."""
        return self.functions.get(data_source, self.default_function)


class RedisSection(Section):
    """Where the streams are: requests under leases, and the inbox."""

    url: str = ""
    """redis://host:port/db; empty: that of TPPO_REDIS_URL, and without it `tppo run` starts an embedded server.

    When processes run on several machines.
    """
    lease_seconds: Lease = 15.0
    """A request whose worker does not renew its lease for this long goes to another worker. [s]

    Up when workers pause for longer without being dead.
    """
    max_deliveries: Annotated[int, Field(strict=True, ge=2, le=1000)] = 3
    """A request that this many workers died over fails with that cause; the last of them serves it alone. [deliveries]

    Up when machines are preempted often.
    """
    memory_limit_mb: Mebibytes = 1024
    """Memory limit of the embedded server; when it is reached, writers back off. [MiB]

    Up when the log reports memory pressure, or checkpoints are far apart.
    """


class DashboardSection(Section):
    """The run's page and REST interface; docs/dashboard.md."""

    host: Host = "127.0.0.1"
    """Address to listen on; beyond the loopback it needs TPPO_DASHBOARD_TOKEN or TPPO_TOKEN.

    To `0.0.0.0` to look from other machines.
    """
    port: Port | None = None
    """Port to listen on; 0: any free one; unset: 8265, or the first free one of the next 19.

    To a number of your own where others have to find it (Prometheus, a proxy); then a taken one refuses the run.
    """


class PrometheusSection(Section):
    """The metrics endpoints of generators, reward services and learner; docs/prometheus.md."""

    enabled: Flag = True
    """Each of them serves /metrics and /healthz; the dashboard does so at its own address, always.

    Off when nothing scrapes.
    """
    host: Host = "127.0.0.1"
    """Address to listen on; beyond the loopback it needs the bearer token TPPO_METRICS_TOKEN.

    To `0.0.0.0` when Prometheus runs on another machine.
    """
    advertise_host: HostOrEmpty = ""
    """Host by which Prometheus reaches it; empty: `host`, or this machine's name where `host` is every address.

    As `generation.advertise_host`.
    """
    port: Port = 0
    """Port; `tppo run` counts up from it, process by process. 0: any free one, which the dashboard shows.

    When a firewall opens certain ports only.
    """

"""`[generation]`, `[reward]`, `[redis]`, `[dashboard]`, `[prometheus]`: the processes around the learner."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from tppo.config.sections.placement import ComputeDtype, Device
from tppo.config.sections.section import (
    Flag,
    Fraction,
    Host,
    HostOrEmpty,
    Mebibytes,
    NamedPath,
    NonNegativeInt,
    Port,
    PositiveInt,
    Processes,
    Seconds,
    Section,
    Temperature,
    Text,
    expecting,
)

Lease = Annotated[float, Field(strict=True, ge=1, le=86400)]
DASHBOARD_PORTS = range(8265, 8285)
"""Those tried one after another where none is configured."""
EngineArguments = Annotated[dict[str, JsonValue], expecting("a table of engine arguments of vLLM")]
Attempts = Annotated[int, Field(strict=True, ge=1, le=1000)]


class GenerationSection(Section):
    """The engines that sample."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """Which engine serves.

    `vllm` on GPUs: docs/vllm.md.
    """
    python: NamedPath | None = None
    """Python interpreter that generators run with; unset: that of the `tppo` that starts them.

    To that of an environment with vLLM, which needs other versions than the learner: docs/vllm.md.
    """
    vllm: EngineArguments = Field(default_factory=dict)
    """Engine arguments of vLLM, by its own names: `tensor_parallel_size`, `gpu_memory_utilization`, `quantization`.

    As any vLLM is tuned; those that follow from the run's other keys are refused.
    """
    seeds: Flag = True
    """vLLM draws each window from a seed of its own, so that the same request gives the same tokens.

    Off where vLLM warns that seeds keep it from its fast sampler.
    """
    compute_dtype: ComputeDtype | None = None
    """Type of the weights and activations that the engine computes with; unset: `learner.compute_dtype`.

    Rarely: with another type than the policy's, `training/engine_kl/mean` rises.
    """
    device: Device | None = None
    """torch device of every generator; unset: `learner.device`.

    To keep the generators off the learner's device, as `cuda:1`.
    """
    replicas: Processes = 1
    """Generators that `tppo run` starts. [processes]

    Up when the learner waits for windows and cores or devices are idle.
    """
    num_slots: Annotated[int, Field(strict=True, ge=1, le=65536)] = 32
    """Responses that one generator extends at once (continuous batching). [responses]

    Over all replicas together at first as many as `rollouts_per_step`: with fewer a step takes several rounds, more
    stay empty unless windows of a further step are out (`max_policy_lag`). Up until memory for the KV cache runs out or
    the decode step gets slow. vLLM: `max_num_seqs`.
    """
    num_prefetched: NonNegativeInt = 32
    """Requests leased ahead, so that a freed slot is refilled at once. [requests]

    Down when several generators share little work.
    """
    temperature: Temperature = 1.0
    """Sampling temperature in training. [factor]

    Up when responses are all alike. verl: `rollout.temperature`.
    """
    weight_update: Literal["in_flight", "between_windows"] = "in_flight"
    """Take new weights in mid-window, or when the running windows have ended.

    `between_windows` when a window's tokens shall all come from the same weights.
    """
    recompute_cache_on_update: Flag = True
    """After an update in mid-window, prefill the KV cache of the running windows again under the new weights.

    Off for speed where weights change every few dozen decode steps:
    docs/decisions/0004-the-cache-after-an-update-in-mid-window.md.
    """
    share_weight_memory: Flag = True
    """Map weights where the learner has them in memory, when both run on one machine; else they come by gRPC.

    Off to send them by gRPC on one machine, too.
    """
    max_window_seconds: Seconds | Literal["auto", "none"] = "auto"
    """How long a window may run, or wait for its slot, before it is handed over: cut and posted short, or released;
    `auto`: twice as long as the median of the run's other generators would take, a lease at least; alone, no bound. [s]

    A number where one slow generator must hold no step for longer; `none` where no window may be cut: docs/fleet.md.
    """
    hand_over_seconds: Annotated[float, Field(strict=True, ge=0, le=3600)] = 5.0
    """At SIGTERM, for posting the running windows short, so that their tokens are not lost; 0: they are released. [s]

    Below the notice that a spot machine gives before it is gone.
    """
    host: Host = "127.0.0.1"
    """Address on which the generator takes weights; beyond the loopback it needs TPPO_GENERATION_TOKEN or TPPO_TOKEN.

    To `0.0.0.0` when learner and generator run on different machines.
    """
    advertise_host: HostOrEmpty = ""
    """Host by which others reach it; empty: `host`, or this machine's name where `host` is every address.

    When that name does not resolve elsewhere, behind NAT for example.
    """
    port: Port = 0
    """Port of the first replica; 0: any free one.

    When a firewall opens certain ports only.
    """


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

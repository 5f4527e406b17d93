"""`[generation]`: the processes that sample."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from tppo.config.sections.placement import ComputeDtype, Device
from tppo.config.sections.section import (
    Flag,
    Host,
    HostOrEmpty,
    NamedPath,
    NonNegativeInt,
    Port,
    Processes,
    Seconds,
    Section,
    Temperature,
    expecting,
)

EngineArguments = Annotated[dict[str, JsonValue], expecting("a table of engine arguments of vLLM")]


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
    gather_seconds: Annotated[float, Field(strict=True, ge=0, le=60)] = 0.0
    """How long responses stand still at most, while they fill less than half of the slots, for others to come: a decode
    step of few takes nearly as long as one of many. [s]

    To a second where generators share cores with a learner that is the bottleneck, with `max_policy_lag` 3, so that the
    learner has other rows meanwhile: docs/performance.md.
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

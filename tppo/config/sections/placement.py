"""`[learner]`, and what each of the three networks is placed by: its device, and the type that it computes in."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from tppo.config.sections.section import Flag, Processes, Seconds, Section, expecting

ComputeDtype = Annotated[
    Literal["float32", "bfloat16"],
    expecting("'float32' or 'bfloat16' (not float16, in which gradients underflow)"),
]
Device = Annotated[
    str,
    Field(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d{1,3})?)$"),
    expecting("'auto', 'cpu', 'cuda', 'cuda:1' or another number, 'mps' or 'xpu'"),
]


class Placement(NamedTuple):
    """Of one network."""

    compute_dtype: ComputeDtype
    device: Device
    device_key: str  # that names the device


class LearnerSection(Section):
    """Where the policy trains, and in which type; the value model and the generators follow, but for keys of their own.

    The optimizers move float32 master weights whatever is chosen: docs/decisions/0021-masters-in-float32.md.
    """

    compute_dtype: ComputeDtype = "float32"
    """Type of the weights and activations that the policy computes with, and of the weights that generators are sent.

    `bfloat16` on a GPU: half the memory for activations, half the bytes of a weight update. On a CPU it is slower.
    """
    device: Device = "auto"
    """torch device; `auto` takes CUDA when there is one.

    To choose among several devices, as `cuda:1`, or to stay on the CPU.
    """
    activation_checkpointing: Literal["off", "selective", "full"] = "off"
    """What policy and value model keep of a block's activations for the backward pass: all; the products and the
    attention; or the block's input alone. The rest is computed again, with the same results.

    `full` when memory runs out: a sixth of the memory or less for a third more time; `selective` halves it for less.
    """
    compile: Flag = False
    """Compile the blocks of policy and value model by `torch.compile`, but for attention. Needs triton on a GPU, and a
    C++ compiler on a CPU.

    To be tried for long runs on a GPU, where a block is many small operations; on a CPU it saves nothing, and a start
    takes longer by the compilation: docs/gpu.md. verl: `use_torch_compile`.
    """
    offload_idle_model: Flag = False
    """Policy and value model take turns on their device: the one that waits lies in the host's memory, with its
    moments.

    Where two models do not fit on one GPU; each training step then copies both back and forth. On a CPU it does
    nothing, and on a GPU it has not been run.
    """
    deterministic: Flag | None = None
    """Whether the same records give the same bits again, by as many processes, on the same device, with the same
    versions: docs/replay.md. Unset: on a CPU, where it costs nothing, and not on a GPU, where it costs time.

    On a GPU it has not been run.
    """
    num_processes: Processes = 1
    """Processes (ranks) that train together, as one group: `tppo run` starts them on this machine. [processes]

    To as many as there are GPUs for the learner. On several machines torchrun starts them instead: docs/ranks.md.
    """
    sequence_parallel_size: Processes = 1
    """Processes that divide the tokens of each pass among them, and its activations: before attention they exchange
    tokens for heads (Ulysses). It divides `learner.num_processes`, and the number of attention heads. [processes]

    Up where the activations of the longest row do not fit on one GPU, to as many as a node has: docs/ranks.md. verl:
    `ulysses_sequence_parallel_size`.
    """
    fsdp_size: Annotated[int, Field(strict=True, ge=2, le=1024)] | None = None
    """Processes that have one replica of the weights and moments between them, by FSDP2; unset: all of them. It
    divides `learner.num_processes`. [processes]

    To the GPUs of a node, on several nodes whose link is slow: weights are then gathered within a node, and only
    gradients cross. Each process takes more memory: docs/ranks.md. verl: `fsdp_size`.
    """
    rank_timeout_seconds: Seconds = 30.0
    """After a missing heartbeat of this length a rank counts as lost; then the group ends, and begins again from the
    newest checkpoint. [seconds]

    Up where ranks are lost that were only slow: on a machine that is short of cores or swaps.
    """

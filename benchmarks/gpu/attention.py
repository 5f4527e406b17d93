"""Attention implementations over rows packed in one line, and compiled blocks, against each row alone under SDPA."""

import importlib.util
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.utils import import_utils

from benchmarks.gpu.findings import Finding, judged, missing, reason
from benchmarks.gpu.subject import Networks, Sizes, random_rows
from learner.models.passes.attention import PACKED_ATTENTION
from learner.models.passes.logits import TokenScorer
from learner.models.passes.packing import PackedBatch, RowLengths, pack
from learner.models.weights.activation_checkpointing import checkpoint_blocks
from learner.models.weights.compilation import compiled_forward, why_not
from learner.step.estimation.experience import gather
from tppo.models.probe import LogprobDifference, difference

PART = "attention"
VARLEN = "torch_varlen"
LIBRARIES = {"flash_attention_2": "is_flash_attn_2_available", "flash_attention_3": "is_flash_attn_3_available"}
KERNELS = ("kernels-community/flash-attn2", "kernels-community/flash-attn3")
COMPILED = "torch.compile per block"
BLOCKS = 2
TIMES_ROUNDING = 2.0
"""How much further from float32 than SDPA in bfloat16 an implementation may be."""
REPETITIONS = 5


@dataclass(frozen=True, slots=True)
class Reference:
    """Log-probabilities in float32, by row, and how far SDPA in bfloat16 is from them."""

    logprobs: Sequence[Tensor]
    rounding: LogprobDifference


def implementations(sizes: Sizes, device: str, *, compiles: bool) -> Iterator[Finding]:
    """Each in bfloat16, forward and backward, over the same micro-batch."""
    network = Networks.random(sizes, device).policy
    rows = gather(random_rows(sizes)).window_rows()
    (batch,) = (one.to(network.device) for one in pack(rows, max_tokens=sizes.num_rows * sizes.row_length))
    network.set_attn_implementation("sdpa")
    in_float32 = row_by_row(network, batch)
    network.to(torch.bfloat16)
    rounding = difference(row_by_row(network, batch), in_float32)
    numbers = {**_apart(rounding), "ms": _milliseconds(network, batch.split())}
    yield Finding(PART, "sdpa, row by row", "measured", numbers, "from float32: what rounding makes of it")
    reference = Reference(in_float32, rounding)
    for name in (PACKED_ATTENTION, *LIBRARIES, *KERNELS, VARLEN):
        yield of_implementation(name, network, batch, reference)
    yield _compiled(network, batch, reference) if compiles else missing(PART, COMPILED, "give --compile")


def of_implementation(name: str, network: Any, batch: PackedBatch, reference: Reference) -> Finding:
    """Of one that transformers finds under this name."""
    if why := _why_not(name, network.device):
        return missing(PART, name, why)
    try:
        network.set_attn_implementation(name)
    except Exception as error:  # a kernel that was not fetched before, or not built for this device
        return missing(PART, name, reason(error))
    chosen = network.config._attn_implementation
    if chosen != name:
        return missing(PART, name, f"transformers took {chosen} in its place")
    return _against(name, network, batch, reference)


def _why_not(name: str, device: torch.device) -> str | None:
    """None where the implementation can be tried."""
    if name not in (*LIBRARIES, *KERNELS, VARLEN):
        return None
    if device.type != "cuda":
        return "its kernels are for CUDA"
    if name in LIBRARIES:
        return None if getattr(import_utils, LIBRARIES[name], bool)() else "the library is not installed"
    if name in KERNELS:
        is_here = importlib.util.find_spec("kernels") is not None
        return None if is_here else "the package `kernels` is not installed"
    is_here = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return None if is_here else f"PyTorch {torch.__version__} has no torch.nn.attention.varlen"


def _compiled(network: Any, batch: PackedBatch, reference: Reference) -> Finding:
    if lacking := why_not(network.device):
        return missing(PART, COMPILED, lacking)
    network.set_attn_implementation(PACKED_ATTENTION)
    began = time.perf_counter()
    checkpoint_blocks(network, "off", forward_of=compiled_forward)
    _pass(network, [batch])
    return _against(COMPILED, network, batch, reference, **{"seconds to compile": time.perf_counter() - began})


def _against(subject: str, network: Any, batch: PackedBatch, reference: Reference, **others: float) -> Finding:
    with torch.no_grad():
        found = torch.split(_logprobs(network, batch).cpu(), list(batch.num_selected))
    numbers = _apart(difference(found, reference.logprobs))
    limits = {name: TIMES_ROUNDING * number for name, number in _apart(reference.rounding).items()}
    return judged(PART, subject, {**numbers, "ms": _milliseconds(network, [batch]), **others}, at_most=limits)


def _apart(found: LogprobDifference) -> dict[str, float]:
    return {"worst nats": found.worst, "mean nats": found.mean}


@torch.no_grad()
def row_by_row(network: Any, batch: PackedBatch) -> list[Tensor]:
    """Log-probabilities, whichever implementation is set."""
    return [_logprobs(network, row).cpu() for row in batch.split()]


def _logprobs(network: Any, batch: PackedBatch) -> Tensor:
    hidden = _hidden(network, batch)[0, batch.selected_positions]
    head, size = network.get_output_embeddings(), network.config.vocab_size
    scorer = TokenScorer(1.0, with_entropy=False)
    return scorer.of_hidden(hidden, batch.target_ids, head, vocabulary_size=size).logprobs


def _hidden(network: Any, batch: PackedBatch) -> Tensor:
    """Flash attention finds the rows in the position numbers, ours in their lengths."""
    is_flash = network.config._attn_implementation in (*LIBRARIES, *KERNELS)
    options = {} if is_flash else {"rows": RowLengths(batch.row_lengths)}
    body = network.base_model(batch.input_ids, position_ids=batch.position_ids, use_cache=False, **options)
    hidden: Tensor = body.last_hidden_state
    return hidden


def _pass(network: Any, batches: Sequence[PackedBatch]) -> None:
    """Of the body: the head would take most of the time."""
    for batch in batches:
        _hidden(network, batch).sum().backward()  # type: ignore[no-untyped-call]
    network.zero_grad(set_to_none=True)


def _milliseconds(network: Any, batches: Sequence[PackedBatch]) -> float:
    """A forward and backward pass over all of them."""
    return 1000 * seconds_of(lambda: _pass(network, batches), network.device, REPETITIONS)


def seconds_of(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """The mean of so many calls, after one that is not counted."""
    work()
    _wait_for(device)
    began = time.perf_counter()
    for _ in range(repetitions):
        work()
    _wait_for(device)
    return (time.perf_counter() - began) / repetitions


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def within_rows_by(kernel: Callable[..., Any]) -> Callable[..., tuple[Tensor, None]]:
    """`attend_within_rows` by a kernel such as torch's `varlen_attn`.

    Every query head gets its key-value head in a copy, as not all versions let heads share them.
    """
    is_older = "is_causal" in inspect.signature(kernel).parameters
    causal: dict[str, Any] = {"is_causal": True} if is_older else {"window_size": (-1, 0)}

    def attend(
        _module: object,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _mask: object,
        *,
        rows: RowLengths,
        scaling: float,
        **_: Any,
    ) -> tuple[Tensor, None]:
        assert scaling == query.shape[-1] ** -0.5, "not all versions take another"
        num_groups = query.shape[1] // key.shape[1]
        keys, values = (one.repeat_interleave(num_groups, dim=1) for one in (key, value))
        borders = torch.tensor([0, *accumulate(rows.lengths)], dtype=torch.int32, device=query.device)
        queries, keys, values = (one[0].transpose(0, 1).contiguous() for one in (query, keys, values))
        longest = max(rows.lengths)
        return kernel(queries, keys, values, borders, borders, longest, longest, **causal)[None], None

    return attend


if importlib.util.find_spec("torch.nn.attention.varlen"):
    from torch.nn.attention.varlen import varlen_attn

    AttentionInterface.register(VARLEN, within_rows_by(varlen_attn))

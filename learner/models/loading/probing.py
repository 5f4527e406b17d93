"""What a network allows, found by trying it on a few rows; inside `MasterWeights.run`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.models.loading.agreement import require_runnable
from learner.models.passes.attention import PACKED_ATTENTION, packed_attention_for
from learner.models.passes.fast.body import try_fast_path
from learner.models.passes.outputs import forward, own_head
from learner.models.passes.packing import TokenRow, pack
from learner.models.passes.parts import Part
from learner.parallel.sequence import ALL_TOKENS, SequenceRanks
from tppo.models.probe import ProbeError, rows_for

#: Probing multiplies the head's output by this, so that a soft cap shows on a model whose logits are small.
_PROBE_GAIN = 1024.0

logger = logging.getLogger(__name__)


class Probed(NamedTuple):
    """What a network allows; see `Policy`."""

    packs_rows: bool
    has_plain_head: bool
    has_separable_head: bool


def probe(network: PreTrainedModel, compute_dtype: torch.dtype, sequence: SequenceRanks = ALL_TOKENS) -> Probed:
    """Of a causal language model of float32 weights; raises `ProbeError` where transformers' own pass fails."""
    require_runnable(network)
    packs_rows = enable_packing(network, compute_dtype, sequence)
    has_plain_head = _has_plain_head(network)
    return Probed(packs_rows, has_plain_head, has_plain_head or _has_separable_head(network))


def enable_packing(network: PreTrainedModel, compute_dtype: torch.dtype, sequence: SequenceRanks = ALL_TOKENS) -> bool:
    """Try to let rows stand in one line; True when that gave what the model says to each row alone.

    Tried in float32, where rounding hides no token of another row, on the body's outputs, as a value head of zeros
    would hide any. Raises `ProbeError` where the tokens of a line are to be divided among ranks, and cannot be.
    """
    implementation = packed_attention_for(network, compute_dtype, sequence)
    is_close, why = False, "its code computes attention by itself"
    if implementation is not None:
        original = network.config._attn_implementation
        is_close, why = _tried(network, sequence)
        network.set_attn_implementation(implementation if is_close else original)
    if sequence.size > 1 and not is_close:
        raise ProbeError(
            f"the tokens of {network.config.model_type} cannot be divided among "
            f"learner.sequence_parallel_size = {sequence.size} processes: {why}; expected 1, or another model"
        )
    return is_close


@torch.no_grad()
def _tried(network: PreTrainedModel, sequence: SequenceRanks) -> tuple[bool, str]:
    """Whether rows in one line give what each gives alone, and why not; divided as the learner divides them, too."""
    rows = [TokenRow(row.tokens, row.start) for row in rows_for(network)]
    (packed,) = pack(rows, max_tokens=sum(len(row.token_ids) for row in rows))
    alone = torch.cat([_body_outputs(network, Part.of(row)) for row in packed.split()])
    network.set_attn_implementation(PACKED_ATTENTION)
    try:
        for ranks in (ALL_TOKENS, sequence) if sequence.size > 1 else (ALL_TOKENS,):
            if not _is_close(_body_outputs(network, Part.of(packed, ranks)), alone):
                return False, "a token of a line gets another result than that of its row alone"
    except Exception as error:  # whatever a family's code raises at what it was not written for
        logger.info("rows of %s run one by one, since packed ones fail: %s", network.config.model_type, error)
        return False, f"packed rows fail ({error})"
    if sequence.size == 1 and network.base_model is not network:
        try_fast_path(network, packed, alone, tolerance=_tolerance(alone))
    return True, ""


def _body_outputs(network: Any, part: Part) -> Tensor:
    """[total, width]; the logits of a model whose head and body are one."""
    part = part.to(network.device)
    if network.base_model is network:
        return part.of_tokens(forward(network, part).logits[0])
    return part.of_tokens(forward(network.base_model, part).last_hidden_state[0])


def _has_plain_head(network: Any) -> bool:
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        return False
    row = _probe_row(network)
    with torch.no_grad(), _amplified(head):
        logits = forward(network, row).logits
        return _is_close(head(forward(network.base_model, row).last_hidden_state), logits)


def _has_separable_head(network: Any) -> bool:
    if network.base_model is network:
        return False
    row = _probe_row(network)
    with torch.no_grad():
        states = forward(network.base_model, row).last_hidden_state[0]
        try:
            return _is_close(own_head(network)(states), forward(network, row).logits[0])
        except Exception as error:  # as above: whatever a family's code raises where its body is left out
            logger.info("the head of %s runs with its body: %s", network.config.model_type, error)
            return False


def _probe_row(network: Any) -> Part:
    row = rows_for(network)[0]
    (batch,) = pack([TokenRow(row.tokens, row.start)], max_tokens=len(row.tokens))
    return Part.of(batch).to(network.device)


@contextmanager
def _amplified(head: torch.nn.Module) -> Iterator[None]:
    def amplify(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output * _PROBE_GAIN

    handle = head.register_forward_hook(amplify)
    try:
        yield
    finally:
        handle.remove()


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    return bool((actual - expected).abs().max().item() <= _tolerance(expected))


def _tolerance(expected: Tensor) -> float:
    tolerance: float = torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max().item()
    return tolerance

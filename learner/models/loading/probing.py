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
from learner.models.passes.outputs import forward, own_head
from learner.models.passes.packing import PackedBatch, TokenRow, pack
from tppo.models.probe import rows_for

#: Probing multiplies the head's output by this, so that a soft cap shows on a model whose logits are small.
_PROBE_GAIN = 1024.0

logger = logging.getLogger(__name__)


class Probed(NamedTuple):
    """What a network allows; see `Policy`."""

    packs_rows: bool
    has_plain_head: bool
    has_separable_head: bool


def probe(network: PreTrainedModel, compute_dtype: torch.dtype) -> Probed:
    """Of a causal language model of float32 weights; raises `ProbeError` where transformers' own pass fails."""
    require_runnable(network)
    packs_rows = enable_packing(network, compute_dtype)
    has_plain_head = _has_plain_head(network)
    return Probed(packs_rows, has_plain_head, has_plain_head or _has_separable_head(network))


def enable_packing(network: PreTrainedModel, compute_dtype: torch.dtype) -> bool:
    """Try to let rows stand in one line; True when that gave what the model says to each row alone.

    Tried in float32, where rounding hides no token of another row, on the body's outputs, as a value head of zeros
    would hide any.
    """
    implementation = packed_attention_for(network, compute_dtype)
    if implementation is None:
        return False
    rows = [TokenRow(row.tokens, row.start) for row in rows_for(network)]
    (packed,) = pack(rows, max_tokens=sum(len(row.token_ids) for row in rows))
    packed = packed.to(network.device)
    original = network.config._attn_implementation
    with torch.no_grad():
        alone = torch.cat([_body_outputs(network, row) for row in packed.split()])
        network.set_attn_implementation(PACKED_ATTENTION)
        try:
            is_close = _is_close(_body_outputs(network, packed), alone)
        except Exception as error:  # whatever a family's code raises at what it was not written for
            logger.info("rows of %s run one by one, since packed ones fail: %s", network.config.model_type, error)
            is_close = False
    network.set_attn_implementation(implementation if is_close else original)
    return is_close


def _body_outputs(network: Any, batch: PackedBatch) -> Tensor:
    """[total, width]; the logits of a model whose head and body are one."""
    if network.base_model is network:
        logits: Tensor = forward(network, batch).logits[0]
        return logits
    hidden: Tensor = forward(network.base_model, batch).last_hidden_state[0]
    return hidden


def _has_plain_head(network: Any) -> bool:
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        return False
    batch = _probe_row(network)
    with torch.no_grad(), _amplified(head):
        logits = forward(network, batch).logits
        return _is_close(head(forward(network.base_model, batch).last_hidden_state), logits)


def _has_separable_head(network: Any) -> bool:
    if network.base_model is network:
        return False
    batch = _probe_row(network)
    with torch.no_grad():
        states = forward(network.base_model, batch).last_hidden_state[0]
        try:
            return _is_close(own_head(network)(states), forward(network, batch).logits[0])
        except Exception as error:  # as above: whatever a family's code raises where its body is left out
            logger.info("the head of %s runs with its body: %s", network.config.model_type, error)
            return False


def _probe_row(network: Any) -> PackedBatch:
    row = rows_for(network)[0]
    (batch,) = pack([TokenRow(row.tokens, row.start)], max_tokens=len(row.tokens))
    return batch.to(network.device)


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
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max().item()
    return bool((actual - expected).abs().max().item() <= tolerance)

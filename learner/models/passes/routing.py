"""The routers of a mixture of experts, and how unevenly they spread the tokens of packed rows."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from learner.algorithm.losses import router_imbalance
from learner.models.passes.packing import PackedBatch

RECORDED = "router_logits"


def experts_per_token(network: Any) -> int | None:
    """Of a network that transformers has a load-balancing loss for; None without routers, and for those that score
    experts one by one (sigmoid) and keep the balance in another way.
    """
    family = sys.modules[type(network).__module__]
    if not hasattr(family, "load_balancing_loss_func") or not any(True for _ in _routers(network)):
        return None
    text = network.config.get_text_config()
    number = getattr(network, "num_experts_per_tok", None) or getattr(text, "num_experts_per_tok", None)
    return number if isinstance(number, int) else None


def imbalances(router_logits: Sequence[Tensor], batch: PackedBatch, *, experts_per_token: int) -> Tensor:
    """`router_imbalance` of each row [rows], the mean over the layers that have a router."""
    of_layers = [
        router_imbalance(logits, batch.row_lengths, experts_per_token=experts_per_token) for logits in router_logits
    ]
    return torch.stack(of_layers).mean(dim=0)


def _routers(network: Any) -> Iterator[Module]:
    """What transformers records the logits of."""
    for part in network.modules():
        if not isinstance(part, PreTrainedModel):
            continue
        recorded = (getattr(part, "_can_record_outputs", None) or {}).get(RECORDED, ())
        for recorder in recorded if isinstance(recorded, list | tuple) else [recorded]:
            kind: Any = getattr(recorder, "target_class", recorder)
            yield from (module for module in part.modules() if isinstance(module, kind))

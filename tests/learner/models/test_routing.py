"""How unevenly routers spread tokens: for every family that transformers has a load-balancing loss for, its number."""

import sys
from typing import Any

import pytest
import torch

from learner.models.loading.loading import policy_from_network
from learner.models.loading.value_network import skeleton
from learner.models.passes.outputs import token_scores
from learner.models.passes.packing import TokenRow, pack
from learner.models.passes.routing import experts_per_token
from tools.tiny_families import FAMILIES, VOCABULARY, tiny_config, tiny_model

WITH_A_LOSS = [
    "phimoe", "gpt_oss", "olmoe", "granitemoe", "granitemoehybrid", "mixtral", "qwen2_moe", "qwen3_moe", "qwen3_next",
    "dbrx", "jamba", "minimax",
]  # fmt: skip
LENGTHS = (9, 14, 3)


def test_the_families_with_such_a_loss_are_known_without_weights() -> None:
    found = {name: experts_per_token(skeleton(tiny_config(name)).network) for name in FAMILIES}

    assert {name for name, number in found.items() if number == 2} == set(WITH_A_LOSS)
    assert {name for name, number in found.items() if number is None} == FAMILIES.keys() - set(WITH_A_LOSS)


@pytest.mark.parametrize("name", WITH_A_LOSS)
def test_packed_rows_have_the_imbalance_that_transformers_finds_of_each_layer_and_row_alone(name: str) -> None:
    network = tiny_model(name)
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    balance: Any = vars(sys.modules[type(network).__module__])["load_balancing_loss_func"]
    with torch.no_grad():
        of_rows = [network(torch.tensor([row]), output_router_logits=True).router_logits for row in rows]
    expected = [sum(balance((layer,), layer.shape[-1], 2) for layer in layers) / len(layers) for layers in of_rows]

    policy = policy_from_network(network)
    (batch,) = pack([TokenRow(row, start=1) for row in rows], max_tokens=sum(LENGTHS))
    found = token_scores(policy, batch, imbalance="measured").imbalances

    assert policy.experts_per_token == 2
    assert found.tolist() == pytest.approx([float(expected[row]) for row in batch.row_indices], rel=1e-4)

"""`actor.router_aux_loss_coef`: the routers' gradient, against one of transformers' own loss on each row alone."""

import sys
from typing import Any

import pytest
import torch

from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.models.weights.activation_checkpointing import Mode, checkpoint_blocks
from learner.state import new_trainer
from tests.learner.tiny_models import (
    Gradients,
    RecordingOptimization,
    TinyTrainer,
    a_network,
    a_step_config,
    assert_gradients_equal,
    gradients_of,
    some_rows,
    step,
)
from tools.tiny_families import tiny_model

COEFFICIENT = 0.5


def trained(mode: Mode, **actor: Any) -> tuple[Gradients, dict[str, Any]]:
    """The gradient of one update of a mixture of experts, and the step's metrics."""
    config = a_step_config(actor={"lr": 1e-3, "lr_decay": "constant", **actor})
    policy = policy_from_network(tiny_model("qwen3_moe"))
    checkpoint_blocks(policy.network, mode)
    trainer: Any = new_trainer(config, policy, value_model_from_network(a_network("value")))
    trainer.policy_side.optimization = RecordingOptimization(policy.weights, config.actor)
    metrics = step(trainer, some_rows())
    (gradients,) = trainer.actor.gradients
    return gradients, metrics


def mean_imbalance(network: Any) -> torch.Tensor:
    """Over layers and rows."""
    balance: Any = vars(sys.modules[type(network).__module__])["load_balancing_loss_func"]
    of_rows = []
    for row in some_rows():
        ids = torch.tensor([[*row.prompt.token_ids, *row.response_tokens]])
        layers = network(ids, output_router_logits=True).router_logits
        of_rows.append(torch.stack([balance((layer,), layer.shape[-1], 2) for layer in layers]).mean())
    return torch.stack(of_rows).mean()


@pytest.mark.parametrize(("mode", "max_tokens"), [("off", 4096), ("off", 8), ("selective", 4096), ("full", 8)])
def test_the_loss_adds_its_gradient_whatever_the_micro_batches_are(mode: Mode, max_tokens: int) -> None:
    network = tiny_model("qwen3_moe")
    imbalance = mean_imbalance(network)
    expected = gradients_of(COEFFICIENT * imbalance, network)

    without, measured = trained(mode, max_tokens_per_microbatch=max_tokens)
    gradients, metrics = trained(mode, max_tokens_per_microbatch=max_tokens, router_aux_loss_coef=COEFFICIENT)

    added = {name: gradient - without[name] for name, gradient in gradients.items() if name in expected}
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2
    assert_gradients_equal(added, expected, tolerance=1e-5)
    for found in (measured, metrics):
        assert found["actor/router_imbalance"] == pytest.approx(float(imbalance.detach()), rel=1e-4)


def test_a_model_without_routers_has_no_such_number() -> None:
    assert "actor/router_imbalance" not in step(TinyTrainer(a_step_config()), some_rows())

"""Networks that compute in bfloat16 learn as those in float32 do, since their masters are in float32."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, Parameter
from transformers import Dots1Config, Dots1ForCausalLM

from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.models.passes.outputs import Policy, token_logprobs, token_values, with_weights
from learner.models.passes.packing import PackedBatch, TokenRow, pack
from learner.models.weights.master_weights import MAX_SAMPLED, MasterWeights
from learner.step.updates.optimization import Optimization
from services.generation.transformers_engine.decoders.model_weights import named_weights, new_model
from tests.learner.tiny_models import VOCABULARY, a_network
from tppo.config.schema import ActorSection

BFLOAT16 = torch.bfloat16
NUM_UPDATES = 40


def a_text(*, num_tokens: int = 48, seed: int = 0) -> PackedBatch:
    tokens = torch.randint(VOCABULARY, (num_tokens,), generator=torch.Generator().manual_seed(seed))
    return pack([TokenRow(tokens, start=1)], max_tokens=num_tokens)[0]


def optimization_of(policy: Policy, *, lr: float = 1e-4) -> Optimization:
    section = ActorSection(lr=lr, lr_decay="constant")
    weights = policy.weights
    return Optimization(weights.parameters(), section, num_steps=1, after_update=weights.cast)


def without_masters() -> Policy:
    """Its very weights are in bfloat16."""
    network = a_network("policy")
    for parameter in network.parameters():
        parameter.data = parameter.data.to(BFLOAT16)
    return policy_from_network(network, compute_dtype=BFLOAT16)


def losses_of_a_fixed_text(policy: Policy) -> tuple[float, float]:
    """Before the first of the updates on it, and after the last."""
    text, optimization = a_text(), optimization_of(policy)
    losses = []
    for _ in range(NUM_UPDATES + 1):
        loss = -token_logprobs(policy, text).mean()
        losses.append(float(loss.detach()))
        loss.backward()  # type: ignore[no-untyped-call]
        optimization.update()
    return losses[0], losses[-1]


def test_with_masters_a_fixed_text_is_learned_in_bfloat16_as_in_float32_and_without_them_it_is_not() -> None:
    first, in_float32 = losses_of_a_fixed_text(policy_from_network(a_network("policy")))
    _, with_masters = losses_of_a_fixed_text(policy_from_network(a_network("policy"), compute_dtype=BFLOAT16))
    _, without = losses_of_a_fixed_text(without_masters())

    learned = first - in_float32
    assert learned > 1.5
    assert first - with_masters == pytest.approx(learned, rel=0.02)
    assert first - without < 0.2 * learned


def gradients_by_hand(batches: Sequence[PackedBatch]) -> dict[str, Tensor]:
    """Of the mean log-probability of each batch, computed in bfloat16, and added up in float32."""
    cast = without_masters()
    names, parameters = zip(*cast.network.named_parameters(), strict=True)
    found = [torch.autograd.grad(token_logprobs(cast, batch).mean(), parameters) for batch in batches]
    return {name: sum(part.float() for part in parts) for name, *parts in zip(names, *found, strict=True)}


def test_a_step_is_that_of_cast_weights_whose_gradients_move_float32_ones() -> None:
    batches = [a_text(num_tokens=20, seed=seed) for seed in range(3)]
    policy = policy_from_network(a_network("policy"), compute_dtype=BFLOAT16)
    expected = {
        name: Parameter(parameter.detach().clone()) for name, parameter in a_network("policy").named_parameters()
    }
    for name, gradient in gradients_by_hand(batches).items():
        expected[name].grad = gradient
    torch.nn.utils.clip_grad_norm_(expected.values(), 1.0)
    torch.optim.AdamW(expected.values(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True).step()

    for batch in batches:
        token_logprobs(policy, batch).mean().backward()  # type: ignore[no-untyped-call]
    optimization_of(policy).update()

    for name, parameter in policy.network.named_parameters():
        assert torch.equal(policy.weights.masters[name], expected[name]), name
        assert torch.equal(parameter, expected[name].to(BFLOAT16)), name
        assert parameter.grad is None, name


def head_of(weights: Tensor) -> Linear:
    head = Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(weights[None])
    return head


def test_gradients_of_micro_batches_are_added_up_in_float32() -> None:
    head = head_of(torch.ones(1))
    weights = MasterWeights.of(head, BFLOAT16)

    for gradient in (256.0, 1.0, 1.0):  # each 1 is lost when it is added to 256 in bfloat16
        head(torch.full((1, 1), gradient, dtype=BFLOAT16)).backward()

    (master,) = weights.parameters()
    assert master.grad is not None
    assert master.grad.item() == 258.0


def test_a_network_that_computes_in_float32_is_its_own_master() -> None:
    network = a_network("policy")

    weights = policy_from_network(network).weights

    assert all(
        master is parameter for master, parameter in zip(weights.parameters(), network.parameters(), strict=True)
    )


def test_the_head_of_a_value_model_computes_in_float32() -> None:
    text = a_text()
    value_model = value_model_from_network(a_network("value"), compute_dtype=BFLOAT16)

    with torch.no_grad():
        hidden = value_model.network.base_model(text.input_ids).last_hidden_state
        values = token_values(value_model, text)

    assert hidden.dtype == BFLOAT16
    by_hand = hidden.float() @ a_network("value").score.weight.T + a_network("value").score.bias
    torch.testing.assert_close(values, by_hand[0, :-1, 0], rtol=1e-5, atol=1e-5)


def test_tied_weights_have_one_master() -> None:
    network = a_network("policy")
    network.config.tie_word_embeddings = True
    network.tie_weights()

    weights = policy_from_network(network, compute_dtype=BFLOAT16).weights

    assert "lm_head.weight" not in weights.masters
    assert "lm_head.weight" not in weights.tensors()
    assert network.lm_head.weight is network.model.embed_tokens.weight


def test_other_weights_are_scored_as_they_were_computed_with() -> None:
    text = a_text()
    policy = policy_from_network(a_network("policy"), compute_dtype=BFLOAT16)
    expected = token_logprobs(policy, text).detach()
    sent = {name: tensor.clone() for name, tensor in policy.network.state_dict().items()}
    optimization = optimization_of(policy, lr=1e-2)
    token_logprobs(policy, text).sum().backward()  # type: ignore[no-untyped-call]
    optimization.update()

    with torch.no_grad():
        assert torch.equal(token_logprobs(with_weights(policy, policy.weights.holding(sent)), text), expected)
        assert not torch.equal(token_logprobs(policy, text), expected)


def test_routers_of_experts_stay_in_float32_in_learner_and_engine_alike() -> None:
    config = Dots1Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        first_k_dense_replace=1, n_group=1, topk_group=1, max_position_embeddings=32,
    )  # fmt: skip
    policy = policy_from_network(Dots1ForCausalLM(copy.deepcopy(config)), compute_dtype=BFLOAT16)

    of_engine = {name: weight.dtype for name, weight in named_weights(new_model(config, BFLOAT16)).items()}

    assert {name: weight.dtype for name, weight in named_weights(policy.network).items()} == of_engine
    assert of_engine["model.layers.1.mlp.gate.weight"] == torch.float32
    assert of_engine["model.layers.1.mlp.shared_experts.up_proj.weight"] == BFLOAT16


# How many weights a step changes


def test_a_weight_has_changed_when_its_cast_has() -> None:
    weights = MasterWeights.of(head_of(torch.ones(4)), BFLOAT16)
    (master,) = weights.parameters()
    before = weights.sample()

    with torch.no_grad():
        # 1 + 2^-7 is the next number, so more than half of the way to it is rounded up.
        master.add_(torch.tensor([[0.0, 1e-3, 4e-3, 1e-2]]))
    weights.cast()

    assert weights.changed_fraction(since=before) == 0.5
    with torch.no_grad():
        master[0, 1] += 3.5e-3
    weights.cast()
    assert weights.changed_fraction(since=before) == 0.75, "small updates add up in the master"


def test_of_a_large_network_a_spread_sample_is_compared() -> None:
    head = head_of(torch.ones(4 * MAX_SAMPLED))
    weights = MasterWeights.of(head, BFLOAT16)
    before = weights.sample()

    with torch.no_grad():
        head.weight[0, ::2] += 1.0

    assert MAX_SAMPLED / 2 < len(before) <= MAX_SAMPLED
    assert weights.changed_fraction(since=before) == pytest.approx(0.5, abs=1e-5)

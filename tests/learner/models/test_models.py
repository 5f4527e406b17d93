"""The reference is transformers' own padded forward pass over rows of different lengths."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
)

from learner.models.loading.loading import (
    load_policy,
    load_value_model,
    policy_from_network,
    value_model_from_network,
    value_model_from_policy,
)
from learner.models.passes.attention import PACKED_ATTENTION
from learner.models.passes.outputs import token_and_boundary_values, token_logprobs, token_scores, token_values
from learner.models.passes.packing import PackedBatch, TokenRow, pack, unpack
from tests.learner.models.small_networks import (
    NETWORKS,
    SIZES,
    gradients,
    packed_logprobs,
    padded_logprobs,
    padded_outputs,
    random_network,
    random_rows,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_packed_logprobs_and_gradients_equal_those_of_the_padded_forward_pass(name: str) -> None:
    network, rows = random_network(name), random_rows()
    policy = policy_from_network(copy.deepcopy(network), temperature=0.7)

    expected = padded_logprobs(network, rows, temperature=0.7)
    actual = packed_logprobs(policy, rows)

    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(policy.network, actual), gradients(network, expected), atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "packs_rows", "has_plain_head"),
    [
        ("qwen2, tied", True, True),
        ("qwen3", True, True),
        ("mistral, sliding window", True, True),
        ("gemma2, soft caps and sliding window", True, False),
        ("granite, scaled logits", True, False),
        ("bloom, attention of its own", False, True),
    ],
)
def test_probing_finds_what_a_model_allows(name: str, packs_rows: bool, has_plain_head: bool) -> None:
    policy = policy_from_network(random_network(name))

    assert (policy.packs_rows, policy.has_plain_head) == (packs_rows, has_plain_head)


def test_a_soft_cap_is_found_even_where_the_logits_are_too_small_to_be_changed_by_it() -> None:
    torch.manual_seed(0)
    network = Gemma2ForCausalLM(Gemma2Config(**{**SIZES, "initializer_range": 0.001}))

    assert not policy_from_network(network).has_plain_head


def test_a_model_that_mixes_tokens_outside_its_attention_runs_row_by_row() -> None:
    network, rows = random_network("qwen3"), random_rows()
    network.model.layers[0].register_forward_hook(
        lambda _module, _inputs, hidden: hidden + hidden.cumsum(dim=1) / 10  # reaches into the next row of a line
    )
    expected = padded_logprobs(network, rows, temperature=1.0)

    policy = policy_from_network(network)

    assert not policy.packs_rows
    torch.testing.assert_close(packed_logprobs(policy, rows), expected, atol=1e-5, rtol=1e-5)


def test_a_change_of_the_policys_temperature_holds_for_the_next_log_probabilities() -> None:
    network, rows = random_network("llama"), random_rows()
    policy = policy_from_network(copy.deepcopy(network), temperature=0.7)

    policy.temperature = 2.0

    expected = padded_logprobs(network, rows, temperature=2.0)
    torch.testing.assert_close(packed_logprobs(policy, rows), expected, atol=1e-5, rtol=1e-5)


def test_the_entropy_of_a_model_with_a_zero_head_is_the_logarithm_of_its_vocabulary() -> None:
    network = random_network("llama")
    torch.nn.init.zeros_(network.lm_head.weight)
    (packed,) = pack([TokenRow([3, 4, 5], start=1)], max_tokens=8)

    scores = token_scores(policy_from_network(network), packed)

    log_of_50 = 3.912023005
    torch.testing.assert_close(scores.entropies, torch.tensor([log_of_50, log_of_50]))
    torch.testing.assert_close(scores.logprobs, torch.tensor([-log_of_50, -log_of_50]))
    assert not scores.entropies.requires_grad


def value_network() -> Any:
    torch.manual_seed(0)
    classifier: Any = Qwen2ForTokenClassification
    return classifier(Qwen2Config(**{**SIZES, "num_labels": 1})).eval()


def test_a_token_has_the_value_of_the_position_before_it() -> None:
    network, rows = value_network(), random_rows()
    value_model = value_model_from_network(copy.deepcopy(network))
    batches = pack(rows, max_tokens=16)

    actual = unpack(batches, [token_values(value_model, batch) for batch in batches])

    outputs = padded_outputs(network, rows)[..., 0]
    expected = [outputs[index, row.start - 1 : len(row.token_ids) - 1] for index, row in enumerate(rows)]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_boundary_value_is_that_of_the_position_of_the_last_token() -> None:
    network, rows = value_network(), random_rows()
    value_model = value_model_from_network(copy.deepcopy(network))
    (packed,) = pack(rows, max_tokens=64)

    _, boundary_values = token_and_boundary_values(value_model, packed)

    outputs = padded_outputs(network, rows)[..., 0]
    expected = [outputs[index, len(rows[index].token_ids) - 1] for index in packed.row_indices]
    torch.testing.assert_close(boundary_values, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.fixture
def policy_folder(tmp_path: Path) -> str:
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True, attention_dropout=0.3)).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def packed_rows() -> PackedBatch:
    return pack(random_rows(), max_tokens=64)[0]


def test_a_loaded_policy_has_no_dropout_even_in_training_mode(policy_folder: str, packed_rows: PackedBatch) -> None:
    policy = load_policy(policy_folder)
    policy.network.train()

    first, second = (token_logprobs(policy, packed_rows) for _ in range(2))

    assert torch.equal(first, second)
    assert policy.network.config._attn_implementation == PACKED_ATTENTION


def test_a_value_model_made_from_a_policy_shares_its_body_and_says_zero(
    policy_folder: str, packed_rows: PackedBatch
) -> None:
    policy = load_policy(policy_folder)

    value_model = value_model_from_policy(policy_folder)

    assert torch.count_nonzero(token_values(value_model, packed_rows)) == 0
    torch.testing.assert_close(value_model.network.base_model.state_dict(), policy.network.base_model.state_dict())


def test_a_saved_critic_loads_directly_and_keeps_its_values(
    policy_folder: str, packed_rows: PackedBatch, tmp_path: Path
) -> None:
    value_model = value_model_from_policy(policy_folder)
    for parameter in value_model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    values = token_values(value_model, packed_rows)
    folder = str(tmp_path / "critic")
    value_model.network.save_pretrained(folder)

    torch.testing.assert_close(token_values(load_value_model(folder), packed_rows), values)
    plain = AutoModelForTokenClassification.from_pretrained(folder)
    assert (plain.config.num_labels, plain.dropout.p) == (1, 0.0)


def test_half_precision_weights_give_float32_logprobs(policy_folder: str, packed_rows: PackedBatch) -> None:
    policy = load_policy(policy_folder, compute_dtype=torch.bfloat16)

    logprobs = token_logprobs(policy, packed_rows)

    assert policy.packs_rows
    assert policy.has_plain_head
    assert logprobs.dtype == torch.float32

"""The fast path against transformers' own modules, on the same rows in one line: outputs and gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.models.loading.value_network import Skeleton
from learner.models.passes.fast import attention, block, body, row_groups
from learner.models.passes.outputs import token_and_boundary_values, token_scores
from learner.models.passes.packing import PackedBatch, TokenRow, pack
from learner.models.weights.activation_checkpointing import checkpoint_blocks
from learner.models.weights.adapters import Adapters, Body
from tests.learner.models.small_networks import SIZES, VOCABULARY
from tppo.models import memory_estimate
from tppo.models.adapters import Lora

WIDE: dict[str, Any] = SIZES | {"max_position_embeddings": 512}
NETWORKS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**WIDE, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**WIDE)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE)),
    "llama, biases, one block": lambda: LlamaForCausalLM(
        LlamaConfig(**WIDE | {"num_hidden_layers": 1, "num_key_value_heads": 4}, attention_bias=True, mlp_bias=True)
    ),
}
# Rows of several blocks of queries, of like lengths and of very different ones; one without a selected token.
LENGTHS_AND_STARTS = ((300, 150), (140, 9), (6, 6), (135, 8), (20, 12), (1, 1), (133, 40), (7, 1))


def a_network(name: str) -> Any:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # norms and biases too
    return network.eval()


def a_value_network(name: str) -> Any:
    policy = a_network(name)
    network: Any = Skeleton(policy).value_network_class()(policy.config)
    network.load_state_dict(policy.state_dict(), strict=False)
    torch.nn.init.normal_(network.score.weight)
    return network.eval()


def a_batch() -> PackedBatch:
    torch.manual_seed(1)
    rows = [TokenRow(torch.randint(VOCABULARY, (length,)), start) for length, start in LENGTHS_AND_STARTS]
    (batch,) = pack(rows, max_tokens=1000)
    return batch


@contextmanager
def without_fast_path(network: Any) -> Iterator[None]:
    network.base_model.takes_fast_path = False
    yield
    network.base_model.takes_fast_path = True


def found_with_gradients(network: Any, compute: Callable[[], Tensor]) -> list[Tensor]:
    """What is computed, and the gradients of a sum of it with uneven weights."""
    found = compute()
    network.zero_grad()
    (found * torch.linspace(-1, 2, len(found))).sum().backward()  # type: ignore[no-untyped-call]
    return [found.detach(), *(one.grad.clone() for one in network.parameters() if one.grad is not None)]


def assert_alike(actual: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "computed again"])
def test_log_probabilities_and_their_gradients_are_those_of_transformers(
    name: str, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_KEPT", 2**22 if keeps else 0)
    policy = policy_from_network(a_network(name))
    network: Any = policy.network
    assert body.has_fast_path(network)

    def logprobs() -> Tensor:
        return token_scores(policy, a_batch()).logprobs

    with without_fast_path(network):
        expected = found_with_gradients(network, logprobs)
    assert_alike(found_with_gradients(network, logprobs), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_those_after_the_last_tokens_are_those_of_transformers(name: str) -> None:
    value_model = value_model_from_network(a_value_network(name))
    network: Any = value_model.network
    assert body.has_fast_path(network)

    def values() -> Tensor:
        return torch.cat(token_and_boundary_values(value_model, a_batch()))

    with without_fast_path(network):
        expected = found_with_gradients(network, values)
    assert_alike(found_with_gradients(network, values), expected)


def test_without_gradients_it_keeps_nothing_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_from_network(a_network("llama"))
    num_kept = []

    def watched(*arguments: Any, **options: Any) -> attention.Attended:
        attended = attention.attend(*arguments, **options)
        num_kept.append(len(attended.kept))
        return attended

    monkeypatch.setattr(block, "attend", watched)
    expected = token_scores(policy, a_batch())
    assert all(num_kept)
    num_kept.clear()

    with torch.no_grad():
        found = token_scores(policy, a_batch())

    assert num_kept == [0] * SIZES["num_hidden_layers"]
    assert torch.equal(found.logprobs, expected.logprobs)
    assert not found.logprobs.requires_grad


def test_a_second_backward_pass_is_refused_as_the_first_wrote_over_what_it_needs() -> None:
    policy = policy_from_network(a_network("llama"))
    total = token_scores(policy, a_batch()).logprobs.sum()
    total.backward(retain_graph=True)  # type: ignore[no-untyped-call]

    with pytest.raises(RuntimeError, match="runs once"):
        total.backward()  # type: ignore[no-untyped-call]


def test_rows_longer_than_all_before_them_are_rotated_by_their_own_angles() -> None:
    policy = policy_from_network(a_network("llama"))
    network: Any = policy.network
    for length in (8, 65, 300, 40):
        (batch,) = pack([TokenRow(torch.arange(length) % VOCABULARY, 1)], max_tokens=1000)

        found = token_scores(policy, batch).logprobs

        with without_fast_path(network):
            torch.testing.assert_close(found, token_scores(policy, batch).logprobs, rtol=1e-4, atol=2e-5)


def test_a_copy_with_other_weights_takes_it_too() -> None:
    policy = policy_from_network(a_network("llama"))

    assert body.has_fast_path(policy.weights.frozen_copy().network)


def test_blocks_that_are_computed_again_in_the_backward_pass_do_not_take_it() -> None:
    policy = policy_from_network(a_network("llama"))

    checkpoint_blocks(policy.network, "full")

    assert not body.has_fast_path(policy.network)


def test_neither_adapters_nor_bfloat16_nor_large_blocks_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = Adapters(Lora(rank=2, alpha=4.0), Body("", ""))
    adapted = policy_from_network(a_network("llama"), adapters=adapters)
    in_bfloat16 = policy_from_network(a_network("llama"), compute_dtype=torch.bfloat16)
    monkeypatch.setattr(memory_estimate, "MAX_BLOCK_OF_FAST_PATH", 100)
    large = policy_from_network(a_network("llama"))

    assert not any(body.has_fast_path(one.network) for one in (adapted, in_bfloat16, large))


def test_rows_of_like_length_are_padded_to_the_longest_and_queries_begin_with_the_earliest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Rows of 3, 40 and 2 tokens. The short ones together have 12 scores instead of 6 and 2; with the long one, 3120.
    monkeypatch.setattr(row_groups, "SCORES_PER_GROUP", 4)
    found = row_groups.row_groups((3, 40, 2), (1, 38, 1), row_groups.Heads(1, 1, 1))

    assert [(group.begins, group.length, group.first) for group in found.groups] == [((3,), 40, 38), ((0, 43), 3, 1)]
    assert found.queried is not None
    assert found.queried.tolist() == [1, 2, 41, 42, 44]
    # Padded queries: places 38 and 39 of the row of 40, then places 1 and 2 of the rows of 3 and 2. Token t has its
    # query at 3 t, its key and its value behind.
    queries, keys = [41, 42, 1, 2, 44, 44], [*range(3, 43), 0, 1, 2, 43, 44, 44]
    in_order = [*(3 * token for token in queries), *(3 * token + 1 for token in keys)]
    assert found.places.of_padded.tolist() == [*in_order, *(3 * token + 2 for token in keys)]
    assert (found.num_asking, found.query_places.tolist()) == (5, [2, 3, 0, 1, 4])
    nowhere = len(found.places.of_padded)
    for head, place in enumerate(found.places.of_tokens.tolist()):
        is_asked = head % 3 > 0 or head // 3 in found.queried
        assert (int(found.places.of_padded[place]) == head) if is_asked else (place == nowhere)


def test_heads_of_a_row_stand_together() -> None:
    found = row_groups.row_groups((2, 2), (0, 0), row_groups.Heads(2, 1, 1))

    assert found.queried is None
    # Token t has query heads 4 t and 4 t + 1, its key and its value; padded are the queries of a row and head side by
    # side, then all keys, then all values.
    assert found.places.of_padded.tolist() == [0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    assert found.places.of_tokens.tolist() == [0, 2, 8, 12, 1, 3, 9, 13, 4, 6, 10, 14, 5, 7, 11, 15]
    assert found.query_places.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]

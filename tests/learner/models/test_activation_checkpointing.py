"""A block's activations are computed again in the backward pass: the same gradients, in less memory."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from learner.models.loading.loading import policy_from_network
from learner.models.passes.outputs import Policy, token_logprobs
from learner.models.passes.packing import TokenRow, pack
from learner.models.weights.activation_checkpointing import Mode, blocks_of, checkpoint_blocks
from tests.learner.models.live_bytes import LiveBytes
from tests.learner.models.small_networks import NETWORKS, SIZES, VOCABULARY, gradients, packed_logprobs, random_network
from tests.learner.models.small_networks import random_rows as rows_of_a_step

NUM_TOKENS, NUM_BLOCKS = 256, 24


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("name", NETWORKS)
def test_checkpointing_changes_neither_logprobs_nor_gradients(name: str, mode: Mode) -> None:
    plain, checkpointed = (policy_from_network(random_network(name)) for _ in range(2))
    checkpoint_blocks(checkpointed.network, mode)
    vars(plain.network.base_model)["takes_fast_path"] = False

    expected, actual = (packed_logprobs(policy, rows_of_a_step()) for policy in (plain, checkpointed))

    torch.testing.assert_close(actual, expected, atol=0.0, rtol=0.0)
    of_plain, of_checkpointed = gradients(plain.network, expected), gradients(checkpointed.network, actual)
    torch.testing.assert_close(of_checkpointed, of_plain, atol=1e-6, rtol=1e-5)


def a_deep_policy(mode: Mode) -> Policy:
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": NUM_BLOCKS, "intermediate_size": 96, "max_position_embeddings": NUM_TOKENS}
    policy = policy_from_network(LlamaForCausalLM(LlamaConfig(**sizes)))
    checkpoint_blocks(policy.network, mode)
    return policy


def activation_bytes(mode: Mode) -> int:
    """At the peak of a forward and a backward pass, without the gradients of the weights."""
    policy = a_deep_policy(mode)
    for parameter in policy.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (packed,) = pack([TokenRow(torch.arange(NUM_TOKENS) % VOCABULARY, start=1)], max_tokens=NUM_TOKENS)
    live = LiveBytes()
    with live:
        token_logprobs(policy, packed).sum().backward()  # type: ignore[no-untyped-call]
    return live.peak


@pytest.fixture(scope="module")
def bytes_without() -> int:
    return activation_bytes("off")


def test_full_checkpointing_takes_at_most_a_sixth_of_the_memory(bytes_without: int) -> None:
    assert activation_bytes("full") <= bytes_without / 6


def test_selective_checkpointing_takes_less_memory_than_none_and_more_than_full(bytes_without: int) -> None:
    assert activation_bytes("full") < activation_bytes("selective") <= 0.7 * bytes_without


def test_a_copy_of_a_checkpointed_network_runs_its_own_blocks() -> None:
    network = a_deep_policy("full").network
    tokens = torch.arange(5)[None]
    before = network(tokens).logits

    copied = copy.deepcopy(network)
    for parameter in copied.model.layers.parameters():
        torch.nn.init.zeros_(parameter)

    assert not torch.equal(copied(tokens).logits, before)
    assert torch.equal(network(tokens).logits, before)


def test_checkpointing_can_be_switched_off_again() -> None:
    network = random_network("llama")
    checkpoint_blocks(network, "full")

    checkpoint_blocks(network, "off")

    assert all("forward" not in vars(block) for block in blocks_of(network))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_blocks_of_every_family_are_its_layers(name: str) -> None:
    network = random_network(name)

    assert len(blocks_of(network)) == network.config.num_hidden_layers


def test_the_blocks_of_a_network_of_another_make_are_its_longest_list() -> None:
    network = torch.nn.Module()
    network.experts = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(2)])
    network.layers = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(3)])

    assert blocks_of(network) == list(network.layers)

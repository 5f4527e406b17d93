"""Rows of tens of thousands of tokens: none of what is computed for one is as large as its square."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from learner.models.loading.loading import policy_from_network
from learner.models.passes import attention
from learner.models.passes.outputs import token_logprobs
from learner.models.passes.packing import TokenRow, pack
from tests.learner.models.live_bytes import LiveBytes
from tests.learner.models.small_networks import (
    SIZES,
    VOCABULARY,
    gradients,
    packed_logprobs,
    padded_logprobs,
    random_network,
)

LONG: dict[str, Any] = SIZES | {
    "max_position_embeddings": 2**15,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "hidden_size": 16,
}


@pytest.mark.parametrize(
    ("network", "num_tokens"),
    [
        pytest.param(LlamaForCausalLM(LlamaConfig(**LONG)), 24_000, marks=pytest.mark.slow),
        (MistralForCausalLM(MistralConfig(**LONG, sliding_window=128)), 24_000),
    ],
    ids=["full attention", "sliding window"],
)
def test_a_row_longer_than_the_micro_batch_is_one_of_its_own_and_fits(network: Any, num_tokens: int) -> None:
    rows = [TokenRow(torch.arange(length) % VOCABULARY, start=1) for length in (10, num_tokens, 20)]
    policy = policy_from_network(network.eval())
    long, short = pack(rows, max_tokens=4096)
    assert (long.row_indices, short.row_indices) == ((1,), (2, 0))

    live = LiveBytes()
    with live:
        token_logprobs(policy, long).sum().backward()  # type: ignore[no-untyped-call]

    assert live.peak < num_tokens * num_tokens  # a mask has a byte for each pair of tokens


@pytest.mark.parametrize("name", ["mistral, sliding window", "gemma2, soft caps and sliding window"])
@pytest.mark.parametrize("block", [1, 3, 4])
def test_queries_in_blocks_see_what_all_at_once_see(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 4 over rows of up to 23 tokens, so that blocks begin before, in and behind the first window."""
    monkeypatch.setattr(attention, "MAX_QUERIES_PER_BLOCK", block)
    rows = [TokenRow(torch.arange(3, 3 + length), start=1) for length in (23, 9, 2)]
    network = random_network(name)
    policy = policy_from_network(random_network(name))

    expected, actual = padded_logprobs(network, rows, temperature=1.0), packed_logprobs(policy, rows)

    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(policy.network, actual), gradients(network, expected), atol=1e-5, rtol=1e-4)


def test_the_mask_of_a_sliding_window_is_made_once_for_all_layers_and_rows() -> None:
    attention._band.cache_clear()
    policy = policy_from_network(random_network("mistral, sliding window"))
    (packed,) = pack([TokenRow(torch.arange(3, 3 + length), start=1) for length in (23, 9, 12)], max_tokens=64)

    token_logprobs(policy, packed)

    assert attention._band.cache_info().misses == 1


def test_a_soft_cap_keeps_no_scores_for_the_backward_pass() -> None:
    num_tokens = 4096
    network = Gemma2ForCausalLM(Gemma2Config(**LONG))
    policy = policy_from_network(network)
    (packed,) = pack([TokenRow(torch.arange(num_tokens) % VOCABULARY, start=1)], max_tokens=num_tokens)

    live = LiveBytes()
    with live:
        token_logprobs(policy, packed).sum().backward()  # type: ignore[no-untyped-call]

    scores = 4 * network.config.num_attention_heads * num_tokens * num_tokens
    assert live.peak < scores

"""Tokens go through the head in chunks: the numbers of all at once, in the memory of a few."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from learner.models.loading.loading import policy_from_network
from learner.models.passes.logits import TokenScorer, tokens_per_chunk
from learner.models.passes.outputs import Policy, token_scores
from learner.models.passes.packing import pack
from tests.learner.models.small_networks import VOCABULARY, gradients, packed_logprobs, random_network, random_rows
from tppo.models import memory_estimate

TOKENS_PER_CHUNK = 3
HIDDEN_SIZE = 32
CHUNKED = ["qwen2, tied", "llama", "gemma2, soft caps and sliding window", "granite, scaled logits", "gpt2"]


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "MAX_LOGITS_KEPT", 0)
    monkeypatch.setattr(memory_estimate, "MAX_LOGITS_ON_CPU", TOKENS_PER_CHUNK * VOCABULARY)


class LargestLogits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most rows of any tensor [rows, vocabulary] that was computed, but for the head's own [hidden, vocabulary]."""

    num_rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            is_of_logits = isinstance(tensor, Tensor) and tensor.ndim >= 2 and tensor.shape[-1] == VOCABULARY
            if is_of_logits and tensor.shape != (HIDDEN_SIZE, VOCABULARY):
                self.num_rows = max(self.num_rows, tensor.numel() // VOCABULARY)
        return result


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_give_the_logprobs_entropies_and_gradients_of_all_logits_at_once(
    name: str, few_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunked = (policy_from_network(random_network(name), temperature=0.7) for _ in range(2))
    (packed,) = pack(random_rows(), max_tokens=64)

    actual = token_scores(chunked, packed)
    of_chunked = gradients(chunked.network, [actual.logprobs])
    monkeypatch.undo()
    expected = token_scores(whole, packed)

    torch.testing.assert_close(actual, expected)
    assert not actual.entropies.requires_grad
    torch.testing.assert_close(of_chunked, gradients(whole.network, [expected.logprobs]))


@pytest.mark.parametrize("name", CHUNKED)
def test_no_more_logits_than_a_chunks_exist_in_either_pass(name: str, few_at_once: None) -> None:
    policy = policy_from_network(random_network(name))
    (packed,) = pack(random_rows(), max_tokens=64)
    assert len(packed.target_ids) > 4 * TOKENS_PER_CHUNK

    largest = LargestLogits()  # type: ignore[no-untyped-call]
    with largest:
        scores = token_scores(policy, packed)
        scores.logprobs.sum().backward()  # type: ignore[no-untyped-call]

    assert largest.num_rows == TOKENS_PER_CHUNK


@pytest.mark.usefixtures("few_at_once")
def test_a_head_in_half_precision_gathers_its_gradient_in_float32() -> None:
    """Of 2048 equal addends: in bfloat16 a sum would stop growing at 512 times the addend."""
    hidden = torch.ones(2048 * TOKENS_PER_CHUNK, 1, dtype=torch.bfloat16)
    head = torch.nn.Linear(1, VOCABULARY, bias=False, dtype=torch.bfloat16)
    torch.nn.init.zeros_(head.weight)
    targets = torch.zeros(len(hidden), dtype=torch.long)

    logprobs = (
        TokenScorer(1.0, with_entropy=False).of_hidden(hidden, targets, head, vocabulary_size=VOCABULARY).logprobs
    )
    logprobs.mean().backward()  # type: ignore[no-untyped-call]

    assert head.weight.grad is not None
    # onehot - softmax of equal logits: 1 - 1/50 for the target, -1/50 for the others
    torch.testing.assert_close(head.weight.grad[:2, 0].float(), torch.tensor([0.98, -0.02]), rtol=2**-7, atol=0.0)


@pytest.mark.usefixtures("few_at_once")
def test_a_greedy_policys_tokens_are_certain_or_impossible_in_chunks_too() -> None:
    greedy: Policy = policy_from_network(copy.deepcopy(random_network("llama")), temperature=0.0)

    logprobs = torch.cat(packed_logprobs(greedy, random_rows()))

    assert set(logprobs.tolist()) <= {0.0, float("-inf")}


def test_a_chunk_has_fewer_tokens_the_larger_the_vocabulary_and_at_least_one() -> None:
    cpu = torch.device("cpu")

    assert tokens_per_chunk(262_144, cpu) == 256
    assert tokens_per_chunk(32_768, cpu) == 2048
    assert tokens_per_chunk(2**30, cpu) == 1


def test_an_accelerators_chunk_grows_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: Properties)

    # 80 GiB / 64 / 4 bytes
    assert tokens_per_chunk(262_144, torch.device("cuda")) == 1280

"""Random networks of several families, rows for them, and what transformers' own padded forward pass says."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner.models.passes.outputs import Policy, token_logprobs
from learner.models.passes.packing import TokenRow, pack, pad_rows, unpack

VOCABULARY = 50
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2, tied": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral, sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
    "gemma2, soft caps and sliding window": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=4)),
    "granite, scaled logits": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=0)
    ),
    "bloom, attention of its own": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    ),
}
LENGTHS_AND_STARTS = ((11, 4), (3, 1), (7, 6), (1, 1), (5, 2))


def random_network(name: str) -> Any:
    torch.manual_seed(0)
    network: Any = NETWORKS[name]()
    return network.eval()


def random_rows() -> list[TokenRow]:
    generator = torch.Generator().manual_seed(1)
    return [
        TokenRow(torch.randint(3, VOCABULARY, (length,), generator=generator), start)
        for length, start in LENGTHS_AND_STARTS
    ]


def padded_outputs(network: Any, rows: list[TokenRow]) -> Tensor:
    input_ids, mask = pad_rows([torch.as_tensor(row.token_ids) for row in rows])
    position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    options = {} if isinstance(network, BloomForCausalLM) else {"position_ids": position_ids}
    logits: Tensor = network(input_ids, attention_mask=mask.long(), **options).logits
    return logits


def padded_logprobs(network: Any, rows: list[TokenRow], temperature: float) -> list[Tensor]:
    logprobs = (padded_outputs(network, rows) / temperature).log_softmax(-1)
    return [
        torch.stack(
            [logprobs[index, place - 1, row.token_ids[place]] for place in range(row.start, len(row.token_ids))]
            or [torch.zeros(0)]
        ).flatten()
        for index, row in enumerate(rows)
    ]


def packed_logprobs(policy: Policy, rows: list[TokenRow], max_tokens: int = 16) -> list[Tensor]:
    batches = pack(rows, max_tokens=max_tokens)
    return unpack(batches, [token_logprobs(policy, batch) for batch in batches])


def gradients(network: Any, logprobs: list[Tensor]) -> dict[str, Tensor]:
    flat = torch.cat(logprobs)
    (flat * torch.linspace(-1.0, 1.0, len(flat))).sum().backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}

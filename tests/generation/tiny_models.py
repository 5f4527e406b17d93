"""Tiny random models of several families, engines on them, and what transformers' own forward pass says."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from services.generation.build import make_decoder
from services.generation.transformers_engine.decoders.decoder import Decoder
from services.generation.transformers_engine.decoders.model_weights import new_model
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tests.support.waiting import DEADLINE_SECONDS, until
from tppo.rollout import Window, WindowRequest, logprobs, tokens
from tppo.weight_probe import WeightProbe, update_rows
from tppo.weights import WeightUpdate

VOCABULARY = 40
CAPACITY = 200
TOLERANCE = 1e-4  # nats, in float32
CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # distributions far from uniform
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

FAST: dict[str, PreTrainedConfig] = {
    "qwen2, tied": Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=16),
    "llama with biases and scaled rope": LlamaConfig(
        **SIZES, num_key_value_heads=4, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3_ROPE
    ),
}
GENERAL: dict[str, PreTrainedConfig] = {
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "gemma2 with sliding windows": Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, sliding_window=16),
    "qwen2 with sliding windows": Qwen2Config(
        **SIZES, num_key_value_heads=2, use_sliding_window=True, sliding_window=16, max_window_layers=1
    ),
}


def a_model(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """Random weights, norms and biases included."""
    torch.manual_seed(seed)
    model = new_model(config, torch.float32)
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def an_update(model: PreTrainedModel, policy_version: int = 0) -> WeightUpdate:
    tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return WeightUpdate(policy_version, incarnation=0, digest=f"sha256:{policy_version:x}", tensors=tensors)


def probe_of(model: PreTrainedModel, *, temperature: float = 0.7, capacity: int = CAPACITY) -> WeightProbe:
    """What the learner of a run with room for rows of `capacity` tokens would send with the model."""
    rows = update_rows("a run", VOCABULARY, capacity=capacity, step_tokens=1000)
    found = [
        logprobs_after(model, list(row.tokens), temperature)[row.start - 1 : -1]
        .gather(-1, torch.tensor(row.response_tokens)[:, None])[:, 0]
        .tolist()
        for row in rows
    ]
    return WeightProbe(rows, tuple(map(logprobs, found)), temperature)


def a_request(name: str = "r", **changes: Any) -> WindowRequest:
    fields: dict[str, Any] = {
        "rollout_id": name,
        "window_index": 0,
        "prompt_tokens": tokens([1, 2, 3]),
        "response_tokens": tokens(),
        "max_new_tokens": 8,
        "stop_token_ids": (),
        "temperature": 1.0,
        "seed": 1,
    }
    return WindowRequest(**{**fields, **changes})


def mixed_requests(num: int, *, temperatures: Sequence[float] = (1.0, 0.7, 0.0)) -> list[WindowRequest]:
    """Prompts of 1 to 60 tokens, some with an earlier response, windows of 1 to 70 tokens."""
    rng = random.Random(5)
    return [
        a_request(
            f"r{index}",
            prompt_tokens=tokens(rng.randrange(VOCABULARY) for _ in range(rng.choice([1, 2, 9, 60]))),
            response_tokens=tokens(rng.randrange(VOCABULARY) for _ in range(rng.choice([0, 0, 30]))),
            max_new_tokens=rng.choice([1, 3, 20, 70]),
            temperature=rng.choice(temperatures),
            seed=index,
        )
        for index in range(num)
    ]


def a_decoder(config: PreTrainedConfig, *, num_slots: int = 4, dtype: torch.dtype = torch.float32) -> Decoder:
    return make_decoder(config, num_slots=num_slots, capacity=CAPACITY, dtype=dtype, device=CPU)


@asynccontextmanager
async def an_engine(
    config: PreTrainedConfig,
    model: PreTrainedModel | None = None,
    *,
    num_slots: int = 4,
    decoder: Decoder | None = None,
    policy: UpdatePolicy = UpdatePolicy(),  # noqa: B008  frozen
    gather_seconds: float = 0.0,
) -> AsyncIterator[TransformersEngine]:
    """Serves the model, when there is one, as version 0."""
    decoder = decoder or a_decoder(config, num_slots=num_slots)
    engine = TransformersEngine(
        decoder, num_slots=num_slots, capacity=CAPACITY, policy=policy, device=CPU, gather_seconds=gather_seconds
    )
    if model is not None:
        await engine.update_weights(an_update(model))
    try:
        yield engine
    finally:
        await engine.close()


async def windows_of(engine: TransformersEngine, requests: list[WindowRequest]) -> list[Window]:
    return await asyncio.gather(*(engine.generate(request) for request in requests))


async def weights_wait(engine: TransformersEngine) -> None:
    """Until an update is prepared, and waits for its moment between two steps."""
    await until(lambda: engine._loop._update is not None, "an update in the queue")


@torch.no_grad()
def logprobs_after(model: PreTrainedModel, context: list[int], temperature: float = 1.0) -> Tensor:
    """[tokens, vocabulary] of one forward pass over the whole row."""
    logits = model(torch.tensor([context])).logits[0].double()
    return torch.log_softmax(logits / (temperature or 1.0), dim=-1)


def expected_logprobs(model: PreTrainedModel, request: WindowRequest, window: Window) -> Tensor:
    """Log-probabilities of the window's tokens, by one forward pass."""
    prefix = [*request.prompt_tokens, *request.response_tokens]
    distributions = logprobs_after(model, [*prefix, *window.tokens], request.temperature)[len(prefix) - 1 : -1]
    return distributions.gather(-1, torch.tensor([*window.tokens])[:, None])[:, 0]


def greedy_continuation(model: PreTrainedModel, prefix: list[int], num_tokens: int) -> list[int]:
    """By one forward pass per token."""
    row = list(prefix)
    for _ in range(num_tokens):
        row.append(int(logprobs_after(model, row)[-1].argmax()))
    return row[len(prefix) :]


class Watched:
    """A `Decoder` around another; what a test does to a step goes into `around_step`."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner
        self.num_steps = 0
        self.num_resets = 0
        self.vocabulary_size = inner.vocabulary_size
        self.prepare = inner.prepare
        self.exchange = inner.exchange
        self.drop_weights = inner.drop_weights

    @property
    def num_prefilled(self) -> int:
        return self._inner.num_prefilled

    def step(self, tokens: Tensor) -> Tensor:
        logits = self.around_step(self.num_steps, self._inner.step(tokens))
        self.num_steps += 1
        return logits

    def reset(self) -> None:
        self.num_resets += 1
        self._inner.reset()

    def around_step(self, number: int, logits: Tensor) -> Tensor:
        return logits


class Paused(Watched):
    """Stops inside step `PAUSE_AT` until it may go on."""

    PAUSE_AT = 5

    def __init__(self, inner: Decoder) -> None:
        super().__init__(inner)
        self.is_paused = threading.Event()
        self.may_go_on = threading.Event()

    async def paused(self) -> None:
        """Until it has stopped there."""
        assert await asyncio.to_thread(self.is_paused.wait, DEADLINE_SECONDS)

    def around_step(self, number: int, logits: Tensor) -> Tensor:
        if number == self.PAUSE_AT:
            self.is_paused.set()
            assert self.may_go_on.wait(DEADLINE_SECONDS)
        return logits

"""A tiny random Qwen3 in vLLM, and what transformers says of it."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig, PreTrainedModel, Qwen3Config

from services.generation.build import build_vllm_engine
from tests.support.waiting import until
from tppo.config import Config, load
from tppo.rollout import FinishReason, VersionSpan, Window, WindowRequest, logprobs, tokens
from tppo.weight_probe import ProbeRow, WeightProbe, update_rows
from tppo.weights import WeightUpdate

VOCABULARY = 120
NUM_SLOTS = 32
TOLERANCE = 1e-4  # nats, in float32
STEP_TOKENS = 1000
MODEL = Qwen3Config(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,  # the smallest that vLLM has a kernel for on a CPU
    intermediate_size=96,
    max_position_embeddings=2048,
    initializer_range=0.3,  # distributions far from uniform
    tie_word_embeddings=True,
    architectures=["Qwen3ForCausalLM"],
    bos_token_id=None,
    eos_token_id=7,  # which ends no window: requests name their own stop tokens
)


def a_model(seed: int, config: PreTrainedConfig = MODEL) -> PreTrainedModel:
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def a_config(folder: Path, model: PreTrainedConfig = MODEL, **generation: str) -> Config:
    model.save_pretrained(folder)
    file = folder / "run.toml"
    file.write_text(f'[model]\npath = "{folder}"\n[data]\ntrain_files = ["t.jsonl"]\n')
    keys = {"engine": "vllm", "num_slots": NUM_SLOTS, **generation}
    overrides = [f"generation.{key}={value}" for key, value in keys.items()]
    lengths = ["run.max_prompt_length=320", "run.max_response_length=1024", "run.window_length=64"]
    return load(file, [*lengths, *overrides])


class ServedModel:
    """The engine, and models to send to it; each test sends its own, as ever newer versions."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    @classmethod
    async def start(cls, folder: Path, model: PreTrainedConfig = MODEL, **generation: str) -> Self:
        return cls(await asyncio.to_thread(build_vllm_engine, a_config(folder, model, **generation)))

    async def send(self, model: PreTrainedModel) -> int:
        """The model's version, once it is in use."""
        version = int(self.engine.policy_version) + 1
        await self.engine.update_weights(an_update(model, version))
        return version

    async def windows(self, requests: Sequence[WindowRequest]) -> list[Window]:
        return list(await asyncio.gather(*(self.engine.generate(request) for request in requests)))

    async def until_sampling(self) -> None:
        """Until each window that runs has a token; they are to be long ones."""

        def have_tokens() -> bool:
            running = self.engine.statistics().running
            return bool(running) and all(one.num_tokens for one in running)

        await until(have_tokens, "every window that runs has tokens")


def an_update(model: PreTrainedModel, version: int) -> WeightUpdate:
    tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return WeightUpdate(version, incarnation=3, digest=f"sha256:{version:x}", tensors=tensors)


def a_request(name: str = "r", **changes: Any) -> WindowRequest:
    fields: dict[str, Any] = {
        "rollout_id": name,
        "window_index": 0,
        "prompt_tokens": tokens([1, 2, 3]),
        "response_tokens": tokens(),
        "max_new_tokens": 24,
        "stop_token_ids": (),
        "temperature": 1.0,
        "seed": 1,
    }
    return WindowRequest(**{**fields, **changes})


def mixed_requests(num: int, *, seed: int = 5) -> list[WindowRequest]:
    """Prompts of 1 to 300 tokens, some with an earlier response, windows of 1 to 70 tokens, three temperatures."""
    rng = random.Random(seed)
    return [
        a_request(
            f"r{index}",
            prompt_tokens=tokens(rng.randrange(VOCABULARY) for _ in range(rng.choice([1, 2, 9, 60, 300]))),
            response_tokens=tokens(rng.randrange(VOCABULARY) for _ in range(rng.choice([0, 0, 30]))),
            max_new_tokens=rng.choice([1, 3, 20, 70]),
            temperature=rng.choice([1.0, 0.7, 0.0]),
            seed=index,
        )
        for index in range(num)
    ]


@torch.no_grad()
def distributions(model: PreTrainedModel, request: WindowRequest, window: Window) -> Tensor:
    """[tokens of the window, vocabulary], by one forward pass over the whole row."""
    before = [*request.prompt_tokens, *request.response_tokens]
    logits = model(torch.tensor([[*before, *window.tokens]])).logits[0, len(before) - 1 : -1].double()
    return torch.log_softmax(logits / (request.temperature or 1.0), dim=-1)


def expected_logprobs(model: PreTrainedModel, request: WindowRequest, window: Window) -> Tensor:
    """Log-probabilities of the window's tokens, by one forward pass."""
    return distributions(model, request, window).gather(-1, torch.tensor([*window.tokens])[:, None])[:, 0]


@torch.no_grad()
def logprobs_on_old_cache(
    old: PreTrainedModel, new: PreTrainedModel, request: WindowRequest, window: Window, *, num_old: int
) -> Tensor:
    """Of the tokens behind `num_old`: the new model on the keys and values that the old one left."""
    row = [*request.prompt_tokens, *request.response_tokens, *window.tokens]
    num_cached = len(row) - len(window.tokens) + num_old - 1  # the last old token is run through the new weights
    cache = DynamicCache(config=old.config)
    old(torch.tensor([row[:num_cached]]), past_key_values=cache, use_cache=True)
    logits = new(torch.tensor([row[num_cached:]]), past_key_values=cache, use_cache=True).logits[0, :-1].double()
    return torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(row[num_cached + 1 :])[:, None])[:, 0]


def forced_window(row: ProbeRow) -> Window:
    """Its response tokens as if they had been sampled."""
    ids = tokens(row.response_tokens)
    return Window("", 0, ids, logprobs([0.0] * len(ids)), (VersionSpan(0, len(ids)),), FinishReason.LENGTH)


def probe_of(model: PreTrainedModel, *, temperature: float = 0.7) -> WeightProbe:
    """What a learner would send with the model; the longest row is longer than a block of vLLM's prefix cache."""
    rows = update_rows("a run", VOCABULARY, capacity=1344, step_tokens=STEP_TOKENS)
    requests = [a_request(prompt_tokens=tokens(row.prompt_tokens), temperature=temperature) for row in rows]
    found = [expected_logprobs(model, request, forced_window(row)) for request, row in zip(requests, rows, strict=True)]
    return WeightProbe(rows, tuple(logprobs(of_row.tolist()) for of_row in found), temperature)


def worst_difference(found: Sequence[float], expected: Tensor) -> float:
    return float((torch.tensor(found).double() - expected).abs().max()) if len(found) else 0.0

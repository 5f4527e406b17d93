"""An endpoint at a real address: a tiny random model, with a tokenizer and a chat template, under a client's hands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import PreTrainedConfig, PreTrainedModel, Qwen2Config

from examples.gsm8k.make_random_model import made_tokenizer
from services.generation.build import make_decoder
from services.generation.endpoint.app import create_app
from services.generation.endpoint.completions import Completions, Limits
from services.generation.endpoint.prompts import PromptTokens
from services.generation.endpoint.serving import GuestServer
from services.generation.fleet.free_slots import FreeSlots
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tests.generation.tiny_models import CPU, SIZES, Watched, a_model, an_update
from tests.support.waiting import DEADLINE_SECONDS
from tppo.process.listening import listener
from tppo.process.web_server import server_settings

TOKEN = "a-token-of-clients"
RUN = "quickstart"
CAPACITY = 128
LIMITS = Limits(CAPACITY, max_requests=8, timeout_seconds=DEADLINE_SECONDS)
VOCABULARY_SIZE = 2048


def policy_folder(folder: Path) -> Path:
    """Configuration, tokenizer and chat template of the policy."""
    tokenizer = made_tokenizer()
    tokenizer.save_pretrained(folder)
    Qwen2Config(**(SIZES | {"vocab_size": VOCABULARY_SIZE, "eos_token_id": tokenizer.eos_token_id})).save_pretrained(
        folder
    )
    return folder


def policy_config() -> PreTrainedConfig:
    return Qwen2Config(**(SIZES | {"vocab_size": VOCABULARY_SIZE}), num_key_value_heads=2)


@dataclass(frozen=True)
class Endpoint:
    """What a test has in its hands."""

    client: httpx.AsyncClient  # brings the token
    port: int
    engine: TransformersEngine
    slots: FreeSlots
    model: PreTrainedModel

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json={"model": RUN, **body})


@asynccontextmanager
async def an_endpoint(
    folder: Path, *, num_slots: int = 4, limits: Limits = LIMITS, has_weights: bool = True, model_name: str = RUN
) -> AsyncIterator[Endpoint]:
    config = policy_config()
    model = a_model(config)
    decoder = Watched(make_decoder(config, num_slots=num_slots, capacity=CAPACITY, dtype=torch.float32, device=CPU))
    engine = TransformersEngine(decoder, num_slots=num_slots, capacity=CAPACITY, policy=UpdatePolicy(), device=CPU)
    if has_weights:
        await engine.update_weights(an_update(model, policy_version=7))
    slots = FreeSlots(num_slots)
    completions = Completions(engine, slots, PromptTokens(folder, {}), limits, model=model_name)
    server = GuestServer(server_settings(create_app(completions, token=TOKEN)))
    try:
        with listener("127.0.0.1", 0, key="endpoint.port") as opened:
            port = opened.getsockname()[1]
            serving = asyncio.create_task(server.serve(sockets=[opened]))
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=DEADLINE_SECONDS,
            ) as client:
                yield Endpoint(client, port, engine, slots, model)
            server.stop()
            await serving
    finally:
        await engine.close()

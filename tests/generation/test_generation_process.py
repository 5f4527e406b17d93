"""`tppo generation` as a process: a real server, a real engine, a tiny model."""

import asyncio
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config

from learner.exchange.live_peers import GrpcTransport
from learner.exchange.weight_publisher import Snapshot, TransferError
from tests.generation.tiny_models import (
    FAST,
    VOCABULARY,
    a_model,
    a_request,
    an_update,
    expected_logprobs,
    probe_of,
)
from tests.support.outstanding import outstanding
from tests.support.processes import TPPO, a_process, terminated, tppo
from tests.support.streams import announced, inbox_records
from tests.support.waiting import DEADLINE_SECONDS, until_answered
from tppo.announced_weights import announce_weights
from tppo.codec import encode_window_request
from tppo.process.presence import Presence, present
from tppo.rollout import FinishReason, Window, tokens
from tppo.security.private_files import read_secret
from tppo.streams.connection import RedisClient
from tppo.streams.redis import RedisStreams

pytestmark = pytest.mark.process

MAX_LENGTH = 128  # tokens of prompt and response
CONFIG = f"""
[run]
max_prompt_length = {MAX_LENGTH // 2}
max_response_length = {MAX_LENGTH // 2}
window_length = 64
[model]
path = "actor"
[learner]
device = "cpu"
[data]
train_files = ["train.jsonl"]
"""
QWEN2 = FAST["qwen2, tied"]
LONG_PROMPT, NUM_LONG_ROWS = 2048, 16
ENDLESS = 100_000  # tokens: far more than are sampled between two heartbeats
IGNORED_TAIL = 8  # algorithm.num_ignored_tail_tokens
ENCODER = BertConfig(  # which looks at later tokens too
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    initializer_range=0.3,
)
SLOW = Qwen2Config(  # some minutes of prefill for these rows, on one core
    vocab_size=VOCABULARY,
    hidden_size=512,
    num_hidden_layers=12,
    num_attention_heads=8,
    num_key_value_heads=1,
    intermediate_size=2048,
    max_position_embeddings=2 * LONG_PROMPT,
    tie_word_embeddings=True,
)


def run_file(folder: Path, model: PreTrainedConfig | None = QWEN2) -> Path:
    if model is not None:
        model.save_pretrained(folder / "actor")
    (folder / "run.toml").write_text(CONFIG)
    return folder / "run.toml"


async def test_the_process_takes_weights_serves_a_window_and_ends_at_sigterm(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    model, request = a_model(QWEN2), a_request(max_new_tokens=20)
    await streams.window_requests.put([encode_window_request(request)])

    async with a_process(*a_generator(tmp_path, redis_url, run_name)) as process:
        generator = await announced(redis_client, run_name, "generation")
        with pytest.raises(TransferError, match="UNAUTHENTICATED"):
            await take_weights(model, generator, redis_client, run_name)
        await take_weights(model, generator, redis_client, run_name, folder=tmp_path)
        (window,) = await inbox_records(streams, Window, 1)
        policy = await policy_at(generator.status["endpoint"], read_secret(tmp_path / run_name / "endpoint.token"))
        exit_code = await terminated(process)

    assert (policy["id"], policy["policy_version"]) == (run_name, 3)
    assert generator.name == "generation-7"
    assert (window.generator, window.oldest_policy_version) == ("generation-7", 3)
    expected = expected_logprobs(model, request, window)
    torch.testing.assert_close(torch.tensor(window.logprobs).double(), expected, atol=1e-4, rtol=0)
    assert exit_code == 0
    assert await present(redis_client, run_name) == []


async def test_at_sigterm_the_process_hands_its_running_window_over(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    await streams.window_requests.put([encode_window_request(a_request(max_new_tokens=ENDLESS))])
    command = a_generator(tmp_path, redis_url, run_name)
    options = (f"--set=run.max_response_length={ENDLESS}", "--set=generation.num_slots=1")

    async with a_process(*command, *options) as process:
        generator = await announced(redis_client, run_name, "generation")
        await take_weights(a_model(QWEN2), generator, redis_client, run_name, folder=tmp_path)
        await until_answered(lambda: tokens_beyond_the_tail(redis_client, run_name), "tokens beyond the ignored tail")
        exit_code = await terminated(process)
        (window,) = await inbox_records(streams, Window, 1)

    assert (exit_code, window.finish_reason) == (0, FinishReason.CUT)
    assert IGNORED_TAIL < len(window.tokens) < ENDLESS
    assert await outstanding(streams.window_requests) == []


async def test_the_process_ends_in_order_in_the_midst_of_a_long_prefill(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    prompts = [tokens((first + at) % VOCABULARY for at in range(LONG_PROMPT)) for first in range(NUM_LONG_ROWS)]
    requests = [a_request(f"r{number}", prompt_tokens=prompt) for number, prompt in enumerate(prompts)]
    await streams.window_requests.put([encode_window_request(request) for request in requests])
    command = a_generator(tmp_path, redis_url, run_name, model=SLOW)
    options = (f"--set=run.max_prompt_length={LONG_PROMPT}", f"--set=generation.num_slots={NUM_LONG_ROWS}")
    at_once = ("--set=generation.hand_over_seconds=0",)

    async with a_process(
        *command, *options, *at_once, environment={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        reading = asyncio.create_task(process.stderr.read())
        generator = await announced(redis_client, run_name, "generation")
        await take_weights(a_model(SLOW), generator, redis_client, run_name, folder=tmp_path)
        await until_answered(lambda: busy_slots(redis_client, run_name), "rows in prefill")
        exit_code = await terminated(process)
        log = (await reading).decode()

    assert exit_code == 0
    assert "closing in mid-pass of the model, which is not awaited" in log
    assert "Traceback" not in log
    assert await present(redis_client, run_name) == []
    depth = await streams.window_requests.depth()
    assert (depth.num_waiting, depth.num_leased) == (NUM_LONG_ROWS, 0)


async def test_a_model_that_cannot_be_decoded_right_ends_the_process_with_the_difference(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    command = a_generator(tmp_path, redis_url, run_name, model=ENCODER)

    async with a_process(*command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        reading = asyncio.create_task(process.stderr.read())
        generator = await announced(redis_client, run_name, "generation")
        with pytest.raises(TransferError):
            await take_weights(a_model(ENCODER), generator, redis_client, run_name, folder=tmp_path)
        async with asyncio.timeout(DEADLINE_SECONDS):
            exit_code = await process.wait()
        said = (await reading).decode().splitlines()[-1]

    assert exit_code == 2
    assert said.startswith(
        f"tppo generation: model.path = {tmp_path}/actor: no way to decode bert is right; the last one: the engine "
        "differs from transformers' plain forward pass by up to "
    )


def a_generator(folder: Path, redis_url: str, run: str, model: PreTrainedConfig = QWEN2) -> list[str]:
    """The command line."""
    named = ["--set", f"run.name={run}", "--set", f"run.directory={folder}"]
    return [*TPPO, "generation", str(run_file(folder, model)), "--redis", redis_url, *named, "--name", "generation-7"]


async def policy_at(endpoint: str, token: str) -> dict[str, Any]:
    """What a client finds there."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=DEADLINE_SECONDS) as client:
        (model,) = (await client.get(f"{endpoint}/models")).json()["data"]
    return dict(model)


async def take_weights(
    model: PreTrainedModel,
    generator: Presence,
    client: RedisClient,
    run: str,
    *,
    folder: Path | None = None,
) -> None:
    """Announce the weights and send them, as version 3; without the token, where there is no folder of the run."""
    token = read_secret(folder / run / "generation.token") if folder else ""
    transport = GrpcTransport(partial(announce_weights, client, run), token)
    try:
        probe = probe_of(model, capacity=MAX_LENGTH)
        made = partial(Snapshot, an_update(model).tensors, run, 3, incarnation=0, probe=probe)
        await transport.send(generator.address, await asyncio.to_thread(made))
    finally:
        await transport.close()


async def busy_slots(client: RedisClient, run: str) -> int:
    return sum(one.status["num_active"] for one in await present(client, run))


async def tokens_beyond_the_tail(client: RedisClient, run: str) -> bool:
    return any(one.status["num_tokens_generated"] > IGNORED_TAIL for one in await present(client, run))


def refused(*arguments: str) -> str:
    """What the process says when it ends with code 2."""
    done = tppo("generation", *arguments)
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


def test_a_folder_without_a_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    said = refused(str(run_file(tmp_path, model=None)), "--redis", "redis://127.0.0.1:1")

    assert said == f"tppo generation: model.path = {tmp_path}/actor: no config.json there; expected a model's folder"


def test_an_address_that_others_can_reach_is_refused_without_a_token(tmp_path: Path) -> None:
    said = refused(str(run_file(tmp_path)), "--redis", "redis://127.0.0.1:1", "--set", "generation.host=0.0.0.0")

    assert "TPPO_TOKEN" in said

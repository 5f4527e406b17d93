"""`tppo generation` as a process: a real server, a real engine, a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
import torch

from tests.generation.tiny_models import FAST, a_model, a_request, an_update, expected_logprobs
from tests.support.processes import TPPO, a_process, terminated, tppo
from tests.support.streams import announced, inbox_records
from tests.support.waiting import DEADLINE_SECONDS
from tppo.announced_weights import AnnouncedWeights, announce_weights
from tppo.codec import encode_window_request
from tppo.presence import present
from tppo.rollout import Window
from tppo.security.authentication import call_metadata
from tppo.security.private_files import read_secret
from tppo.streams.connection import RedisClient
from tppo.streams.redis import RedisStreams
from tppo.v1 import generation_pb2 as pb
from tppo.v1 import generation_pb2_grpc as pb_grpc
from tppo.weights import digest, to_messages

pytestmark = pytest.mark.process

CONFIG = """
[run]
max_prompt_length = 64
max_response_length = 64
window_length = 64
[model]
path = "actor"
device = "cpu"
[data]
train_files = ["train.jsonl"]
"""
QWEN2 = FAST["qwen2, tied"]


def run_file(folder: Path, model: bool = True) -> Path:
    if model:
        QWEN2.save_pretrained(folder / "actor")
    (folder / "run.toml").write_text(CONFIG)
    return folder / "run.toml"


async def test_the_process_takes_weights_serves_a_window_and_ends_at_sigterm(
    tmp_path: Path, redis_url: str, redis_client: RedisClient, run_name: str
) -> None:
    streams = RedisStreams(redis_client, run=run_name, lease_seconds=15.0)
    model, request = a_model(QWEN2), a_request(max_new_tokens=20)
    await streams.window_requests.put([encode_window_request(request)])
    tensors = an_update(model).tensors

    def transfer() -> Iterator[pb.UpdateWeightsRequest]:
        return to_messages(tensors, run=run_name, policy_version=3, incarnation=0)

    named = ["--set", f"run.name={run_name}", "--set", f"run.directory={tmp_path}"]
    where = ["--redis", redis_url, *named, "--name", "generation-7"]
    async with a_process(*TPPO, "generation", str(run_file(tmp_path)), *where) as process:
        generator = await announced(redis_client, run_name, "generation")
        async with grpc.aio.insecure_channel(generator.address) as channel:
            stub = pb_grpc.GenerationServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
                await stub.UpdateWeights(transfer(), timeout=DEADLINE_SECONDS)
            await announce_weights(redis_client, run_name, AnnouncedWeights(0, 3, digest(tensors)))
            metadata = call_metadata(read_secret(tmp_path / run_name / "generation.token"))
            await stub.UpdateWeights(transfer(), timeout=DEADLINE_SECONDS, metadata=metadata)
        (window,) = await inbox_records(streams, Window, 1)
        exit_code = await terminated(process)

    assert generator.name == "generation-7"
    assert (window.generator, window.oldest_policy_version) == ("generation-7", 3)
    expected = expected_logprobs(model, request, window)
    torch.testing.assert_close(torch.tensor(window.logprobs).double(), expected, atol=1e-4, rtol=0)
    assert exit_code == 0
    assert await present(redis_client, run_name) == []


def refused(*arguments: str) -> str:
    """What the process says when it ends with code 2."""
    done = tppo("generation", *arguments)
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


def test_a_folder_without_a_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    said = refused(str(run_file(tmp_path, model=False)), "--redis", "redis://127.0.0.1:1")

    assert said == f"tppo generation: model.path = {tmp_path}/actor: no config.json there; expected a model's folder"


def test_an_address_that_others_can_reach_is_refused_without_a_token(tmp_path: Path) -> None:
    said = refused(str(run_file(tmp_path)), "--redis", "redis://127.0.0.1:1", "--set", "generation.host=0.0.0.0")

    assert "TPPO_TOKEN" in said

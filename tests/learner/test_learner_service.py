"""A whole learner on in-memory streams: to the run's end, through kills, and as a replay of its inbox."""

import asyncio
import logging
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learner.persistence.checkpoint import read
from tests.learner.fake_services import FakeTransport, generate
from tests.learner.laboratory import STEPS, ArchivedStreams, Laboratory, killed_at, replay, step_reached, to_the_end
from tests.support.waiting import DEADLINE_SECONDS
from tppo import codec
from tppo.rollout import Action, Command, Score, ScoreStatus, Window
from tppo.streams import MemoryStreams
from tppo.streams.contract import BEGINNING
from tppo.weights import digest


async def test_two_lockstep_runs_of_one_seed_give_the_same_weights(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", rollouts_per_step=16)

    for run, seed in (("one", 1), ("other", 2)):
        streams, transport = ArchivedStreams(), FakeTransport()
        service = laboratory.learner(run, streams, transport)
        await to_the_end(service, streams, transport, chance=random.Random(seed), lease_count=16)

    one, other = laboratory.final_weights("one"), laboratory.final_weights("other")
    assert all(torch.equal(one[name], other[name]) for name in one)


async def test_a_run_takes_every_step_evaluates_and_accounts_for_every_window(laboratory: Laboratory) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    lines = laboratory.lines("run")
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, STEPS + 1))
    assert sorted(line["step"] for line in lines if line["kind"] == "evaluation") == [0, 3, 6]
    last = [line for line in lines if line["kind"] == "step"][-1]
    assert last["ledger/issued"] == last["ledger/trained"] == STEPS * 6
    assert (await streams.window_requests.depth()).num_waiting == 0
    assert transport.snapshots[0].policy_version == 0
    lags = [line["policy_lag/max"] for line in lines if line["kind"] == "step"]
    assert max(lags) <= {"lockstep": 0, "overlapped": 1, "streaming": STEPS}[laboratory.config.run.mode]


async def test_without_val_before_train_no_step_waits_for_an_evaluation_of_the_base_model(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", evaluates_before_training=False)
    streams, transport = ArchivedStreams(), FakeTransport()

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    assert [line["step"] for line in laboratory.lines("run") if line["kind"] == "evaluation"] == [3, 6]
    first = (await streams.inbox.read(BEGINNING, max_count=1, wait_seconds=0))[0]
    window = codec.decode_inbox_record(first.payload)
    assert isinstance(window, Window)
    assert not window.rollout_id.startswith("eval-")


async def test_its_log_has_every_step_and_evaluation(laboratory: Laboratory, caplog: pytest.LogCaptureFixture) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()

    with caplog.at_level(logging.INFO, logger="learner.reporting.run_log"):
        await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    steps = [message for message in caplog.messages if message.startswith("step ") and "policy lag" in message]
    assert [message.partition(":")[0] for message in steps] == [f"step {step}" for step in range(1, STEPS + 1)]
    assert sum("is evaluated: accuracy" in message for message in caplog.messages) == 3


async def test_a_learner_killed_twice_ends_with_the_weights_of_an_undisturbed_replay(laboratory: Laboratory) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()

    await killed_at(1, laboratory.learner("run", streams, transport), streams, transport)
    await killed_at(5, laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    await replay(laboratory, "replay", streams)

    weights, replayed = laboratory.final_weights("run"), laboratory.final_weights("replay")
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)
    steps = [line["step"] for line in laboratory.lines("run") if line["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))


async def test_in_bfloat16_too_a_killed_learner_ends_with_the_weights_of_an_undisturbed_replay(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "streaming", compute_dtype="bfloat16")
    streams, transport = ArchivedStreams(), FakeTransport()

    await killed_at(5, laboratory.learner("run", streams, transport), streams, transport)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    await replay(laboratory, "replay", streams)

    weights, replayed = laboratory.final_weights("run"), laboratory.final_weights("replay")
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)
    assert not all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values()), "masters were kept"


async def test_generators_are_sent_the_cast_of_what_the_checkpoint_keeps(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", compute_dtype="bfloat16")
    streams, transport = ArchivedStreams(), FakeTransport()

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    sent = transport.snapshots[-1]
    checkpoint = laboratory.folder / "run" / "checkpoints" / f"global_step_{STEPS}"
    kept = load_file(checkpoint / "actor" / "model.safetensors")
    moments = (await asyncio.to_thread(read, checkpoint)).trainer["actor"]["adamw"]["state"][0]
    cast = {name: tensor.bfloat16() for name, tensor in kept.items()}
    assert sent.policy_version == STEPS
    assert {tensor.dtype for tensor in (*kept.values(), moments["exp_avg"], moments["exp_avg_sq"])} == {torch.float32}
    assert await asyncio.to_thread(lambda: sent.digest) == await asyncio.to_thread(digest, cast)
    assert 2 * sent.num_bytes == sum(tensor.nbytes for tensor in kept.values())


async def test_a_stopped_learner_commits_a_checkpoint_and_resumes_from_it(laboratory: Laboratory) -> None:
    streams, transport = ArchivedStreams(), FakeTransport()
    service = laboratory.learner("run", streams, transport)

    async def stop_soon() -> None:
        await step_reached(service, 3)
        service.stop()

    await asyncio.gather(to_the_end(service, streams, transport), stop_soon())
    stopped_at = service.step
    resumed = laboratory.learner("run", streams, transport)

    assert 3 <= stopped_at < STEPS
    assert resumed.step == stopped_at
    await to_the_end(resumed, streams, transport)
    assert resumed.step == STEPS


async def fail_every_score(streams: MemoryStreams, error: str) -> None:
    """Until cancelled."""
    while True:
        for lease in await streams.reward_requests.lease("reward-0", max_count=4, wait_seconds=0.05):
            request = codec.decode_reward_request(lease.payload)
            score = Score(request.rollout_id, request.attempt, ScoreStatus.FAILED, error=error)
            await streams.reward_requests.complete("reward-0", [(lease, codec.encode_inbox_record(score))])


async def test_a_reward_function_that_always_raises_ends_the_run_and_a_mended_one_continues_it(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "overlapped")
    streams, transport = ArchivedStreams(), FakeTransport()
    service = laboratory.learner("run", streams, transport)
    broken = [fail_every_score(streams, "KeyError: 'boom'"), generate(streams, transport)]

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(worker) for worker in broken]
        await asyncio.wait_for(service.run(), timeout=DEADLINE_SECONDS)
        for worker in workers:
            worker.cancel()

    assert "failed 18 times in a row and scored no response: FAILED KeyError: 'boom'" in service.failures.sentence
    assert service.step == 0
    retry = Command("retry", Action.RETRY_PARKED)
    await streams.inbox.append([codec.encode_inbox_record(retry)])
    mended = laboratory.learner("run", streams, transport)
    num_parked = mended._manager.ledger.conservation().parked
    await to_the_end(mended, streams, transport)
    assert (mended.step, mended.failures.sentence) == (STEPS, "")
    assert (num_parked > 0, mended._manager.ledger.conservation().parked) == (True, 0)

"""Checkpoints are written from the tensors themselves: the next step waits until they are read, and no longer."""

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from learner.persistence.checkpoint import Checkpoints
from learner.rollouts.ledger_state import LedgerCapture
from learner.service import LearnerService
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import ArchivedStreams, Laboratory
from tests.learner.persistence.test_best_checkpoint import progress
from tests.support.waiting import until
from tppo.process.cancellation import cancel_all


@pytest.fixture
def service(tmp_path: Path) -> LearnerService:
    return Laboratory(tmp_path, "streaming").learner("run", ArchivedStreams(), FakeTransport())


@asynccontextmanager
async def serving(service: LearnerService) -> AsyncIterator[None]:
    loop = asyncio.create_task(service._checkpoints.serve())
    yield
    await cancel_all([loop])


def weights(service: LearnerService) -> Mapping[str, Tensor]:
    return service._trainer.policy.network.state_dict()


async def test_a_step_waits_until_the_checkpoint_before_it_has_read_the_weights(
    service: LearnerService, tmp_path: Path
) -> None:
    writer, norm = service._checkpoints, weights(service)["model.norm.weight"]
    assert norm.tolist() == [1.0] * 16
    await writer.at_rest()
    writer.commit_soon(progress(2), service._manager)
    step = asyncio.create_task(writer.at_rest())
    await asyncio.sleep(0)
    assert not step.done()

    async with serving(service):
        await step
        with torch.no_grad():
            norm.fill_(7.0)
        await until(lambda: writer.last_step, "the checkpoint is committed")

    written = load_file(tmp_path / "run/checkpoints/global_step_2/actor/model.safetensors")
    assert written["model.norm.weight"].tolist() == [1.0] * 16


async def test_a_state_that_is_captured_while_another_is_written_is_waited_for(service: LearnerService) -> None:
    writer = service._checkpoints
    writer.commit_soon(progress(2), service._manager)

    async with serving(service):
        await writer.at_rest()
        writer.commit_soon(progress(3), service._manager)
        await writer.at_rest()
        await until(lambda: writer.last_step, "the newer one is committed", is_met=lambda step: step == 3)


async def test_what_was_written_is_kept_in_memory_no_longer(service: LearnerService) -> None:
    writer, of_other_tests = service._checkpoints, captures()
    writer.commit_soon(progress(2), service._manager)
    assert len(captures() - of_other_tests) == 1

    async with serving(service):
        await until(lambda: writer.last_step, "the checkpoint is committed")
        await until(lambda: captures() <= of_other_tests, "it is free, while the loop waits for the next one")


def captures() -> set[int]:
    """Those that are alive in this process."""
    return {id(one) for one in gc.get_objects() if type(one) is LedgerCapture}


async def test_a_full_disk_holds_up_no_step_and_is_in_the_status(
    service: LearnerService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = service._checkpoints
    writer._checkpoints = Checkpoints(tmp_path / "run/checkpoints", keep=2, free_bytes=lambda _: 0)
    writer.commit_soon(progress(2), service._manager)

    async with serving(service):
        await writer.at_rest()
        await until(lambda: writer.last_error, "the error is noted")

    assert "checkpoint of step 2: " in writer.last_error
    assert "has 0 GB free; expected" in writer.last_error
    assert "training continues" in caplog.text

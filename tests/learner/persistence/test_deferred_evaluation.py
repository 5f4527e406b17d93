"""Evaluation behind the last step: nothing but training before it, and each round judges the weights of its step."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from learner.persistence.deferred_weights import DeferredWeights
from learner.persistence.manifest import DamagedError
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import STEPS, ArchivedStreams, Laboratory, step_reached, to_the_end
from tests.support.damage import DAMAGES, damage

EVALUATED = [0, 3, 6]


def served(transport: FakeTransport, policy_version: int) -> Mapping[str, Tensor]:
    (snapshot,) = [one for one in transport.snapshots if one.policy_version == policy_version]
    return snapshot.tensors


async def test_rounds_come_behind_the_last_step_and_judge_the_deferred_weights(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", evaluates_after_training=True)
    streams, transport = ArchivedStreams(), FakeTransport()

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    kinds = [(line["kind"], line["step"]) for line in laboratory.lines("run")]
    assert kinds[:STEPS] == [("step", step) for step in range(1, STEPS + 1)]
    assert kinds[STEPS:] == [("end", STEPS), *(("evaluation", step) for step in EVALUATED)]
    for line in laboratory.lines("run")[-len(EVALUATED) :]:
        assert line["eval/policy_version/min"] == line["eval/policy_version/max"] == line["step"]
    base = load_file(tmp_path / "base" / "model.safetensors")
    judged_first = served(transport, STEPS + 1)
    assert all(torch.equal(base[name], tensor) for name, tensor in judged_first.items())
    for step in EVALUATED[1:]:
        trained, judged = served(transport, step), served(transport, STEPS + 1 + step)
        assert all(torch.equal(trained[name], tensor) for name, tensor in judged.items())
    assert DeferredWeights(tmp_path / "run" / "deferred").steps() == []


async def test_a_learner_stopped_among_the_rounds_goes_on_with_those_that_are_left(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", evaluates_after_training=True)
    streams, transport = ArchivedStreams(), FakeTransport()
    service = laboratory.learner("run", streams, transport)

    def evaluated() -> set[int]:
        return {line["step"] for line in laboratory.lines("run") if line["kind"] == "evaluation"}

    async def stop_after_the_first_round() -> None:
        while service.step < STEPS or not evaluated():  # noqa: ASYNC110 - the service has no event for this
            await asyncio.sleep(0.001)
        service.stop()

    await asyncio.gather(to_the_end(service, streams, transport), stop_after_the_first_round())
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    assert evaluated() == set(EVALUATED)


def test_weights_that_are_deferred_again_replace_the_earlier_ones(tmp_path: Path) -> None:
    deferred_weights = DeferredWeights(tmp_path / "aside")
    deferred_weights.put(10, {"w": torch.zeros(2)})
    deferred_weights.put(9, {"w": torch.ones(2)})

    deferred_weights.put(10, {"w": torch.full((2,), 3.0)})

    assert deferred_weights.steps() == [9, 10]
    assert deferred_weights.weights(10)["w"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("kind", [*DAMAGES, "one bit"])
def test_damaged_deferred_weights_are_one_sentence(tmp_path: Path, kind: str) -> None:
    deferred_weights = DeferredWeights(tmp_path)
    deferred_weights.put(10, {"w": torch.zeros(100)})
    path = tmp_path / "step_10.safetensors"
    if kind in DAMAGES:
        damage(path, kind)
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    with pytest.raises(DamagedError, match=r"step_10\.safetensors.*; expected .* of step 10|those of step 10$"):
        deferred_weights.weights(10)


async def test_a_step_whose_deferred_weights_are_damaged_is_not_evaluated_and_the_run_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    laboratory = Laboratory(tmp_path, "lockstep", evaluates_after_training=True)
    streams, transport = ArchivedStreams(), FakeTransport()
    service = laboratory.learner("run", streams, transport)

    async def stop_soon() -> None:
        await step_reached(service, 4)
        service.stop()

    await asyncio.gather(to_the_end(service, streams, transport), stop_soon())
    damage(tmp_path / "run" / "deferred" / "step_3.safetensors", "torn")
    (tmp_path / "run" / "deferred" / "step_x.safetensors").touch()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    evaluated = {line["step"] for line in laboratory.lines("run") if line["kind"] == "evaluation"}
    assert evaluated == {0, STEPS}
    assert "step 3 is not evaluated: " in caplog.text
    assert DeferredWeights(tmp_path / "run" / "deferred").steps() == []

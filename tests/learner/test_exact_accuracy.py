"""The exact accuracy of a whole run: each evaluation's, of the weights of its step."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import (
    ArchivedStreams,
    Laboratory,
    evaluation_prompts,
    killed_at,
    replay,
    to_the_end,
)

TEMPERATURE = 0.7  # of the laboratory's evaluations
EVALUATED = [0, 3, 6]


def evaluations(laboratory: Laboratory, run: str) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in laboratory.lines(run) if line["kind"] == "evaluation"}


def exact_numbers(laboratory: Laboratory, run: str) -> dict[int, dict[str, float]]:
    return {
        step: {name: value for name, value in line.items() if name.startswith("eval/accuracy_exact")}
        for step, line in evaluations(laboratory, run).items()
    }


@torch.no_grad()
def by_the_plain_formula(laboratory: Laboratory, transport: FakeTransport, step: int) -> list[float]:
    """Per prompt, the product of softmax(logits / temperature) at the solution's tokens, with the published weights."""
    (snapshot,) = [one for one in transport.snapshots if one.policy_version == step]
    network = AutoModelForCausalLM.from_pretrained(laboratory.folder / "base")
    network.load_state_dict(dict(snapshot.tensors), strict=False)
    found = []
    for prompt in evaluation_prompts():
        assert prompt.solution is not None
        line = [*prompt.token_ids, *prompt.solution]
        shares = (network(torch.tensor([line])).logits[0] / TEMPERATURE).softmax(-1)
        begin = len(prompt.token_ids)
        found.append(math.prod(float(shares[place - 1, line[place]]) for place in range(begin, len(line))))
    return found


@pytest.mark.parametrize("evaluates_after_training", [False, True])
async def test_each_evaluation_has_that_of_the_weights_of_its_step(
    tmp_path: Path, evaluates_after_training: bool
) -> None:
    laboratory = Laboratory(tmp_path, "streaming", evaluates_after_training=evaluates_after_training)
    streams, transport = ArchivedStreams(), FakeTransport()

    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)

    found = exact_numbers(laboratory, "run")
    assert sorted(found) == EVALUATED
    for step in EVALUATED:
        probabilities = by_the_plain_formula(laboratory, transport, step)
        assert found[step] == pytest.approx(
            {
                "eval/accuracy_exact": sum(probabilities) / 4,
                "eval/accuracy_exact/k_to_2": sum(probabilities[:3]) / 3,
                "eval/accuracy_exact/k_above_2": probabilities[3],
            },
            rel=1e-4,
        )
    assert len({numbers["eval/accuracy_exact"] for numbers in found.values()}) == len(EVALUATED)


async def test_a_learner_killed_twice_and_a_replay_find_the_same(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "streaming")
    streams, transport = ArchivedStreams(), FakeTransport()

    await killed_at(1, laboratory.learner("run", streams, transport), streams, transport)
    await killed_at(5, laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    await to_the_end(laboratory.learner("run", streams.reopened(), transport), streams.reopened(), transport)
    await replay(laboratory, "replay", streams)

    assert sorted(exact_numbers(laboratory, "run")) == EVALUATED
    assert exact_numbers(laboratory, "run") == exact_numbers(laboratory, "replay")


async def test_it_changes_nothing_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = Laboratory(tmp_path, "streaming")
    streams, transport = ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("with", streams, transport), streams, transport)
    plain = [replace(prompt, solution=None) for prompt in evaluation_prompts()]
    monkeypatch.setattr("tests.learner.laboratory.evaluation_prompts", lambda: plain)

    await replay(laboratory, "without", streams)

    weights, without = laboratory.final_weights("with"), laboratory.final_weights("without")
    assert all(torch.equal(weights[name], without[name]) for name in weights)
    assert exact_numbers(laboratory, "without") == {step: {} for step in EVALUATED}

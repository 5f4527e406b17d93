"""`learner.compile`: the same numbers from compiled blocks, which are compiled once for lines of any length."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from learner.models.passes.outputs import Policy, ValueModel, token_logprobs, token_values
from learner.models.passes.packing import PackedBatch, TokenRow, pack
from learner.models.weights.compilation import why_not
from learner.networks import load_models
from tests.learner.tiny_models import VOCABULARY, a_network, a_step_config
from tppo.config import ConfigError

# torch's compiler warns of what it does itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)
MISSING = why_not(torch.device("cpu"))
needs_compiler = pytest.mark.skipif(MISSING is not None and os.environ.get("CI") != "true", reason=str(MISSING))
LINES = [(20, 7), (33,), (5, 6, 7, 8), (40, 40, 40)]
SCORES: dict[str, Callable[[Any, PackedBatch], Tensor]] = {"policy": token_logprobs, "value model": token_values}


def a_line(lengths: tuple[int, ...]) -> PackedBatch:
    torch.manual_seed(sum(lengths))
    rows = [TokenRow(torch.randint(VOCABULARY, (length,)), start=1) for length in lengths]
    (batch,) = pack(rows, max_tokens=sum(lengths))
    return batch


@cache
def models(folder: Path, *, is_compiled: bool, checkpointing: str) -> dict[str, Policy | ValueModel]:
    if not folder.exists():
        a_network("policy").save_pretrained(folder)
    learner = {"device": "cpu", "compile": is_compiled, "activation_checkpointing": checkpointing}
    policy, value_model = load_models(a_step_config(model={"path": folder}, learner=learner), None)
    for parameter in value_model.network.get_submodule("score").parameters():
        torch.nn.init.ones_(parameter)
    return {"policy": policy, "value model": value_model}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models") / "policy"


def scores_and_gradients(model: Any, scores: Callable[[Any, PackedBatch], Tensor]) -> list[Tensor]:
    """Of all lines, without gradients and with them."""
    with torch.no_grad():
        found = [scores(model, a_line(lengths)) for lengths in LINES]
    for lengths in LINES:
        scores(model, a_line(lengths)).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in model.network.parameters():
        gradient, parameter.grad = parameter.grad, None
        found.append(gradient)
    return found


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["off", "full"])
@pytest.mark.parametrize("model", SCORES)
def test_compiled_blocks_give_the_same_numbers_and_gradients(model: str, checkpointing: str, folder: Path) -> None:
    plain = models(folder, is_compiled=False, checkpointing=checkpointing)[model]
    compiled = models(folder, is_compiled=True, checkpointing=checkpointing)[model]

    expected = scores_and_gradients(plain, SCORES[model])
    found = scores_and_gradients(compiled, SCORES[model])

    num_lines = len(LINES)
    torch.testing.assert_close(found[:num_lines], expected[:num_lines], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[num_lines:], expected[num_lines:], atol=5e-4, rtol=1e-3)  # sums over all tokens


@needs_compiler
@pytest.mark.slow
def test_blocks_are_compiled_when_they_are_loaded_and_not_again_for_other_lengths(folder: Path) -> None:
    compiled = models(folder, is_compiled=True, checkpointing="off")
    num_programs = counters["stats"]["unique_graphs"]

    for name, scores in SCORES.items():
        scores_and_gradients(compiled[name], scores)

    assert num_programs > 0
    assert counters["stats"]["unique_graphs"] == num_programs
    assert all(parameter.grad is None for parameter in compiled["policy"].weights.parameters())


def test_without_a_compiler_it_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")

    with pytest.raises(ConfigError) as caught:
        models.__wrapped__(folder, is_compiled=True, checkpointing="off")

    assert str(caught.value) == (
        "learner.compile = true: no C++ compiler no-such-compiler on PATH; expected it, or false"
    )

"""`make test-gpu` on the CPU at tiny sizes: what it needs, what it finds, and that a fault fails it."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from benchmarks.gpu import attention, one_step
from benchmarks.gpu.__main__ import TINY, main
from benchmarks.gpu.findings import Finding, as_json, attempted, judged, missing, table
from benchmarks.gpu.speed import model_flops
from benchmarks.gpu.subject import ACTOR, ALGORITHM, CRITIC, Networks, random_rows
from learner.models.passes.packing import pack
from learner.step.estimation.experience import gather
from tppo.config.schema import ActorSection, AlgorithmSection, CriticSection
from tppo.models.memory_estimate import ModelShape
from tppo.models.probe import difference

ROOT = Path(__file__).parents[2]
NOT_NEEDED = ("pydantic", "redis", "grpc", "google", "blake3", "pyarrow", "prometheus_client", "rich", "jinja2")
PROGRAM = """
import runpy, sys
sys.modules.update(dict.fromkeys({blocked!r}))  # importing them fails
sys.argv = ["gpu", *{arguments!r}]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


@pytest.mark.slow
def test_the_check_of_a_gpu_needs_torch_and_transformers_alone(tmp_path: Path) -> None:
    report = tmp_path / "gpu.json"

    program = PROGRAM.format(blocked=NOT_NEEDED, arguments=("--device", "cpu", "--tiny", "--json", str(report)))
    outcome = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    found = json.loads(report.read_text())["findings"]
    results: dict[str, list[str]] = {}
    for one in found:
        results.setdefault(one["part"], []).append(one["status"])
    assert results == {
        "probe": ["passed"] * 8,
        "one step": ["passed"] * 4,
        "memory": ["passed"],
        "speed": ["measured", "measured", "not here"],
        "attention": ["measured", "passed", *["not here"] * 6],
    }
    assert all(one["note"] for one in found if one["status"] == "not here")


def test_without_an_accelerator_the_large_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--device", "cpu"])

    assert (code, capsys.readouterr().err) == (2, "no accelerator is here; expected one, or --device cpu --tiny\n")


def no_kernel() -> Sequence[Finding]:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (lambda: [judged("part", "subject", {"apart": 0.1}, at_most={"apart": 0.2})], 0),
        (lambda: [judged("part", "subject", {"apart": 0.3}, at_most={"apart": 0.2})], 1),
        (lambda: [missing("part", "subject", "not installed")], 0),
        (no_kernel, 1),
    ],
    ids=["passed", "beyond its tolerance", "not here", "raised"],
)
def test_one_check_that_fails_makes_the_exit_code_1_and_the_others_run_all_the_same(
    second: Any, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "gpu.json"
    parts = {"first": lambda: [judged("part", "before", {"seconds": 1.0})], "second": second}
    parts["third"] = lambda: [judged("part", "after", {"seconds": 2.0})]

    found = main(["--device", "cpu", "--tiny", "--json", str(report)], parts_of=lambda _options, _device: parts)

    assert found == code
    statuses = [one["status"] for one in json.loads(report.read_text())["findings"]]
    assert statuses.count("failed") == code
    assert len(statuses) == 3
    assert ("| failed |" in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize(
    ("numbers", "status"),
    [({"apart": 0.1, "cosine": 0.99}, "passed"), ({"apart": 0.3, "cosine": 0.99}, "failed"),
     ({"apart": 0.1, "cosine": 0.5}, "failed"), ({"apart": float("nan"), "cosine": 0.99}, "failed")],
)  # fmt: skip
def test_a_number_outside_of_its_tolerance_fails(numbers: Mapping[str, float], status: str) -> None:
    found = judged("part", "subject", numbers, at_most={"apart": 0.2}, at_least={"cosine": 0.9})

    assert found.status == status
    assert status == "passed" or found.note


def test_a_part_that_raises_has_failed() -> None:
    def run() -> Sequence[Finding]:
        raise RuntimeError("no kernel image\nis available")

    (found,) = attempted("attention", run)

    assert (found.status, found.note) == ("failed", "RuntimeError: no kernel image")


def test_numbers_that_json_does_not_have_are_texts_in_the_report() -> None:
    found = judged("part", "a|b", {"apart": float("inf")})

    assert json.loads(json.dumps(as_json([found]), allow_nan=False))[0]["numbers"] == {"apart": "inf"}
    assert table([found]).splitlines()[2].startswith("| part | a/b | failed | apart inf |")


def plain_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Tensor,
    _of_keys: Tensor,
    _longest: int,
    _longest_keys: int,
    *,
    window_size: tuple[int, int],
) -> Tensor:
    """What torch's `varlen_attn` computes on a GPU; [total, heads, head_dim]."""
    assert window_size == (-1, 0), "causal"
    rows = []
    for begin, end in pairwise(borders.tolist()):
        queries, keys, values = (one[begin:end].transpose(0, 1) for one in (query, key, value))
        rows.append(scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(0, 1))
    return torch.cat(rows)


def over_the_whole_line(
    _module: object, query: Tensor, key: Tensor, value: Tensor, _mask: object, **_: Any
) -> tuple[Tensor, None]:
    found = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return found.transpose(1, 2), None


@pytest.mark.parametrize(
    ("attend", "status"), [(over_the_whole_line, "failed"), (attention.within_rows_by(plain_kernel), "passed")]
)
def test_only_attention_that_keeps_rows_apart_passes(attend: Any, status: str) -> None:
    AttentionInterface.register("on_trial", attend)
    network = Networks.random(TINY, "cpu").policy
    rows = gather(random_rows(TINY)).window_rows()
    (batch,) = pack(rows, max_tokens=TINY.num_rows * TINY.row_length)
    network.set_attn_implementation("sdpa")
    in_float32 = attention.row_by_row(network, batch)
    network.to(torch.bfloat16)
    reference = attention.Reference(in_float32, difference(attention.row_by_row(network, batch), in_float32))

    found = attention.of_implementation("on_trial", network, batch, reference)

    assert found.status == status, found


@pytest.mark.parametrize("name", ["no_such_attention", "sdpa"])
def test_another_implementation_in_place_of_the_requested_one_is_no_pass(name: str) -> None:
    network, exact = Networks.random(TINY, "cpu").policy, difference([torch.zeros(1)], [torch.zeros(1)])
    rows = gather(random_rows(TINY)).window_rows()
    (batch,) = pack(rows, max_tokens=TINY.num_rows * TINY.row_length)
    network.set_attn_implementation("eager")
    network.set_attn_implementation = lambda _: None  # transformers only warns in some versions

    found = attention.of_implementation(name, network, batch, attention.Reference([], exact))

    assert (found.status, found.note) == ("not here", "transformers took eager in its place")


def test_a_gradient_that_differs_fails_the_step() -> None:
    logprobs, gradient = [torch.tensor([-1.0, -2.0])], torch.tensor([1.0, 2.0, 3.0])
    expected = one_step.Outcome(
        logprobs=logprobs,
        values=logprobs,
        losses={"policy": 0.1},
        gradients={"policy": {"weight": gradient}},
        moved={"policy": 1.0},
    )
    turned = replace(expected, gradients={"policy": {"weight": gradient.flip(0)}})

    same = [one.status for one in one_step.compared(expected, expected)]
    other = [one.status for one in one_step.compared(turned, expected)]

    assert same == ["passed", "passed", "passed"]
    assert other == ["passed", "passed", "failed"]


def test_the_work_of_a_model_is_six_times_its_weights_and_the_attention_to_earlier_tokens() -> None:
    shape = ModelShape(
        num_parameters=1000 + 50 * 8, num_blocks=2, hidden=8, intermediate=16, queries=8, keys=4, vocabulary=50,
        has_tied_head=True,
    )  # fmt: skip

    assert model_flops(shape, [10, 20], num_selected=5) == 6 * 1000 * 30 + 6 * 2 * 8 * (100 + 400) + 6 * 400 * 5


@pytest.mark.parametrize(
    ("keys", "section"), [(ACTOR, ActorSection), (CRITIC, CriticSection), (ALGORITHM, AlgorithmSection)]
)
def test_the_check_trains_with_the_defaults_of_the_configuration(keys: Mapping[str, Any], section: Any) -> None:
    chosen = {"lr", "lr_decay", "importance_cap"}
    defaults = section().model_dump()

    assert {name: value for name, value in keys.items() if name not in chosen} == {
        name: defaults[name] for name in keys if name not in chosen
    }

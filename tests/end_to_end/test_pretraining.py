"""`tppo pretrain-critic` on the quick start's policy: killed, continued, and its critic is what a run takes."""

import subprocess
from pathlib import Path

import pytest

from learner.models.loading.loading import load_value_model
from tests.support.processes import QUICKSTART, TPPO, end_now, output_of
from tests.support.quickstart_run import SMALL
from tests.support.waiting import wait_until
from tppo.config import load
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.metric_lines import read_metric_lines
from tppo.run_folder.paths import RunPaths


def command(folder: Path, *, max_steps: int) -> list[str]:
    settings = {**SMALL, "run.directory": str(folder), "model.critic_path": ""}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    steps = [f"--max-steps={max_steps}", "--settled-steps=100000"]
    return [*TPPO, "pretrain-critic", str(QUICKSTART), *steps, *options]


def started(arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.process
def test_a_value_model_is_trained_before_the_run_through_a_kill(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "quickstart-critic")
    checkpoints = CheckpointFolder(paths.checkpoints)
    first = started(command(tmp_path, max_steps=100_000))
    try:
        wait_until(lambda: checkpoints.newest_step() is not None, "the first checkpoint")
    finally:
        end_now(first)

    last_step = (checkpoints.newest_step() or 0) + 3
    again = started(command(tmp_path, max_steps=last_step))
    try:
        output = output_of(again)
    finally:
        end_now(again)

    assert again.returncode == 0, output
    steps = [line for line in read_metric_lines(paths.metrics) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, last_step + 1))
    assert not any("actor/pg_loss" in line for line in steps)  # the policy stays as it is
    assert f"after {last_step} steps: they are all that --max-steps allows" in output
    critic = paths.folder / "critic"
    assert load(QUICKSTART, [f"model.critic_path={critic}"]).model.critic_path == critic
    head = dict(load_value_model(str(critic)).network.named_parameters())["score.weight"]
    assert float(head.detach().abs().max()) > 0

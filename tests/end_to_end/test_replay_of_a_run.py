"""A run with an archived inbox is replayed bit for bit; and a run is rolled back to an older checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.processes import tppo
from tests.support.quickstart_run import Run
from tppo.run_folder.checkpoints import CheckpointFolder


def test_a_killed_and_rolled_back_run_is_replayed_bit_for_bit(start: Callable[..., Run]) -> None:
    settings = {"run.total_training_steps": "10", "checkpoint.keep": "10"}
    settings |= {"evaluation.test_freq": "0", "critic.warmup_steps": "1", "reward.log_responses": "true"}
    run = start(**settings)
    run.wait_for_step(3)
    run.kill("learner")
    run.end()

    same = tppo("replay", run.folder)
    assert same.returncode == 0, same.stdout + same.stderr
    assert "checkpoint 10: actor the same, bit for bit, critic the same, bit for bit" in same.stdout

    checkpoints = CheckpointFolder(run.folder / "checkpoints")
    before = {note["step"]: note["actor"] for note in checkpoints.committed()}
    version = checkpoints.kept_steps()[1]
    back = tppo("rollback", run.folder, "--to", str(version))
    assert back.returncode == 0, back.stdout + back.stderr
    run.resume()
    run.end()
    after = {note["step"]: note["actor"] for note in checkpoints.committed()}
    assert [line["step"] for line in run.lines("step")] == list(range(1, 11))
    assert before[version] == after[version]
    assert (run.folder / "rolled_back" / "3" / "global_step_10").is_dir()

    again = tppo("replay", run.folder, "--until", "8")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (run.folder / "replays" / "same" / "checkpoints" / "global_step_8").is_dir()

    variant = tppo("replay", run.folder, "--with", "actor.lr=1e-5", "--until", "4")
    assert "OFF-POLICY" in variant.stdout, variant.stdout + variant.stderr
    (marker,) = (run.folder / "replays").glob("variant*/replay.json")
    assert json.loads(marker.read_text())["is_off_policy"]

    rescored = tppo("rescore", run.folder, "--function", "length(limit=96, buffer=90)")
    assert rescored.returncode == 0, rescored.stderr
    (run.folder / "rescored.jsonl").write_text(rescored.stdout)
    other = tppo("replay", run.folder, "--with", f"scores={run.folder / 'rescored.jsonl'}", "--until", "4")
    assert "OFF-POLICY" in other.stdout, other.stdout + other.stderr
    metrics = max((run.folder / "replays").glob("variant scores*/**/metrics.jsonl"))
    rewards = [json.loads(line)["reward/mean"] for line in metrics.read_text().splitlines()]
    assert len(rewards) == 4
    assert all(reward is None or reward <= 0 for reward in rewards)


def test_a_rollback_to_a_missing_checkpoint_lists_those_that_are_kept(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "global_step_4").mkdir(parents=True)

    refused = tppo("rollback", tmp_path, "--to", "3")

    assert refused.returncode == 2
    assert "--to 3: no such checkpoint in" in refused.stderr
    assert "expected one of [4]" in refused.stderr

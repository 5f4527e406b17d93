"""A run whose small files are all damaged while it is stopped goes on from its newest checkpoint."""

from pathlib import Path

import pytest

from tests.support.damage import damage
from tests.support.quickstart_run import NEVER_ENDS, Run
from tppo.run_folder.checkpoints import CheckpointFolder

DAMAGED = (
    "identity.json",
    "summary.json",
    "metrics.jsonl",
    "journal.jsonl",
    "checkpoints/latest",
    "checkpoints/committed.jsonl",
    "dashboard.token",
    "generation.token",
    "reward.token",
    "lock",
    "redis/appendonlydir/appendonly.aof.manifest",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty", "garbage"])
def test_a_run_resumes_beside_its_damaged_files(tmp_path: Path, kind: str) -> None:
    run = Run(tmp_path, **NEVER_ENDS)
    try:
        run.wait_for_step(3)
        run.interrupt()
        stopped_at = CheckpointFolder(run.folder / "checkpoints").newest_step()
        assert stopped_at is not None
        for name in DAMAGED:
            damage(run.folder / name, kind)

        run.resume()
        run.wait_for_step(stopped_at + 3)
        output = run.interrupt()
    finally:
        run.close()

    assert "Traceback" not in output + run.logs()
    assert [line["step"] for line in run.lines("step")] == list(range(stopped_at + 1, run.num_steps_done + 1))
    assert run.summary()["steps"] == run.num_steps_done
    assert run.incarnation() == 2

"""`tppo audit` beside small files that a crash or a foreign program has damaged."""

from pathlib import Path

import pytest

from learner.commands.audit.evidence import collect
from learner.commands.audit.promises import findings
from tests.learner.commands.test_audit_promises import Run
from tests.support.damage import DAMAGES, damage
from tppo.config import ConfigError


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["ledger.json", "manifest.json"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path: Path, name: str, kind: str) -> None:
    folder = Run(tmp_path).written()
    damage(folder / "checkpoints" / "global_step_3" / name, kind)

    with pytest.raises(
        ConfigError, match=r"global_step_3.*; expected a whole checkpoint: a resume takes the one before"
    ):
        collect(folder)


def test_foreign_lines_of_metrics_and_journal_are_left_out(tmp_path: Path) -> None:
    folder = Run(tmp_path).written()
    lines = '{}\n[]\n{"kind": "step"}\n{"kind": "parked"}\n{"kind": "parked", "rollout": ["x"]}\nno JSON\n'
    for name in ("metrics.jsonl", "journal.jsonl"):
        with (folder / name).open("a") as file:
            file.write(lines)

    assert all(finding.is_kept for finding in findings(collect(folder)))

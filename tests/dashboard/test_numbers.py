"""Numbers that JSON can write and no calendar or float can hold: whatever a broken disk leaves, every view answers."""

import json
import re
from pathlib import Path

import pytest

from tests.dashboard.clients import client_of
from tests.dashboard.run_folders import complete_run
from tppo.run_folder.json_lines import finite_json

NUMBERS = ["1e400", "-1e400", "NaN", "Infinity", "1e308", "-1e308", "9" * 400, "9" * 18]
NUMBER = re.compile(r"(?<=: )-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?=[,}\]])")
VIEWS = [
    *["status", "runs", "configuration", "checkpoints", "events", "metrics", "rollouts", "windows", "ledger"],
    *["services", "logs/learner", "rollouts/0-0-0", "evaluations", "critic"],
    *["metrics/csv", "metrics/csv?kind=evaluation", "metrics/distributions", "metrics/distributions?evaluation=true"],
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", ["time", "every number"])
async def test_no_number_in_a_file_breaks_a_view(tmp_path: Path, number: str, field: str) -> None:
    run = complete_run(tmp_path / "quick")
    for name in ("metrics.jsonl", "journal.jsonl"):
        path = run.path / name
        pattern = re.compile(r'(?<="time": )[-\d.e+]+') if field == "time" else NUMBER
        changed, num_changed = pattern.subn(number, path.read_text())
        assert num_changed > 3
        path.write_text(changed)
    toml = number if re.fullmatch(r"-?\d+|-?\d+e\d+", number) else "inf"
    config = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(f"{config}\n[watched]\nwatchdog_seconds = {toml}\n")

    async with client_of(tmp_path) as client:
        answers = {view: (await client.get(f"/api/v1/{view}")).status_code for view in VIEWS}
        answers["/metrics"] = (await client.get("/metrics")).status_code

    assert {view: code for view, code in answers.items() if code >= 500} == {}
    assert answers["status"] == answers["runs"] == answers["configuration"] == 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1e400, "b": [-1e999, NaN, Infinity, -Infinity], "c": 1.5}', {"a": None, "b": [None] * 4, "c": 1.5}),
        ('{"a": ' + "9" * 400 + ', "b": 1234567890123456789}', {"a": None, "b": 1234567890123456789}),
        ('{"a": 0.12345678901234567890, "b": 1e-400}', {"a": 0.12345678901234568, "b": 0.0}),
    ],
)
def test_numbers_that_are_not_finite_are_null(text: str, expected: object) -> None:
    assert finite_json(text.encode()) == expected


def test_usual_numbers_are_parsed_as_json_has_them() -> None:
    text = '{"a": 1.5e-7, "b": 12, "c": -3e+20, "d": "NaN", "e": 1800000000.123}'

    assert finite_json(text.encode()) == json.loads(text)

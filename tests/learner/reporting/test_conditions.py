"""What a replay of a run gives again: bits, or rows and steps, with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.parallel.process_counts import ProcessCounts
from learner.reporting.conditions import Conditions, Level, conditions_in, first_step_of_other_rows
from learner.reporting.journal import JournalWriter
from tests.learner.builders import a_config
from tppo.models.denormals import flush_denormals
from tppo.run_folder.paths import RunPaths

ON_ONE = Conditions(
    1, "cpu", is_deterministic=True, torch="2.13.0", transformers="5.0", flushes_denormals=True
).as_json()


def test_on_a_cpu_a_learner_is_deterministic_by_default() -> None:
    found = Conditions.of(a_config(learner={"device": "cpu"}), ProcessCounts(2))

    assert (found.num_processes, found.device, found.is_deterministic) == (2, "cpu", True)
    assert (found.torch, found.flushes_denormals) == (torch.__version__, False)
    flush_denormals()
    assert Conditions.of(a_config(learner={"device": "cpu"}), ProcessCounts(2)).flushes_denormals
    without = a_config(learner={"device": "cpu", "deterministic": False})
    assert not Conditions.of(without, ProcessCounts(2)).is_deterministic


def test_incarnations_under_the_same_conditions_give_the_same_bits() -> None:
    assert str(Level.of([ON_ONE, ON_ONE])) == "the same bits (by 1 process on cpu, torch 2.13.0)"
    apart = Level.of([ON_ONE | {"num_value_processes": 2}] * 2)
    assert apart.reason == "by 1 process of the policy and 2 of the value model on cpu, torch 2.13.0"


def test_an_incarnation_of_a_release_without_processes_of_the_value_model_had_none() -> None:
    of_earlier_release = {name: value for name, value in ON_ONE.items() if name != "num_value_processes"}

    assert Level.of([of_earlier_release, ON_ONE]).is_same_bits


def test_a_journal_without_the_keys_of_a_division_is_of_an_undivided_learner() -> None:
    earlier = {name: value for name, value in ON_ONE.items() if name not in ("sequence_parallel_size", "fsdp_size")}

    assert Level.of([earlier, ON_ONE]).is_same_bits
    assert not Level.of([earlier, ON_ONE | {"fsdp_size": 2}]).is_same_bits


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"num_processes": 2}, "num_processes is 1 in one and 2 in another"),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size is 1 in one and 2 in another"),
        ({"fsdp_size": 2}, "fsdp_size is None in one and 2 in another"),
        ({"num_value_processes": 1}, "num_value_processes is 0 in one and 1 in another"),
        ({"device": "NVIDIA H200"}, "device is 'cpu' in one and 'NVIDIA H200' in another"),
        ({"torch": "2.14.0"}, "torch is '2.13.0' in one and '2.14.0' in another"),
        ({"flushes_denormals": False}, "flushes_denormals is True in one and False in another"),
        ({"is_deterministic": False}, "is_deterministic is True in one and False in another"),
    ],
)
def test_another_number_of_processes_device_or_version_gives_the_same_rows(other: dict[str, Any], reason: str) -> None:
    level = Level.of([ON_ONE, ON_ONE | other])

    assert not level.is_same_bits
    assert str(level) == f"the same rows, steps and ledger, with weights that are close ({reason})"


def test_without_determinism_or_conditions_no_bits_are_promised() -> None:
    assert Level.of([ON_ONE | {"is_deterministic": False}]).reason == "learner.deterministic is off"
    assert not Level.of([]).is_same_bits


def test_the_journal_has_the_conditions_of_each_incarnation(tmp_path: Path) -> None:
    journal = JournalWriter(RunPaths(tmp_path).journal)
    journal.event("start", step=0, text="of an earlier release", incarnation=1)
    journal.event("start", step=3, text="learner started", incarnation=2, conditions=ON_ONE)

    assert conditions_in(tmp_path) == [json.loads(json.dumps(ON_ONE))]


def test_a_replay_whose_step_has_other_rows_is_found(tmp_path: Path) -> None:
    run, replayed = tmp_path / "run", tmp_path / "replayed"
    for folder, second in ((run, "b"), (replayed, "c")):
        folder.mkdir()
        journal = JournalWriter(RunPaths(folder).journal)
        journal.trained(1, [("a", 0)])
        journal.trained(2, [(second, 0)])
    JournalWriter(RunPaths(run).journal).trained(3, [("d", 0)])

    assert first_step_of_other_rows(run, run) is None
    assert first_step_of_other_rows(run, replayed) == 2

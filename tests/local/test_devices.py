"""Which GPUs `tppo run` shows to each of its processes, and what it refuses about them."""

from pathlib import Path
from typing import Any

import pytest

from learner.preflight import check
from services.local import preflight
from services.local.launch import description
from services.local.processes import service_children
from tests.local.test_processes import TOKENS, plan
from tppo.config import Config, ConfigError
from tppo.models import device
from tppo.models.device import require_numbers

DEVICES = "CUDA_VISIBLE_DEVICES"
PLACED: dict[str, Any] = {
    "placement": {"policy": "0", "value_model": "1", "generation": "2-3"},
    "generation": {"replicas": 2},
}


def shown(folder: Path, **sections: Any) -> dict[str, str | None]:
    return {child.name: child.environment.get(DEVICES) for child in service_children(plan(folder, **sections), TOKENS)}


def test_each_process_sees_its_own_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICES, raising=False)

    found = shown(tmp_path, **PLACED)

    assert found == {"generation-0": "2", "generation-1": "3", "reward-0": None, "learner": "0,1", "dashboard": None}


def test_the_numbers_are_those_that_nvidia_smi_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    (learner,) = (child for child in service_children(plan(tmp_path, **PLACED), TOKENS) if child.name == "learner")

    assert learner.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_numbers_count_the_gpus_that_a_batch_system_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES, "6,GPU-5f2a,2,7")

    found = shown(tmp_path, **PLACED)

    assert (found["learner"], found["generation-0"], found["generation-1"]) == ("6,GPU-5f2a", "2", "7")


def test_a_number_beyond_those_that_are_shown_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES, "6,7")

    with pytest.raises(ConfigError) as caught:
        preflight.check_devices(plan(tmp_path, **PLACED).config)

    assert str(caught.value) == (
        "[placement] names GPU 2, and CUDA_VISIBLE_DEVICES = '6,7' shows 2; expected numbers below 2"
    )


def test_without_a_placement_the_environment_stays_as_it_is(tmp_path: Path) -> None:
    assert set(shown(tmp_path).values()) == {None}


def test_a_dry_run_prints_what_each_process_will_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICES, raising=False)

    lines = list(description(plan(tmp_path, **PLACED)))

    assert [line.partition(" /")[0] for line in lines if DEVICES in line] == [
        f"# generation-0: {DEVICES}=2",
        f"# generation-1: {DEVICES}=3",
        f"# learner: {DEVICES}=0,1",
    ]


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        ([], "finds 0 CUDA devices; expected no [placement], or --dry-run --gpus NxGIB, to check the run for another"),
        (["cuda:0"], "finds 1 CUDA device; expected numbers below 1, or --dry-run --gpus NxGIB, to check the run for"),
        (["mps"], "finds 0 CUDA devices; expected no [placement]"),
    ],
)
def test_gpus_that_are_not_there_are_refused(tmp_path: Path, there: list[str], sentence: str) -> None:
    placement = plan(tmp_path, placement={"policy": "0", "value_model": "1"}).config.placement

    with pytest.raises(ConfigError) as caught:
        require_numbers(placement, there)

    assert str(caught.value).startswith("placement.")
    assert sentence in str(caught.value)


def test_each_process_of_the_learner_has_a_gpu_unless_a_key_lets_them_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.learner.test_learner_preflight import ROW, config_with

    tables = config_with(tmp_path, ROW, functions={"sums": "exact"}).model_dump()
    apart = {**tables, "critic": {"num_processes": 1}, "generation": {"device": "cpu"}}
    monkeypatch.setattr(device, "accelerators", lambda: ["cuda:0"])

    with pytest.raises(ConfigError) as caught:
        check(Config.model_validate(apart))

    assert str(caught.value) == (
        "learner.num_processes = 1 and critic.num_processes = 1: 2 processes on this machine, which has 1 GPUs; "
        "expected at most 1, or [placement], by which both models may share them, or learner.device = 'cpu'"
    )
    for sharing in (
        {"critic": {"num_processes": 1, "device": "cpu"}},
        {"learner": {"device": "cuda:0"}},
        {"placement": {"policy": "0"}, "generation": {}},
    ):
        assert check(Config.model_validate(apart | sharing)).notes == []


def test_several_gpus_that_nothing_divides_are_worth_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.learner.test_learner_preflight import ROW, config_with

    config = config_with(tmp_path, ROW, functions={"sums": "exact"})
    monkeypatch.setattr(device, "accelerators", lambda: ["cuda:0", "cuda:1"])

    assert check(config).notes == ["2 GPUs are there, and all processes use the first one; [placement] divides them"]
    placed = Config.model_validate({**config.model_dump(), "placement": {"policy": "0", "generation": "1"}})
    assert check(placed).notes == []

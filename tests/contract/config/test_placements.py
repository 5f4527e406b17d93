"""`[placement]` decides the devices of all networks, and is refused where another key says otherwise."""

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from tppo.config import Config, ConfigError, load
from tppo.config.sections.devices import Gpus, device_numbers
from tppo.config.sections.placement import Placement

MINIMAL = '[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'


def a_config(folder: Path, *overrides: str) -> Config:
    path = folder / "run.toml"
    path.write_text(MINIMAL)
    return load(path, list(overrides))


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", (0,)), ("0,2", (0, 2)), ("0-3", (0, 1, 2, 3)), ("6-7,0", (6, 7, 0)), (None, ())]
)
def test_numbers_of_gpus_are_written_one_by_one_or_as_ranges(text: str | None, numbers: tuple[int, ...]) -> None:
    assert device_numbers(text) == numbers


def test_a_network_finds_its_gpu_among_those_that_its_process_is_shown(tmp_path: Path) -> None:
    config = a_config(tmp_path, "placement.policy=4", "placement.value_model=2", "placement.generation=7")

    assert config.placement.learner_numbers == (4, 2)
    assert config.policy_placement == Placement("float32", "cuda", "placement.policy")
    assert config.value_model_placement == Placement("float32", "cuda:1", "placement.value_model")
    assert config.generator_placement == Placement("float32", "cuda", "placement.generation")


def test_a_value_model_with_processes_of_its_own_has_a_gpu_for_each(tmp_path: Path) -> None:
    overrides = ["placement.policy=4", "placement.value_model=2-3", "critic.num_processes=2"]
    config = a_config(tmp_path, *overrides)

    assert config.placement.learner_numbers == (4, 2, 3)
    assert config.value_model_placement.device == "cuda"


def test_what_is_not_placed_is_where_the_policy_is(tmp_path: Path) -> None:
    config = a_config(tmp_path, "placement.policy=4")

    assert config.placement.learner_numbers == config.placement.generation_numbers == (4,)
    assert config.value_model_placement.device == "cuda"


@pytest.mark.parametrize(
    ("generation", "num_replicas", "shares"),
    [("0-3", 4, ["0", "1", "2", "3"]), ("0-3", 2, ["0,1", "2,3"]), ("5", 2, ["5", "5"]), ("4,5", 4, [*"4455"])],
)
def test_the_gpus_of_the_generators_are_divided_evenly(
    tmp_path: Path, generation: str, num_replicas: int, shares: list[str]
) -> None:
    vllm = ["generation.engine=vllm", "generation.vllm.tensor_parallel_size=2"] if shares[0] == "0,1" else []
    overrides = [f"placement.generation={generation}", f"generation.replicas={num_replicas}", *vllm]
    placement = a_config(tmp_path, "placement.policy=0", *overrides).placement

    found = [placement.of_generator(replica, num_replicas=num_replicas) for replica in range(num_replicas)]

    assert found == [device_numbers(share) for share in shares]


@pytest.mark.parametrize(
    ("overrides", "sleep"),
    [
        (["run.mode=lockstep", "placement.policy=0"], "kv_cache"),
        (["run.mode=lockstep", "placement.policy=0", "placement.generation=1"], "off"),
        (["run.mode=lockstep", "placement.policy=0", "placement.value_model=1", "placement.generation=1"], "kv_cache"),
        (["run.mode=lockstep", "placement.policy=0", "placement.sleep=off"], "off"),
        (["run.mode=lockstep", "placement.sleep=weights"], "weights"),  # of devices that keys name
        (["run.mode=lockstep"], "off"),
        (["run.mode=streaming", "placement.policy=0"], "off"),
    ],
)
def test_engines_sleep_by_themselves_where_they_share_a_gpu_in_lockstep(
    tmp_path: Path, overrides: list[str], sleep: str
) -> None:
    assert a_config(tmp_path, *overrides).engine_sleep == sleep


CONTRADICTIONS = [
    (
        ["placement.generation=1"],
        "placement.generation = '1' without placement.policy; expected the numbers of the policy's GPUs, too",
    ),
    (
        ["placement.policy=0", "learner.device=cuda:1"],
        "learner.device = 'cuda:1' with placement.policy = '0', which decides the devices of all networks; expected no "
        "such key, or no [placement]",
    ),
    (
        ["placement.policy=0", "critic.device=cpu"],
        "critic.device = 'cpu' with placement.policy = '0', which decides the devices of all networks; expected no "
        "such key, or no [placement]",
    ),
    (
        ["placement.policy=0", "generation.device=cuda:1"],
        "generation.device = 'cuda:1' with placement.policy = '0', which decides the devices of all networks; expected "
        "no such key, or no [placement]",
    ),
    (
        ["placement.policy=0", "placement.value_model=1-2"],
        "placement.value_model = '1-2' with placement.policy = '0'; expected the same GPU, or another one",
    ),
    (
        ["placement.policy=0-1"],
        "placement.policy = '0-1' names 2 GPUs with learner.num_processes = 1; expected one for each process",
    ),
    (
        ["placement.policy=0-1", "learner.num_processes=2", "placement.value_model=2-3"],
        "placement.value_model = '2-3' with placement.policy = '0-1'; expected the same GPUs, or no such key",
    ),
    (
        ["placement.policy=0-1", "learner.num_processes=2", "placement.value_model=2-3", "critic.num_processes=1"],
        "placement.value_model = '2-3' names 2 GPUs with critic.num_processes = 1; expected one for each of the value "
        "model's processes",
    ),
    (
        ["placement.policy=0", "critic.num_processes=2"],
        "placement.policy = '0' names 1 GPUs with critic.num_processes = 2; expected one for each of the value "
        "model's processes",
    ),
    (
        ["placement.policy=0", "placement.generation=1-4"],
        "placement.generation = '1-4' names 4 GPUs with generation.replicas = 1, which use 1; expected so many",
    ),
    (
        ["placement.policy=0", "placement.generation=1-2", "generation.replicas=3"],
        "placement.generation = '1-2' with generation.replicas = 3: they cannot share 2 GPUs evenly; expected a "
        "divisor or a multiple of their number",
    ),
    (
        [
            *("placement.policy=0", "placement.generation=1-2", "generation.replicas=2"),
            *("generation.engine=vllm", "generation.vllm.tensor_parallel_size=2"),
        ],
        "placement.generation = '1-2' names 2 GPUs with generation.replicas = 2, of 2 GPUs each (generation.vllm), "
        "which use 4; expected so many",
    ),
    (
        ["placement.sleep=kv_cache"],
        "placement.sleep = 'kv_cache' with run.mode = 'streaming', in which generators work while the learner trains; "
        "expected 'auto' or 'off', or run.mode = 'lockstep'",
    ),
    (
        ["placement.policy=0", "placement.value_model=1", "learner.offload_idle_model=true"],
        "learner.offload_idle_model = true with placement.value_model = '1' and placement.policy = '0': each model has "
        "its own device; expected the same device, or false",
    ),
]


@pytest.mark.parametrize(("overrides", "sentence"), CONTRADICTIONS)
def test_a_placement_that_contradicts_another_key_is_refused(
    tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        a_config(tmp_path, *overrides)

    assert str(caught.value).partition(": ")[2] == sentence


def test_auto_and_cuda_say_nothing_against_a_placement(tmp_path: Path) -> None:
    overrides = ["learner.device=cuda", "generation.device=auto"]

    assert a_config(tmp_path, "placement.policy=3", *overrides).policy_placement.device == "cuda"


@pytest.mark.parametrize("text", ["", "8", "x80", "0x80", "8x0", "8x-1", "axb", "8x80x2"])
def test_a_description_of_gpus_has_their_number_and_size(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected their number and the GiB of each, such as 8x80"):
        Gpus.of(text)
    assert str(Gpus.of("8x79.5")) == "8x79.5"

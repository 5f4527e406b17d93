"""What of the configuration reaches vLLM, as far as it can be said without vLLM."""

import asyncio
import os
from pathlib import Path

import pytest

from services.generation.requests import add_span
from services.generation.vllm_engine.engine_arguments import kv_cache_bytes, passed_through, prepare_environment
from services.generation.vllm_engine.slots import GivenUpError, Slots
from services.generation.vllm_engine.window_row import WeightLabel, stream_seed
from tests.support.processes import QUICKSTART
from tppo.config import ConfigError, load
from tppo.config.sections.generation import GenerationSection
from tppo.rollout import VersionSpan

KNOWN = dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size", "enforce_eager", "quantization", "seed"))


def test_engine_arguments_pass_as_they_are() -> None:
    table = {"tensor_parallel_size": 2, "quantization": "fp8"}

    assert passed_through(table, KNOWN) == table


def test_an_unknown_engine_argument_is_refused_with_those_that_are_close() -> None:
    with pytest.raises(
        ConfigError,
        match=r"generation\.vllm\.tensor_paralel_size = 2: vLLM has no such engine argument; "
        r"expected one of tensor_parallel_size",
    ):
        passed_through({"tensor_paralel_size": 2}, KNOWN)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max_num_seqs", "expected generation.num_slots instead"),
        ("dtype", "expected generation.compute_dtype instead"),
        ("model", "expected model.path instead"),
        ("override_generation_config", "expected generation.temperature instead"),
        ("logits_processors", "expected no such key, as training needs it"),
        ("logprobs_mode", "expected no such key, as training needs it"),
        ("seed", "expected no such key, as training needs it"),
    ],
)
def test_what_the_run_decides_cannot_be_passed_through(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"generation.vllm.{name} = 1: the generator sets {name} itself; {expected}"):
        passed_through({name: 1}, KNOWN)


def test_keys_of_vllm_beside_another_engine_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"generation\.vllm\.enforce_eager = True with generation\.engine = 'transf"):
        load(QUICKSTART, ["generation.vllm.enforce_eager=true"])
    with pytest.raises(ConfigError, match=r"generation\.seeds = false with generation\.engine = 'transformers'"):
        load(QUICKSTART, ["generation.seeds=false"])


def test_the_interpreter_of_the_generators_is_relative_to_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[model]\npath = "m"\n[data]\ntrain_files = ["t"]\n[generation]\npython = "env/bin/python"\n')

    assert load(file).generation.python == tmp_path / "env/bin/python"


def test_the_users_environment_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "TORCH_COMPILE_DISABLE", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")

    prepare_environment(GenerationSection(vllm={"enforce_eager": False}), is_cpu=True)

    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert "TORCH_COMPILE_DISABLE" not in os.environ


def test_on_a_cpu_the_kv_cache_has_room_for_every_slot_at_its_full_length() -> None:
    """2 layers, key and value, 1 head of 32 floats: 512 bytes a token; 512 slots of 2064 tokens."""
    config = load(QUICKSTART, ["generation.engine=vllm", "generation.num_slots=512"])

    assert kv_cache_bytes(config) == 512 * 512 * (16 + 2048)
    assert kv_cache_bytes(load(QUICKSTART, ["generation.engine=vllm"])) == 64 << 20


def test_each_place_in_a_rollout_has_a_seed_of_its_own() -> None:
    seeds = {stream_seed(seed, num_before) for seed in range(50) for num_before in range(200)}

    assert len(seeds) == 50 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_version_spans_of_one_version_are_one() -> None:
    spans = [VersionSpan(3, 4)]

    add_span(spans, 3, 2)
    add_span(spans, 4, 1)
    add_span(spans, 4, 0)

    assert spans == [VersionSpan(3, 6), VersionSpan(4, 1)]
    assert WeightLabel.of(WeightLabel(7, 12).text()) == WeightLabel(7, 12)


async def test_places_are_given_in_the_order_of_waiting_and_none_while_closed() -> None:
    slots = Slots(1)
    order: list[str] = []

    async def window(name: str) -> None:
        async with slots.place(name):
            order.append(name)

    tasks = [asyncio.create_task(window(name)) for name in ("first", "second", "third", "fourth")]
    await asyncio.sleep(0)
    assert (order, slots.num_waiting) == ([], 4)  # there are no weights yet
    slots.give_up("third")
    slots.open()
    await asyncio.wait(tasks)

    assert order == ["first", "second", "fourth"]
    assert isinstance(tasks[2].exception(), GivenUpError)


async def test_an_update_between_windows_waits_for_every_place_and_then_the_next_window_begins() -> None:
    slots = Slots(2)
    slots.open()
    may_end, order = asyncio.Event(), list[str]()

    async def window(name: str) -> None:
        async with slots.place(name):
            order.append(f"{name} begins")
            await may_end.wait()
            order.append(f"{name} ends")

    async def update() -> None:
        async with slots.closed(when_all_are_free=True):
            order.append("update")

    running = asyncio.create_task(window("a"))
    await asyncio.sleep(0)
    updating = asyncio.create_task(update())
    await asyncio.sleep(0)
    late = asyncio.create_task(window("b"))
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(running, updating, late)

    assert order == ["a begins", "a ends", "update", "b begins", "b ends"]


async def test_a_cancelled_wait_leaves_the_place_to_the_next_window() -> None:
    slots = Slots(1)
    slots.open()
    holding = asyncio.Event()

    async def window(name: str) -> None:
        async with slots.place(name):
            await holding.wait()

    first = asyncio.create_task(window("first"))
    await asyncio.sleep(0)
    second, third = (asyncio.create_task(window(name)) for name in ("second", "third"))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    holding.set()

    await asyncio.wait([first, second, third])
    assert third.exception() is None

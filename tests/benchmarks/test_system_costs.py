"""Services' cost and peers: messages in the pipe, and the tables."""

import asyncio
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from benchmarks.studies.timed_runs import QUICKSTART
from benchmarks.system import peers, services_cost
from benchmarks.system.services_cost import HEAD, NUM_WARM_UP, SYSTEMS, WEIGHTS, WINDOW, messages
from benchmarks.system.trl_grpo import ROWS, UPDATES, settings
from tppo.config import load
from tppo.models.tokenizer import load_tokenizer


async def test_messages_of_a_pipe_end_with_it_in_mid_message() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(HEAD.pack(WINDOW, 3) + b"abc" + HEAD.pack(WEIGHTS, 1) + b"7" + HEAD.pack(WINDOW, 9) + b"torn")
    reader.feed_eof()

    assert [message async for message in messages(reader)] == [(WINDOW, b"abc"), (WEIGHTS, b"7")]


def a_turn(*, seconds: tuple[float, float, float]) -> dict[str, dict[str, object]]:
    cpu = {"learner": 3.0, "generation": 2.0}
    return {
        name: {"tokens": 100, "seconds": taken, "training": taken / 2, "cpu": cpu}
        for name, taken in zip(SYSTEMS, seconds, strict=True)
    }


def test_the_rate_of_the_services_is_held_against_the_bare_loop_of_the_same_turn() -> None:
    turns = [a_turn(seconds=(1.0, 1.25, 1.0)), a_turn(seconds=(2.0, 2.5, 2.0)), a_turn(seconds=(1.0, 4.0, 1.0))]

    scales = [{"parameters": "106,000", "steps": 10 + NUM_WARM_UP, "turns": turns}]
    table = services_cost.tables({"scales": scales})["services-cost"]

    row = "| 106,000 | services | 40 | 0.80 | 0.25 to 0.80 | 0.50 | 500 |"
    assert row in table  # medians; 5 CPU seconds in 10 steps
    assert "| parameters | CPU ms a step | generation | learner |" in table


@pytest.mark.parametrize("scale", services_cost.SCALES[1:], ids=lambda scale: scale.parameters)
def test_larger_models_have_the_quick_starts_form(scale: services_cost.Scale, tmp_path: Path) -> None:
    assert scale.hidden_size
    assert scale.num_layers

    config = load(QUICKSTART, services_cost.random_models(scale.hidden_size, scale.num_layers, tmp_path))
    policy = AutoModelForCausalLM.from_pretrained(config.model.path)

    num_thousands = round(sum(one.numel() for one in policy.parameters()) / 1000)
    assert f"{num_thousands:,},000" == scale.parameters
    assert load_tokenizer(config.model.path).vocab_size == load_tokenizer(load(QUICKSTART).model.path).vocab_size


def test_ours_is_held_against_the_faster_peer() -> None:
    ways = {name: {"tokens": 100.0, "seconds": 50.0, "cpu_seconds": 50.0} for name in ("TRL, 1", "TRL, 2", *peers.OURS)}
    ways["TRL, 2"]["seconds"] = 25.0
    ways["T-PPO, streaming"]["seconds"] = 5.0

    table = peers.tables({"steps": 11, "ways": ways})["peers"]

    assert "| T-PPO, streaming | 20 | 5.00 | 2 | 10 |" in table
    assert "| TRL, 1 | 2 | 0.50 | 2 | 10 |" in table


def test_a_peers_step_has_the_rows_and_updates_of_ours() -> None:
    found = settings(steps=30, folder="x")

    assert found["per_device_train_batch_size"] * found["steps_per_generation"] == ROWS
    assert found["max_steps"] == 30 * UPDATES


def test_what_can_be_left_out_of_the_services_is_off() -> None:
    config = load(QUICKSTART, services_cost.LEAN)

    switches = (config.trace.enabled, config.run.archive_inbox, config.endpoint.enabled, config.prometheus.enabled)
    assert not any(switches)

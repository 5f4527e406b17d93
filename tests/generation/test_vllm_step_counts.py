"""What is counted of vLLM's steps, without vLLM."""

from types import SimpleNamespace

import pytest

from services.generation.vllm_engine.step_counts import StepCounts
from services.generation.vllm_engine.window_row import WindowRow
from tests.generation.tiny_models import a_request


def recorded(counts: StepCounts, use: float, *, num_tokens: int = 0, engine: int = 0) -> None:
    steps = SimpleNamespace(num_generation_tokens=num_tokens)
    counts.record(SimpleNamespace(kv_cache_usage=use), steps, engine_idx=engine)


def test_the_use_of_the_kv_cache_is_the_mean_of_the_engines_and_not_known_before_a_step() -> None:
    counts = StepCounts()
    assert counts.statistics(num_slots=4, num_waiting=0).kv_cache_use is None
    recorded(counts, 0.9)
    recorded(counts, 0.5)
    recorded(counts, 0.1, engine=1)

    assert counts.statistics(num_slots=4, num_waiting=0).kv_cache_use == pytest.approx(0.3)


def test_steps_of_evaluations_alone_are_no_decode_steps() -> None:
    counts = StepCounts()
    with counts.running(WindowRow(a_request("e", is_evaluation=True))):
        recorded(counts, 0.1, num_tokens=3)
        with counts.running(WindowRow(a_request("t"))):
            recorded(counts, 0.1, num_tokens=2)
            running = counts.statistics(num_slots=4, num_waiting=1)
    counts.sampled(5)
    counts.prefilled(7, num_shared=4)

    statistics = counts.statistics(num_slots=4, num_waiting=0)
    assert (running.num_active, running.num_waiting) == (2, 1)
    assert (statistics.num_decode_steps, statistics.num_active_slot_steps) == (1, 2)
    assert (statistics.num_tokens_generated, statistics.num_prefill_tokens) == (5, 7)
    assert (statistics.num_shared_prefill_tokens, statistics.num_active) == (4, 0)

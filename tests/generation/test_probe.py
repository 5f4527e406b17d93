"""Forced tokens through the engine's decode path, beside the windows that run."""

import asyncio

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from services.generation.update_policy import UpdatePolicy
from tests.generation.tiny_models import (
    CAPACITY,
    FAST,
    GENERAL,
    TOLERANCE,
    VOCABULARY,
    Paused,
    a_decoder,
    a_model,
    a_request,
    an_engine,
    an_update,
    expected_logprobs,
    logprobs_after,
)
from tppo.rollout import tokens
from tppo.weight_probe import ProbeRow

TEMPERATURE = 0.7
TIED_QWEN2 = FAST["qwen2, tied"]
ALL = {**FAST, **GENERAL}

each_family = pytest.mark.parametrize("config", ALL.values(), ids=ALL.keys())


def rows() -> list[ProbeRow]:
    """Five, one more than run at once: short, long, and one of a single token behind a single one."""
    generator = torch.Generator().manual_seed(3)
    lengths = {2: 1, 6: 4, 19: 12, 60: 12, 9: 2}
    return [
        ProbeRow.of(torch.randint(VOCABULARY, (length,), generator=generator).tolist(), num_compared=num_compared)
        for length, num_compared in lengths.items()
    ]


def expected(model: PreTrainedModel, row: ProbeRow, temperature: float = TEMPERATURE) -> torch.Tensor:
    distributions = logprobs_after(model, list(row.tokens), temperature)[row.start - 1 : -1]
    return distributions.gather(-1, torch.tensor(row.response_tokens)[:, None])[:, 0]


def assert_answers(model: PreTrainedModel, found: "tuple[object, ...]", temperature: float = TEMPERATURE) -> None:
    for row, logprobs in zip(rows(), found, strict=True):
        torch.testing.assert_close(
            torch.tensor(logprobs).double(), expected(model, row, temperature), atol=TOLERANCE, rtol=0
        )


@each_family
async def test_forced_tokens_are_decoded_beside_windows_that_fill_every_slot(config: PreTrainedConfig) -> None:
    model = a_model(config)
    decoder = Paused(a_decoder(config, num_slots=2))
    requests = [a_request(name, max_new_tokens=40, seed=seed) for seed, name in enumerate("abc")]

    async with an_engine(config, model, num_slots=2, decoder=decoder) as engine:
        windows = [asyncio.create_task(engine.generate(request)) for request in requests]
        await decoder.paused()
        probing = asyncio.create_task(engine.probe(rows(), temperature=TEMPERATURE))
        await asyncio.sleep(0)  # it is in the queue now
        assert engine.statistics().num_active == 2
        decoder.may_go_on.set()
        answer = await probing
        assert not windows[2].done()
        found = await asyncio.gather(*windows)

    assert answer.policy_version == 0
    assert_answers(model, answer.logprobs)
    for request, window in zip(requests, found, strict=True):
        torch.testing.assert_close(
            torch.tensor(window.logprobs).double(), expected_logprobs(model, request, window), atol=TOLERANCE, rtol=0
        )


async def test_windows_draw_the_same_tokens_with_a_probe_beside_them_and_its_tokens_are_not_counted() -> None:
    model = a_model(TIED_QWEN2)
    requests = [a_request(name, max_new_tokens=60, seed=seed) for seed, name in enumerate("abcd")]

    async def drawn(*, probes: bool) -> tuple[list[list[int]], int, int]:
        async with an_engine(TIED_QWEN2, model) as engine:
            probing = [asyncio.create_task(engine.probe(rows())) for _ in range(3 * probes)]
            windows = await asyncio.gather(*(engine.generate(request) for request in requests))
            await asyncio.gather(*probing)
            statistics = engine.statistics()
            is_occupied = statistics.num_active_slot_steps <= 4 * statistics.num_decode_steps
            return [window.tokens.tolist() for window in windows], statistics.num_tokens_generated, is_occupied

    assert await drawn(probes=True) == await drawn(probes=False)
    assert (await drawn(probes=True))[1:] == (240, True)


async def test_a_probe_answers_by_the_newest_weights() -> None:
    old, new = a_model(TIED_QWEN2), a_model(TIED_QWEN2, seed=1)

    async with an_engine(TIED_QWEN2, old, policy=UpdatePolicy(in_flight=False)) as engine:
        before = await engine.probe(rows(), temperature=TEMPERATURE)
        await engine.update_weights(an_update(new, 7))
        after = await engine.probe(rows(), temperature=TEMPERATURE)

    assert (before.policy_version, after.policy_version) == (0, 7)
    assert_answers(old, before.logprobs)
    assert_answers(new, after.logprobs)


@pytest.mark.parametrize("recompute_cache", [True, False], ids=["recomputed", "kept"])
async def test_a_row_waits_for_the_next_update_and_crosses_it_after_its_first_token(recompute_cache: bool) -> None:
    """All that begin with the update are of the new weights alone."""
    old, new = a_model(TIED_QWEN2), a_model(TIED_QWEN2, seed=1)
    row = rows()[2]

    async with an_engine(TIED_QWEN2, old, policy=UpdatePolicy(recompute_cache=recompute_cache)) as engine:
        crossing = asyncio.create_task(engine.probe_across_update(rows(), 2, temperature=TEMPERATURE))
        await engine.probe(rows())
        assert not crossing.done()
        await engine.update_weights(an_update(new, 4))
        crossed = await crossing

    assert (crossed.row, crossed.num_earlier, crossed.policy_version) == (row, 1, 4)
    assert crossed.answer is not None
    assert (crossed.answer.policy_version, crossed.answer.num_earlier) == (4, (0,) * len(rows()))
    assert_answers(new, crossed.answer.logprobs)
    by_old, by_new = expected(old, row), expected(new, row)
    torch.testing.assert_close(torch.tensor(crossed.afterwards).double(), by_new, atol=TOLERANCE, rtol=0)
    found = torch.tensor(crossed.logprobs).double()
    if recompute_cache:
        torch.testing.assert_close(found, torch.cat([by_old[:1], by_new[1:]]), atol=TOLERANCE, rtol=0)
    else:
        assert (found[1:] - by_new[1:]).abs().max() > 0.1


async def test_a_row_that_waits_for_an_update_is_dropped_when_it_is_cancelled() -> None:
    model = a_model(TIED_QWEN2)

    async with an_engine(TIED_QWEN2, model) as engine:
        crossing = asyncio.create_task(engine.probe_across_update(rows(), 2))
        await asyncio.sleep(0)
        crossing.cancel()
        await asyncio.wait([crossing])
        await engine.update_weights(an_update(model, 1))
        answer = await engine.probe(rows(), temperature=TEMPERATURE)

    assert answer.policy_version == 1
    assert_answers(model, answer.logprobs)


async def test_a_temperature_of_0_counts_as_1() -> None:
    model = a_model(TIED_QWEN2)

    async with an_engine(TIED_QWEN2, model) as engine:
        answer = await engine.probe(rows(), temperature=0.0)

    assert_answers(model, answer.logprobs, temperature=1.0)


async def test_numbers_that_are_not_finite_are_answered_and_leave_no_trace() -> None:
    model, broken = a_model(TIED_QWEN2), a_model(TIED_QWEN2)
    with torch.no_grad():
        broken.get_parameter("model.norm.weight").fill_(3e38)

    async with an_engine(TIED_QWEN2, model) as engine:
        await engine.update_weights(an_update(broken, 1))
        answer = await engine.probe(rows())
        await engine.update_weights(an_update(model, 2))
        after = await engine.probe(rows(), temperature=TEMPERATURE)

    assert not all(torch.tensor(found).isfinite().all() for found in answer.logprobs)
    assert_answers(model, after.logprobs)


async def test_a_cancelled_probe_makes_room_for_the_next_one() -> None:
    model = a_model(TIED_QWEN2)
    decoder = Paused(a_decoder(TIED_QWEN2))

    async with an_engine(TIED_QWEN2, model, decoder=decoder) as engine:
        window = asyncio.create_task(engine.generate(a_request(max_new_tokens=40)))
        await decoder.paused()
        cancelled = asyncio.create_task(engine.probe(rows()))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        decoder.may_go_on.set()
        answer = await engine.probe(rows(), temperature=TEMPERATURE)
        await window

    assert cancelled.cancelled()
    assert_answers(model, answer.logprobs)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (ProbeRow((1, 2), ()), "no response tokens"),
        (ProbeRow((), (1,)), "at least one prompt token"),
        (ProbeRow((1,), (VOCABULARY,)), "expected them in 0..39"),
        (ProbeRow(tuple([1] * CAPACITY), (1,)), "exceed the limit of 200"),
    ],
    ids=["no response", "no prompt", "an unknown token", "too long"],
)
async def test_rows_that_do_not_fit_are_refused(row: ProbeRow, complaint: str) -> None:
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2)) as engine:
        with pytest.raises(ValueError, match=complaint):
            await engine.probe([row])
        assert len((await engine.generate(a_request(prompt_tokens=tokens([1])))).tokens) == 8

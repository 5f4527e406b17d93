"""The engine against transformers' own forward pass: several windows, more rows than slots, mixed lengths."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from services.generation.transformers_engine.decoders.llama import is_supported
from services.generation.transformers_engine.decoders.llama_weights import Linear, PackedLinear, can_pack, packed
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
    expected_logprobs,
    greedy_continuation,
    logprobs_after,
    mixed_requests,
    windows_of,
)
from tppo.rollout import FinishReason, tokens

ALL = {**FAST, **GENERAL}

each_family = pytest.mark.parametrize("config", ALL.values(), ids=ALL.keys())
TIED_QWEN2 = FAST["qwen2, tied"]


def test_llama_qwen2_and_qwen3_take_the_fast_path_and_the_others_do_not() -> None:
    assert [name for name, config in ALL.items() if is_supported(config)] == list(FAST)


@each_family
async def test_logprobs_agree_with_a_forward_pass_over_the_whole_row(config: PreTrainedConfig) -> None:
    model = a_model(config)
    requests = mixed_requests(14)

    async with an_engine(config, model) as engine:
        windows = await windows_of(engine, requests)

    for request, window in zip(requests, windows, strict=True):
        assert len(window.tokens) == request.max_new_tokens
        torch.testing.assert_close(
            torch.tensor(window.logprobs).double(), expected_logprobs(model, request, window), atol=TOLERANCE, rtol=0
        )


@pytest.mark.skipif(not can_pack(), reason="this PyTorch was built without oneDNN's products of packed weights")
@pytest.mark.parametrize("config", FAST.values(), ids=FAST.keys())
async def test_weights_in_the_layout_of_large_ones_give_the_same_tokens(
    config: PreTrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, requests = a_model(config), mixed_requests(14)
    async with an_engine(config, model) as engine:
        plain = await windows_of(engine, requests)

    monkeypatch.setattr("services.generation.transformers_engine.decoders.llama_weights.MIN_PACKED", 0)
    linear = packed(Linear(torch.ones(3, 2), torch.ones(3)))
    async with an_engine(config, model) as engine:
        found = await windows_of(engine, requests)

    assert type(linear) is PackedLinear
    assert [window.tokens for window in found] == [window.tokens for window in plain]
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=TOLERANCE, rtol=0)


@each_family
async def test_greedy_tokens_are_the_most_likely_ones(config: PreTrainedConfig) -> None:
    model = a_model(config)
    prompts = [[1], [2, 3, 4, 5], list(range(30))]

    async with an_engine(config, model, num_slots=2) as engine:
        windows = await windows_of(
            engine, [a_request(str(prompt), prompt_tokens=tokens(prompt), temperature=0.0) for prompt in prompts]
        )

    assert [list(window.tokens) for window in windows] == [greedy_continuation(model, prompt, 8) for prompt in prompts]


@each_family
async def test_a_row_draws_the_same_tokens_alone_and_in_a_batch(config: PreTrainedConfig) -> None:
    requests = mixed_requests(9)

    async with an_engine(config, a_model(config), num_slots=5) as engine:
        together = await windows_of(engine, requests)
        alone = [await engine.generate(request) for request in requests]

    assert [window.tokens for window in together] == [window.tokens for window in alone]


async def test_windows_continue_each_other_as_one_long_window_would() -> None:
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2)) as engine:
        whole = await engine.generate(a_request(max_new_tokens=60))
        response = tokens()
        for index in range(3):
            part = a_request(window_index=index, response_tokens=response, max_new_tokens=20)
            response = response + (await engine.generate(part)).tokens

    assert response == whole.tokens


async def test_tokens_follow_the_distribution() -> None:
    """2000 draws of one token; the deviations are those of chance (5 standard errors)."""
    model = a_model(TIED_QWEN2)
    request = a_request(max_new_tokens=1)
    num_draws = 2000

    async with an_engine(TIED_QWEN2, model, num_slots=64) as engine:
        windows = await windows_of(engine, [a_request(max_new_tokens=1, seed=seed) for seed in range(num_draws)])

    counts = torch.bincount(torch.tensor([window.tokens[0] for window in windows]), minlength=VOCABULARY)
    probabilities = logprobs_after(model, [*request.prompt_tokens])[-1].exp()
    deviation = (counts / num_draws - probabilities).abs()
    assert (deviation <= 5 * (probabilities / num_draws).sqrt() + 1e-3).all()


async def test_a_window_ends_with_its_stop_token() -> None:
    model = a_model(TIED_QWEN2)
    fifth = greedy_continuation(model, [1, 2, 3], 5)
    stop = fifth[-1]
    first_at = fifth.index(stop)

    async with an_engine(TIED_QWEN2, model) as engine:
        window = await engine.generate(a_request(temperature=0.0, stop_token_ids=(stop,)))

    assert list(window.tokens) == fifth[: first_at + 1]
    assert window.finish_reason is FinishReason.STOP


async def test_a_stop_token_as_last_allowed_token_counts_as_stop() -> None:
    model = a_model(TIED_QWEN2)
    (first,) = greedy_continuation(model, [1, 2, 3], 1)

    async with an_engine(TIED_QWEN2, model) as engine:
        window = await engine.generate(a_request(temperature=0.0, max_new_tokens=1, stop_token_ids=(first,)))

    assert window.finish_reason is FinishReason.STOP


async def test_a_window_of_no_tokens_is_empty() -> None:
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2)) as engine:
        window = await engine.generate(a_request(max_new_tokens=0))

    assert (len(window.tokens), window.version_spans, window.finish_reason) == (0, (), FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": CAPACITY - 2}, f"exceed the limit of {CAPACITY}"),
        ({"prompt_tokens": tokens()}, "at least one prompt token"),
        ({"temperature": -1.0}, "finite numbers of at least 0"),
        ({"temperature": float("nan")}, "finite numbers of at least 0"),
        ({"temperature": float("inf")}, "finite numbers of at least 0"),
        ({"prompt_tokens": tokens([1, VOCABULARY])}, f"token ids 1..{VOCABULARY}"),
        ({"response_tokens": tokens([-1])}, "token ids -1..3"),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused(changes: dict[str, Any], message: str) -> None:
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2)) as engine:
        with pytest.raises(ValueError, match=message):
            await engine.generate(a_request(**changes))


async def test_a_row_may_fill_the_capacity() -> None:
    model = a_model(TIED_QWEN2)
    request = a_request(max_new_tokens=CAPACITY - 3)

    async with an_engine(TIED_QWEN2, model, num_slots=1) as engine:
        window = await engine.generate(request)

    torch.testing.assert_close(
        torch.tensor(window.logprobs).double(), expected_logprobs(model, request, window), atol=TOLERANCE, rtol=0
    )


async def test_tokens_are_handed_over_as_they_come_and_all_of_them_before_the_window() -> None:
    came: list[tuple[int, float]] = []

    def note(new_tokens: Sequence[int], new_logprobs: Sequence[float]) -> None:
        came.extend(zip(new_tokens, new_logprobs, strict=True))

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2)) as engine:
        window = await engine.generate(a_request(max_new_tokens=20), note)
        so_far = list(came)
        unheard = await engine.generate(a_request(max_new_tokens=20))

    assert [token for token, _ in so_far] == list(window.tokens)
    assert [logprob for _, logprob in so_far] == pytest.approx(list(window.logprobs))
    assert unheard.tokens == window.tokens


async def test_tokens_that_were_handed_over_before_a_cancellation_can_be_continued() -> None:
    came: list[int] = []
    config = TIED_QWEN2
    decoder = Paused(a_decoder(config))

    async with an_engine(config, a_model(config), decoder=decoder) as engine:
        whole = await engine.generate(a_request(max_new_tokens=4))
        running = asyncio.create_task(engine.generate(a_request(max_new_tokens=40), lambda new, _: came.extend(new)))
        await decoder.paused()
        running.cancel()
        await asyncio.wait([running])
        before = tokens(came)  # that of the step which is under way comes, too, and is sampled again
        decoder.may_go_on.set()
        rest = await engine.generate(a_request(response_tokens=before, max_new_tokens=4 - len(before)))

    assert 0 < len(before) < 4
    assert before + rest.tokens == whole.tokens


async def test_cancelling_frees_the_slot() -> None:
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), num_slots=1) as engine:
        abandoned = asyncio.create_task(engine.generate(a_request("long", max_new_tokens=190)))
        waiting = asyncio.create_task(engine.generate(a_request("never", max_new_tokens=190)))
        await asyncio.sleep(0)
        abandoned.cancel()
        waiting.cancel()
        window = await engine.generate(a_request("next"))

        assert len(window.tokens) == 8
        assert engine.statistics().num_active == 0
        assert abandoned.cancelled()


async def test_statistics_name_the_window_in_each_slot() -> None:
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), num_slots=2) as engine:
        task = asyncio.create_task(engine.generate(a_request("long", max_new_tokens=190)))
        while not (running := engine.statistics().running):  # noqa: ASYNC110 (the decode loop is a thread)
            await asyncio.sleep(0)
        await task

        assert [(one.slot, one.rollout_id, one.window_index) for one in running] == [(0, "long", 0)]
        assert engine.statistics().running == ()


async def test_statistics_count_tokens_decode_steps_and_prefill() -> None:
    """Two slots, windows of 4, 2 and 2 tokens: the third follows the second, so 4 steps fill both slots."""
    lengths = {5: 4, 6: 2, 7: 2}
    requests = [
        a_request(str(first), prompt_tokens=tokens([first, 2, 3]), max_new_tokens=length)
        for first, length in lengths.items()
    ]

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), num_slots=2) as engine:
        await windows_of(engine, requests)
        counted = engine.statistics()

    assert (counted.num_tokens_generated, counted.num_active_slot_steps) == (8, 8)
    assert counted.num_prefill_tokens == 3 * 2  # all of a prompt but its last token
    assert (counted.num_slots, counted.num_active, counted.num_waiting) == (2, 0, 0)


async def test_decode_steps_that_serve_only_evaluations_are_not_counted() -> None:
    """Two slots: the training window runs 3 steps beside the evaluation, which then goes on alone for 5."""
    requests = [a_request("train", max_new_tokens=3), a_request("eval", max_new_tokens=8, is_evaluation=True)]

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), num_slots=2) as engine:
        await windows_of(engine, requests)
        counted = engine.statistics()

    assert (counted.num_tokens_generated, counted.num_decode_steps, counted.num_active_slot_steps) == (11, 3, 6)


async def test_windows_are_bounded_in_time_and_name_their_slot() -> None:
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), num_slots=2) as engine:
        windows = await windows_of(engine, [a_request(name) for name in "ab"])

    assert sorted(window.slot for window in windows) == [0, 1]
    assert all(0 < window.started_at <= window.ended_at for window in windows)


async def test_closing_cancels_running_requests_and_refuses_new_ones() -> None:
    async with an_engine(TIED_QWEN2) as engine:  # without weights nothing runs
        waiting = asyncio.create_task(engine.generate(a_request()))
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(RuntimeError, match="has ended"):
        await engine.generate(a_request())


async def test_closing_does_not_wait_for_a_pass_of_the_model() -> None:
    decoder = Paused(a_decoder(TIED_QWEN2))
    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), decoder=decoder) as engine:
        running = asyncio.create_task(engine.generate(a_request(max_new_tokens=20)))
        waiting = [asyncio.create_task(engine.generate(a_request(str(number)))) for number in range(8)]
        await decoder.paused()
    is_in_mid_pass = not decoder.may_go_on.is_set()
    decoder.may_go_on.set()
    ended = await asyncio.gather(running, *waiting, return_exceptions=True)

    assert is_in_mid_pass
    assert [type(error) for error in ended] == [asyncio.CancelledError] * 9
    assert decoder.num_steps <= Paused.PAUSE_AT + 1


@pytest.mark.parametrize("config", FAST.values(), ids=FAST.keys())
async def test_bfloat16_stays_near_the_float32_model(config: PreTrainedConfig) -> None:
    """bfloat16 has eight significant bits; with logits of about 5 that is some hundredths of a nat per layer."""
    model = a_model(config)
    requests = mixed_requests(8, temperatures=(1.0,))

    async with an_engine(config, model, decoder=a_decoder(config, dtype=torch.bfloat16)) as engine:
        windows = await windows_of(engine, requests)

    errors = [
        (torch.tensor(window.logprobs) - expected_logprobs(model, request, window)).abs()
        for request, window in zip(requests, windows, strict=True)
    ]
    assert torch.cat(errors).mean() < 0.1

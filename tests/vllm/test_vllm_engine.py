"""The real vLLM behind our protocol, against transformers' own forward pass."""

import asyncio
from typing import Any

import pytest
import torch

from tests.support.waiting import until
from tests.vllm.served import (
    MODEL,
    NUM_SLOTS,
    TOLERANCE,
    VOCABULARY,
    ServedModel,
    a_model,
    a_request,
    distributions,
    expected_logprobs,
    forced_window,
    mixed_requests,
    worst_difference,
)
from tppo.rollout import FinishReason, VersionSpan, WindowRequest, tokens
from tppo.weight_probe import ProbeRow


async def test_logprobs_agree_with_a_forward_pass_before_and_after_an_update(vllm: ServedModel, engine: Any) -> None:
    for seed in (1, 2):
        model = a_model(seed)
        version = await vllm.send(model)
        requests = mixed_requests(40, seed=seed)

        windows = await vllm.windows(requests)

        for request, window in zip(requests, windows, strict=True):
            assert window.version_spans == (VersionSpan(version, request.max_new_tokens),)
            assert window.finish_reason is FinishReason.LENGTH
            assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE


async def test_at_temperature_zero_tokens_are_the_most_likely_ones(vllm: ServedModel, engine: Any) -> None:
    model = a_model(3)
    await vllm.send(model)
    request = a_request(temperature=0.0, max_new_tokens=40)

    (window,) = await vllm.windows([request])

    assert list(window.tokens) == distributions(model, request, window).argmax(-1).tolist()


async def test_siblings_share_a_prefix_and_an_update_leaves_none_of_it(vllm: ServedModel, engine: Any) -> None:
    """The prefix is longer than two of vLLM's blocks, which have 128 tokens on a CPU."""
    prompt = tokens(index % VOCABULARY for index in range(300))
    siblings = [a_request(f"s{index}", prompt_tokens=prompt, seed=index) for index in range(4)]
    models = [a_model(4), a_model(5)]

    for model in models:
        await vllm.send(model)
        first = await vllm.windows(siblings[:1])
        before = engine.statistics().num_prefill_tokens
        others = await vllm.windows(siblings[1:])

        assert engine.statistics().num_prefill_tokens - before == 3 * (300 - 256)
        for request, window in zip(siblings, first + others, strict=True):
            assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE


async def test_a_window_continues_from_token_ids(vllm: ServedModel, engine: Any) -> None:
    model = a_model(6)
    await vllm.send(model)
    response = tokens()

    for index in range(4):
        request = a_request(window_index=index, response_tokens=response, max_new_tokens=16)
        (window,) = await vllm.windows([request])
        assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE
        response = response + window.tokens


async def test_a_window_ends_with_its_stop_token_and_with_no_other(vllm: ServedModel, engine: Any) -> None:
    model = a_model(7)
    await vllm.send(model)
    (greedy,) = await vllm.windows([a_request(temperature=0.0)])
    stop = greedy.tokens[9]

    (window,) = await vllm.windows([a_request(temperature=0.0, stop_token_ids=(stop,))])
    (last,) = await vllm.windows(
        [a_request(temperature=0.0, max_new_tokens=len(window.tokens), stop_token_ids=(stop,))]
    )

    assert window.tokens == greedy.tokens[: list(greedy.tokens).index(stop) + 1]
    assert {window.finish_reason, last.finish_reason} == {FinishReason.STOP}


async def test_the_end_of_sequence_of_the_models_folder_ends_no_window(vllm: ServedModel, engine: Any) -> None:
    model = a_model(8)
    with torch.no_grad():  # every position prefers it
        model.model.norm.weight.zero_()
    await vllm.send(model)

    windows = await vllm.windows([a_request(f"r{seed}", seed=seed, max_new_tokens=64) for seed in range(16)])

    assert MODEL.eos_token_id in {token for window in windows for token in window.tokens[:-1]}
    assert {len(window.tokens) for window in windows} == {64}


def uniform_model() -> Any:
    """One whose logits are all alike, so that a token is its random number and nothing else."""
    model = a_model(9)
    with torch.no_grad():
        model.model.norm.weight.zero_()
    return model


async def test_the_same_request_draws_the_same_tokens_and_another_seed_others(vllm: ServedModel, engine: Any) -> None:
    await vllm.send(uniform_model())

    first, again, other = await vllm.windows([a_request("a"), a_request("b"), a_request("c", seed=2)])

    assert first.tokens == again.tokens != other.tokens


async def test_windows_of_a_rollout_draw_uncorrelated_numbers_wherever_they_are_cut(
    vllm: ServedModel, engine: Any
) -> None:
    """One seed restarted in each window would make all tokens at the same place of a window equal; chance, 1 in 120."""
    await vllm.send(uniform_model())
    cuts = (0, 1, 7, 16, 40)
    requests = [
        a_request(f"{seed}/{cut}", seed=seed, response_tokens=tokens([5] * cut), max_new_tokens=16)
        for seed in range(24)
        for cut in cuts
    ]

    windows = await vllm.windows(requests)

    drawn = torch.tensor([list(window.tokens) for window in windows]).view(24, len(cuts), 16)
    pairs = [(one, other) for one in range(len(cuts)) for other in range(one)]
    num_equal = sum(int((drawn[:, one] == drawn[:, other]).sum()) for one, other in pairs)
    expected = 24 * 16 * len(pairs) / VOCABULARY
    assert abs(num_equal - expected) < 5 * expected**0.5
    for lag in range(1, 8):  # nor does one window repeat another from a later token on
        shifted = sum(int((drawn[:, one, lag:] == drawn[:, other, :-lag]).sum()) for one, other in pairs)
        assert shifted < expected + 5 * expected**0.5


async def test_without_seeds_the_same_request_draws_other_tokens(vllm: ServedModel, engine: Any) -> None:
    await vllm.send(uniform_model())
    engine.has_seeds = False

    first, again = await vllm.windows([a_request("a"), a_request("b")])

    assert first.tokens != again.tokens


async def test_hundreds_of_requests_are_served_at_once(vllm: ServedModel, engine: Any) -> None:
    model = a_model(10)
    await vllm.send(model)
    requests = [
        a_request(f"r{index}", prompt_tokens=tokens([index % VOCABULARY, 2]), max_new_tokens=1 + index % 16, seed=index)
        for index in range(400)
    ]
    before = engine.statistics()

    windows = await vllm.windows(requests)

    after = engine.statistics()
    num_tokens = sum(request.max_new_tokens for request in requests)
    assert [len(window.tokens) for window in windows] == [request.max_new_tokens for request in requests]
    assert {window.slot for window in windows} == set(range(NUM_SLOTS))
    assert after.num_tokens_generated - before.num_tokens_generated == num_tokens
    assert after.num_active_slot_steps - before.num_active_slot_steps == num_tokens
    assert num_tokens / NUM_SLOTS <= after.num_decode_steps - before.num_decode_steps < num_tokens / NUM_SLOTS * 2
    for request, window in zip(requests[::40], windows[::40], strict=True):
        assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE


async def test_a_cancelled_window_frees_its_slot(vllm: ServedModel, engine: Any) -> None:
    await vllm.send(a_model(11))
    long = [asyncio.create_task(engine.generate(a_request(f"l{i}", max_new_tokens=1000))) for i in range(NUM_SLOTS)]
    await vllm.until_sampling()
    waiting = asyncio.create_task(engine.generate(a_request("w")))

    for task in long:
        task.cancel()
    await asyncio.wait(long)

    assert len((await waiting).tokens) == 24
    await until(lambda: engine.statistics().num_active == 0, "nothing runs")


async def test_a_cut_window_ends_with_the_tokens_that_it_has(vllm: ServedModel, engine: Any) -> None:
    """The next window goes on after them."""
    model = a_model(12)
    version = await vllm.send(model)
    requests = [a_request(f"l{index}", max_new_tokens=1000, seed=index) for index in range(NUM_SLOTS)]
    running = [asyncio.create_task(engine.generate(request)) for request in requests]
    await vllm.until_sampling()
    waiting = asyncio.create_task(engine.generate(a_request("w")))
    await until(lambda: engine.statistics().num_waiting == 1, "a window waits for a slot")

    await engine.cut("w", 0)
    for request in requests:
        await engine.cut(request.rollout_id, 0)
    windows = await asyncio.gather(*running)

    assert ((await waiting).finish_reason, len((await waiting).tokens)) == (FinishReason.CUT, 0)
    for request, window in zip(requests, windows, strict=True):
        assert window.finish_reason is FinishReason.CUT
        assert window.version_spans == (VersionSpan(version, len(window.tokens)),)
        assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE
    await engine.cut("l0", 0)  # it is no longer under way


async def test_a_probe_says_of_forced_tokens_what_a_forward_pass_does(vllm: ServedModel, engine: Any) -> None:
    """Beside windows in every slot; the rows are the same before and after an update, as in a run."""
    rows = [
        ProbeRow.of([(7 * index) % VOCABULARY for index in range(length)], num_compared=6) for length in (2, 7, 300)
    ]

    for seed in (14, 15):
        model = a_model(seed)
        version = await vllm.send(model)
        running = [
            asyncio.create_task(engine.generate(a_request(f"l{i}", max_new_tokens=64))) for i in range(NUM_SLOTS)
        ]
        answer = await engine.probe(rows, temperature=0.7)
        await asyncio.gather(*running)

        assert (answer.policy_version, answer.num_earlier) == (version, (0, 0, 0))
        for row, found in zip(rows, answer.logprobs, strict=True):
            request = a_request(prompt_tokens=tokens(row.prompt_tokens), temperature=0.7)
            expected = expected_logprobs(model, request, forced_window(row))
            assert worst_difference(found, expected) < TOLERANCE


async def test_the_engine_knows_how_full_its_kv_cache_is(
    vllm: ServedModel, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await vllm.send(a_model(16))
    record, found = engine._counts.record, list[float]()

    def noted(*arguments: Any, **options: Any) -> None:
        record(*arguments, **options)
        found.append(engine.statistics().kv_cache_use)

    monkeypatch.setattr(engine._counts, "record", noted)
    await vllm.windows([a_request(f"r{index}", prompt_tokens=tokens([1] * 300)) for index in range(4)])

    assert 0 < max(found) <= 1


async def test_tokens_are_handed_over_as_they_come(vllm: ServedModel, engine: Any) -> None:
    await vllm.send(a_model(13))
    parts: list[tuple[list[int], list[float]]] = []

    window = await engine.generate(
        a_request(max_new_tokens=60), lambda ids, logprobs: parts.append((list(ids), list(logprobs)))
    )

    assert [token for ids, _ in parts for token in ids] == list(window.tokens)
    assert [logprob for _, logprobs in parts for logprob in logprobs] == pytest.approx(list(window.logprobs))
    assert len(parts) > 1


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (a_request(prompt_tokens=tokens([1] * 400), max_new_tokens=1000), "exceed the limit of 1344"),
        (a_request(prompt_tokens=tokens([VOCABULARY])), "expected them in 0..119"),
        (a_request(prompt_tokens=tokens()), "expected at least one prompt token"),
    ],
)
async def test_a_request_that_can_never_be_served_is_refused(
    vllm: ServedModel, engine: Any, request_: WindowRequest, cause: str
) -> None:
    with pytest.raises(ValueError, match=cause):
        await engine.generate(request_)


async def test_a_window_of_no_tokens_is_empty(vllm: ServedModel, engine: Any) -> None:
    window = await engine.generate(a_request(max_new_tokens=0))

    assert (len(window.tokens), window.finish_reason) == (0, FinishReason.LENGTH)

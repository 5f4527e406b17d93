"""New weights while windows run."""

import asyncio
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from services.generation.transformers_engine.decoders.decoder import Decoder, Free, Switch, keep
from services.generation.transformers_engine.decoders.layouts.forward_pass import cache_argument
from services.generation.transformers_engine.decoders.model_weights import check_fit, named_weights
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tests.generation.tiny_models import (
    FAST,
    GENERAL,
    TOLERANCE,
    Paused,
    Watched,
    a_decoder,
    a_model,
    a_request,
    an_engine,
    an_update,
    expected_logprobs,
    weights_wait,
)
from tests.support.waiting import DEADLINE_SECONDS, until
from tppo.rollout import VersionSpan, Window, WindowRequest, tokens
from tppo.weights import MemoryFile, WeightUpdate

TIED_QWEN2 = FAST["qwen2, tied"]
BOTH_PATHS = {
    "fast": TIED_QWEN2,
    "general": GENERAL["gpt-neox"],
    "general, unpadded": GENERAL["gemma2 with sliding windows"],
}
NUM_OLD = Paused.PAUSE_AT + 1  # the update arrives inside that step, whose token is still the old weights'

on_both_paths = pytest.mark.parametrize("config", BOTH_PATHS.values(), ids=BOTH_PATHS.keys())


async def updated_in_mid_window(
    engine: TransformersEngine, decoder: Paused, requests: list[WindowRequest], update: WeightUpdate
) -> list[Window]:
    windows = [asyncio.create_task(engine.generate(request)) for request in requests]
    await decoder.paused()
    taken = asyncio.create_task(engine.update_weights(update))
    await weights_wait(engine)
    decoder.may_go_on.set()
    await taken
    return await asyncio.gather(*windows)


@torch.no_grad()
def logprobs_on_old_cache(old: PreTrainedModel, new: PreTrainedModel, row: list[int], num_cached: int) -> Tensor:
    """[tokens behind the cached ones, vocabulary]: the new model on the old one's keys and values."""
    cache = DynamicCache(config=old.config)
    old(torch.tensor([row[:num_cached]]), **{cache_argument(old): cache}, use_cache=True)
    logits = new(torch.tensor([row[num_cached:]]), **{cache_argument(new): cache}, use_cache=True).logits[0]
    return torch.log_softmax(logits.double(), dim=-1)


@on_both_paths
async def test_recomputed_rows_go_on_as_if_the_new_weights_had_seen_them_from_the_start(
    config: PreTrainedConfig,
) -> None:
    old, new = a_model(config), a_model(config, seed=1)
    decoder = Paused(a_decoder(config))
    requests = [a_request("a", max_new_tokens=20), a_request("b", prompt_tokens=tokens(range(30)), max_new_tokens=9)]

    async with an_engine(config, old, decoder=decoder) as engine:
        windows = await updated_in_mid_window(engine, decoder, requests, an_update(new, 7))

    for request, window in zip(requests, windows, strict=True):
        num_old = window.version_spans[0].num_tokens
        assert window.version_spans == (VersionSpan(0, num_old), VersionSpan(7, request.max_new_tokens - num_old))
        assert 0 < num_old <= NUM_OLD  # the second request may have come after the first step
        by_old, by_new = (expected_logprobs(model, request, window) for model in (old, new))
        expected = torch.cat([by_old[:num_old], by_new[num_old:]])
        torch.testing.assert_close(torch.tensor(window.logprobs).double(), expected, atol=TOLERANCE, rtol=0)


@on_both_paths
async def test_kept_kv_caches_stay_those_of_the_old_weights_until_the_window_ends(config: PreTrainedConfig) -> None:
    old, new = a_model(config), a_model(config, seed=1)
    decoder = Paused(a_decoder(config))
    request = a_request(max_new_tokens=20)

    async with an_engine(config, old, decoder=decoder, policy=UpdatePolicy(recompute_cache=False)) as engine:
        (window,) = await updated_in_mid_window(engine, decoder, [request], an_update(new, 1))
        after = await engine.generate(a_request("after", window_index=1, response_tokens=window.tokens))

    assert window.version_spans == (VersionSpan(0, NUM_OLD), VersionSpan(1, 20 - NUM_OLD, cache_version=0))
    assert list(window.cache_versions()) == [0] * 20
    assert after.version_spans == (VersionSpan(1, 8),)
    row = [*request.prompt_tokens, *window.tokens]
    num_cached = len(request.prompt_tokens) + NUM_OLD - 1  # the last old token is run through the new weights
    by_new = logprobs_on_old_cache(old, new, row, num_cached)[:-1]
    expected = by_new.gather(-1, torch.tensor(row[num_cached + 1 :])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(window.logprobs)[NUM_OLD:].double(), expected, atol=TOLERANCE, rtol=0)
    again = a_request("after", window_index=1, response_tokens=window.tokens)
    torch.testing.assert_close(
        torch.tensor(after.logprobs).double(), expected_logprobs(new, again, after), atol=TOLERANCE, rtol=0
    )


async def test_between_windows_no_window_mixes_weights_and_none_starts_while_they_wait() -> None:
    old, new = a_model(TIED_QWEN2), a_model(TIED_QWEN2, seed=1)
    decoder = Paused(a_decoder(TIED_QWEN2, num_slots=2))
    lengths = {"short": 8, "long": 20, "waiting": 8}  # two slots: "waiting" could start when "short" ends
    requests = [a_request(name, max_new_tokens=length) for name, length in lengths.items()]

    async with an_engine(TIED_QWEN2, old, num_slots=2, decoder=decoder, policy=UpdatePolicy(in_flight=False)) as engine:
        windows = await updated_in_mid_window(engine, decoder, requests, an_update(new, 1))

    assert [window.version_spans for window in windows] == [
        (VersionSpan(0, 8),),
        (VersionSpan(0, 20),),
        (VersionSpan(1, 8),),
    ]
    torch.testing.assert_close(
        torch.tensor(windows[2].logprobs).double(),
        expected_logprobs(new, requests[2], windows[2]),
        atol=TOLERANCE,
        rtol=0,
    )


async def test_a_cancelled_weight_update_is_not_applied() -> None:
    decoder = Paused(a_decoder(TIED_QWEN2))
    policy = UpdatePolicy(in_flight=False)

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), decoder=decoder, policy=policy) as engine:
        window = asyncio.create_task(engine.generate(a_request()))
        await decoder.paused()
        update = asyncio.create_task(engine.update_weights(an_update(a_model(TIED_QWEN2, seed=1), 1)))
        await weights_wait(engine)
        update.cancel()
        await asyncio.sleep(0)
        decoder.may_go_on.set()
        await window
        after = await engine.generate(a_request("after"))

    assert after.version_spans == (VersionSpan(0, 8),)


async def test_weights_that_were_given_up_leave_no_copy_behind_and_hold_up_no_window() -> None:
    decoder = Paused(a_decoder(TIED_QWEN2))
    policy = UpdatePolicy(in_flight=False)

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), decoder=decoder, policy=policy) as engine:
        running = asyncio.create_task(engine.generate(a_request(max_new_tokens=20)))
        await decoder.paused()
        copies = [await given_up(engine, an_update(a_model(TIED_QWEN2, seed=1), version)) for version in range(1, 4)]
        await until(lambda: not any(copy() is not None for copy in copies), "no copy is left")  # freed in a thread
        beside = asyncio.create_task(engine.generate(a_request("beside", max_new_tokens=8)))
        await asyncio.sleep(0)
        decoder.may_go_on.set()
        await asyncio.gather(running, beside)

    assert (await beside).ended_at < (await running).ended_at


async def given_up(engine: TransformersEngine, update: WeightUpdate) -> "weakref.ref[Tensor]":
    """A reference to the weights of a transfer that the learner ended before they were in use."""
    copy = weakref.ref(update.tensors["model.norm.weight"])
    transfer = asyncio.create_task(engine.update_weights(update))
    await weights_wait(engine)
    transfer.cancel()
    await asyncio.wait([transfer])
    return copy


async def test_newer_weights_replace_those_that_wait_for_the_windows_to_end() -> None:
    decoder = Paused(a_decoder(TIED_QWEN2))
    policy = UpdatePolicy(in_flight=False)

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), decoder=decoder, policy=policy) as engine:
        window = asyncio.create_task(engine.generate(a_request()))
        await decoder.paused()
        updates = [an_update(a_model(TIED_QWEN2, seed=version), version) for version in (1, 2)]
        taken = []
        for update in updates:
            taken.append(asyncio.create_task(engine.update_weights(update)))
            await weights_wait(engine)
        await asyncio.wait(taken, return_when=asyncio.FIRST_COMPLETED)
        decoder.may_go_on.set()
        await window
        assert await taken[1] == updates[1].digest
        assert engine.policy_version == 2

    with pytest.raises(RuntimeError, match="newer weights came before these were in use"):
        await taken[0]


def without_a_tensor(update: WeightUpdate) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in update.tensors.items() if name != "model.norm.weight"}


def with_a_surplus_tensor(update: WeightUpdate) -> dict[str, Tensor]:
    return {**update.tensors, "lm_head.weight": update.tensors["model.embed_tokens.weight"]}


def with_another_shape(update: WeightUpdate) -> dict[str, Tensor]:
    return {**update.tensors, "model.norm.weight": torch.ones(33)}


def with_a_number_that_is_none(update: WeightUpdate) -> dict[str, Tensor]:
    return {**update.tensors, "model.norm.weight": torch.full((32,), torch.nan)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_tensor, r"1 missing \(model.norm.weight\)"),
        (with_a_surplus_tensor, r"1 unknown \(lm_head.weight\)"),
        (with_another_shape, r"1 of another shape \(model.norm.weight\)"),
        (with_a_number_that_is_none, r"1 not finite \(model.norm.weight\)"),
    ],
)
async def test_weights_that_do_not_fit_leave_the_old_ones_in_use(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    update = an_update(a_model(TIED_QWEN2, seed=1), 1)

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2)) as engine:
        before = await engine.generate(a_request())
        with pytest.raises(ValueError, match=message):
            await engine.update_weights(replace(update, tensors=spoil(update)))
        after = await engine.generate(a_request())

        assert engine.policy_version == 0
    assert (after.tokens, after.logprobs) == (before.tokens, before.logprobs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_none_is_found_in_any_type(dtype: torch.dtype, bad: float) -> None:
    numbers = torch.zeros(1000)
    check_fit({"w": numbers.to(dtype)}, {"w": numbers.shape})
    numbers[777] = bad

    with pytest.raises(ValueError, match=r"1 not finite \(w\)"):
        check_fit({"w": numbers.to(dtype)}, {"w": numbers.shape})


async def test_steps_go_on_while_weights_are_prepared() -> None:
    preparing, may_switch = threading.Event(), threading.Event()

    class SlowToPrepare(Watched):
        def __init__(self, inner: Decoder) -> None:
            super().__init__(inner)
            self.prepare = self._prepare

        def _prepare(self, tensors: Mapping[str, Tensor], free: Free = keep) -> Switch:
            preparing.set()
            assert may_switch.wait(DEADLINE_SECONDS)
            return self._inner.prepare(tensors, free)

    decoder = SlowToPrepare(a_decoder(TIED_QWEN2))
    decoder._inner.prepare(an_update(a_model(TIED_QWEN2)).tensors)()
    async with an_engine(TIED_QWEN2, decoder=decoder) as engine:
        may_switch.set()
        await engine.update_weights(an_update(a_model(TIED_QWEN2), 0))
        may_switch.clear()
        preparing.clear()
        update = asyncio.create_task(engine.update_weights(an_update(a_model(TIED_QWEN2, seed=1), 1)))
        await asyncio.to_thread(preparing.wait, DEADLINE_SECONDS)

        during = await engine.generate(a_request("during"))
        may_switch.set()
        await update
        after = await engine.generate(a_request("after"))

    assert during.version_spans == (VersionSpan(0, 8),)
    assert after.version_spans == (VersionSpan(1, 8),)


async def test_the_fast_path_keeps_nothing_of_the_memory_in_which_the_weights_came() -> None:
    file = await asyncio.to_thread(MemoryFile.holding, an_update(a_model(TIED_QWEN2)).tensors)
    mapped = weakref.ref(file._mapped)
    update = WeightUpdate.of_file(0, 0, "sha256:0", file)
    del file

    async with an_engine(TIED_QWEN2) as engine:
        await engine.update_weights(update)
        del update

        await until(lambda: mapped() is None, "the update's memory is free")  # in a thread
        await engine.generate(a_request())


def test_persistent_buffers_are_weights_and_a_tied_head_is_not() -> None:
    model = a_model(TIED_QWEN2)
    model.register_buffer("scale", torch.ones(3))
    model.register_buffer("scratch", torch.ones(3), persistent=False)

    names = named_weights(model).keys()

    assert "scale" in names
    assert not {"scratch", "lm_head.weight"} & names


@on_both_paths
async def test_an_update_answers_with_the_digest_that_its_tensors_were_verified_by(config: PreTrainedConfig) -> None:
    update = an_update(a_model(config), 3)

    async with an_engine(config) as engine:
        answer = await engine.update_weights(update)

        assert engine.policy_version == 3
    assert answer == update.digest


async def test_windows_wait_for_the_first_weights() -> None:
    async with an_engine(TIED_QWEN2) as engine:
        window = asyncio.create_task(engine.generate(a_request()))
        await asyncio.sleep(0)
        assert engine.policy_version == -1
        await engine.update_weights(an_update(a_model(TIED_QWEN2), 5))

        assert (await window).version_spans == (VersionSpan(5, 8),)


class Failing(Watched):
    def around_step(self, number: int, logits: Tensor) -> Tensor:
        raise RuntimeError("out of memory")


async def test_an_error_of_the_model_fails_all_waiting_requests(caplog: pytest.LogCaptureFixture) -> None:
    decoder = Failing(a_decoder(TIED_QWEN2, num_slots=1))

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), num_slots=1, decoder=decoder) as engine:
        failures = await asyncio.gather(*(engine.generate(a_request(name)) for name in "ab"), return_exceptions=True)
        with pytest.raises(RuntimeError, match="has ended"):
            await engine.generate(a_request("later"))

    assert [str(failure) for failure in failures] == ["the decode loop failed: out of memory"] * 2
    assert "the decode loop failed" in caplog.text


def division_by_zero() -> object:
    return 1 // 0


async def test_an_error_in_the_switch_to_new_weights_fails_the_update_and_all_that_waits() -> None:
    decoder = Watched(a_decoder(TIED_QWEN2, num_slots=1))

    async with an_engine(TIED_QWEN2, a_model(TIED_QWEN2), num_slots=1, decoder=decoder) as engine:
        decoder.prepare = lambda *_: division_by_zero
        updating = engine.update_weights(an_update(a_model(TIED_QWEN2, seed=1), 1))
        windows = [engine.generate(a_request(name, max_new_tokens=100)) for name in "ab"]
        *failures, update = await asyncio.gather(*windows, updating, return_exceptions=True)

    assert isinstance(update, ZeroDivisionError)
    failed = "the decode loop failed: integer division or modulo by zero"
    assert [str(failure) for failure in failures] == [failed] * 2


class Overflowing(Watched):
    """The first row's logits are no numbers in the third step."""

    def around_step(self, number: int, logits: Tensor) -> Tensor:
        if number == 2:
            logits[0] = torch.nan
        return logits


@on_both_paths
async def test_logits_that_are_not_finite_fail_their_row_alone(config: PreTrainedConfig) -> None:
    model = a_model(config)
    decoder = Overflowing(a_decoder(config))
    healthy = a_request("healthy", max_new_tokens=20)

    async with an_engine(config, model, decoder=decoder) as engine:
        ill, window = await asyncio.gather(
            engine.generate(a_request("ill", prompt_tokens=tokens(range(9)))),
            engine.generate(healthy),
            return_exceptions=True,
        )

    assert isinstance(window, Window)
    assert isinstance(ill, ValueError)
    assert "not finite" in str(ill)
    assert decoder.num_resets == 1  # nothing of that row may reach the others
    torch.testing.assert_close(
        torch.tensor(window.logprobs).double(), expected_logprobs(model, healthy, window), atol=TOLERANCE, rtol=0
    )

"""The samples of one prompt share its prefill: what is computed, and that the numbers stay those of the model."""

import asyncio
import random
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from services.generation.transformers_engine.decoders.prefill import MIN_SHARED, PrefillRow, common_length, prefill_rows
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tests.generation.tiny_models import (
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
    weights_wait,
    windows_of,
)
from tools.tiny_families import tiny_config
from tppo.rollout import Window, WindowRequest, tokens

RECURRENT = tiny_config("jamba", {"vocab_size": VOCABULARY, "max_position_embeddings": 256})
ALL = {**FAST, **GENERAL, "recurrent": RECURRENT}
LENGTH = 41
PROMPT = [random.Random(3).randrange(VOCABULARY) for _ in range(LENGTH)]

each_path = pytest.mark.parametrize("config", ALL.values(), ids=ALL.keys())


def samples(num: int, **changes: Any) -> list[WindowRequest]:
    fields: dict[str, Any] = {"prompt_tokens": tokens(PROMPT), "max_new_tokens": 6, **changes}
    return [a_request(str(seed), seed=seed, **fields) for seed in range(num)]


def assert_numbers_of(model: PreTrainedModel, requests: list[WindowRequest], windows: list[Window]) -> None:
    for request, window in zip(requests, windows, strict=True):
        found = torch.tensor(window.logprobs).double()
        torch.testing.assert_close(found, expected_logprobs(model, request, window), atol=TOLERANCE, rtol=0)


def num_prefilled(engine: TransformersEngine) -> int:
    return engine.statistics().num_prefill_tokens


@each_path
async def test_samples_that_come_together_prefill_their_prompt_once(config: PreTrainedConfig) -> None:
    model, requests = a_model(config), samples(4)

    async with an_engine(config, model) as engine:
        windows = await windows_of(engine, requests)

        assert num_prefilled(engine) == LENGTH - 1
    assert_numbers_of(model, requests, windows)
    assert len({tuple(window.tokens) for window in windows}) > 1


@pytest.mark.parametrize("config", [FAST["qwen3"], GENERAL["gpt-neox"]], ids=["fast path", "together"])
async def test_a_sample_that_comes_later_shares_with_one_that_runs(config: PreTrainedConfig) -> None:
    """Two slots: the short samples follow each other beside the long one."""
    model = a_model(config)
    requests = [*samples(1, max_new_tokens=60), *samples(6)]

    async with an_engine(config, model, num_slots=2) as engine:
        windows = await windows_of(engine, requests)

        assert num_prefilled(engine) == LENGTH - 1
    assert_numbers_of(model, requests, windows)


async def test_a_row_beyond_its_window_is_no_source() -> None:
    """The window of 16 has left the prompt behind: each sample that comes later prefills it again."""
    config = GENERAL["gemma2 with sliding windows"]
    model = a_model(config)
    requests = [*samples(1, max_new_tokens=40), *samples(3)]

    async with an_engine(config, model, num_slots=2) as engine:
        windows = await windows_of(engine, requests)

        assert num_prefilled(engine) == 3 * (LENGTH - 1)  # the first two come together
    assert_numbers_of(model, requests, windows)


@pytest.mark.parametrize("masked_queries", [512, 7])
async def test_rows_of_one_prompt_with_other_responses_share_the_prompt(
    masked_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the fast path, second windows too: each computes its own response alone."""
    monkeypatch.setattr("services.generation.transformers_engine.decoders.llama.MASKED_QUERIES", masked_queries)
    config = FAST["qwen2, tied"]
    model = a_model(config)
    responses = [[first, *range(20)] for first in (30, 31, 32)]
    requests = [
        a_request(str(number), prompt_tokens=tokens(PROMPT), response_tokens=tokens(response), seed=number)
        for number, response in enumerate(responses)
    ]

    async with an_engine(config, model) as engine:
        windows = await windows_of(engine, requests)

        assert num_prefilled(engine) == LENGTH + 20 + 2 * 20
    assert_numbers_of(model, requests, windows)


@pytest.mark.parametrize("config", [FAST["qwen3"], GENERAL["gpt-neox"]], ids=["fast path", "together"])
async def test_what_other_weights_prefilled_is_not_shared(config: PreTrainedConfig) -> None:
    """The first sample keeps its old cache; one that comes after the update prefills the prompt again."""
    decoder = Paused(a_decoder(config))
    newer = a_model(config, seed=1)
    policy = UpdatePolicy(recompute_cache=False)
    late = a_request("late", seed=9, prompt_tokens=tokens(PROMPT))

    async with an_engine(config, a_model(config), decoder=decoder, policy=policy) as engine:
        first = asyncio.create_task(engine.generate(samples(1, max_new_tokens=100)[0]))
        await decoder.paused()
        update = asyncio.create_task(engine.update_weights(an_update(newer, 1)))
        await weights_wait(engine)
        second = asyncio.create_task(engine.generate(late))
        await asyncio.sleep(0)
        decoder.may_go_on.set()
        await update
        window = await second
        await first

        assert num_prefilled(engine) == 2 * (LENGTH - 1)
    assert_numbers_of(newer, [late], [window])


def test_the_longest_common_beginning_is_taken() -> None:
    """Row 0 runs; of the new ones, 1 has more in common with it than 2 has, and 3 begins otherwise."""
    shared = [*range(MIN_SHARED)]
    prefixes = [[*shared, 1, 2, 3, 0], [*shared, 1, 2, 9, 0], [*shared, 1, 7, 7, 0], [8, *shared, 0]]

    rows = prefill_rows(prefixes, [1, 2, 3])

    assert rows == [
        PrefillRow(1, [9], source=0, num_shared=MIN_SHARED + 2),
        PrefillRow(2, [7, 7], source=1, num_shared=MIN_SHARED + 1),
        PrefillRow(3, [8, *shared], source=-1, num_shared=0),
    ]


def test_a_beginning_too_short_for_a_gain_is_computed_again() -> None:
    shared = [*range(MIN_SHARED - 1)]

    rows = prefill_rows([[*shared, 50, 0], [*shared, 51, 0]], [0, 1])

    assert [row.num_shared for row in rows] == [0, 0]


@pytest.mark.parametrize(
    ("first", "second", "common"), [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2, 4, 3], 2)]
)
def test_common_beginnings_are_counted(first: list[int], second: list[int], common: int) -> None:
    assert common_length(first, second) == common

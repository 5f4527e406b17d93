"""Few windows stand still for a while, so that they decode in company; nothing else waits with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.generation.transformers_engine.engine import TransformersEngine
from tests.generation.tiny_models import FAST, a_model, a_request, an_engine, an_update, windows_of
from tests.support.waiting import DEADLINE_SECONDS
from tppo.rollout import Window
from tppo.weight_probe import ProbeRow

QWEN2 = FAST["qwen2, tied"]
MODEL = a_model(QWEN2)
LONG_TIME = 10 * DEADLINE_SECONDS
LONG, SHORT, LATE = (a_request(name, max_new_tokens=num, seed=num) for name, num in (("a", 30), ("b", 5), ("c", 9)))


async def stands_still(engine: TransformersEngine, generating: "asyncio.Task[Window]") -> int:
    """Tokens of the windows so far; an update, which nothing holds up, lets them have one more each."""
    before = engine.statistics().num_tokens_generated
    await engine.update_weights(an_update(MODEL, engine.policy_version + 1))
    assert not generating.done()
    assert engine.statistics().num_tokens_generated <= before + 2
    return before


@asynccontextmanager
async def a_gathering_engine() -> AsyncIterator[TransformersEngine]:
    """One whose first weights have been replaced."""
    async with an_engine(QWEN2, MODEL, gather_seconds=LONG_TIME) as engine:
        await engine.update_weights(an_update(MODEL, engine.policy_version + 1))
        yield engine


async def test_windows_that_fill_less_than_half_of_the_slots_wait_for_others() -> None:
    async with an_engine(QWEN2, MODEL) as engine:
        alone = await windows_of(engine, [LONG, SHORT, LATE])

    async with a_gathering_engine() as engine, asyncio.timeout(DEADLINE_SECONDS):
        first = asyncio.create_task(engine.generate(LONG))
        await asyncio.sleep(0)
        assert await stands_still(engine, first) == 0
        second = await engine.generate(SHORT)
        assert await stands_still(engine, first) < 30
        third = await engine.generate(LATE)
        while not first.done():  # alone again: two others, of one length, keep it company
            await windows_of(engine, [a_request("d"), a_request("e")])

    assert [list(window.tokens) for window in (await first, second, third)] == [list(one.tokens) for one in alone]


async def test_they_go_on_alone_when_nobody_comes() -> None:
    async with an_engine(QWEN2, MODEL, gather_seconds=0.01) as engine, asyncio.timeout(DEADLINE_SECONDS):
        await engine.update_weights(an_update(MODEL, engine.policy_version + 1))
        assert len((await engine.generate(LONG)).tokens) == 30


async def test_nobody_is_waited_for_before_the_learner_has_made_a_step() -> None:
    async with an_engine(QWEN2, MODEL, gather_seconds=LONG_TIME) as engine, asyncio.timeout(DEADLINE_SECONDS):
        assert len((await engine.generate(LONG)).tokens) == 30


async def test_a_probe_and_the_end_do_not_wait_with_them() -> None:
    async with a_gathering_engine() as engine:
        waiting = asyncio.create_task(engine.generate(LONG))
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await engine.probe([ProbeRow.of([1, 2, 3, 4, 5, 6], num_compared=3)])
        assert len(answer.logprobs[0]) == 3
        assert not waiting.done()
        await engine.cut(LONG.rollout_id, 0)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert len((await waiting).tokens) < 30

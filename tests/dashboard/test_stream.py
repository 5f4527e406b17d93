"""What readers of the stream are sent, and how fast."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest

from services.dashboard.api.routes.stream import events
from services.dashboard.live.source import Observation
from services.dashboard.live.stream import Broadcaster, Message, Ring
from tests.dashboard.clients import NOW, FixedSource, process, views_of
from tests.dashboard.run_folders import (
    RunFolderBuilder,
    evaluation_line,
    event,
    last_window,
    requested,
    score,
    step_line,
)
from tests.support.waiting import until
from tppo.process.cancellation import cancel_all


@pytest.fixture
async def broadcaster(run: RunFolderBuilder) -> AsyncIterator[Broadcaster]:
    source = FixedSource(Observation(now=NOW, presences=[process("learner")]))
    broadcaster = Broadcaster(views_of(run.path.parent, source, live="quick"))
    await broadcaster.tick()  # what is there already is history
    serving = asyncio.create_task(broadcaster.serve())
    yield broadcaster
    serving.cancel()


@asynccontextmanager
async def listening(
    broadcaster: Broadcaster, last_id: int | None = None, *, without: str = ""
) -> AsyncIterator[list[Message]]:
    """The messages so far, of other kinds than `without`."""
    found: list[Message] = []

    async def listen() -> None:
        with broadcaster.reading():
            async with aclosing(broadcaster.messages(last_id)) as messages:
                async for message in messages:
                    if message.event != without:
                        found.append(message)  # noqa: PERF401 (read while it grows)

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)  # from now on it hears everything
    yield found
    await cancel_all([task])


async def first(count: int, messages: list[Message]) -> list[Message]:
    """So many messages, once they are there."""
    return (await until(lambda: messages, f"{count} messages", is_met=lambda found: len(found) >= count))[:count]


async def read(broadcaster: Broadcaster, count: int, last_id: int | None = None, *, without: str = "") -> list[Message]:
    """The next messages of other kinds than `without`."""
    async with listening(broadcaster, last_id, without=without) as messages:
        return await first(count, messages)


async def sent(broadcaster: Broadcaster, run: RunFolderBuilder, count: int, *lines: Any) -> dict[str, Any]:
    """By event, what a reader hears of lines that are written while it listens."""
    async with listening(broadcaster, without="status") as messages:
        run.metrics(*(line for line in lines if line["kind"] in ("step", "evaluation")))
        run.journal(*(line for line in lines if line["kind"] not in ("step", "evaluation")))
        return {message.event: json.loads(message.data) for message in await first(count, messages)}


async def test_news_is_sent_by_kind(broadcaster: Broadcaster, run: RunFolderBuilder) -> None:
    lines = [step_line(1, reward__mean=0.5), evaluation_line(1, 0.25), event("committed")]
    window = [requested("r"), last_window("r"), score("r", 0.75)]

    messages = await sent(broadcaster, run, 4, *lines, *window)

    assert messages["steps"]["lines"][0]["reward/mean"] == 0.5
    assert messages["evaluations"]["lines"][0]["eval/accuracy"] == 0.25
    assert messages["events"]["items"][0]["text"] == "committed"
    # The window and its score were written together: one bar has both.
    assert [(bar["rollout"], bar["slot"], bar["score"]) for bar in messages["windows"]["bars"]] == [("r", 3, 0.75)]


@pytest.mark.slow
async def test_a_status_is_sent_about_once_a_second(broadcaster: Broadcaster) -> None:
    began = time.monotonic()
    messages = await read(broadcaster, 3)

    assert {message.event for message in messages} == {"status"}
    assert json.loads(messages[0].data)["state"] == "running"
    assert time.monotonic() - began >= 2.0  # the first at once, the other two a second apart


@pytest.mark.slow
async def test_the_last_message_of_an_ending_server_is_a_status_of_that_moment(
    broadcaster: Broadcaster, run: RunFolderBuilder
) -> None:
    is_ending = anyio.Event()
    with broadcaster.reading():
        messages = events(broadcaster, None, is_ending)
        await anext(messages)
        is_ending.set()
        run.metrics(step_line(7))
        found = [message async for message in messages]

    assert found[-1].event == "status"
    assert json.loads(str(found[-1].data))["step"] == 7


async def test_a_busy_run_sends_ten_messages_a_second_at_most(broadcaster: Broadcaster, run: RunFolderBuilder) -> None:
    moments: list[float] = []

    async def listen() -> None:
        with broadcaster.reading():
            async with aclosing(broadcaster.messages(None)) as messages:
                async for _ in messages:
                    moments.append(time.monotonic())  # noqa: PERF401 (what was heard before the end counts)

    listening = asyncio.create_task(listen())
    for number in range(1, 61):
        run.metrics(step_line(number), evaluation_line(number, 0.5))
        run.journal(event(f"number {number}"), requested(f"r{number}"), last_window(f"r{number}"))
        await asyncio.sleep(0.05)
    listening.cancel()

    assert len(moments) > 10
    assert all(later - earlier >= 0.95 for earlier, later in zip(moments, moments[10:], strict=False))


async def test_a_run_of_many_steps_a_second_is_sent_without_delay(
    broadcaster: Broadcaster, run: RunFolderBuilder
) -> None:
    async with listening(broadcaster, without="status") as messages:
        run.metrics(*(step_line(step) for step in range(1, 101)))
        run.journal(requested("r"), last_window("r"))
        steps, windows = await first(2, messages)

    assert len(json.loads(steps.data)["lines"]) == 100
    assert (steps.event, windows.event) == ("steps", "windows")


async def test_a_reader_resumes_behind_what_it_has(broadcaster: Broadcaster, run: RunFolderBuilder) -> None:
    async with listening(broadcaster, without="status") as messages:
        for number, text in enumerate(("first", "second", "third"), 1):  # what comes together is sent together
            run.journal(event(text))
            await first(number, messages)
    one, two, three = messages

    again = await read(broadcaster, 2, one.id, without="status")

    assert [message.id for message in again] == [two.id, three.id]
    assert one.id < two.id < three.id


@pytest.mark.parametrize("last_id", [0, 17, 2**62])
async def test_a_reader_that_was_away_for_too_long_is_reset(broadcaster: Broadcaster, last_id: int) -> None:
    (message,) = await read(broadcaster, 1, last_id)

    assert message.event == "reset"


async def test_a_replaced_file_is_a_reset(broadcaster: Broadcaster, run: RunFolderBuilder) -> None:
    async with listening(broadcaster, without="status") as messages:
        run.metrics(step_line(1), step_line(2))
        await first(1, messages)
        replacement = run.path / "new"
        replacement.write_text(json.dumps(step_line(1)) + "\n")
        replacement.replace(run.path / "metrics.jsonl")
        await first(2, messages)

    assert [message.event for message in messages] == ["steps", "reset"]


async def test_a_reader_that_falls_behind_the_ring_is_reset() -> None:
    ring = Ring(size=2)
    position = ring.newest_id
    for number in range(2):
        await ring.add("event", number)
    assert ring.holds(position)

    await ring.add("event", 2)
    assert not ring.holds(position)


async def test_no_reader_continues_from_before_a_gap() -> None:
    ring = Ring()
    await ring.add("event", 1)
    position = ring.newest_id

    ring.break_off()

    assert not ring.holds(position)
    assert ring.holds(ring.newest_id)

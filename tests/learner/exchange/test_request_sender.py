"""Requests reach their queues in order, a batch at a time, and the sender knows under which ids."""

import asyncio
import threading
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from learner.exchange import request_sender
from learner.exchange.request_sender import BATCH_COUNT, RequestSender, size_of
from learner.rollouts.ledger import Ledger
from learner.rollouts.requests import RequestKey, UnscoredResponse
from tests.learner.builders import a_ledger, a_requested_rollout, a_window, train_row
from tests.support.outstanding import outstanding
from tests.support.waiting import until
from tppo import codec
from tppo.process.cancellation import cancel_all
from tppo.rollout import WindowRequest
from tppo.streams import MemoryStreams, RequestQueue, StreamsUnavailable


class Noted:
    """What a queue was given in each call; the first `num_failures` calls are refused."""

    def __init__(self, queue: RequestQueue, *, num_failures: int = 0) -> None:
        self.calls: list[Sequence[bytes]] = []
        self._put, self._num_failures = queue.put, num_failures
        queue.put = self.put  # type: ignore[method-assign]

    async def put(self, payloads: Sequence[bytes]) -> list[str]:
        self.calls.append(payloads)
        if len(self.calls) <= self._num_failures:
            raise StreamsUnavailable("connection refused")
        return await self._put(payloads)


@asynccontextmanager
async def all_sent(sender: RequestSender) -> AsyncIterator[None]:
    serving = asyncio.create_task(sender.serve())
    sender.flush()
    await until(sender.unsent, "everything is sent", is_met=lambda unsent: not unsent)
    yield
    await cancel_all([serving])


@pytest.fixture
def streams() -> MemoryStreams:
    return MemoryStreams(lease_seconds=60)


@pytest.fixture
def ledger() -> Ledger:
    return a_ledger()


def window_key(rollout_id: str, window_index: int = 0) -> RequestKey:
    return "WindowRequest", rollout_id, window_index


async def requested(streams: MemoryStreams) -> list[str]:
    return [codec.decode_window_request(payload).rollout_id for payload in await outstanding(streams.window_requests)]


async def test_many_requests_are_sent_in_order_and_so_many_at_once(streams: MemoryStreams, ledger: Ledger) -> None:
    names = [str(number) for number in range(2 * BATCH_COUNT + 1)]
    for name in names:
        a_requested_rollout(ledger, name)
    noted = Noted(streams.window_requests)

    async with all_sent(RequestSender(streams, ledger)):
        assert [len(payloads) for payloads in noted.calls] == [BATCH_COUNT, BATCH_COUNT, 1]
        assert await requested(streams) == names


async def test_a_batch_has_so_many_bytes_or_one_request(
    streams: MemoryStreams, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        a_requested_rollout(ledger, name)
    size = len(codec.encode_window_request(ledger.outbox[0]))  # type: ignore[arg-type]
    noted = Noted(streams.window_requests)

    monkeypatch.setattr(request_sender, "BATCH_BYTES", 2 * size)
    async with all_sent(RequestSender(streams, ledger)):
        assert [len(payloads) for payloads in noted.calls] == [2, 1]

    a_requested_rollout(ledger, "d")
    a_requested_rollout(ledger, "e")
    monkeypatch.setattr(request_sender, "BATCH_BYTES", size - 1)
    async with all_sent(RequestSender(streams, ledger)):
        assert [len(payloads) for payloads in noted.calls] == [2, 1, 1, 1]


async def test_requests_of_both_kinds_are_sent_though_one_queue_refuses_at_first(
    streams: MemoryStreams, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_sender, "FIRST_DELAY_SECONDS", 0.001)
    a_requested_rollout(ledger, "a")
    a_requested_rollout(ledger, "scoring")
    ledger.add_window((1, 0), a_window("scoring", stops=True))
    Noted(streams.window_requests, num_failures=2)
    noted = Noted(streams.reward_requests)

    sender = RequestSender(streams, ledger)
    async with all_sent(sender):
        assert await requested(streams) == ["a"]
        assert len(await outstanding(streams.reward_requests)) == len(noted.calls) == 1
    assert sender.last_error == ""


@pytest.mark.parametrize(("lacking", "is_in_another"), [(0, False), (1, True)])
async def test_a_large_request_is_encoded_in_another_thread(
    streams: MemoryStreams, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, lacking: int, is_in_another: bool
) -> None:
    threads: list[int] = []

    def decode(response: "array[int]") -> str:
        threads.append(threading.get_ident())
        return f"a text of {len(response)} tokens"

    ledger.decode = decode
    a_requested_rollout(ledger, "a")
    ledger.add_window((1, 0), a_window("a", num_tokens=3, stops=True))
    monkeypatch.setattr(request_sender, "MAX_AT_ONCE", size_of(ledger.outbox[-1]) - lacking)
    assert threads == []

    async with all_sent(RequestSender(streams, ledger)):
        (payload,) = await outstanding(streams.reward_requests)

    assert codec.decode_reward_request(payload).response == "a text of 3 tokens"
    (thread,) = threads
    assert (thread != threading.get_ident()) is is_in_another


def test_what_goes_along_with_a_response_counts_as_much_as_its_tokens(ledger: Ledger) -> None:
    a_requested_rollout(ledger, "a")
    ledger.add_window((1, 0), a_window("a", num_tokens=3, stops=True))
    of_window, of_response = ledger.outbox
    assert isinstance(of_window, WindowRequest)
    assert isinstance(of_response, UnscoredResponse)
    tests = replace(of_response.prompt, extra_info="x" * 10_000)

    assert size_of(replace(of_window, prompt_tokens=array("i", [1] * 9_000))) > 9_000
    assert size_of(replace(of_response, prompt=tests)) > 10_000


async def test_the_id_of_a_request_is_known_while_its_rollout_waits_for_it(
    streams: MemoryStreams, ledger: Ledger
) -> None:
    rollout = a_requested_rollout(ledger, "a")
    sender = RequestSender(streams, ledger)
    assert sender.entry_of(window_key("a")) == ""

    async with all_sent(sender):
        (first,) = await streams.window_requests.outstanding(max_count=9)
        assert sender.entry_of(window_key("a")) == first.entry_id
        ledger.add_window((1, 0), a_window("a"))
        train_row(ledger, rollout)
        ledger.request_window(rollout, cohort=1, min_policy_version=1)
    async with all_sent(sender):
        (_, second) = await streams.window_requests.outstanding(max_count=9)
        assert (sender.entry_of(window_key("a")), sender.entry_of(window_key("a", 1))) == ("", second.entry_id)

    ledger.add_window((2, 0), a_window("a", 1, stops=True))
    sender.forget_retired()
    assert sender.entry_of(window_key("a", 1)) == second.entry_id, "it is to be scored"
    del ledger.rollouts["a"]
    sender.forget_retired()
    assert sender.entry_of(window_key("a", 1)) == ""


async def test_a_request_that_the_queue_holds_already_keeps_its_id(streams: MemoryStreams, ledger: Ledger) -> None:
    a_requested_rollout(ledger, "a")
    sender = RequestSender(streams, ledger)
    sender.recognize({window_key("a"): "7-0", window_key("b"): ""})

    sender.flush()

    assert (sender.unsent(), sender.entry_of(window_key("a"))) == (set(), "7-0")

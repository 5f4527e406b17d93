import asyncio
from collections.abc import Awaitable, Callable

from tests.support.outstanding import outstanding
from tppo.streams import Inbox, Lease, QueueDepth, RequestQueue, Streams
from tppo.streams.contract import BEGINNING, Outstanding

AgeLeases = Callable[[float], Awaitable[None]]


async def take(queue: RequestQueue, worker: str, max_count: int = 10) -> list[Lease]:
    return await queue.lease(worker, max_count=max_count, wait_seconds=0)


async def taken(queue: RequestQueue, worker: str, max_count: int = 10) -> list[bytes]:
    return [lease.payload for lease in await take(queue, worker, max_count)]


async def results_in(inbox: Inbox) -> list[bytes]:
    return [entry.payload for entry in await inbox.read(BEGINNING, max_count=100, wait_seconds=0)]


async def test_requests_are_leased_in_the_order_in_which_they_were_put(queue: RequestQueue) -> None:
    await queue.put([b"a", b"b"])
    await queue.put([b"c"])

    assert await taken(queue, "w1", max_count=2) == [b"a", b"b"]
    assert await taken(queue, "w2") == [b"c"]


async def test_a_leased_request_is_not_leased_to_another_worker(queue: RequestQueue) -> None:
    await queue.put([b"a"])
    await take(queue, "w1")

    assert await taken(queue, "w2") == []
    assert await taken(queue, "w1") == []


async def test_an_empty_queue_gives_nothing(queue: RequestQueue) -> None:
    assert await taken(queue, "w1") == []
    assert await queue.lease("w1", max_count=1, wait_seconds=0.01) == []


async def test_a_worker_without_room_leases_nothing(queue: RequestQueue) -> None:
    await queue.put([b"a"])

    assert await taken(queue, "w1", max_count=0) == []
    assert await queue.depth() == QueueDepth(num_waiting=1, num_leased=0)


async def test_a_waiting_worker_gets_what_is_put_meanwhile(queue: RequestQueue) -> None:
    waiting = asyncio.create_task(queue.lease("w1", max_count=1, wait_seconds=2))
    await asyncio.sleep(0)
    await queue.put([b"a"])

    leases = await waiting or await take(queue, "w1")

    assert [(lease.payload, lease.num_deliveries) for lease in leases] == [(b"a", 1)]


async def test_completing_puts_results_into_the_inbox_and_ends_the_requests(queue: RequestQueue, inbox: Inbox) -> None:
    await queue.put([b"a", b"b", b"c"])
    first, second, _ = await take(queue, "w1")

    assert await queue.complete("w1", [(second, b"result of b"), (first, b"result of a")]) == [True, True]

    assert await results_in(inbox) == [b"result of b", b"result of a"]
    assert await outstanding(queue) == [b"c"]


async def test_a_request_completes_once(queue: RequestQueue, inbox: Inbox) -> None:
    await queue.put([b"a"])
    (lease,) = await take(queue, "w1")

    assert await queue.complete("w1", [(lease, b"first"), (lease, b"again")]) == [True, False]
    assert await queue.complete("w1", [(lease, b"and again")]) == [False]

    assert await results_in(inbox) == [b"first"]


async def test_an_expired_lease_passes_to_another_worker(age_leases: AgeLeases, queue: RequestQueue) -> None:
    await queue.put([b"a"])
    await take(queue, "w1")

    await age_leases(1.0)

    assert await taken(queue, "w2") == [b"a"]


async def test_a_lease_does_not_pass_on_before_it_expires(age_leases: AgeLeases, queue: RequestQueue) -> None:
    await queue.put([b"a"])
    await take(queue, "w1")

    await age_leases(0.5)

    assert await taken(queue, "w2") == []


async def test_a_late_worker_writes_nothing_when_its_lease_has_passed_on(
    age_leases: AgeLeases, queue: RequestQueue, inbox: Inbox
) -> None:
    await queue.put([b"a", b"b"])
    late_a, late_b = await take(queue, "w1")
    await age_leases(1.0)
    (lease_a,) = await take(queue, "w2", max_count=1)

    assert await queue.complete("w1", [(late_a, b"late a"), (late_b, b"late b")]) == [False, True]
    assert await queue.complete("w2", [(lease_a, b"a of w2")]) == [True]

    assert await results_in(inbox) == [b"late b", b"a of w2"]


async def test_a_renewed_lease_starts_its_time_again(age_leases: AgeLeases, queue: RequestQueue) -> None:
    await queue.put([b"renewed", b"forgotten"])
    renewed, _ = await take(queue, "w1")
    await age_leases(0.5)

    await queue.renew("w1", [renewed])
    await age_leases(0.5)

    assert await taken(queue, "w2") == [b"forgotten"]


async def test_an_expired_lease_is_found_behind_those_that_were_renewed(
    age_leases: AgeLeases, queue: RequestQueue
) -> None:
    await queue.put([b"renewed", b"also renewed", b"forgotten"])
    *renewed, _ = await take(queue, "w1")
    await age_leases(1.0)
    await queue.renew("w1", renewed)

    assert await taken(queue, "w2", max_count=1) == [b"forgotten"]


async def test_renewing_does_not_win_back_what_another_worker_holds(
    age_leases: AgeLeases, queue: RequestQueue, inbox: Inbox
) -> None:
    await queue.put([b"a"])
    (late,) = await take(queue, "w1")
    await age_leases(1.0)
    (lease,) = await take(queue, "w2")

    await queue.renew("w1", [late])

    assert await queue.complete("w1", [(late, b"late")]) == [False]
    assert await queue.complete("w2", [(lease, b"result")]) == [True]
    assert await results_in(inbox) == [b"result"]


async def test_renewing_does_not_count_as_a_delivery(age_leases: AgeLeases, queue: RequestQueue) -> None:
    await queue.put([b"a"])
    (first,) = await take(queue, "w1")
    await queue.renew("w1", [first])
    await age_leases(1.0)

    (second,) = await take(queue, "w2")

    assert (first.num_deliveries, second.num_deliveries) == (1, 2)


async def test_a_released_request_is_free_at_once_and_lost_to_its_worker(queue: RequestQueue, inbox: Inbox) -> None:
    await queue.put([b"kept", b"released"])
    kept, released = await take(queue, "w1")

    await queue.release("w1", [released])

    assert await queue.complete("w1", [(kept, b"result"), (released, b"too late")]) == [True, False]
    assert await results_in(inbox) == [b"result"]
    assert await taken(queue, "w2") == [b"released"]


async def test_a_released_request_goes_before_those_put_later(queue: RequestQueue) -> None:
    await queue.put([b"a", b"b"])
    leases = await take(queue, "w1", max_count=1)
    await queue.release("w1", leases)

    assert await taken(queue, "w2") == [b"a", b"b"]


async def test_releasing_what_another_worker_holds_changes_nothing(age_leases: AgeLeases, queue: RequestQueue) -> None:
    await queue.put([b"a"])
    late = await take(queue, "w1")
    await age_leases(1.0)
    await take(queue, "w2")

    await queue.release("w1", late)

    assert await taken(queue, "w3") == []


async def test_each_delivery_is_counted(age_leases: AgeLeases, queue: RequestQueue) -> None:
    await queue.put([b"poison"])
    counts = []
    for worker in ("w1", "w2", "w3"):
        (lease,) = await take(queue, worker)
        counts.append(lease.num_deliveries)
        await age_leases(1.0)

    assert counts == [1, 2, 3]


async def test_a_worker_that_restarts_gets_its_own_requests_first(
    reopened: Callable[[], Streams], queue: RequestQueue
) -> None:
    await queue.put([b"a", b"b", b"c"])
    await take(queue, "w1", max_count=2)

    leases = await take(reopened().window_requests, "w1")

    assert [(lease.payload, lease.num_deliveries) for lease in leases] == [(b"a", 2), (b"b", 2), (b"c", 1)]


async def test_a_worker_that_restarts_gets_its_own_requests_once(
    reopened: Callable[[], Streams], queue: RequestQueue
) -> None:
    await queue.put([b"a"])
    await take(queue, "w1")
    restarted = reopened().window_requests
    await take(restarted, "w1")

    assert await taken(restarted, "w1") == []


async def test_a_worker_that_restarts_leaves_the_requests_of_others(
    reopened: Callable[[], Streams], queue: RequestQueue
) -> None:
    await queue.put([b"a"])
    await take(queue, "w1")

    assert await taken(reopened().window_requests, "w2") == []


async def test_outstanding_are_all_requests_not_completed_in_order(queue: RequestQueue) -> None:
    await queue.put([b"done", b"released", b"held", b"waiting"])
    done, released, _ = await take(queue, "w1", max_count=3)
    await queue.complete("w1", [(done, b"result")])
    await queue.release("w1", [released])

    assert await outstanding(queue) == [b"released", b"held", b"waiting"]


async def test_outstanding_come_in_pages_behind_an_entry(queue: RequestQueue) -> None:
    ids = await queue.put([b"a", b"b", b"c"])

    page = await queue.outstanding(max_count=2)

    assert page == [Outstanding(ids[0], b"a"), Outstanding(ids[1], b"b")]
    assert await queue.outstanding(ids[1], max_count=2) == [Outstanding(ids[2], b"c")]
    assert await queue.outstanding(ids[2], max_count=2) == []


async def test_of_entries_those_remain_that_are_not_completed(queue: RequestQueue) -> None:
    ids = await queue.put([b"done", b"rejected", b"released", b"held", b"waiting"])
    done, rejected, released, held = await take(queue, "w1", max_count=4)
    await queue.complete("w1", [(done, b"result")])
    await queue.reject("w1", rejected, "no request")
    await queue.release("w1", [released])

    assert [lease.entry_id for lease in (done, rejected, released, held)] == ids[:4]
    assert await queue.remaining([*ids, "1-1"]) == set(ids[2:])
    assert await queue.remaining([]) == set()


async def test_nothing_remains_of_what_was_never_there(queue: RequestQueue) -> None:
    assert await queue.remaining(["1-1"]) == set()


async def test_outstanding_requests_may_be_many(queue: RequestQueue) -> None:
    payloads = [str(number).encode() for number in range(600)]
    await queue.put(payloads)

    assert await outstanding(queue) == payloads


async def test_depth_counts_waiting_and_held_requests(queue: RequestQueue) -> None:
    assert await queue.depth() == QueueDepth(num_waiting=0, num_leased=0)

    await queue.put([b"a", b"b", b"c", b"d"])
    first, second, _ = await take(queue, "w1", max_count=3)
    await queue.complete("w1", [(first, b"result")])
    await queue.release("w1", [second])

    assert await queue.depth() == QueueDepth(num_waiting=2, num_leased=1)


async def test_calls_with_empty_lists_do_nothing(queue: RequestQueue) -> None:
    await queue.put([])
    await queue.renew("w1", [])
    await queue.release("w1", [])

    assert await queue.complete("w1", []) == []
    assert await outstanding(queue) == []


async def test_the_queues_share_the_inbox_and_no_requests(streams: Streams, inbox: Inbox) -> None:
    windows, rewards = streams.window_requests, streams.reward_requests
    await windows.put([b"window request"])
    await rewards.put([b"reward request"])
    (window_lease,) = await take(windows, "w1")
    (reward_lease,) = await take(rewards, "w1")

    await windows.complete("w1", [(window_lease, b"window")])
    await rewards.complete("w1", [(reward_lease, b"score")])

    assert (window_lease.payload, reward_lease.payload) == (b"window request", b"reward request")
    assert await results_in(inbox) == [b"window", b"score"]


async def test_any_bytes_may_be_a_payload(queue: RequestQueue, inbox: Inbox) -> None:
    every_byte = bytes(range(256))
    await queue.put([every_byte, b""])
    first, second = await take(queue, "w1")

    await queue.complete("w1", [(first, every_byte), (second, b"")])

    assert (first.payload, second.payload) == (every_byte, b"")
    assert await results_in(inbox) == [every_byte, b""]


async def test_a_released_request_counts_as_not_delivered(queue: RequestQueue) -> None:
    await queue.put([b"a"])
    counts = []
    for worker in ("w1", "w2"):
        (lease,) = await take(queue, worker)
        counts.append(lease.num_deliveries)
        await queue.release(worker, [lease])

    assert counts == [1, 1]


async def test_a_worker_that_takes_its_own_expired_lease_again_has_not_died_over_it(
    age_leases: AgeLeases, queue: RequestQueue
) -> None:
    await queue.put([b"a"])
    await take(queue, "w1")
    await age_leases(1.0)

    (again,) = await take(queue, "w1")
    await age_leases(1.0)
    (elsewhere,) = await take(queue, "w2")

    assert (again.num_deliveries, elsewhere.num_deliveries) == (1, 2)

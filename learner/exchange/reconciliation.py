"""Compares what the ledger waits for with what the streams hold, and resends requests that have vanished.

Loop `serve`: consumes both queues and the inbox's end / waits `LOOK_SECONDS` / unblocked by the clock / produces
requests to be resent, counted. A request leaves its queue in the same step in which its answer enters the inbox. So one
that was sent before a look, is no longer in its queue, and is still waited for once the ledger has everything up to the
inbox's end, was lost: by a server that came back without its last second, or empty. A look reads no payloads: the ids
under which requests were sent are enough, a page at a time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from learner.exchange.request_sender import RequestSender
from learner.rollouts.border import Border, RejectedError
from learner.rollouts.ledger import Ledger
from learner.rollouts.requests import RequestKey, answered_by, awaited_by, key_of
from learner.rollouts.rollout import Rollout
from tppo import codec
from tppo.rollout import Command, RewardRequest, WindowRequest
from tppo.streams import RequestQueue, Streams, StreamsError, until_redis_answers
from tppo.streams.contract import BEGINNING, position_of

logger = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
PAGE_SIZE = 256  # rollouts that are looked at, and ids that are sent, at once
READ_COUNT = 64  # requests or records, with their payloads, that a restarted learner reads at once
POLL_SECONDS = 0.1


def waited_for(rollouts: Iterable[Rollout]) -> dict[RequestKey, Rollout]:
    """The rollouts that wait for a window or a score, by the request that would bring it."""
    return {key: rollout for rollout in rollouts if (key := awaited_by(rollout)) is not None}


def resend(ledger: Ledger, rollouts: Iterable[Rollout]) -> None:
    """Put their requests into the ledger's outbox again."""
    ledger.outbox += [ledger.request(rollout) for rollout in rollouts]


async def held_by(streams: Streams, position: str, border: Border) -> dict[RequestKey, str]:
    """The requests that are in the queues, each with the id of its entry, and those that the inbox holds answers to
    behind the position, with "".

    What cannot be decoded, or is rejected, holds nothing.
    """
    held: dict[RequestKey, str] = {}
    decoders: Mapping[RequestQueue, Callable[[bytes], WindowRequest | RewardRequest]] = {
        streams.window_requests: codec.decode_window_request,
        streams.reward_requests: codec.decode_reward_request,
    }
    for queue, decode in decoders.items():
        after = BEGINNING
        while page := await queue.outstanding(after, max_count=READ_COUNT):
            after = page[-1].entry_id
            for one in page:
                with suppress(ValueError):
                    held[key_of(decode(one.payload))] = one.entry_id
    while entries := await streams.inbox.read(position, max_count=READ_COUNT, wait_seconds=0):
        position = entries[-1].position
        for entry in entries:
            if (key := _answered(entry.payload, border)) is not None:
                held.setdefault(key, "")
    return held


def _answered(payload: bytes, border: Border) -> RequestKey | None:
    """The request that a record answers; None for one that answers none, or is rejected."""
    with suppress(RejectedError):
        record = border.admit(payload)
        return None if isinstance(record, Command) else answered_by(record)
    return None


class Reconciliation:
    """Of one learner's ledger with its streams."""

    def __init__(
        self,
        streams: Streams,
        ledger: Ledger,
        sender: RequestSender,
        position: Callable[[], str],
        border: Border,
    ) -> None:
        """`position`: up to where the inbox is in the ledger; `border`: which of its records count."""
        self._border = border
        self._streams = streams
        self._queues = {
            WindowRequest.__name__: streams.window_requests,
            RewardRequest.__name__: streams.reward_requests,
        }
        self._ledger = ledger
        self._sender = sender
        self._position = position

    async def begin(self) -> None:
        """Request all that is waited for, except what was requested before a restart and the streams still hold."""
        held = await until_redis_answers(self._held, "looking for requests")
        self._sender.recognize(held)
        resend(self._ledger, waited_for(self._ledger.rollouts.values()).values())

    async def _held(self) -> dict[RequestKey, str]:
        return await held_by(self._streams, self._position(), self._border)

    async def look(self) -> int:
        """Resend what has vanished; how many requests."""
        self._sender.forget_retired()
        gone = await self._gone()
        if not gone or not await self._is_all_entered():
            return 0
        lost = list(self._lost(gone))
        resend(self._ledger, lost)
        self._ledger.num_resent_requests += len(lost)
        self._sender.flush()
        return len(lost)

    async def _gone(self) -> dict[RequestKey, str]:
        """Of the requests that are waited for and were sent, those that are in no queue, each with its entry's id."""
        unsent, rollouts = self._sender.unsent(), list(self._ledger.rollouts.values())
        gone: dict[RequestKey, str] = {}
        for page in _pages(rollouts):
            sent = {key: self._sender.entry_of(key) for key in waited_for(page) if key not in unsent}
            for kind, queue in self._queues.items():
                of_queue = {key: entry_id for key, entry_id in sent.items() if key[0] == kind}
                remaining = await queue.remaining([entry_id for entry_id in of_queue.values() if entry_id])
                gone |= {key: entry_id for key, entry_id in of_queue.items() if entry_id not in remaining}
            await asyncio.sleep(0)
        return gone

    async def _is_all_entered(self) -> bool:
        """Wait until the ledger has what the inbox holds now; False: that takes too long, so look again."""
        end, give_up_at = position_of(await self._streams.inbox.last()), time.monotonic() + LOOK_SECONDS
        while position_of(self._position()) < end:
            if time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    def _lost(self, gone: Mapping[RequestKey, str]) -> Iterator[Rollout]:
        """Those that are still waited for, and were not sent again meanwhile."""
        unsent = self._sender.unsent()
        for key, entry_id in gone.items():
            rollout = self._ledger.rollouts.get(key[1])
            is_sent_again = key in unsent or self._sender.entry_of(key) != entry_id
            if rollout is not None and awaited_by(rollout) == key and not is_sent_again:
                yield rollout

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if num_lost := await self.look():
                    logger.warning("%d requests have vanished from Redis; resent", num_lost)
            except StreamsError as error:
                logger.warning("cannot compare the ledger with Redis: %s; retry in %g s", error, LOOK_SECONDS)


def _pages(rollouts: Sequence[Rollout]) -> Iterator[Sequence[Rollout]]:
    return (rollouts[begin : begin + PAGE_SIZE] for begin in range(0, len(rollouts), PAGE_SIZE))

"""Compares what the ledger waits for with what the streams hold, and resends requests that have vanished.

Loop `serve`: consumes both queues and the inbox / waits `LOOK_SECONDS` / unblocked by the clock / produces requests to
be resent, counted. A request leaves its queue in the same step in which its answer enters the inbox. So one that was
sent before a look, is in neither, and is still waited for after the look, was lost: by a server that came back without
its last second, or empty.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from learner.exchange.request_sender import RequestSender
from learner.rollouts.border import Border, RejectedError
from learner.rollouts.ledger import Ledger
from learner.rollouts.requests import Request, RequestKey, answered_by, awaited_by, key_of
from learner.rollouts.rollout import Rollout
from tppo import codec
from tppo.rollout import Command
from tppo.streams import Streams, StreamsError, until_redis_answers

logger = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
READ_COUNT = 256  # inbox entries per read


def waited_for(ledger: Ledger) -> dict[RequestKey, Rollout]:
    """The rollouts that wait for a window or a score, by the request that would bring it."""
    return {key: rollout for rollout in ledger.rollouts.values() if (key := awaited_by(rollout)) is not None}


def resend(ledger: Ledger, rollouts: Iterable[Rollout]) -> None:
    """Put their requests into the ledger's outbox again."""
    ledger.outbox += [ledger.request(rollout) for rollout in rollouts]


async def held_by(streams: Streams, position: str, border: Border) -> set[RequestKey]:
    """The requests that are in the queues, or that the inbox holds answers to behind the position.

    What cannot be decoded, or is rejected, holds nothing.
    """
    windows, rewards = await streams.window_requests.outstanding(), await streams.reward_requests.outstanding()
    keys = set(_keys(windows, codec.decode_window_request)) | set(_keys(rewards, codec.decode_reward_request))
    while entries := await streams.inbox.read(position, max_count=READ_COUNT, wait_seconds=0):
        position = entries[-1].position
        for entry in entries:
            if (key := _answered(entry.payload, border)) is not None:
                keys.add(key)
    return keys


def _answered(payload: bytes, border: Border) -> RequestKey | None:
    """The request that a record answers; None for one that answers none, or is rejected."""
    with suppress(RejectedError):
        record = border.admit(payload)
        return None if isinstance(record, Command) else answered_by(record)
    return None


def _keys(payloads: Iterable[bytes], decode: Callable[[bytes], Request]) -> Iterator[RequestKey]:
    for payload in payloads:
        with suppress(ValueError):
            yield key_of(decode(payload))


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
        self._ledger = ledger
        self._sender = sender
        self._position = position

    async def begin(self) -> None:
        """Request all that is waited for, except what was requested before a restart and the streams still hold."""
        held = await until_redis_answers(self._held, "looking for requests")
        self._sender.recognize(held)
        resend(self._ledger, waited_for(self._ledger).values())

    async def look(self) -> int:
        """Resend what has vanished; how many requests."""
        sent = waited_for(self._ledger).keys() - self._sender.unsent()
        held = await self._held()
        lost = [row for key, row in waited_for(self._ledger).items() if key in sent and key not in held]
        resend(self._ledger, lost)
        self._ledger.num_resent_requests += len(lost)
        self._sender.flush()
        return len(lost)

    async def _held(self) -> set[RequestKey]:
        return await held_by(self._streams, self._position(), self._border)

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if num_lost := await self.look():
                    logger.warning("%d requests have vanished from Redis; resent", num_lost)
            except StreamsError as error:
                logger.warning("cannot compare the ledger with Redis: %s; retry in %g s", error, LOOK_SECONDS)

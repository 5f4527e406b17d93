"""Sends the ledger's requests, in order, once each as far as this learner knows; a failed send is retried.

Loop `serve`: consumes requests that the ledger made / waits for one / unblocked by `flush` / produces entries of the
two request queues. A resumed learner makes the requests that its checkpoint says are out again; those that the queues
still hold, or whose answer is in the inbox, are recognized here and not sent a second time.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from learner.rollouts.ledger import Ledger
from learner.rollouts.requests import Request, RequestKey, awaited_by, key_of
from tppo import codec
from tppo.process.backoff import Backoff
from tppo.rollout import RewardRequest, WindowRequest
from tppo.streams import Streams, StreamsError

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5  # between attempts while Redis does not answer
LONGEST_DELAY_SECONDS = 4.0


class RequestSender:
    """The way from the ledger to the queues. It is bounded by what the scheduler admits."""

    def __init__(self, streams: Streams, ledger: Ledger) -> None:
        self._streams = streams
        self._ledger = ledger
        self._unsent: list[Request] = []
        self._has_unsent = asyncio.Event()
        self._known: set[RequestKey] = set()
        self.last_error = ""
        self._backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)

    def recognize(self, keys: Iterable[RequestKey]) -> None:
        """Requests that are in the queues, or answered, already."""
        self._known.update(keys)

    def unsent(self) -> set[RequestKey]:
        """Requests that are not known to have reached the queues yet."""
        return {key_of(request) for request in (*self._unsent, *self._ledger.outbox)}

    def flush(self) -> None:
        """Take the requests that the ledger has made, and still waits for: a record may have settled one already."""
        requests, self._ledger.outbox = self._ledger.outbox, []
        for request in requests:
            key = key_of(request)
            if key in self._known:
                self._known.discard(key)
            elif self._is_awaited(request):
                self._unsent.append(request)
        if self._unsent:
            self._has_unsent.set()

    def _is_awaited(self, request: Request) -> bool:
        rollout = self._ledger.rollouts.get(request.rollout_id)
        return rollout is not None and awaited_by(rollout) == key_of(request)

    async def serve(self) -> None:
        """Send until cancelled."""
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            while self._unsent:
                await self._send(list(self._unsent))

    async def _send(self, requests: Sequence[Request]) -> None:
        windows = [codec.encode_window_request(one) for one in requests if isinstance(one, WindowRequest)]
        rewards = [codec.encode_reward_request(one) for one in requests if isinstance(one, RewardRequest)]
        try:
            if windows:
                await self._streams.window_requests.put(windows)
            if rewards:
                await self._streams.reward_requests.put(rewards)
        except StreamsError as error:
            self.last_error = f"cannot send requests: {error}"
            delay_seconds = self._backoff.next_delay()
            logger.warning("%s; retry in %g s", self.last_error, delay_seconds)
            await asyncio.sleep(delay_seconds)
        else:
            self._backoff.reset()
            self.last_error = ""
            del self._unsent[: len(requests)]

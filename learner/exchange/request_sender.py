"""Sends the ledger's requests, in order, once each as far as this learner knows; a failed send is tried again.

Loop `serve`: consumes requests that the ledger made / waits for one / unblocked by `flush` / produces entries of the
two request queues. A resumed learner asks again for what its checkpoint says is out; what the queues still hold, or
what the inbox has the answer to, is recognised here and not sent a second time.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from redis.exceptions import RedisError

from learner.rollouts.ledger import Ledger
from tppo import codec
from tppo.rollout import RewardRequest, WindowRequest
from tppo.streams import Streams

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
Request = WindowRequest | RewardRequest
Name = tuple[str, str, int]  # of a request: its kind and its key


def name_of(request: Request) -> Name:
    """What tells one request from every other."""
    return type(request).__name__, *request.key


class Outbox:
    """The way from the ledger to the queues. It is bounded by what the scheduler admits."""

    def __init__(self, streams: Streams, ledger: Ledger) -> None:
        self._streams = streams
        self._ledger = ledger
        self._unsent: list[Request] = []
        self._has_some = asyncio.Event()
        self._recognised: set[Name] = set()
        self.last_error = ""

    def recognise(self, names: Iterable[Name]) -> None:
        """Requests that are in the queues, or answered, already."""
        self._recognised.update(names)

    def unsent(self) -> set[Name]:
        """Requests that are not known to have reached the queues yet."""
        return {name_of(request) for request in (*self._unsent, *self._ledger.outbox)}

    def flush(self) -> None:
        """Take the requests that the ledger has made."""
        requests, self._ledger.outbox = self._ledger.outbox, []
        for request in requests:
            name = name_of(request)
            if name in self._recognised:
                self._recognised.discard(name)
            else:
                self._unsent.append(request)
        if self._unsent:
            self._has_some.set()

    async def serve(self) -> None:
        """Send until cancelled."""
        while True:
            await self._has_some.wait()
            self._has_some.clear()
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
        except (RedisError, OSError) as error:
            self.last_error = f"cannot send requests: {error}"
            logger.warning("%s; trying again", self.last_error)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            self.last_error = ""
            del self._unsent[: len(requests)]

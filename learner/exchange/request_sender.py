"""Sends the ledger's requests, in order, once each as far as this learner knows; a failed send is retried.

Loop `serve`: consumes requests that the ledger made / waits for one / unblocked by `flush` / produces entries of the
two request queues, a batch at a time: a step's requests, with the responses so far, may be hundreds of megabytes. Their
bytes, and the texts of responses to be scored, are made in another thread.

A resumed learner makes the requests that its checkpoint says are out again; those that the queues still hold, or whose
answer is in the inbox, are recognized here and not sent a second time.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice

from learner.rollouts.ledger import Ledger
from learner.rollouts.requests import Request, RequestKey, UnscoredResponse, awaited_by, key_of
from tppo import codec
from tppo.process.backoff import Backoff
from tppo.rollout import WindowRequest
from tppo.streams import RequestQueue, Streams, StreamsError

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5  # between attempts while Redis does not answer
LONGEST_DELAY_SECONDS = 4.0
BATCH_COUNT = 256  # requests that are sent at once
BATCH_BYTES = 4 * 2**20  # of them, unless one alone is longer
MAX_AT_ONCE = 4096  # tokens and characters of requests that are encoded on the event loop; see `size_of`
SIZE_OF_NONE = 64  # what a request without any costs, in the same unit


class RequestSender:
    """The way from the ledger to the queues. It is bounded by what the scheduler admits."""

    def __init__(self, streams: Streams, ledger: Ledger) -> None:
        self._queues: Mapping[type[Request], RequestQueue] = {
            WindowRequest: streams.window_requests,
            UnscoredResponse: streams.reward_requests,
        }
        self._ledger = ledger
        self._unsent: dict[type[Request], deque[Request]] = {kind: deque() for kind in self._queues}
        self._has_unsent = asyncio.Event()
        self._known: dict[RequestKey, str] = {}
        self._sent: dict[str, tuple[RequestKey, str]] = {}  # by rollout, which waits for one request at a time
        self.last_error = ""
        self._backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)

    def recognize(self, known: Mapping[RequestKey, str]) -> None:
        """Requests that are in the queues already, each with the id of its entry, or "" where it is answered."""
        self._known.update(known)

    def unsent(self) -> set[RequestKey]:
        """Requests that are not known to have reached the queues yet."""
        return {key_of(request) for requests in (*self._unsent.values(), self._ledger.outbox) for request in requests}

    def entry_of(self, key: RequestKey) -> str:
        """The id under which a request lies in its queue, or lay there; "" where none is known."""
        sent_key, entry_id = self._sent.get(key[1], (None, ""))
        return entry_id if sent_key == key else ""

    def forget_retired(self) -> None:
        """Rollouts that have ended wait for nothing more."""
        for rollout_id in self._sent.keys() - self._ledger.rollouts.keys():
            del self._sent[rollout_id]

    def flush(self) -> None:
        """Take the requests that the ledger has made, and still waits for: a record may have settled one already."""
        requests, self._ledger.outbox = self._ledger.outbox, []
        for request in requests:
            key = key_of(request)
            if key in self._known:
                self._note_sent(key, self._known.pop(key))
            elif self._is_awaited(request):
                self._unsent[type(request)].append(request)
        if any(self._unsent.values()):
            self._has_unsent.set()

    def _is_awaited(self, request: Request) -> bool:
        rollout = self._ledger.rollouts.get(request.rollout_id)
        return rollout is not None and awaited_by(rollout) == key_of(request)

    def _note_sent(self, key: RequestKey, entry_id: str) -> None:
        self._sent[key[1]] = key, entry_id

    async def serve(self) -> None:
        """Send until cancelled."""
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            while any(self._unsent.values()):
                for kind, requests in self._unsent.items():
                    await self._send(kind, requests)

    async def _send(self, kind: type[Request], requests: deque[Request]) -> None:
        """The first of them."""
        if not requests:
            return
        first = list(islice(requests, BATCH_COUNT))
        is_little = sum(map(size_of, first)) <= MAX_AT_ONCE
        payloads = self._batch(first) if is_little else await asyncio.to_thread(self._batch, first)
        try:
            entry_ids = await self._queues[kind].put(payloads)
        except StreamsError as error:
            self.last_error = f"cannot send requests: {error}"
            delay_seconds = self._backoff.next_delay()
            logger.warning("%s; retry in %g s", self.last_error, delay_seconds)
            await asyncio.sleep(delay_seconds)
        else:
            self._backoff.reset()
            self.last_error = ""
            for entry_id in entry_ids:
                self._note_sent(key_of(requests.popleft()), entry_id)

    def _batch(self, requests: Sequence[Request]) -> list[bytes]:
        """The bytes of as many as are sent at once."""
        payloads: list[bytes] = []
        num_bytes = 0
        for request in requests:
            payload = self._encoded(request)
            num_bytes += len(payload)
            if payloads and num_bytes > BATCH_BYTES:
                break
            payloads.append(payload)
        return payloads

    def _encoded(self, request: Request) -> bytes:
        if isinstance(request, WindowRequest):
            return codec.encode_window_request(request)
        return codec.encode_reward_request(request.request(self._ledger.decode))


def size_of(request: Request) -> int:
    """What it takes to encode: tokens of prompt and response, and the characters of what goes along."""
    if isinstance(request, WindowRequest):
        return SIZE_OF_NONE + len(request.prompt_tokens) + len(request.response_tokens)
    prompt = request.prompt
    return SIZE_OF_NONE + len(request.tokens) + len(prompt.text) + len(prompt.ground_truth) + len(prompt.extra_info)

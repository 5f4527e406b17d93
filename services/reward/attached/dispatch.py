"""Work for functions that users' own processes offer: who gets which piece, and what becomes of it.

States of a piece:

    waiting ─▶ held by a process ─▶ its call started ─▶ answered, or TIMED_OUT when its deadline passes
       ▲              └─ the process disconnected: waits again, before all others; FAILED after MAX_LOSSES of them
       └─▶ FAILED, when no process has offered its function for `attach_wait_seconds`

The deadline counts from the start of the call, so that one that hangs costs no other response its score. What is held
without a start is TIMED_OUT only once its process has started no call of the function at all for `START_FACTOR`
deadlines: each of its calls hangs. A process that does not report starts has the deadline from the hand-over on.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.reward.attached.attachment import Attachment, Piece
from services.reward.attached.offer import CallStart, InvalidMessageError, Offer, WorkAnswer
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome, failed, timed_out

MAX_LOSSES = 3  # a response that ends each process that reads it is not sent out without limit
START_FACTOR = 2.0  # a process gives up a call at its deadline, and starts the next
MAX_WORK_BYTES = 15 * 2**20  # texts of one piece; leaves room in a message of 16 MiB


@dataclass(frozen=True, slots=True)
class AttachDeadlines:
    """How long to wait for users' processes."""

    timeout_seconds: float  # for an answer, once a process has started the call
    attach_wait_seconds: float  # for a process that offers the function


class AttachedFunctions:
    """Shares the work for each name among the processes that offer it, those with most room first."""

    def __init__(self, deadlines: AttachDeadlines) -> None:
        self.deadlines = deadlines
        self._attachments: list[Attachment] = []
        self._waiting: defaultdict[str, deque[Piece]] = defaultdict(deque)
        self._counts = Counter(num_given_back=0, num_late=0, num_refused=0)

    async def outcome(self, function: str, request: RewardRequest) -> Outcome:
        """What the function makes of the request, as soon as a process has room for it."""
        if (num_bytes := _num_bytes(request)) > MAX_WORK_BYTES:
            return failed(f"request of {num_bytes} bytes; a user's process takes at most {MAX_WORK_BYTES}")
        piece = Piece(function, request, asyncio.get_running_loop().create_future())
        self._wait(piece)
        self._hand_out(function)
        try:
            return await piece.outcome
        except asyncio.CancelledError:
            self._withdraw(piece)
            raise

    @contextlib.contextmanager
    def attached(self, offer: Offer) -> Iterator[Attachment]:
        """The process is attached until this ends; then what it holds goes to others."""
        attachment = Attachment(offer)
        self._attachments.append(attachment)
        for function in offer.functions:
            for piece in self._waiting[function]:
                piece.stop_timer()
            self._hand_out(function)
        try:
            yield attachment
        finally:
            self._detach(attachment)

    def start(self, attachment: Attachment, start: CallStart) -> None:
        """A process has started a call: its deadline begins. Raises `InvalidMessageError`."""
        with self._counting_refusals():
            pieces = attachment.take_start(start)
        for piece in pieces:
            piece.stop_timer()
            if piece.is_open:
                self._start_deadline(attachment, piece)

    def answer(self, attachment: Attachment, answer: WorkAnswer) -> None:
        """Take an answer from a process. Raises `InvalidMessageError`."""
        with self._counting_refusals():
            taken = attachment.take_answer(answer)
        if taken is None:
            self._counts["num_late"] += 1
        else:
            piece, outcome = taken
            seconds = asyncio.get_running_loop().time() - piece.held_since
            piece.settle(replace(outcome, duration_seconds=seconds))
        self._hand_out_to(attachment)

    def count_refusal(self) -> None:
        """A message of a process was invalid."""
        self._counts["num_refused"] += 1

    def status(self) -> dict[str, object]:
        """Who is attached and what waits, for the heartbeat."""
        processes = [
            {
                "process": one.offer.process,
                "functions": sorted(one.offer.functions),
                "num_held": one.num_held,
                "max_held": one.offer.max_held,
            }
            for one in self._attachments
        ]
        waiting = {name: sum(piece.is_open for piece in pieces) for name, pieces in self._waiting.items()}
        nobody = sorted(name for name, count in waiting.items() if count and not self._is_offered(name))
        return {**self._counts, "processes": processes, "num_waiting": waiting, "offered_by_nobody": nobody}

    @contextlib.contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except InvalidMessageError:
            self.count_refusal()
            raise

    def _detach(self, attachment: Attachment) -> None:
        self._attachments.remove(attachment)
        for piece in reversed(list(attachment.unanswered())):
            self._counts["num_given_back"] += 1
            piece.num_losses += 1
            if piece.num_losses < MAX_LOSSES:
                self._wait(piece, is_first=True)
            else:
                piece.settle(failed(f"{MAX_LOSSES} processes disconnected while they held it"))
        for function in attachment.offer.functions:
            for piece in self._waiting[function]:
                self._start_attach_deadline(piece)
            self._hand_out(function)

    def _wait(self, piece: Piece, *, is_first: bool = False) -> None:
        queue = self._waiting[piece.function]
        (queue.appendleft if is_first else queue.append)(piece)
        self._start_attach_deadline(piece)

    def _withdraw(self, piece: Piece) -> None:
        """Its request was cancelled; a process that holds it may still answer."""
        piece.stop_timer()
        with contextlib.suppress(ValueError):
            self._waiting[piece.function].remove(piece)

    def _start_attach_deadline(self, piece: Piece) -> None:
        """The deadline runs while no process offers the function."""
        piece.stop_timer()
        if piece.is_open and not self._is_offered(piece.function):
            seconds = self.deadlines.attach_wait_seconds
            piece.timer = asyncio.get_running_loop().call_later(seconds, self._give_up, piece)

    def _give_up(self, piece: Piece) -> None:
        seconds = self.deadlines.attach_wait_seconds
        piece.settle(failed(f"no process offers {piece.function!r}; none attached within {seconds:g} s"))
        self._waiting[piece.function].remove(piece)

    def _hand_out(self, function: str) -> None:
        while offering := [one for one in self._attachments if function in one.offer.functions and one.num_free]:
            if not self._give_next(max(offering, key=lambda one: one.num_free), function):
                return

    def _hand_out_to(self, attachment: Attachment) -> None:
        """Fill the room of one process, its functions in turn."""
        functions = deque(attachment.offer.functions)
        while functions and attachment.num_free:
            if self._give_next(attachment, functions[0]):
                functions.rotate(-1)
            else:
                functions.popleft()

    def _give_next(self, attachment: Attachment, function: str) -> bool:
        """Hand over the first piece in the queue; False when there is none."""
        queue = self._waiting[function]
        while queue:
            piece = queue.popleft()
            if piece.is_open:
                self._hold(attachment, piece)
                return True
        return False

    def _hold(self, attachment: Attachment, piece: Piece) -> None:
        piece.stop_timer()
        piece.held_since, piece.is_started = asyncio.get_running_loop().time(), False
        if attachment.offer.reports_starts:
            self._await_start(attachment, piece)
        else:
            self._start_deadline(attachment, piece)
        attachment.give(piece)

    def _start_deadline(self, attachment: Attachment, piece: Piece) -> None:
        seconds = self.deadlines.timeout_seconds
        piece.timer = asyncio.get_running_loop().call_later(
            seconds, self._time_out, attachment, piece, timed_out(seconds)
        )

    def _await_start(self, attachment: Attachment, piece: Piece) -> None:
        """Until `START_FACTOR` deadlines after the last start of a call of its function, or after its hand-over."""
        loop, seconds = asyncio.get_running_loop(), START_FACTOR * self.deadlines.timeout_seconds
        due_at = max(piece.held_since, attachment.started_at.get(piece.function, 0.0)) + seconds
        if due_at > loop.time():
            piece.timer = loop.call_at(due_at, self._await_start, attachment, piece)
        else:
            cause = f"its process has started no call of {piece.function!r} for {seconds:g} s: all of them hang"
            self._time_out(attachment, piece, replace(failed(cause), status=ScoreStatus.TIMED_OUT))

    def _time_out(self, attachment: Attachment, piece: Piece, outcome: Outcome) -> None:
        piece.settle(outcome)
        attachment.end_if_stuck()

    def _is_offered(self, function: str) -> bool:
        return any(function in one.offer.functions for one in self._attachments)


def _num_bytes(request: RewardRequest) -> int:
    texts = (request.prompt, request.response, request.ground_truth, request.extra_info)
    return sum(len(text.encode(errors="replace")) for text in texts)

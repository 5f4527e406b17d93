"""One attached process: what is on its way to it, and what it holds."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from services.reward.attached.offer import CallStart, InvalidMessageError, Offer, WorkAnswer, outcome_of_answer
from tppo.rollout import RewardRequest
from tppo.scoring.outcome import Outcome, failed


class StuckError(Exception):
    """A process holds as much as it may, and let the deadline of all of it pass."""


@dataclass(eq=False, slots=True)
class Piece:
    """One response that waits for a score from a process that offers the function."""

    function: str
    request: RewardRequest
    outcome: asyncio.Future[Outcome]
    timer: asyncio.TimerHandle | None = None  # of the time-out that runs for it
    held_since: float = 0.0  # event loop's clock; from the start of its call on, that moment
    is_started: bool = False
    num_losses: int = 0  # processes that disconnected while they held it

    @property
    def is_open(self) -> bool:
        """Whether its outcome is awaited."""
        return not self.outcome.done()

    def stop_timer(self) -> None:
        """Cancel its time-out."""
        if self.timer:
            self.timer.cancel()
            self.timer = None

    def settle(self, outcome: Outcome) -> None:
        """Set its outcome, which is final."""
        self.stop_timer()
        self.outcome.set_result(outcome)


@dataclass(frozen=True, slots=True)
class Held:
    """A piece under a lease."""

    lease_id: int
    piece: Piece


class Attachment:
    """States of a lease: on the way -> held (-> started) -> answered.

    One whose time ran out keeps its room until it is answered.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self._held: dict[int, Piece] = {}
        self._num_leases = 0  # given so far; the number of the last one is its id
        self._on_the_way: list[Held] = []
        self._has_news = asyncio.Event()
        self._is_stuck = False
        self.started_at: dict[str, float] = {}  # when each function's last call started; event loop's clock

    @property
    def num_held(self) -> int:
        """Pieces that it has not answered."""
        return len(self._held)

    @property
    def num_free(self) -> int:
        """Pieces that it has room for."""
        return 0 if self._is_stuck else self.offer.max_held - len(self._held)

    def give(self, piece: Piece) -> None:
        """Send it one more piece."""
        self._num_leases += 1
        self._held[self._num_leases] = piece
        self._on_the_way.append(Held(self._num_leases, piece))
        self._has_news.set()

    async def next_work(self) -> list[Held]:
        """All that is on the way, as soon as there is something. Raises `StuckError`."""
        await self._has_news.wait()
        if self._is_stuck:
            raise StuckError(f"none of the {len(self._held)} pieces held was answered in time")
        self._has_news.clear()
        work, self._on_the_way = self._on_the_way, []
        return work

    def end_if_stuck(self) -> None:
        """Let the stream end when there is no room left but for what is too late."""
        if len(self._held) == self.offer.max_held and not any(piece.is_open for piece in self._held.values()):
            self._is_stuck = True
            self._has_news.set()

    def take_start(self, start: CallStart) -> list[Piece]:
        """The pieces whose call has started just now. Raises `InvalidMessageError`."""
        if not self.offer.reports_starts or start.function not in self.offer.functions:
            raise InvalidMessageError(f"a start of {start.function!r:.120}, which was not offered with reports_starts")
        now = self.started_at[start.function] = asyncio.get_running_loop().time()
        pieces = [piece for lease_id in start.lease_ids if (piece := self._given(lease_id)) and not piece.is_started]
        for piece in pieces:
            piece.is_started, piece.held_since = True, now
        return pieces

    def take_answer(self, answer: WorkAnswer) -> tuple[Piece, Outcome] | None:
        """The piece and its outcome; None when the answer is too late. Raises `InvalidMessageError`.

        An invalid value is not requested again: its piece fails with the refusal as the cause.
        """
        piece = self._given(answer.lease_id)
        if piece is None:
            return None
        if answer.rollout_id != piece.request.rollout_id:
            raise InvalidMessageError(f"lease {answer.lease_id} is not for rollout {answer.rollout_id!r:.120}")
        del self._held[answer.lease_id]
        if not piece.is_open:
            return None
        try:
            return piece, outcome_of_answer(answer, piece.request, self.offer.functions[piece.function])
        except InvalidMessageError as error:
            piece.settle(failed(f"refused: {error}"))
            raise

    def _given(self, lease_id: int) -> Piece | None:
        """The piece under a lease; None when it was answered before."""
        if not 0 < lease_id <= self._num_leases:
            raise InvalidMessageError(f"lease {lease_id} was never given to this process")
        return self._held.get(lease_id)

    def unanswered(self) -> Iterator[Piece]:
        """What another process has to score when this one disconnects."""
        return (piece for piece in self._held.values() if piece.is_open)

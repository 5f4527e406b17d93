"""What the reward service does with a reward request: scores it, here or in another process, and logs the score."""

import logging
import time
from collections.abc import Callable, Mapping

from services.reward.scorer import Scorer, score_of
from tppo.codec import decode_reward_request, encode_inbox_record
from tppo.process.leased_worker import PoisonRequestError
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.scoring.outcome import failed

log = logging.getLogger(__name__)

LogResponse = Callable[[RewardRequest, Score], None]


class ScoreHandler:
    """Serves reward requests for a `LeasedWorker`."""

    def __init__(self, scorer: Scorer, *, log_response: LogResponse = lambda request, score: None) -> None:
        self._scorer = scorer
        self._log_response = log_response
        self._busy = BusyClock()

    def note_held(self, num_held: int) -> None:
        """The service is busy while it holds requests."""
        self._busy.note(is_busy=num_held > 0)

    async def ready(self) -> None:
        """At once: the functions were loaded before."""

    async def handle(self, payload: bytes) -> bytes:
        """The score, whatever its status."""
        request = _decoded(payload)
        return self._record(request, await self._scorer.score(request))

    def refuse(self, payload: bytes, cause: str) -> bytes:
        """A failed score."""
        request = _decoded(payload)
        return self._record(request, score_of(request, failed(cause), function=""))

    def status(self) -> Mapping[str, object]:
        """What each function did, and for how long there was work."""
        return {**self._scorer.statistics.summary(), "busy_seconds": self._busy.seconds()}

    def _record(self, request: RewardRequest, score: Score) -> bytes:
        if score.status in (ScoreStatus.FAILED, ScoreStatus.TIMED_OUT):
            log.warning("%s: no score from %r: %s", score.rollout_id, score.function, score.error)
        self._log_response(request, score)
        return encode_inbox_record(score)


class BusyClock:
    """Runs while there is work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sum = 0.0
        self._since: float | None = None

    def note(self, *, is_busy: bool) -> None:
        """From now on there is work, or none."""
        if is_busy and self._since is None:
            self._since = self._clock()
        elif not is_busy:
            self._sum, self._since = self.seconds(), None

    def seconds(self) -> float:
        return self._sum if self._since is None else self._sum + self._clock() - self._since


def _decoded(payload: bytes) -> RewardRequest:
    try:
        request = decode_reward_request(payload)
    except ValueError as error:
        raise PoisonRequestError(str(error)) from None
    if not request.rollout_id:
        raise PoisonRequestError("the reward request has no rollout_id")
    return request

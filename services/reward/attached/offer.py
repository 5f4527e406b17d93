"""What an attached process sends: its offer, the starts of its calls and its answers, and which of them are invalid."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import ABSTAINED, Outcome, ScoreRange, failed, violation_of

NAME = re.compile(r"[A-Za-z_][\w.-]{0,99}")
MAX_FUNCTIONS = 100
MAX_HELD = 4096  # pieces of work in one process
BYTES_PER_TOKEN_REWARD = 4  # float32
ANSWERS = (ScoreStatus.SCORED, ScoreStatus.ABSTAINED, ScoreStatus.FAILED, ScoreStatus.TIMED_OUT)


class InvalidMessageError(ValueError):
    """An offer or an answer that is invalid; the text says why."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions of one process by name, and how many pieces of work it holds at once."""

    functions: Mapping[str, ScoreRange]
    max_held: int
    process: str = ""
    reports_starts: bool = False  # of its calls

    def __post_init__(self) -> None:
        if not 1 <= len(self.functions) <= MAX_FUNCTIONS:
            raise InvalidMessageError(f"{len(self.functions)} functions offered; expected 1 to {MAX_FUNCTIONS}")
        for name in self.functions:
            if not NAME.fullmatch(name):
                raise InvalidMessageError(f"function {name!r:.120}; expected a name such as my_judge")
        if not 1 <= self.max_held <= MAX_HELD:
            raise InvalidMessageError(f"max_held = {self.max_held}; expected 1 to {MAX_HELD}")


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call that a process has started, and the leases that it is for."""

    function: str
    lease_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class WorkAnswer:
    """What a process made of one piece of work."""

    lease_id: int
    rollout_id: str
    status: ScoreStatus | None  # None: one that is not known here
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    num_token_reward_bytes: int = 0
    details: str = ""


def outcome_of_answer(answer: WorkAnswer, request: RewardRequest, scores: ScoreRange) -> Outcome:
    """The outcome that an answer stands for. Raises `InvalidMessageError`."""
    num_bytes = request.num_response_tokens * BYTES_PER_TOKEN_REWARD
    if answer.num_token_reward_bytes not in (0, num_bytes):
        raise InvalidMessageError(
            f"token_rewards of {answer.num_token_reward_bytes} bytes; expected {num_bytes}, four a token, or none"
        )
    if answer.status not in ANSWERS:
        raise InvalidMessageError(f"status {answer.status}; expected SCORED, ABSTAINED, FAILED or TIMED_OUT")
    if (answer.score is not None) != (answer.status is ScoreStatus.SCORED):
        raise InvalidMessageError(f"status {answer.status.name} with score {answer.score}")
    if answer.score is None:
        return (
            ABSTAINED if answer.status is ScoreStatus.ABSTAINED else replace(failed(answer.error), status=answer.status)
        )
    if violation := violation_of(answer.score, answer.components, scores):
        raise InvalidMessageError(violation)
    return Outcome(ScoreStatus.SCORED, answer.score, dict(answer.components), details=answer.details)

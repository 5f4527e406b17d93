"""What an attached process says of itself and of its scores, and whether that can be."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.reward.outcome import Outcome
from tppo.rollout import RewardRequest, ScoreStatus

NAME = re.compile(r"[A-Za-z_][\w.-]{0,99}")
MAX_FUNCTIONS = 100
MAX_HELD = 4096  # pieces of work in one process
BYTES_PER_TOKEN_REWARD = 4  # float32
MAX_TEXT_CHARS = 1000  # of a cause, which travels to the learner and the dashboard
ANSWERS = (ScoreStatus.SCORED, ScoreStatus.ABSTAINED, ScoreStatus.FAILED)


class InvalidMessageError(ValueError):
    """An offer or an answer that cannot be; the text says why."""


@dataclass(frozen=True, slots=True)
class ScoreRange:
    """Between which bounds a function's scores lie."""

    minimum: float = -math.inf
    maximum: float = math.inf

    def __post_init__(self) -> None:
        """Refuse bounds between which nothing lies."""
        if not self.minimum <= self.maximum:
            raise InvalidMessageError(f"range from {self.minimum} to {self.maximum}; expected min_score <= max_score")


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions of one process by name, and how many pieces of work it holds at once."""

    functions: Mapping[str, ScoreRange]
    max_held: int
    process: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be served."""
        if not 1 <= len(self.functions) <= MAX_FUNCTIONS:
            raise InvalidMessageError(f"{len(self.functions)} functions offered; expected 1 to {MAX_FUNCTIONS}")
        for name in self.functions:
            if not NAME.fullmatch(name):
                raise InvalidMessageError(f"function {name!r:.120}; expected a name such as my_judge")
        if not 1 <= self.max_held <= MAX_HELD:
            raise InvalidMessageError(f"max_held = {self.max_held}; expected 1 to {MAX_HELD}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process says of one piece of work."""

    lease_id: int
    rollout_id: str
    status: ScoreStatus | None  # None: one that is not known here
    score: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    num_token_reward_bytes: int = 0


def outcome_of_answer(answer: Answer, request: RewardRequest, scores: ScoreRange) -> Outcome:
    """The outcome that an answer stands for. Raises `InvalidMessageError`."""
    if answer.status not in ANSWERS:
        raise InvalidMessageError(f"status {answer.status}; expected SCORED, ABSTAINED or FAILED")
    if (answer.score is not None) != (answer.status is ScoreStatus.SCORED):
        raise InvalidMessageError(f"status {answer.status.name} with score {answer.score}")
    _check_numbers(answer, scores)
    num_bytes = request.num_response_tokens * BYTES_PER_TOKEN_REWARD
    if answer.num_token_reward_bytes not in (0, num_bytes):
        raise InvalidMessageError(
            f"token_rewards of {answer.num_token_reward_bytes} bytes; expected {num_bytes}, four a token, or none"
        )
    return Outcome(answer.status, answer.score, dict(answer.components), answer.error[:MAX_TEXT_CHARS])


def _check_numbers(answer: Answer, scores: ScoreRange) -> None:
    for name, component in answer.components.items():
        if not math.isfinite(component):
            raise InvalidMessageError(f"component {name!r:.120} is {component}; expected a finite number")
    if answer.score is None:
        return
    if not math.isfinite(answer.score):
        raise InvalidMessageError(f"score {answer.score}; expected a finite number")
    if not scores.minimum <= answer.score <= scores.maximum:
        raise InvalidMessageError(
            f"score {answer.score} is outside the declared range from {scores.minimum} to {scores.maximum}"
        )

"""The records that cross a process border, as frozen dataclasses; nothing here but the standard library.

Token ids are `array("i")` (int32) and log-probabilities `array("f")` (float32): compact, comparable, and a
buffer that numpy and torch read without a copy. Treat them as read-only.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

EVALUATION_PREFIX = "eval"
"""Of the ids of evaluations' rollouts: `eval-STEP-PROMPT`, or `eval-STEP-PROMPT-SAMPLE` where prompts are sampled
several times; those of training are `EPOCH-PROMPT-SAMPLE`."""


def prompt_of(rollout_id: str) -> str:
    """The prompt's number, the same in every epoch or every evaluation; the id itself where it names none."""
    parts = rollout_id.split("-")
    is_evaluation = parts[0] == EVALUATION_PREFIX
    if len(parts) != 3 and not (is_evaluation and len(parts) == 4):
        return rollout_id
    return parts[2 if is_evaluation else 1]


def evaluated_step(rollout_id: str) -> int | None:
    """The training step whose weights an evaluation's rollout is of; None for any other id."""
    parts = rollout_id.split("-")
    is_evaluation = len(parts) in (3, 4) and parts[0] == EVALUATION_PREFIX and parts[1].isdecimal()
    return int(parts[1]) if is_evaluation else None


def tokens(values: Iterable[int] = ()) -> "array[int]":
    """An int32 array of token ids."""
    return array("i", values)


def logprobs(values: Iterable[float] = ()) -> "array[float]":
    """A float32 array of natural log-probabilities."""
    return array("f", values)


class FinishReason(IntEnum):
    """Why a window ended."""

    STOP = 1  # one of the stop tokens was sampled; it is the last token of the window
    LENGTH = 2  # max_new_tokens were sampled
    FAILED = 3  # the engine could not serve the request; see Window.error
    CUT = 4  # the generator handed it over with fewer tokens; the next window goes on
    TOOL = 5  # a tool was called, whose output follows as tokens that were not sampled; the next window goes on


class ScoreStatus(IntEnum):
    """What became of a reward request. Only SCORED carries a score; a failure is never a zero."""

    SCORED = 1
    ABSTAINED = 2
    TIMED_OUT = 3
    FAILED = 4


def _repeated(pairs: Iterable[tuple[int, int]]) -> "array[int]":
    """Each number as often as the second says; a window has thousands of tokens, and few numbers."""
    found = tokens()
    for number, times in pairs:
        found.extend(tokens([number]) * times)
    return found


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """`num_tokens` consecutive tokens were sampled by the weights `policy_version`."""

    policy_version: int
    num_tokens: int
    cache_version: int | None = None
    """The oldest weights that filled the KV cache in front of them, which an update left as it was; None: the same."""


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """Extend a response by at most `max_new_tokens` tokens. (`rollout_id`, `window_index`) identifies it."""

    rollout_id: str
    window_index: int
    prompt_tokens: "array[int]"
    response_tokens: "array[int]"  # sampled in earlier windows; the engine continues after them
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    temperature: float  # 0 is greedy; log-probabilities are always those of the distribution sampled from
    seed: int  # 64 bits; with the window's weights it determines the tokens, whoever the neighbours are
    min_policy_version: int = 0  # a generator with older weights takes newer ones first
    is_evaluation: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """What makes two windows duplicates of each other."""
        return self.rollout_id, self.window_index


@dataclass(frozen=True, slots=True)
class Window:
    """What a generator made of a `WindowRequest`."""

    rollout_id: str
    window_index: int
    tokens: "array[int]"
    logprobs: "array[float]"  # of each sampled token, under the sampling temperature; 0 for one not sampled
    version_spans: tuple[VersionSpan, ...]  # cover the tokens in order
    finish_reason: FinishReason
    generator: str = ""
    slot: int = 0  # row of the engine that served it
    started_at: float = 0.0  # seconds since the epoch
    ended_at: float = 0.0
    error: str = ""
    is_evaluation: bool = False
    sampled_mask: bytes = b""  # a byte for each token: 1 sampled by the policy, 0 not (a tool's output); empty: all 1

    def __post_init__(self) -> None:
        """Refuse a window whose parts do not fit each other."""
        covered = sum(span.num_tokens for span in self.version_spans)
        if not len(self.tokens) == len(self.logprobs) == covered:
            raise ValueError(
                f"window {self.window_index} of {self.rollout_id}: {len(self.tokens)} tokens, "
                f"{len(self.logprobs)} log-probs, version spans over {covered} tokens"
            )
        if self.sampled_mask and (len(self.sampled_mask) != len(self.tokens) or max(self.sampled_mask) > 1):
            raise ValueError(
                f"window {self.window_index} of {self.rollout_id}: a sampled_mask of {len(self.sampled_mask)} bytes up "
                f"to {max(self.sampled_mask)}; expected a 0 or 1 for each of {len(self.tokens)} tokens, or none at all"
            )

    @property
    def key(self) -> tuple[str, int]:
        """What makes two windows duplicates of each other."""
        return self.rollout_id, self.window_index

    @property
    def ends_early(self) -> bool:
        """Whether the response goes on though fewer tokens came than were requested."""
        return self.finish_reason in (FinishReason.CUT, FinishReason.TOOL)

    def token_versions(self) -> "array[int]":
        """The weights that sampled each token."""
        return _repeated((span.policy_version, span.num_tokens) for span in self.version_spans)

    def cache_versions(self) -> "array[int]":
        """The oldest weights whose keys and values each token was sampled with."""
        return _repeated(
            (span.policy_version if span.cache_version is None else span.cache_version, span.num_tokens)
            for span in self.version_spans
        )

    def is_sampled(self) -> bytes:
        """For each token 1, or 0 where the policy did not sample it."""
        return self.sampled_mask or b"\1" * len(self.tokens)

    @property
    def num_not_sampled(self) -> int:
        """Tokens that the policy did not sample."""
        return self.sampled_mask.count(0)

    @property
    def oldest_policy_version(self) -> int:
        """The oldest weights that sampled one of its tokens; -1 for an empty window."""
        return min((span.policy_version for span in self.version_spans), default=-1)


@dataclass(frozen=True, slots=True)
class RewardRequest:
    """Score one finished response."""

    rollout_id: str
    attempt: int  # 0 for the first; a retry after a time-out or a failure counts up
    data_source: str
    prompt: str
    response: str
    ground_truth: str
    extra_info: str = "{}"  # JSON object, as in the data row
    num_response_tokens: int = 0
    is_evaluation: bool = False
    finish_reason: FinishReason | None = None  # STOP, or LENGTH when the response was cut; None: not known
    num_not_sampled_tokens: int = 0  # of the response: a tool's output

    @property
    def key(self) -> tuple[str, int]:
        """What makes two scores duplicates of each other."""
        return self.rollout_id, self.attempt


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward worker made of a `RewardRequest`."""

    rollout_id: str
    attempt: int
    status: ScoreStatus
    score: float | None = None  # a number exactly when SCORED
    components: Mapping[str, float] = field(default_factory=dict)
    function: str = ""
    error: str = ""
    duration_seconds: float = 0.0
    is_evaluation: bool = False
    details: str = ""  # what is to be said of a score, such as the first test that failed
    answer: str = ""  # of an evaluation: the final answer that the response states, for a vote; empty: none

    def __post_init__(self) -> None:
        """Refuse a score that contradicts its status."""
        if (self.score is not None) != (self.status is ScoreStatus.SCORED):
            raise ValueError(f"score of {self.rollout_id}: status {self.status.name} with score {self.score}")

    @property
    def key(self) -> tuple[str, int]:
        """What makes two scores duplicates of each other."""
        return self.rollout_id, self.attempt


class Action(IntEnum):
    """What an operator can request of a run; the arguments of each are beside it."""

    PAUSE = 1
    RESUME = 2
    CHECKPOINT = 3
    STOP_AFTER_STEP = 4  # step, or the one that is under way
    ROLL_BACK = 5  # version
    RETRY_PARKED = 6  # rollouts, those of a cause, or all
    DROP_PARKED = 7  # reason; rollouts, or all
    SET = 8  # key, value
    RECONFIGURE = 9  # after_step, position, values: by a learner that resumed a run with another configuration


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's command. Its place in the inbox decides when it takes effect, so that a replay does the same."""

    command_id: str  # a command that comes twice is carried out once
    action: Action
    arguments: Mapping[str, str] = field(default_factory=dict)  # JSON values
    issued_at: float = 0.0  # seconds since the epoch
    issued_by: str = ""


InboxRecord = Window | Score | Command

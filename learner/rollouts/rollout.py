"""One rollout: a prompt, its response so far, and the state that it is in.

WAITING -> REQUESTED -> READY (window not the last) -> TRAINED -> REQUESTED (next window) ...
                    \\-> SCORING (response ended) -> READY -> TRAINED -> retired        ... or PARKED, with a cause
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import compress
from typing import NamedTuple

from learner.rollouts.prompts import Prompt
from tppo.rollout import Window, logprobs, tokens

Position = tuple[int, int]  # of an inbox entry: Redis' milliseconds and sequence number


class State(StrEnum):
    """Where a rollout stands."""

    WAITING = "waiting"
    REQUESTED = "requested"
    SCORING = "scoring"
    READY = "ready"
    TRAINED = "trained"
    PARKED = "parked"


class Lost(NamedTuple):
    """A window that no step will have, since it was parked."""

    position: Position
    cohort: int


@dataclass(slots=True)
class Rollout:
    """One prompt and its response so far.

    Per-token arrays cover the whole response. They only grow, or are replaced whole: a checkpoint is written from them
    while the learner goes on.
    """

    rollout_id: str
    prompt: Prompt
    ordinal: int  # counts the rollouts in the order in which they were started
    cohort: int = 0  # the request round that its current window belongs to
    min_policy_version: int = 0  # the oldest weights that may serve its current window
    is_evaluation: bool = False
    state: State = State.WAITING
    window_index: int = 0
    window_start: int = 0  # response tokens before the current window
    generator: str = ""  # that sampled the current window; unknown in checkpoints of earlier releases
    response_tokens: "array[int]" = field(default_factory=tokens)
    rollout_logprobs: "array[float]" = field(default_factory=logprobs)
    token_versions: "array[int]" = field(default_factory=tokens)
    values: "array[float]" = field(default_factory=logprobs)  # predicted in the step that trained the token
    sampled_mask: "array[int]" = field(default_factory=lambda: array("b"))  # as a window's; empty: all were sampled
    is_finished: bool = False
    score: float | None = None
    components: dict[str, float] = field(default_factory=dict)
    answer: str = ""  # that the response states; of a scored evaluation
    attempt: int = 0  # of scoring
    first_attempt: int = 0  # of those that count towards the limit
    num_stalls: int = 0
    has_short_windows: bool = False  # one ended early and the response went on, so borders are not window_length apart
    ready_position: Position = (0, 0)
    cause: str = ""  # why it is parked
    num_rejections: int = 0  # records for its present request that do not count
    is_retry_due: bool = False  # parked, and an operator requested a retry

    @property
    def next_window_index(self) -> int:
        """The first window that was not requested yet."""
        return self.window_index + (self.state not in (State.WAITING, State.TRAINED))

    @property
    def window_tokens(self) -> "array[int]":
        """Tokens of the current window."""
        return self.response_tokens[self.window_start :]

    @property
    def num_window_tokens(self) -> int:
        """How many the current window has."""
        return len(self.response_tokens) - self.window_start

    def is_sampled(self) -> bytes:
        """For each token of the response 1, or 0 where the policy did not sample it."""
        return bytes(self.sampled_mask) or b"\1" * len(self.response_tokens)

    def sampled_versions(self, *, end: int | None = None) -> Sequence[int]:
        """The weights that sampled each sampled token before the response's token `end`, or of all."""
        versions = self.token_versions[:end]
        return list(compress(versions, self.sampled_mask)) if self.sampled_mask else versions

    @property
    def num_not_sampled(self) -> int:
        """Tokens of the response that the policy did not sample."""
        return self.sampled_mask.count(0)

    def extend(self, window: Window, *, max_length: int) -> None:
        """Take a window's tokens, those within the limit: what is beyond was not requested."""
        room = max_length - len(self.response_tokens)
        if window.sampled_mask or self.sampled_mask:
            self.sampled_mask = array("b", self.is_sampled() + window.is_sampled()[:room])
        self.response_tokens.extend(window.tokens[:room])
        self.rollout_logprobs.extend(window.logprobs[:room])
        self.token_versions.extend(window.token_versions()[:room])
        self.generator = window.generator
        self.num_stalls = 0 if window.tokens else self.num_stalls + 1
        self.has_short_windows |= window.ends_early

    def prefix_age(self, policy_version: int) -> int | None:
        """Steps from the oldest token before the current window to these weights; None without a sampled one."""
        versions = self.sampled_versions(end=self.window_start)
        return policy_version - min(versions) if versions else None

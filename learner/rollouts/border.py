"""Which records of the inbox count: checked by a record's own bytes and the run's constants, and by nothing else.

Among the constants are the keys of the roles that may write. So the same bytes get the same verdict from a learner,
from a restarted one that reads them again, from a replay and from reconciliation, whatever step each of them is at.
Windows of later versions and of other incarnations pass; what is rejected counts as never arrived. It stays in the
archive.
"""

import math
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from learner.rollouts.prompts import PromptOrder
from learner.rollouts.requests import RequestKey
from tppo.rollout import EVALUATION_PREFIX, Command, FinishReason, InboxRecord, Score, Window
from tppo.security.envelope import PLAIN, Records

MAX_VERSION = 2**31 - 1  # of the int32 in which the ledger keeps each token's version
MAX_SCORE = 3.4e38  # of a float32, as which a training step takes it
MAX_COMMAND_ID = 200  # characters
FEW = 256  # numbers, whose extremes Python finds sooner than numpy
MAX_COMMAND = 2**20  # characters of a command, whose result every checkpoint keeps
NUMBER = r"(?:0|[1-9][0-9]{0,8})"
TRAINING_ID = re.compile(rf"{NUMBER}-{NUMBER}-{NUMBER}")
EVALUATION_ID = re.compile(rf"{EVALUATION_PREFIX}-{NUMBER}-({NUMBER})(?:-({NUMBER}))?")


class RejectedError(ValueError):
    """Why a record does not count."""

    def __init__(self, cause: str, answered: RequestKey | None = None) -> None:
        """`answered`: the request of this run that the record claims to answer, where its bytes say so."""
        super().__init__(cause)
        self.answered = answered


def _any_id(rollout_id: str) -> bool:
    """A border of records without a prompt order."""
    return bool(rollout_id)


@dataclass(frozen=True, slots=True)
class RolloutIds:
    """The ids that a run can give."""

    order: PromptOrder
    num_evaluation_prompts: int
    num_evaluation_samples: int = 1  # of each of them; ids name the sample where there are several

    def __call__(self, rollout_id: str) -> bool:
        """Whether this is one of them, written as the run writes it."""
        if evaluation := EVALUATION_ID.fullmatch(rollout_id):
            prompt, sample = evaluation.groups()
            if (sample is None) != (self.num_evaluation_samples == 1):
                return False
            return int(prompt) < self.num_evaluation_prompts and int(sample or 0) < self.num_evaluation_samples
        return bool(TRAINING_ID.fullmatch(rollout_id)) and self.order.ordinal(rollout_id) is not None


@dataclass(frozen=True, slots=True)
class Border:
    """The run's constants, and the check."""

    is_of_run: Callable[[str], bool] = _any_id
    vocabulary_size: int | None = None  # None: the model does not say
    max_response_length: int = MAX_VERSION  # an evaluation has one window for it
    window_length: int = MAX_VERSION  # of all others
    records: Records = PLAIN  # who may write what

    def admit(self, payload: bytes) -> InboxRecord:
        """The record that the bytes hold. Raises `RejectedError`."""
        try:
            return self._sound(payload)
        except ValueError as error:
            raise RejectedError(str(error), self._answered(payload)) from None

    def _answered(self, payload: bytes) -> RequestKey | None:
        found = self.records.answered(payload)
        if found is None or found[2] < 0 or not self.is_of_run(found[1]):
            return None
        return found[0].__name__, found[1], found[2]

    def _sound(self, payload: bytes) -> InboxRecord:
        record = self.records.record(payload)
        if isinstance(record, Window | Score):
            self._require_id(record)
        if isinstance(record, Window):
            self._check_window(record)
        elif isinstance(record, Score):
            _check_score(record)
        else:
            _check_command(record)
        return record

    def _require_id(self, record: Window | Score) -> None:
        if not self.is_of_run(record.rollout_id):
            raise ValueError(
                f"rollout {record.rollout_id[:100]!r} is not of this run; expected an id of its prompt order"
            )

    def _check_window(self, window: Window) -> None:
        what = f"window {window.window_index} of {window.rollout_id}"
        if window.window_index < 0:
            raise ValueError(f"{what}: expected an index of 0 or more")
        is_evaluation = window.rollout_id.startswith(EVALUATION_PREFIX)
        most = self.max_response_length if is_evaluation else min(self.window_length, self.max_response_length)
        if len(window.tokens) > most:
            raise ValueError(f"{what}: {len(window.tokens)} tokens; expected at most {most}")
        limit = MAX_VERSION if self.vocabulary_size is None else self.vocabulary_size
        least, greatest = _extremes(window.tokens)
        if not 0 <= least <= greatest < limit:
            token = next(token for token in window.tokens if not 0 <= token < limit)
            raise ValueError(f"{what}: token {token}; expected one of 0 to {limit - 1}")
        if window.finish_reason is FinishReason.CUT and not window.tokens:
            raise ValueError(f"{what}: handed over without a token; expected one at least, or its lease released")
        _check_sampling(window, what)


def _check_sampling(window: Window, what: str) -> None:
    """Log-probs and versions; NaN compares as False."""
    least, greatest = _extremes(window.logprobs)
    if not -math.inf < least <= greatest <= 0:
        logprob = next(logprob for logprob in window.logprobs if not -math.inf < logprob <= 0)
        raise ValueError(f"{what}: log-prob {logprob}; expected a finite one of at most 0")
    if window.sampled_mask and any(map(_is_of_no_sampling, window.logprobs, window.sampled_mask)):
        raise ValueError(f"{what}: a log-prob of a token that was not sampled; expected 0 for it")
    for span in window.version_spans:
        versions = [span.policy_version, span.policy_version if span.cache_version is None else span.cache_version]
        if not (min(versions) >= 0 and max(versions) <= MAX_VERSION and span.num_tokens >= 0):
            raise ValueError(
                f"{what}: {span.num_tokens} tokens of policy version {versions[0]} on the KV cache of {versions[1]}; "
                f"expected versions of 0 to {MAX_VERSION}"
            )


def _extremes(numbers: "array[Any]") -> tuple[float, float]:
    """The least and the greatest of them; NaN where one is, and 0 without any."""
    if len(numbers) > FEW:
        found = numpy.frombuffer(numbers, dtype=numbers.typecode)
        return found.min().item(), found.max().item()
    if math.isnan(sum(numbers)):
        return math.nan, math.nan
    return min(numbers, default=0), max(numbers, default=0)


def _is_of_no_sampling(logprob: float, is_sampled: int) -> bool:
    return not is_sampled and logprob != 0


def _check_score(score: Score) -> None:
    what = f"score {score.attempt} of {score.rollout_id}"
    if score.attempt < 0:
        raise ValueError(f"{what}: expected an attempt of 0 or more")
    if score.score is not None and not abs(score.score) <= MAX_SCORE:  # NaN compares as False
        raise ValueError(f"{what}: {score.score}; expected a finite number")


def _check_command(command: Command) -> None:
    if not 0 < len(command.command_id) <= MAX_COMMAND_ID:
        raise ValueError(f"command id of {len(command.command_id)} characters; expected 1 to {MAX_COMMAND_ID}")
    size = len(command.issued_by) + sum(len(name) + len(value) for name, value in command.arguments.items())
    if size > MAX_COMMAND or not math.isfinite(command.issued_at):
        raise ValueError(
            f"command {command.command_id} of {size} characters, issued at {command.issued_at}; "
            f"expected at most {MAX_COMMAND} characters and a finite time"
        )

"""The ledger: every rollout that has not retired, its state, and the equation that accounts for every window.

Pure: no Redis, no clock. Records of the inbox go in with their position; requests to be sent come out in `outbox`.
The same records in the same order give the same requests, those for windows in the same order, however fast they are
read and however training steps fall between them. So entering a record is idempotent:

* ready rows are ordered by the position of the record that made them ready;
* a record that arrives before it was requested (a restarted learner re-reads its inbox) waits until it is;
* a duplicate, recognized by its key, is counted and dropped;
* a record that the border rejected counts as never arrived: its request is resent, at most `MAX_RESENDS` times.
"""

from array import array
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from learner.rollouts.by_state import IN_FLIGHT, Conservation, RolloutsByState
from learner.rollouts.occurrences import Arrived, Dropped, Occurrence, Parked, Requested, Scored
from learner.rollouts.prompts import Prompt
from learner.rollouts.requests import (
    Arrival,
    Request,
    RequestKey,
    RequestRules,
    answered_by,
    arrival,
    awaited_by,
    unscored_response,
    window_request,
)
from learner.rollouts.rollout import Lost, Position, Rollout, State
from tppo.rollout import FinishReason, Score, ScoreStatus, Window

RETRIED = "failed, and requested again"  # why a window counts as dropped that an operator retried
Key = tuple[str, int]  # of a record: rollout and window index, or rollout and attempt
R = TypeVar("R", Window, Score)
MAX_RESENDS = 3  # of a request whose answers were rejected; then its rollout is parked
MAX_STALLS = 2  # empty windows in a row after which a response counts as cut at its limit


@dataclass(slots=True)
class Ledger:
    """Rollouts by id, the rows that are ready, and the requests that are to go out."""

    rules: RequestRules
    decode: Callable[["array[int]"], str]  # response tokens -> text for the reward function
    is_past: Callable[[str], bool]  # whether a rollout of this id was ever started
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    by_state: RolloutsByState = field(default_factory=RolloutsByState)  # those of training among them
    ready: list[Rollout] = field(default_factory=list)  # sorted by position
    scored_evaluations: list[Rollout] = field(default_factory=list)  # for evaluation.py to take
    lost: list[Lost] = field(default_factory=list)  # parked, for the scheduler to replace; sorted
    outbox: list[Request] = field(default_factory=list)
    occurrences: list[Occurrence] = field(default_factory=list)  # for the journal to take
    early_windows: dict[Key, tuple[Position, Window]] = field(default_factory=dict)
    early_scores: dict[Key, tuple[Position, Score]] = field(default_factory=dict)
    early_rejections: dict[RequestKey, list[tuple[Position, str]]] = field(default_factory=dict)
    num_issued: int = 0
    num_trained: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # windows that an operator gave up, by reason
    num_resent_requests: int = 0  # requests that vanished from Redis
    num_rejected_records: int = 0  # of the inbox, that count as never arrived
    duplicates: Counter[str] = field(default_factory=Counter)

    def start(self, rollout_id: str, prompt: Prompt, *, ordinal: int, is_evaluation: bool = False) -> Rollout:
        """A new rollout, waiting."""
        assert rollout_id not in self.rollouts, rollout_id
        rollout = Rollout(rollout_id, prompt, ordinal, is_evaluation=is_evaluation)
        self.add([rollout])
        return rollout

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """New ones, or those of a checkpoint in the states that they had."""
        for rollout in rollouts:
            self.rollouts[rollout.rollout_id] = rollout
            self.by_state.add([rollout])

    def request_window(self, rollout: Rollout, *, cohort: int, min_policy_version: int) -> None:
        """Request the rollout's next window."""
        assert rollout.state in (State.WAITING, State.TRAINED) or rollout.is_retry_due, rollout
        if rollout.is_retry_due:
            self.dropped[RETRIED] += 1
            rollout.is_retry_due = False
            rollout.window_index += 1  # so an answer that is read before this is early, and one to the former is late
        rollout.cohort, rollout.min_policy_version = cohort, min_policy_version
        self.by_state.move(rollout, State.REQUESTED)
        if not rollout.is_evaluation:
            self.num_issued += 1
        self.outbox.append(self.request(rollout))
        self._note_request(rollout)
        early = self.early_windows.pop((rollout.rollout_id, rollout.window_index), None)
        self._count_early_rejections(rollout, before=early)
        if early is not None:
            self.add_window(*early)

    def add_window(self, position: Position, window: Window) -> None:
        """A window has arrived."""
        when = self._arrival(answered_by(window))
        if when is not Arrival.AWAITED:
            self._keep_or_drop(when, self.early_windows, position, window)
            return
        rollout = self.rollouts[window.rollout_id]
        if window.finish_reason is FinishReason.FAILED:
            self.occurrences.append(Arrived(window, is_finished=False))
            self._park(rollout, position, f"generation failed: {window.error}")
        else:
            self._extend(rollout, position, window)

    def add_score(self, position: Position, score: Score) -> None:
        """A score has arrived."""
        when = self._arrival(answered_by(score))
        if when is not Arrival.AWAITED:
            self._keep_or_drop(when, self.early_scores, position, score)
            return
        rollout = self.rollouts[score.rollout_id]
        if score.status is ScoreStatus.SCORED:
            self.occurrences.append(Scored(score))
            rollout.score, rollout.components, rollout.answer = score.score, dict(score.components), score.answer
            self._make_ready(rollout, position)
        else:
            self._retry_or_park(rollout, position, score)

    def reject(self, position: Position, answered: RequestKey | None, cause: str) -> None:
        """A record counts as never arrived, which claims to answer this request."""
        self.num_rejected_records += 1
        if answered is None:
            return
        when = self._arrival(answered)
        if when is Arrival.AWAITED:
            rollout = self.rollouts[answered[1]]
            self._count_rejection(rollout, position, cause)
            if rollout.state is not State.PARKED:
                self.outbox.append(self.request(rollout))
        elif when is Arrival.EARLY and len(rejections := self.early_rejections.setdefault(answered, [])) <= MAX_RESENDS:
            rejections.append((position, cause))  # more would change nothing

    def set_temperature(self, temperature: float) -> None:
        """Of the windows that are requested from now on."""
        self.rules = replace(self.rules, temperature=temperature)

    def take(self, rows: Iterable[Rollout]) -> None:
        """The rows go into a training step."""
        taken = {row.rollout_id for row in rows}
        if taken == {row.rollout_id for row in self.ready[: len(taken)]}:  # as in streaming: leave the others alone
            del self.ready[: len(taken)]
        else:
            self.ready = [row for row in self.ready if row.rollout_id not in taken]

    def mark_trained(self, row: Rollout, values: "array[float]") -> None:
        """The row's window was trained; `values` are those predicted for its tokens. A finished rollout leaves."""
        row.values.extend(values)
        row.window_index += 1
        row.window_start = len(row.response_tokens)
        self.by_state.move(row, State.TRAINED)
        self.num_trained += 1
        if row.is_finished:
            self._retire(row)

    def parked(self, rollout_ids: Iterable[str] | None = None) -> list[Rollout]:
        """The parked rollouts of these names, or all of them; those of evaluations are never parked for long."""
        wanted = None if rollout_ids is None else set(rollout_ids)
        rows = sorted(self.by_state.of(State.PARKED), key=lambda row: row.ordinal)
        return [row for row in rows if wanted is None or row.rollout_id in wanted]

    def request_score_again(self, rollout: Rollout, *, cohort: int) -> None:
        """Request the score of a finished response that was parked without one again."""
        assert rollout.is_retry_due, rollout
        assert rollout.is_finished, rollout
        rollout.is_retry_due, rollout.cohort = False, cohort
        rollout.attempt += 1
        rollout.first_attempt = rollout.attempt
        self._request_score(rollout)

    def drop(self, rollout: Rollout, reason: str) -> None:
        """Give a parked rollout up."""
        assert rollout.state is State.PARKED, rollout
        self._retire(rollout)
        self.dropped[reason] += 1
        self.occurrences.append(Dropped(rollout.rollout_id, rollout.window_index, reason))

    def _retire(self, rollout: Rollout) -> None:
        del self.rollouts[rollout.rollout_id]
        self.by_state.remove(rollout)

    def count_by_state(self) -> Counter[str]:
        """How many training rollouts are in each state."""
        return Counter({state.value: count for state in State if (count := self.by_state.count(state))})

    def conservation(self) -> Conservation:
        """The equation's terms, counted from the states and not from each other."""
        in_flight, parked = self.by_state.count(*IN_FLIGHT), self.by_state.count(State.PARKED)
        return Conservation(self.num_issued, self.num_trained, in_flight, parked, self.dropped.total())

    def request(self, rollout: Rollout) -> Request:
        """The request that the rollout waits for."""
        assert rollout.state in (State.REQUESTED, State.SCORING), rollout
        if rollout.state is State.SCORING:
            return unscored_response(rollout, self.rules.stop_token_ids)
        return window_request(rollout, self.rules)

    def _arrival(self, key: RequestKey) -> Arrival:
        """Of a record that answers the request."""
        rollout = self.rollouts.get(key[1])
        if rollout is None:
            return Arrival.LATE if self.is_past(key[1]) else Arrival.EARLY
        return arrival(key, rollout)

    def _count_early_rejections(self, rollout: Rollout, *, before: tuple[Position, object] | None) -> None:
        """Those for the request that was just made; they lie before the record that answers it, if that is there."""
        rollout.num_rejections = 0
        key = awaited_by(rollout)
        assert key is not None
        for position, cause in self.early_rejections.pop(key, []):
            if before is None or position < before[0]:
                self._count_rejection(rollout, position, cause)

    def _count_rejection(self, rollout: Rollout, position: Position, cause: str) -> None:
        rollout.num_rejections += 1
        if rollout.num_rejections > MAX_RESENDS:
            self._park(rollout, position, f"{rollout.num_rejections} answers were rejected, the last one: {cause}")

    def _note_request(self, rollout: Rollout) -> None:
        self.occurrences.append(
            Requested(
                rollout_id=rollout.rollout_id,
                window_index=rollout.window_index,
                prompt_index=rollout.prompt.index,
                ordinal=rollout.ordinal,
                num_tokens_before=len(rollout.response_tokens),
                is_evaluation=rollout.is_evaluation,
            )
        )

    def _keep_or_drop(self, when: Arrival, early: dict[Key, tuple[Position, R]], position: Position, record: R) -> None:
        """Until it is requested; of duplicates the first counts, as it does when nothing is early."""
        if when is Arrival.LATE or record.key in early:
            self.duplicates[type(record).__name__.lower()] += 1
        else:
            early[record.key] = (position, record)

    def _extend(self, rollout: Rollout, position: Position, window: Window) -> None:
        rollout.extend(window, max_length=self.rules.max_response_length)
        rollout.is_finished = (
            window.finish_reason is FinishReason.STOP
            or len(rollout.response_tokens) >= self.rules.max_response_length
            or rollout.num_stalls >= MAX_STALLS
            or (rollout.is_evaluation and not window.ends_early)  # its one window was requested for the whole rest
        )
        self.occurrences.append(Arrived(window, rollout.is_finished))
        if rollout.is_finished:
            self._request_score(rollout)
        elif rollout.is_evaluation:
            self._go_on_at_once(rollout)
        else:
            self._make_ready(rollout, position)

    def _go_on_at_once(self, rollout: Rollout) -> None:
        """Request the rest of an evaluation's response, whose window was cut: it waits for no training step."""
        rollout.window_index += 1
        rollout.window_start = len(rollout.response_tokens)
        self.by_state.move(rollout, State.WAITING)
        self.request_window(rollout, cohort=rollout.cohort, min_policy_version=rollout.min_policy_version)

    def _request_score(self, rollout: Rollout) -> None:
        self.by_state.move(rollout, State.SCORING)
        self.outbox.append(self.request(rollout))
        early = self.early_scores.pop((rollout.rollout_id, rollout.attempt), None)
        self._count_early_rejections(rollout, before=early)
        if early is not None:
            self.add_score(*early)

    def _retry_or_park(self, rollout: Rollout, position: Position, score: Score) -> None:
        """A failed reward is never a zero: it is retried, and then the rollout is parked with the cause."""
        self.occurrences.append(Scored(score))
        if rollout.attempt - rollout.first_attempt + 1 < self.rules.max_score_attempts:
            rollout.attempt += 1
            self._request_score(rollout)
        else:
            cause = f"no score after {rollout.attempt + 1} attempts: {score.status.name} {score.error}"
            self._park(rollout, position, cause.strip())

    def _make_ready(self, rollout: Rollout, position: Position) -> None:
        rollout.ready_position = position
        self.by_state.move(rollout, State.READY)
        if rollout.is_evaluation:
            self.scored_evaluations.append(rollout)
        else:
            insort(self.ready, rollout, key=lambda row: row.ready_position)

    def _park(self, rollout: Rollout, position: Position, cause: str) -> None:
        rollout.cause, rollout.ready_position = cause, position
        self.by_state.move(rollout, State.PARKED)
        self.occurrences.append(Parked(rollout.rollout_id, rollout.window_index, cause))
        if rollout.is_evaluation:
            self.scored_evaluations.append(rollout)
        else:
            insort(self.lost, Lost(position, rollout.cohort))

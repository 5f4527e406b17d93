"""`journal.jsonl` folded into rollouts: which state each is in, where each window was sampled, and what happened.

A line may be duplicated, because a resumed learner reads its inbox again: records are kept by their key and the last
one wins. A window that is requested again removes the later ones from the rollout: the learner was restored to before
them. Bounded: rollouts that have retired longest ago are forgotten first.
"""

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

from services.dashboard.history.records import ENDED, RolloutRecord, RolloutState, ScoreRecord, Span, WindowRecord
from tppo.parked_causes import kind_of_cause
from tppo.run_folder.json_lines import Line, plain

MAX_ROLLOUTS = 50_000
MAX_BARS = 50_000
MAX_EVENTS = 2_000
MAX_SPANS = 256
"""Changes of the weights within one window; more are joined at the end."""

NO_COMPONENTS: dict[str, Any] = {}
"""One for all, never written to."""

Fields = dict[str, Any]


class JournalIndex:
    """What the lines so far say."""

    def __init__(self, *, max_rollouts: int = MAX_ROLLOUTS) -> None:
        self._max_rollouts = max_rollouts
        self.rollouts: dict[str, RolloutRecord] = {}
        self.by_prompt: dict[tuple[bool, int], dict[str, None]] = {}
        self.by_state: Counter[RolloutState] = Counter()
        self.bars: deque[WindowRecord] = deque(maxlen=MAX_BARS)
        self.events: deque[Fields] = deque(maxlen=MAX_EVENTS)
        self.dropped_by_reason: Counter[str] = Counter()
        self.slots: dict[str, int] = {}
        self.num_forgotten = 0
        self.last_time: float | None = None
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._folds: dict[str, Callable[[Fields], WindowRecord | None]] = {
            "requested": self._requested,
            "window": self._window,
            "score": self._score,
            "parked": self._parked,
            "dropped": self._dropped,
        }

    def add(self, line: Line) -> list[WindowRecord]:
        """Fold one line in; the windows whose picture it changes. A line that makes no sense is left out."""
        position, fields = line
        kind = fields.get("kind")
        time = _number(fields.get("time"))
        if time is not None:
            self.last_time = time
        if kind == "event":
            self.events.append({**plain(fields), "id": position})
            return []
        if kind == "trained":
            self._trained(fields)
            return []
        fold = self._folds.get(kind) if isinstance(kind, str) else None
        if fold is None or not isinstance(fields.get("rollout"), str):
            return []
        changed = fold(fields)
        return [changed] if changed is not None else []

    def siblings(self, record: RolloutRecord) -> list[RolloutRecord]:
        """The other rollouts of its prompt."""
        if record.prompt is None:
            return []
        names = self.by_prompt.get((record.evaluation, record.prompt), {})
        return [self.rollouts[name] for name in names if name != record.rollout]

    def in_state(self, state: RolloutState) -> Iterator[RolloutRecord]:
        """Those in one state, in the order in which they were begun."""
        if not self.by_state[state]:
            return iter(())
        return (record for record in self.rollouts.values() if record.state == state)

    def parked_by_cause(self) -> Counter[str]:
        """Rollouts that are parked now, by the kind of their causes; those of evaluations are never retried."""
        return Counter(kind_of_cause(record.cause) for record in self.in_state("parked") if not record.evaluation)

    def most_frequent_cause(self) -> str:
        """Of the rollouts that are parked now."""
        causes = Counter(record.cause for record in self.in_state("parked"))
        return causes.most_common(1)[0][0] if causes else ""

    def _requested(self, fields: Fields) -> WindowRecord | None:
        record = self._rollout(fields)
        window = self._window_of(record, fields)
        if window is None:
            return None
        for later in [index for index in record.windows if index > window.window]:
            record.windows.pop(later).is_obsolete = True
        window.requested, window.version = _number(fields.get("time")), _integer(fields.get("version"))
        window.start = _integer(fields.get("start")) or 0
        window.step = None
        record.length = window.start
        record.scores.clear()
        record.score, record.cause = None, ""
        self._enter(record, "requested", fields)
        return None

    def _window(self, fields: Fields) -> WindowRecord | None:
        record = self._rollout(fields)
        window = self._window_of(record, fields)
        if window is None:
            return None
        is_new = not window.generator
        window.generator, window.slot = _text(fields.get("generator")) or "?", _integer(fields.get("slot"))
        window.started, window.ended = _number(fields.get("started")), _number(fields.get("ended"))
        window.tokens = _integer(fields.get("tokens")) or 0
        window.versions = _spans(fields.get("versions"))
        window.finish, window.is_finished = _text(fields.get("finish")), fields.get("is_finished") is True
        record.length = window.start + window.tokens
        if window.slot is not None:
            self.slots[window.generator] = max(self.slots.get(window.generator, 0), window.slot + 1)
        if is_new:
            self.bars.append(window)
        self._enter(record, "scoring" if window.is_finished else "ready", fields)
        return window

    def _score(self, fields: Fields) -> WindowRecord | None:
        record = self._rollout(fields)
        attempt = _integer(fields.get("attempt")) or 0
        score, status = _number(fields.get("score")), _text(fields.get("status"))
        components = fields.get("components")
        record.scores[attempt] = ScoreRecord(
            attempt=attempt,
            status=status,
            score=score,
            components=plain(components) if components and isinstance(components, dict) else NO_COMPONENTS,
            function=_text(fields.get("function")),
            seconds=_number(fields.get("seconds")),
            error=_text(fields.get("error")),
            details=_text(fields.get("details")),
            time=_number(fields.get("time")),
        )
        if status == "SCORED":
            record.score = score
            # An evaluation trains nothing: its score is its end.
            self._enter(record, "retired" if record.evaluation else "ready", fields)
        return record.newest_window

    def _parked(self, fields: Fields) -> WindowRecord | None:
        record = self._rollout(fields)
        record.cause = _text(fields.get("cause"))
        self._enter(record, "parked", fields)
        return None

    def _dropped(self, fields: Fields) -> WindowRecord | None:
        record = self._rollout(fields)
        reason = _text(fields.get("reason"))
        if record.state != "dropped":
            self.dropped_by_reason[reason] += 1
        record.cause = reason
        self._enter(record, "dropped", fields)
        return None

    def _trained(self, fields: Fields) -> None:
        step, rows = _integer(fields.get("step")), fields.get("rows")
        for row in rows if isinstance(rows, list) else []:
            if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
                continue
            record = self.rollouts.get(row[0])
            window = record.windows.get(row[1]) if record and isinstance(row[1], int) else None
            if record is None or window is None:
                continue  # requested before the part of the journal that was read
            window.step = step
            self._enter(record, "retired" if window.is_finished else "trained", fields)

    def _rollout(self, fields: Fields) -> RolloutRecord:
        name = fields["rollout"]
        record = self.rollouts.get(name)
        if record is None:
            record = self.rollouts[name] = RolloutRecord(name, evaluation=fields.get("evaluation") is True)
            self.by_state[record.state] += 1
            self._make_room()
        prompt = _integer(fields.get("prompt"))
        if prompt is not None and record.prompt is None:
            record.prompt = prompt
            self.by_prompt.setdefault((record.evaluation, prompt), {})[name] = None
        return record

    def _window_of(self, record: RolloutRecord, fields: Fields) -> WindowRecord | None:
        index = _integer(fields.get("window"))
        if index is None:
            return None
        if index not in record.windows:
            record.windows[index] = WindowRecord(record.rollout, index, evaluation=record.evaluation)
        return record.windows[index]

    def _enter(self, record: RolloutRecord, state: RolloutState, fields: Fields) -> None:
        self.by_state[record.state] -= 1
        self.by_state[state] += 1
        record.state = state
        record.updated_at = _number(fields.get("time")) or record.updated_at
        self._ended.pop(record.rollout, None)
        if state in ENDED:
            self._ended[record.rollout] = None

    def _make_room(self) -> None:
        while len(self.rollouts) > self._max_rollouts:
            name = next(iter(self._ended), None) or next(iter(self.rollouts))
            self._ended.pop(name, None)
            record = self.rollouts.pop(name)
            self.by_state[record.state] -= 1
            self.num_forgotten += 1
            if record.prompt is not None:
                family = self.by_prompt[record.evaluation, record.prompt]
                family.pop(name, None)
                if not family:
                    del self.by_prompt[record.evaluation, record.prompt]


def _number(value: Any) -> float | None:
    """A finite number, or None: a broken disk may leave anything in a journal."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _spans(value: Any) -> tuple[Span, ...]:
    spans = tuple((span[0], span[1]) for span in value if _is_span(span)) if isinstance(value, list) else ()
    if len(spans) <= MAX_SPANS:
        return spans
    rest = spans[MAX_SPANS - 1 :]
    return (*spans[: MAX_SPANS - 1], (rest[-1][0], sum(num_tokens for _, num_tokens in rest)))


def _is_span(span: Any) -> bool:
    return isinstance(span, list) and len(span) == 2 and all(_integer(part) is not None for part in span)

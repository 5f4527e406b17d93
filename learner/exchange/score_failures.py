"""When to give up on a reward function that scores nothing: a bounded number of failures of one cause in a row.

Counted are the scores that arrive in this process. What was in the inbox before it, which a restarted learner reads
again, does not count: the function may have been mended since.
"""

from collections import Counter

from tppo.rollout import InboxRecord, Score, ScoreStatus

Kind = tuple[str, ScoreStatus, str]  # function, status, and what the cause begins with


class ScoreFailures:
    """The failures since the last response that was scored."""

    def __init__(self, limit: int | None) -> None:
        """`limit`: so many failures of one cause are too many; None: they never are."""
        self._limit = limit
        self._counts: Counter[Kind] = Counter()
        self._is_counting = False
        self.sentence = ""
        """Why the run cannot go on; empty while it can."""

    def note(self, record: InboxRecord) -> None:
        """A record of the inbox has arrived."""
        if not self._is_counting or not isinstance(record, Score):
            return
        if record.status is ScoreStatus.SCORED:
            self._counts.clear()
            return
        kind = kind_of(record)
        self._counts[kind] += 1
        if self._counts[kind] == self._limit and not self.sentence:
            self.sentence = sentence_of(record, self._counts[kind])

    def are_too_many(self, *, is_at_end: bool) -> bool:
        """Whether the run cannot go on, after a read of the inbox, perhaps to its end."""
        if is_at_end:  # what comes from now on has arrived in this process
            self._is_counting = True
        return bool(self.sentence)


def kind_of(score: Score) -> Kind:
    """Failures that differ in a value only, such as a KeyError's key, are of one cause."""
    return score.function, score.status, score.error.partition(":")[0]


def sentence_of(score: Score, count: int) -> str:
    """What the user reads."""
    function = f"reward function {score.function!r}" if score.function else "the reward service"
    cause = f"{score.status.name} {score.error}".strip()
    return (
        f"{function} has failed {count} times in a row and scored no response: {cause}; "
        "expected a score (reward.max_consecutive_failures); mend it, and continue with --resume --retry-parked"
    )

"""How long the responses of some steps were, and how they scored: counted in bins."""

import math
from collections.abc import Iterable, Sequence

from services.dashboard.api_model import ApiModel
from services.dashboard.history.records import RolloutRecord


class BinCounts(ApiModel):
    """Counts between neighbouring edges, the lower edge included; both lists are empty where nothing was counted."""

    edges: list[float]
    """In order, one more than there are counts; the last one is included too."""
    counts: list[int]


class Distributions(ApiModel):
    """Of the responses that ended, and whose last window was trained in the range of steps."""

    run: str
    from_step: int | None
    """The first and the last step that took one of them; null where there is none."""
    to_step: int | None
    num_responses: int
    num_scored: int
    length: BinCounts
    """Tokens of the responses."""
    score: BinCounts
    """Of those that have one."""


def distributions_of(
    run: str,
    records: Iterable[RolloutRecord],
    *,
    steps: tuple[int, int],
    is_evaluation: bool,
    num_bins: int,
) -> Distributions:
    """Of the rollouts that are known, those of the steps from the first to the last of `steps`."""
    first, last = steps
    found = [
        (step, record)
        for record in records
        if record.evaluation == is_evaluation and (step := record.last_step) is not None and first <= step <= last
    ]
    taken = [step for step, _ in found]
    scores = [record.score for _, record in found if record.score is not None]
    return Distributions(
        run=run,
        from_step=min(taken, default=None),
        to_step=max(taken, default=None),
        num_responses=len(found),
        num_scored=len(scores),
        length=_counted([record.length for _, record in found], num_bins),
        score=_counted(scores, num_bins),
    )


def _counted(values: Sequence[float], num_bins: int) -> BinCounts:
    if not values:
        return BinCounts(edges=[], counts=[])
    edges = _edges(min(values), max(values), num_bins, are_whole=all(isinstance(value, int) for value in values))
    counts = [0] * (len(edges) - 1)
    low, width = edges[0], edges[1] - edges[0]
    for value in values:
        place = value / width - low / width  # the difference of two values may be beyond every float
        counts[min(len(counts) - 1, max(0, math.floor(place)))] += 1
    return BinCounts(edges=edges, counts=counts)


def _edges(low: float, high: float, num_bins: int, *, are_whole: bool) -> list[float]:
    """Whole numbers have bins of whole numbers, so that none holds more of them than its neighbour."""
    if are_whole:
        whole = math.ceil((high - low + 1) / num_bins)
        return [low + place * whole for place in range(math.ceil((high - low + 1) / whole) + 1)]
    if low == high:
        return [low - 0.5, low + 0.5]
    width = high / num_bins - low / num_bins
    return [*(low + place * width for place in range(num_bins)), high]

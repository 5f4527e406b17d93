"""When generation began, and what the generators have done so far."""

from learner.reporting.generation_watch import GenerationWatch
from tests.learner.builders import a_window
from tppo.generation_totals import GenerationTotals
from tppo.streams import StreamsUnavailable


async def nothing() -> GenerationTotals:
    return GenerationTotals()


async def away() -> GenerationTotals:
    raise StreamsUnavailable("connection refused")


def test_the_clock_starts_with_a_training_window_and_never_in_a_resumed_run() -> None:
    fresh, resumed = GenerationWatch(nothing, is_resumed=False), GenerationWatch(nothing, is_resumed=True)
    assert fresh.seconds_since_first_window() is None

    for watch in (fresh, resumed):
        watch.note(a_window("r"))

    assert fresh.seconds_since_first_window() is not None
    assert resumed.seconds_since_first_window() is None


async def test_the_last_numbers_stand_while_redis_does_not_answer() -> None:
    watch = GenerationWatch(away, is_resumed=False)
    watch.totals = GenerationTotals(num_tokens=7)

    await watch.observe()

    assert watch.totals.num_tokens == 7

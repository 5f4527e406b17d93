"""A missing heartbeat counts, unless the one who looks did not run itself."""

from learner.ranks.silence import Silence


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def looked(silence: Silence, clock: Clock, *, seconds: int) -> None:
    """Once per heartbeat, for so long."""
    for _ in range(seconds):
        clock.now += 1.0
        silence.look()


def test_a_heartbeat_that_is_missing_for_longer_than_the_limit_is_too_late() -> None:
    clock = Clock()
    silence = Silence(10.0, clock)

    looked(silence, clock, seconds=10)
    on_time = silence.seconds_beyond(100.0, is_starting=False)
    looked(silence, clock, seconds=1)

    assert on_time is None
    assert silence.seconds_beyond(100.0, is_starting=False) == 11.0
    assert silence.seconds_beyond(105.0, is_starting=False) is None


def test_who_was_frozen_itself_counts_from_when_it_runs_again() -> None:
    clock = Clock()
    silence = Silence(10.0, clock)
    looked(silence, clock, seconds=3)

    clock.now += 600.0
    silence.look()
    after_the_freeze = silence.seconds_beyond(103.0, is_starting=False)
    looked(silence, clock, seconds=11)

    assert after_the_freeze is None
    assert silence.seconds_beyond(103.0, is_starting=False) == 11.0


def test_a_rank_that_imports_and_loads_has_a_minute() -> None:
    clock = Clock()
    silence = Silence(10.0, clock)

    looked(silence, clock, seconds=60)
    in_time = silence.seconds_beyond(100.0, is_starting=True)
    looked(silence, clock, seconds=1)

    assert in_time is None
    assert silence.seconds_beyond(100.0, is_starting=True) == 61.0

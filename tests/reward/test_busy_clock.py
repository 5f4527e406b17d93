"""The time in which a reward service has work."""

from services.reward.service import BusyClock


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_the_time_with_work_counts() -> None:
    clock = Clock()
    busy = BusyClock(clock)

    for moment, is_busy in [(101.0, True), (102.0, True), (104.0, False), (109.0, False), (110.0, True)]:
        clock.now = moment
        busy.note(is_busy=is_busy)
    clock.now = 110.5

    assert busy.seconds() == 3.0 + 0.5


def test_it_does_not_run_before_the_first_work() -> None:
    assert BusyClock(Clock()).seconds() == 0.0

"""Which windows are requested, in which order, and which rows make a training step."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.rollouts.rollout import Rollout
from tests.learner.builders import a_failed_window, a_score, a_window
from tests.learner.simulation import LiveRun, Reader, World, a_run_config
from tppo.rollout import InboxRecord, WindowRequest

MODES = ["lockstep", "overlapped", "streaming"]


def asked(requests: Iterable[WindowRequest]) -> list[tuple[str, int]]:
    return [request.key for request in requests]


def names(batch: Iterable[Rollout]) -> list[str]:
    return [row.rollout_id for row in batch]


class Answers:
    """Enters answers in the order of the calls."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.num_records = 0

    def window(self, rollout_id: str, window_index: int = 0) -> None:
        """A window that does not end its response."""
        self._enter(a_window(rollout_id, window_index, num_tokens=2))

    def finished(self, rollout_id: str, window_index: int = 0) -> None:
        self._enter(a_window(rollout_id, window_index, num_tokens=1, stops=True))
        self._enter(a_score(rollout_id))

    def failed(self, rollout_id: str, window_index: int = 0) -> None:
        self._enter(a_failed_window(rollout_id, window_index))

    def step(self) -> None:
        assert self.reader.begin_step()
        self.reader.end_step()

    def _enter(self, record: InboxRecord) -> None:
        self.num_records += 1
        self.reader.read([((1, self.num_records), record)])


def a_reader(mode: str, *, size: int = 2, steps: int = 10, **run: int) -> tuple[Reader, Answers]:
    """Prompts in file order: the n-th rollout is named 0-n-0."""
    config = a_run_config(
        mode, rollouts_per_step=size, total_training_steps=steps, window_length=2, max_response_length=20, **run
    )
    reader = Reader(config)
    return reader, Answers(reader)


@pytest.mark.parametrize(("mode", "num_asked"), [("lockstep", 2), ("overlapped", 4), ("streaming", 4)])
def test_a_run_opens_with_as_many_windows_as_may_be_out(mode: str, num_asked: int) -> None:
    reader, _ = a_reader(mode)

    assert asked(reader.window_requests) == [(f"0-{n}-0", 0) for n in range(num_asked)]


def test_a_run_requests_no_more_than_it_needs() -> None:
    reader, _ = a_reader("streaming", size=2, steps=1)

    assert len(reader.window_requests) == 2


def test_streaming_trains_the_rows_that_came_first() -> None:
    reader, answers = a_reader("streaming")

    for rollout_id in ("0-3-0", "0-1-0", "0-0-0"):
        answers.window(rollout_id)

    assert names(reader.manager.scheduler.next_batch(reader.version)) == ["0-3-0", "0-1-0"]


def test_streaming_waits_for_the_slowest_window_while_the_value_model_warms_up() -> None:
    reader, answers = a_reader("streaming", warmup_steps=1)
    for rollout_id in ("0-3-0", "0-1-0"):
        answers.window(rollout_id)
    assert not reader.manager.scheduler.next_batch(reader.version)

    answers.window("0-0-0")
    assert names(reader.manager.scheduler.next_batch(reader.version)) == ["0-0-0", "0-1-0"]
    answers.step()
    answers.window("0-1-0", 1)

    assert names(reader.manager.scheduler.next_batch(reader.version)) == ["0-3-0", "0-1-0"]


def test_streaming_leaves_a_slow_window_to_a_later_step() -> None:
    reader, answers = a_reader("streaming")
    answers.window("0-1-0")
    assert not reader.manager.scheduler.next_batch(reader.version)

    answers.window("0-2-0")
    answers.step()

    assert names(reader.manager.scheduler.next_batch(reader.version)) == []
    assert reader.version == 1


@pytest.mark.parametrize("mode", ["lockstep", "overlapped"])
def test_a_cohort_waits_for_its_slowest_window_and_stands_in_the_order_of_its_prompts(mode: str) -> None:
    reader, answers = a_reader(mode)
    answers.window("0-1-0")
    assert not reader.manager.scheduler.next_batch(reader.version)

    answers.window("0-0-0")

    assert names(reader.manager.scheduler.next_batch(reader.version)) == ["0-0-0", "0-1-0"]


def test_a_younger_cohort_that_is_complete_waits_for_the_older_one() -> None:
    reader, answers = a_reader("overlapped")

    for rollout_id in ("0-2-0", "0-3-0", "0-1-0"):
        answers.window(rollout_id)
    assert not reader.manager.scheduler.next_batch(reader.version)
    answers.window("0-0-0")

    assert names(reader.manager.scheduler.next_batch(reader.version)) == ["0-0-0", "0-1-0"]


@pytest.mark.parametrize("mode", MODES)
def test_continuing_rollouts_are_requested_before_new_ones_and_the_oldest_first(mode: str) -> None:
    reader, answers = a_reader(mode, size=3)
    num_open = len(reader.window_requests)

    answers.window("0-2-0")
    answers.finished("0-1-0")
    answers.window("0-0-0")
    answers.step()

    assert asked(reader.window_requests[num_open:]) == [("0-0-0", 1), ("0-2-0", 1), (f"0-{num_open}-0", 0)]


@pytest.mark.parametrize(("mode", "oldest_version"), [("lockstep", 1), ("overlapped", 1), ("streaming", 0)])
def test_with_cohorts_a_request_names_the_version_at_its_time(mode: str, oldest_version: int) -> None:
    reader, answers = a_reader(mode)
    answers.window("0-0-0")
    answers.window("0-1-0")
    answers.step()

    assert reader.window_requests[0].min_policy_version == 0
    assert reader.window_requests[-1].min_policy_version == oldest_version


def test_streaming_replaces_what_was_parked_before_the_steps_last_row() -> None:
    reader, answers = a_reader("streaming")
    for answer, rollout_id in ((answers.window, "0-0-0"), (answers.failed, "0-1-0"), (answers.window, "0-2-0")):
        answer(rollout_id)
    answers.step()

    assert asked(reader.window_requests[4:]) == [("0-0-0", 1), ("0-2-0", 1), ("0-4-0", 0)]


def test_streaming_leaves_what_was_parked_later_to_the_next_step() -> None:
    reader, answers = a_reader("streaming")
    for answer, rollout_id in ((answers.window, "0-0-0"), (answers.window, "0-2-0"), (answers.failed, "0-1-0")):
        answer(rollout_id)
    answers.step()
    assert asked(reader.window_requests[4:]) == [("0-0-0", 1), ("0-2-0", 1)]

    answers.window("0-3-0")
    answers.window("0-2-0", 1)
    answers.step()

    assert asked(reader.window_requests[6:]) == [("0-2-0", 2), ("0-3-0", 1), ("0-4-0", 0)]


@pytest.mark.parametrize("mode", ["lockstep", "overlapped"])
def test_a_step_of_a_cohort_that_lost_rows_is_smaller_and_the_next_cohort_is_whole_again(mode: str) -> None:
    reader, answers = a_reader(mode, size=3)
    num_open = len(reader.window_requests)
    answers.window("0-1-0")
    answers.failed("0-0-0")
    answers.failed("0-2-0")
    answers.step()

    assert [len(batch) for batch in reader.batches] == [1]
    assert asked(reader.window_requests[num_open:]) == [
        ("0-1-0", 1),
        (f"0-{num_open}-0", 0),
        (f"0-{num_open + 1}-0", 0),
    ]


def test_what_a_younger_cohort_lost_is_replaced_when_that_cohort_is_trained() -> None:
    reader, answers = a_reader("overlapped")
    answers.failed("0-2-0")
    answers.window("0-0-0")
    answers.window("0-1-0")
    answers.step()
    assert asked(reader.window_requests[4:]) == [("0-0-0", 1), ("0-1-0", 1)]

    answers.window("0-3-0")
    answers.step()

    assert asked(reader.window_requests[6:]) == [("0-3-0", 1), ("0-4-0", 0)]


def test_an_older_cohort_that_is_all_parked_is_replaced_by_a_cohort_of_its_own() -> None:
    reader, answers = a_reader("overlapped", size=1)
    answers.failed("0-0-0")
    answers.window("0-1-0")
    answers.step()
    assert asked(reader.window_requests[2:]) == [("0-1-0", 1), ("0-2-0", 0)]

    answers.window("0-2-0")
    assert not reader.manager.scheduler.next_batch(reader.version)
    answers.window("0-1-0", 1)

    assert names(reader.manager.scheduler.next_batch(reader.version)) == ["0-1-0"]


# Streaming requests three when the third failure leaves one row, and keeps the fourth failure for a step's end.
@pytest.mark.parametrize(("mode", "num_replaced"), [("lockstep", 2), ("overlapped", 4), ("streaming", 3)])
def test_a_run_whose_first_windows_are_all_parked_goes_on_with_others(mode: str, num_replaced: int) -> None:
    reader, answers = a_reader(mode)
    num_open = len(reader.window_requests)
    for number in range(num_open):
        answers.failed(f"0-{number}-0")
        assert not reader.begin_step()

    assert asked(reader.window_requests[num_open:]) == [(f"0-{num_open + n}-0", 0) for n in range(num_replaced)]


def test_streaming_requests_others_as_soon_as_the_rows_left_make_no_step() -> None:
    reader, answers = a_reader("streaming", size=2, max_policy_lag=0)
    answers.window("0-0-0")
    answers.failed("0-1-0")

    assert not reader.begin_step()

    assert asked(reader.window_requests[2:]) == [("0-2-0", 0)]


@settings(max_examples=40)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 10**6), steps=st.integers(1, 6), size=st.integers(1, 4))
def test_without_failures_a_run_requests_exactly_what_it_trains(mode: str, seed: int, steps: int, size: int) -> None:
    config = a_run_config(mode, total_training_steps=steps, rollouts_per_step=size)

    live = LiveRun(config, World(seed, max_length=10), random.Random(seed)).to_the_end()

    ledger = live.reader.manager.ledger
    assert ledger.num_issued == ledger.num_trained == steps * size
    assert [len(batch) for batch in live.reader.batches] == [size] * steps


@settings(max_examples=40)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 10**6), failing=st.sampled_from([0.0, 0.3]))
def test_a_finished_run_that_is_resumed_with_more_steps_takes_them(mode: str, seed: int, failing: float) -> None:
    world = World(seed, max_length=10, failing_windows=failing, failing_scores=failing)
    live = LiveRun(a_run_config(mode, total_training_steps=2), world, random.Random(seed)).to_the_end()

    live.reader = live.reader.checkpointed(a_run_config(mode, total_training_steps=6))
    live.to_the_end()

    assert len(live.reader.batches) == 6
    assert failing or live.reader.manager.ledger.num_issued == 6 * 3


def test_a_smaller_lag_near_the_end_leaves_the_windows_that_the_last_step_needs() -> None:
    reader, answers = a_reader("streaming", steps=2, max_policy_lag=2)  # 4 windows are out, of the 6 that it admits
    answers.failed("0-0-0")
    answers.window("0-1-0")
    answers.window("0-2-0")

    assert reader.begin_step()
    reader.manager.scheduler.set_policy_lag(0)
    reader.end_step()

    assert asked(reader.window_requests[4:]) == [("0-1-0", 1)]


def test_a_run_that_is_resumed_with_a_larger_lag_requests_as_many_windows_as_it_admits() -> None:
    reader, _ = a_reader("streaming", max_policy_lag=1)

    resumed = reader.checkpointed(a_run_config("streaming", rollouts_per_step=2, max_policy_lag=3))

    assert len(reader.window_requests) == 4
    assert len(resumed.window_requests) == 8


@settings(max_examples=60)
@given(lag=st.sampled_from([0, 1]), seed=st.integers(0, 10**6), failing=st.sampled_from([0.0, 0.3]))
def test_no_token_of_a_cohort_is_older_than_the_mode_allows(lag: int, seed: int, failing: float) -> None:
    mode = ("lockstep", "overlapped")[lag]
    config = a_run_config(mode, total_training_steps=6)
    world = World(seed, max_length=10, failing_windows=failing, failing_scores=failing)

    live = LiveRun(config, world, random.Random(seed)).to_the_end()

    assert max(row.lag for batch in live.reader.batches for row in batch) <= lag


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), failing=st.sampled_from([0.0, 0.3]), stalling_windows=st.sampled_from([0.0, 0.3]))
def test_in_lockstep_a_response_goes_on_in_the_very_next_step(
    seed: int, failing: float, stalling_windows: float
) -> None:
    config = a_run_config("lockstep", total_training_steps=6)  # of 8 tokens in windows of 3
    world = World(seed, 10, failing_windows=failing, stalling_windows=stalling_windows, failing_scores=failing)

    live = LiveRun(config, world, random.Random(seed)).to_the_end()

    rows = [row for batch in live.reader.batches for row in batch]
    ages = [(row.prefix_age, row.window_index) for row in rows if row.prefix_age is not None]
    assert all(age <= num_windows_before for age, num_windows_before in ages)
    # So where no window is empty, no prefix is older than ceil(8 / 3) - 1.
    assert stalling_windows or max((age for age, _ in ages), default=0) <= 2


@settings(max_examples=40)
@given(mode=st.sampled_from(MODES), seed=st.integers(0, 10**6))
def test_a_run_in_which_most_windows_fail_still_takes_every_step(mode: str, seed: int) -> None:
    world = World(seed, max_length=10, failing_windows=0.6, failing_scores=0.6)

    live = LiveRun(a_run_config(mode), world, random.Random(seed)).to_the_end()  # admission is checked all the way

    assert len(live.reader.batches) == 5
    assert mode != "streaming" or all(len(batch) == 3 for batch in live.reader.batches)


class TracedWorld(World):
    """Oracle C19 gives token counts only; these lengths, in the order in which slots become free, have them."""

    def length(self, rollout_id: str) -> int:
        return (3, 4, 5, 12, 1, 8, 9, 10, 2, 8, 4)[int(rollout_id.split("-")[1])]


def test_four_slots_give_the_tokens_of_the_traced_example() -> None:
    config = a_run_config(
        "lockstep", total_training_steps=5, rollouts_per_step=4, window_length=4, max_response_length=12
    )
    batches = LiveRun(config, TracedWorld(0, max_length=12), random.Random(0)).to_the_end().reader.batches

    # K = 1: an unfinished row loses one token.
    policy_tokens = [sum(row.num_tokens - (row.score is None) for row in batch) for batch in batches]
    value_tokens = [sum(row.response_length for row in batch if row.score is not None) for batch in batches]
    assert policy_tokens == [13, 8, 14, 11, 11]
    assert value_tokens == [7, 6, 20, 2, 31]

"""The same inbox gives the same steps and the same requests, however fast it is read."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from learner.rollouts.rollout import Position
from tests.learner.simulation import (
    LiveRun,
    Reader,
    World,
    a_run_config,
    replayed_at_once,
    replayed_in_chunks,
    replayed_one_by_one,
)
from tppo.config.schema import Config

SHARES = st.sampled_from([0.0, 0.1, 0.4])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    mode = draw(st.sampled_from(["lockstep", "overlapped", "streaming"]))
    window_length = draw(st.integers(1, 4))
    lag = draw(st.sampled_from([None, 0, 1, 2])) if mode == "streaming" else None
    return a_run_config(
        mode,
        warmup_steps=draw(st.integers(0, 4)),
        max_policy_lag=lag,
        total_training_steps=draw(st.integers(1, 6)),
        rollouts_per_step=draw(st.integers(1, 4)),
        window_length=window_length,
        max_response_length=window_length + draw(st.integers(0, 7)),
    )


@st.composite
def live_runs(draw: st.DrawFn, *, has_poison: bool = False) -> LiveRun:
    world = World(
        seed=draw(st.integers(0, 10**6)),
        max_length=draw(st.integers(1, 12)),
        failing_windows=draw(SHARES),
        stalling_windows=draw(SHARES),
        failing_scores=draw(SHARES),
        poisoned_answers=draw(st.sampled_from([0.1, 0.4])) if has_poison else 0.0,
    )
    return LiveRun(draw(configs()), world, random.Random(draw(st.integers(0, 10**6))))


def assert_same(replay: Reader, live: Reader) -> None:
    assert replay.batches == live.batches
    assert replay.window_requests == live.window_requests
    assert {request.key: request for request in replay.reward_requests} == {
        request.key: request for request in live.reward_requests
    }


@settings(max_examples=60)
@given(live=live_runs(), chance_seed=st.integers(0, 10**6))
def test_a_replay_at_any_reading_speed_takes_the_same_steps(live: LiveRun, chance_seed: int) -> None:
    live.to_the_end()
    read = live.log[: live.num_read]
    chance = random.Random(chance_seed)

    assert_same(replayed_at_once(live.config, live.log), live.reader)
    assert_same(replayed_one_by_one(live.config, live.log), live.reader)
    assert_same(replayed_in_chunks(live.config, live.log, chance, max_chunk=2), live.reader)
    assert_same(replayed_in_chunks(live.config, read, chance, max_chunk=30), live.reader)


@settings(max_examples=60)
@given(live=live_runs(has_poison=True), share=st.floats(0, 1), chance_seed=st.integers(0, 10**6))
def test_a_log_with_poison_takes_the_same_steps_and_parks_the_same_at_any_reading_speed(
    live: LiveRun, share: float, chance_seed: int
) -> None:
    live.to_the_end()
    read = live.log[: live.num_read]
    resumed = replayed_at_once(live.config, read[: int(share * len(read))]).checkpointed()
    resumed.read(read[int(share * len(read)) :])
    resumed.catch_up()

    assert_same_but_for_resent_requests(replayed_at_once(live.config, read), live.reader)
    assert_same_but_for_resent_requests(replayed_one_by_one(live.config, read), live.reader)
    chance = random.Random(chance_seed)
    assert_same_but_for_resent_requests(replayed_in_chunks(live.config, read, chance, max_chunk=30), live.reader)
    assert_same_but_for_resent_requests(resumed, live.reader)


def assert_same_but_for_resent_requests(replay: Reader, live: Reader) -> None:
    """A learner that reads what answered a resent request before it makes the request need not resend it."""
    assert replay.batches == live.batches
    assert list(dict.fromkeys(one.key for one in replay.window_requests)) == list(
        dict.fromkeys(one.key for one in live.window_requests)
    )
    assert {one.key for one in replay.reward_requests} == {one.key for one in live.reward_requests}
    assert parked_in(replay) == parked_in(live)
    assert replay.manager.ledger.num_rejected_records == live.manager.ledger.num_rejected_records
    assert replay.manager.ledger.conservation() == live.manager.ledger.conservation()


def parked_in(reader: Reader) -> set[tuple[str, str, Position]]:
    return {(row.rollout_id, row.cause, row.ready_position) for row in reader.manager.ledger.parked()}


@settings(max_examples=30)
@given(live=live_runs())
def test_every_duplicate_is_counted_once_at_any_reading_speed(live: LiveRun) -> None:
    live.to_the_end()
    at_once, one_by_one = replayed_at_once(live.config, live.log), replayed_one_by_one(live.config, live.log)

    assert at_once.manager.ledger.duplicates == one_by_one.manager.ledger.duplicates


@settings(max_examples=30)
@given(live=live_runs(), stop_share=st.floats(0, 1))
def test_a_killed_learner_reads_its_inbox_again_and_takes_the_same_steps(live: LiveRun, stop_share: float) -> None:
    live.to_the_end()
    middle = int(stop_share * live.num_read)
    reborn = replayed_at_once(live.config, live.log[:middle])
    steps_before, requests_before = len(reborn.batches), len(reborn.window_requests)
    reborn.read(live.log[middle : live.num_read])
    reborn.catch_up()

    assert_same(reborn, live.reader)
    assert steps_before <= len(live.reader.batches)
    assert requests_before <= len(live.reader.window_requests)


@settings(max_examples=30)
@given(live=live_runs(), checkpoint_share=st.floats(0, 1))
def test_a_learner_that_resumes_from_a_checkpoint_takes_the_same_steps(live: LiveRun, checkpoint_share: float) -> None:
    live.to_the_end()
    middle = int(checkpoint_share * len(live.log))
    before = replayed_at_once(live.config, live.log[:middle])

    resumed = before.checkpointed()
    resumed.read(live.log[middle:])
    resumed.catch_up()

    assert_same(resumed, live.reader)


@settings(max_examples=40)
@given(live=live_runs())
def test_each_token_trains_once_and_each_finished_response_has_one_score(live: LiveRun) -> None:
    rows = [row for batch in live.to_the_end().reader.batches for row in batch]
    by_rollout: dict[str, list[int]] = {}
    for row in rows:
        windows = by_rollout.setdefault(row.rollout_id, [])
        assert row.window_index == len(windows)
        windows.append(row.num_tokens)
        assert row.response_length == sum(windows)
    scored = [row.rollout_id for row in rows if row.score is not None]
    assert len(scored) == len(set(scored))

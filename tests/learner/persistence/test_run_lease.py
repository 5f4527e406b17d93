"""Who may be the learner of a run, and what an earlier one can still do."""

import multiprocessing
import socket
from pathlib import Path

import pytest
import redis.asyncio

from learner.persistence.run_identity import begin_life, is_over
from learner.persistence.run_lease import begin_only_life
from tppo.config import ConfigError
from tppo.streams.fence import Fence, FencedError


@pytest.fixture
def fence(redis_client: redis.asyncio.Redis, run_name: str) -> Fence:
    return Fence(redis_client, run_name, host=socket.gethostname(), lease_seconds=3600)


def begin_and_die(folder: Path) -> None:
    begin_life(folder)


@pytest.fixture
def dead_life(tmp_path: Path) -> int:
    """The incarnation of a learner whose process is over."""
    process = multiprocessing.get_context("spawn").Process(target=begin_and_die, args=(tmp_path,))
    process.start()
    process.join()
    return 1


def test_each_life_has_a_higher_number_and_the_same_run(tmp_path: Path) -> None:
    lives = [begin_life(tmp_path), begin_life(tmp_path), begin_life(tmp_path, at_least=9)]

    assert [life.incarnation for life in lives] == [1, 2, 9]
    assert len({life.run_id for life in lives}) == 1


def test_only_the_newest_life_may_write_into_the_folder(tmp_path: Path) -> None:
    zombie, successor = begin_life(tmp_path), begin_life(tmp_path)

    successor.require_current()
    with pytest.raises(FencedError, match="incarnation 2, has taken this run over"):
        zombie.require_current()


def test_a_living_process_is_not_over_and_a_dead_one_is(tmp_path: Path, dead_life: int) -> None:
    assert is_over(tmp_path, dead_life)

    living = begin_life(tmp_path)

    assert not is_over(tmp_path, living.incarnation)
    assert not is_over(tmp_path, 77)


async def test_the_successor_of_a_dead_learner_begins_at_once(fence: Fence, tmp_path: Path, dead_life: int) -> None:
    assert await fence.acquire(dead_life) == dead_life

    life = await begin_only_life(fence, tmp_path)

    assert life.incarnation == dead_life + 1


async def test_a_second_learner_is_refused_while_the_first_renews_its_lease(fence: Fence, tmp_path: Path) -> None:
    first = await begin_only_life(fence, tmp_path)

    async def the_first_lives_on(_seconds: float) -> None:
        await fence.renew(first.incarnation)

    with pytest.raises(ConfigError, match=r"another learner, incarnation 1 on .*, is training this run; expected none"):
        await begin_only_life(fence, tmp_path, sleep=the_first_lives_on)

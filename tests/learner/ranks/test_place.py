"""Which rank a process is, and which ranks belong together."""

import re
from pathlib import Path
from typing import Any

import pytest

from learner.parallel.process_counts import ProcessCounts
from learner.ranks.place import RankPlace, identity, why_not_together
from tppo.config import Config, ConfigError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node-0",
    "MASTER_PORT": "29500",
}


def config_of(num_of_value_model: int = 0, **learner: Any) -> Config:
    table = {"model": {"path": Path("m")}, "data": {"train_files": [Path("t.jsonl")]}, "learner": learner}
    return Config.model_validate(table | {"critic": {"num_processes": num_of_value_model}})


def test_a_learner_that_nobody_says_a_rank_to_is_rank_0_of_as_many_as_are_configured() -> None:
    assert RankPlace.of({}, config_of()) == RankPlace(rank=0, size=1)
    assert RankPlace.of({}, config_of(num_processes=3)) == RankPlace(rank=0, size=3, local_size=3)


def test_torchruns_variables_say_which_rank_this_is() -> None:
    place = RankPlace.of(TORCHRUN, config_of())

    assert (place.rank, place.size, place.local_rank, place.master) == (3, 4, 1, "node-0")
    assert not place.is_one_machine


def test_a_rank_that_rank_0_starts_is_handed_its_place_and_where_rank_0_is() -> None:
    config = config_of(num_processes=2)
    environment = RankPlace.of({}, config).environment_of(1, "127.0.0.1:4000", 77)

    place = RankPlace.of(environment, config)

    assert (place.rank, place.size, place.channel, place.leader_pid) == (1, 2, "127.0.0.1:4000", 77)
    assert place.is_one_machine
    assert not place.master


def test_the_last_ranks_have_the_value_model_where_it_has_processes_of_its_own() -> None:
    configured = RankPlace.of({}, config_of(2, num_processes=3))
    by_torchrun = RankPlace.of(TORCHRUN, config_of(2))

    assert (configured.size, configured.counts, configured.trains) == (5, ProcessCounts(3, 2), "policy")
    assert (by_torchrun.rank, by_torchrun.counts, by_torchrun.trains) == (3, ProcessCounts(2, 2), "value model")
    assert RankPlace().trains == "policy and value model"


@pytest.mark.parametrize(("num_of_policy", "num_of_value_model"), [(2, 1), (1, 4)])
def test_torchrun_starts_as_many_ranks_as_both_models_have(num_of_policy: int, num_of_value_model: int) -> None:
    keys = f"learner.num_processes = {num_of_policy} and critic.num_processes = {num_of_value_model}"
    with pytest.raises(ConfigError, match=f"^{keys}, but torchrun has started 4 \\(WORLD_SIZE\\); expected the sum"):
        RankPlace.of(TORCHRUN, config_of(num_of_value_model, num_processes=num_of_policy))


@pytest.mark.parametrize(
    ("changed", "num_processes", "sentence"),
    [
        ({"RANK": "4"}, 1, "RANK = 4 with WORLD_SIZE = 4; expected 0 to 3"),
        ({"RANK": "one"}, 1, "RANK = 'one'; expected a whole number, as torchrun sets it"),
        ({"WORLD_SIZE": ""}, 1, "RANK is set and WORLD_SIZE is not; expected both, as torchrun sets them, or neither"),
        (
            {"MASTER_ADDR": ""},
            1,
            "RANK is set and MASTER_ADDR is not; expected both, as torchrun sets them, or neither",
        ),
        (
            {},
            2,
            "learner.num_processes = 2, but torchrun has started 4 (WORLD_SIZE); "
            "expected the same number, or no such key",
        ),
    ],
)
def test_variables_that_make_no_sense_are_refused(changed: dict[str, str], num_processes: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        RankPlace.of(TORCHRUN | changed, config_of(num_processes=num_processes))


def an_identity(rank: int, config: Config | None = None) -> dict[str, Any]:
    return identity(RankPlace(rank=rank, size=2), config or config_of(), host="b", pid=5)


def test_ranks_with_the_same_versions_and_configuration_belong_together() -> None:
    assert why_not_together(an_identity(0), an_identity(1)) == ""


def test_where_its_redis_is_may_differ_from_rank_to_rank() -> None:
    elsewhere = config_of().model_copy(update={"redis": config_of().redis.model_copy(update={"url": "redis://b:1"})})

    assert why_not_together(an_identity(0), an_identity(1, elsewhere)) == ""


def test_another_version_is_refused_by_its_name() -> None:
    other = an_identity(1)
    other["versions"]["torch"] = "1.0"

    reason = why_not_together(an_identity(0), other)

    assert re.fullmatch(
        r"torch 1\.0 on rank 1 on b, torch \S+ on rank 0; expected the same on every rank",
        reason,
    )


def test_another_configuration_is_refused_by_its_key() -> None:
    other = an_identity(1, Config.model_validate(config_of().model_dump() | {"actor": {"lr": 5e-5}}))

    reason = why_not_together(an_identity(0), other)

    assert reason == (
        f"actor.lr = 5e-05 on rank 1 on b, {config_of().actor.lr!r} on rank 0; "
        "expected the same configuration on every rank"
    )


@pytest.mark.parametrize("rank", [0, 2, "1", None])
def test_a_rank_that_is_none_of_the_group_is_refused(rank: object) -> None:
    reason = why_not_together(an_identity(0), an_identity(1) | {"rank": rank})

    assert reason == f"rank {rank!r} of 2; expected one of the ranks 1 to 1 of 2"

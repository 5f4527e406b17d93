"""The learner's metrics: its heartbeat, and the newest lines of metrics.jsonl under Prometheus' names."""

from dataclasses import asdict
from typing import Any

import pytest

from learner.ranks.team import RankStatus
from learner.reporting.heartbeat import Heartbeat
from learner.reporting.prometheus import ENGINE_KL_STEPS, LearnerExporter, metric_name
from learner.reporting.trackers.trackers import Trackers
from tppo.process.presence import present
from tppo.process.shell import Announcer
from tppo.streams import MemoryStreams, StreamsUnavailable
from tppo.streams.connection import RedisClient
from tppo.streams.fence import Fence


def samples(exporter: LearnerExporter) -> dict[str, float]:
    """The samples without labels of their own."""
    return {sample.name: sample.value for family in exporter.collect() for sample in family.samples}


def an_exporter(*lines: dict[str, Any], **status: Any) -> LearnerExporter:
    exporter = LearnerExporter(run="quick", service="learner")
    exporter.take(status)
    for line in lines:
        exporter.take_line(line)
    return exporter


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("actor/pg_clipfrac", "tppo_actor_pg_clipfrac"),
        ("timing_s/step", "tppo_timing_s_step"),
        ("reward/a-b.c/mean", "tppo_reward_a_b_c_mean"),
    ],
)
def test_a_name_follows_one_rule(name: str, known_as: str) -> None:
    assert metric_name(name) == known_as


def test_the_newest_step_and_the_newest_evaluation_are_exported() -> None:
    numbers = samples(
        an_exporter(
            {"kind": "step", "step": 1, "reward/mean": 0.25, "critic/vf_loss": 1.0},
            {"kind": "evaluation", "step": 0, "time": 7.0, "eval/accuracy": 0.5},
            {"kind": "step", "step": 2, "time": 9.0, "reward/mean": 0.5, "critic/vf_loss": None},
        )
    )

    assert (numbers["tppo_reward_mean"], numbers["tppo_eval_accuracy"], numbers["tppo_time"]) == (0.5, 0.5, 9.0)
    assert "tppo_critic_vf_loss" not in numbers


def test_an_evaluation_that_ends_after_a_later_one_is_not_taken_for_the_newest() -> None:
    lines = [{"kind": "evaluation", "step": step, "eval/accuracy": step / 100} for step in (20, 60, 40)]

    assert samples(an_exporter(*lines))["tppo_eval_accuracy"] == 0.6


def test_the_counts_of_the_end_replace_those_of_the_last_step() -> None:
    lines = ({"kind": "step", "step": 2, "generation/num_tokens": 5}, {"kind": "end", "generation/num_tokens": 6})

    assert samples(an_exporter(*lines))["tppo_generation_num_tokens"] == 6


def test_the_heartbeat_is_newer_than_the_line() -> None:
    line = {"kind": "step", "step": 4, "ledger/issued": 8, "ledger/dropped/my own words": 1}

    exporter = an_exporter(line, step=5, ledger={"issued": 10, "holds": True})

    numbers = samples(exporter)
    assert (numbers["tppo_step"], numbers["tppo_ledger_issued"], numbers["tppo_ledger_holds"]) == (5, 10, 1)
    names = [family.name for family in exporter.collect()]
    assert len(names) == len(set(names))
    assert not [name for name in names if "my_own_words" in name]


def kl_by_generator(exporter: LearnerExporter, name: str) -> dict[str, float]:
    families = {family.name: family for family in exporter.collect()}
    return {one.labels["generator"]: one.value for one in families[name].samples} if name in families else {}


def test_each_generators_disagreement_with_the_learner_has_its_label_and_stays_between_comparisons() -> None:
    lines: list[dict[str, Any]] = [
        {"training/engine_kl/mean/generation-0": 0.5, "training/engine_kl/max/generation-0": 2.0},
        {"training/engine_kl/mean/generation-0": None, "training/engine_kl/mean/host:7/a": 0.25},
        {"training/engine_kl/mean/host:7/a": 0.125},
        {"training/engine_kl/mean": 0.75},
    ]

    exporter = an_exporter(*({"kind": "step", "step": step, **line} for step, line in enumerate(lines, start=1)))

    assert kl_by_generator(exporter, "tppo_generator_engine_kl_mean") == {"generation-0": 0.5, "host:7/a": 0.125}
    assert kl_by_generator(exporter, "tppo_generator_engine_kl_max") == {"generation-0": 2.0}
    assert samples(exporter)["tppo_training_engine_kl_mean"] == 0.75


def test_a_generator_that_is_compared_no_longer_is_left_out() -> None:
    line = {"kind": "step", "step": 7, "training/engine_kl/mean/generation-0": 0.5}
    exporter = an_exporter(line, {"kind": "step", "step": 6 + ENGINE_KL_STEPS})
    assert kl_by_generator(exporter, "tppo_generator_engine_kl_mean") == {"generation-0": 0.5}

    exporter.take_line({"kind": "step", "step": 7 + ENGINE_KL_STEPS})

    assert kl_by_generator(exporter, "tppo_generator_engine_kl_mean") == {}


def test_the_scores_of_an_evaluation_have_their_source_and_statistic_as_labels() -> None:
    scores = {
        "val-core/openai/gsm8k/acc/mean@4": 0.5,
        "val-aux/openai/gsm8k/acc/best@2/mean": 0.625,
        "val-core/aime24/acc/maj@4/mean": None,
        "val-core/aime24/acc/best@4/mean": 0.25,
    }
    exporter = an_exporter({"kind": "evaluation", "step": 0, **scores}, {"kind": "step", "step": 1})

    families = {family.name: family for family in exporter.collect()}

    found = families["tppo_evaluation_score"].samples
    assert {(one.labels["source"], one.labels["statistic"]): one.value for one in found} == {
        ("openai/gsm8k", "mean@4"): 0.5,
        ("openai/gsm8k", "best@2"): 0.625,
        ("aime24", "best@4"): 0.25,
    }


def a_heartbeat(client: RedisClient, run: str, exporter: LearnerExporter) -> Heartbeat:
    announcer = Announcer(client, exporter, run=run, name="learner", kind="learner", incarnation=1)
    return Heartbeat(announcer.announce, MemoryStreams(lease_seconds=60), completed=Trackers().with_status)


async def test_the_heartbeat_reports_the_queues_too(redis_client: RedisClient, run_name: str) -> None:
    exporter = LearnerExporter(run=run_name, service="learner")
    await Fence(redis_client, run_name, host="h", lease_seconds=9).acquire(1)
    heartbeat = a_heartbeat(redis_client, run_name, exporter)

    for _ in range(2):
        await heartbeat.announce({"step": 3})

    (learner,) = await present(redis_client, run_name)
    assert learner.status["queues"]["window_requests"] == {"num_waiting": 0, "num_leased": 0}
    assert (learner.status["num_inbox_entries"], learner.status["trackers"]) == (0, {})
    assert samples(exporter)["tppo_inbox_entries"] == 0


async def test_without_redis_the_newest_status_is_exported_all_the_same() -> None:
    exporter = LearnerExporter(run="quick", service="learner")
    client = RedisClient.from_url("redis://127.0.0.1:1")
    async with client:
        with pytest.raises(StreamsUnavailable):
            await a_heartbeat(client, "quick", exporter).announce({"step": 3})

    numbers = samples(exporter)
    assert numbers["tppo_step"] == 3
    assert "tppo_heartbeat_age_seconds" not in numbers


def test_each_rank_of_several_is_exported_and_of_one_process_none() -> None:
    ranks = {
        str(rank): asdict(RankStatus("a-host", 7 + rank, "policy", "training step 3", 0.5 * rank, 2**30))
        for rank in range(2)
    }
    found = {
        (sample.name, sample.labels["rank"]): sample.value
        for family in an_exporter(ranks=ranks).collect()
        for sample in family.samples
        if sample.name.startswith("tppo_rank_")
    }

    assert found == {
        ("tppo_rank_heartbeat_age_seconds", "0"): 0.0,
        ("tppo_rank_heartbeat_age_seconds", "1"): 0.5,
        ("tppo_rank_memory_bytes", "0"): 2**30,
        ("tppo_rank_memory_bytes", "1"): 2**30,
    }
    assert not any(name.startswith("tppo_rank_") for name in samples(an_exporter(ranks={})))

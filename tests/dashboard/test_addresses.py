"""What the addresses answer over a run's folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.dashboard.api.routes.runs import tail_of
from services.dashboard.live.source import Observation
from tests.dashboard.clients import NOW, FixedSource, answer_of, client_of, process
from tests.dashboard.run_folders import (
    RunFolderBuilder,
    complete_run,
    evaluation_line,
    event,
    requested,
    score,
    step_line,
)


async def test_runs_are_found_and_outlined(root: Path) -> None:
    complete_run(root / "quick")
    RunFolderBuilder(root / "compared" / "ppo").metrics(step_line(1))
    (root / "no run").mkdir()

    found = await answer_of(root, "runs")

    assert [one["name"] for one in found["items"]] == ["compared/ppo", "quick"]
    quick = found["items"][1]
    assert (quick["state"], quick["step"], quick["base_accuracy"], quick["accuracy"]) == ("finished", 3, 0.25, 0.75)
    assert (quick["started_at"], quick["ended_at"]) == ("2027-01-15T08:00:01Z", "2027-01-15T08:00:31Z")
    assert (quick["algorithm"], quick["mode"], quick["has_traces"]) == ("tppo", "streaming", True)


async def test_the_base_models_accuracy_is_found_where_evaluation_comes_after_training(
    run: RunFolderBuilder, root: Path
) -> None:
    run.metrics(step_line(1), step_line(2), evaluation_line(0, 0.25), evaluation_line(2, 0.5))

    (quick,) = (await answer_of(root, "runs"))["items"]

    assert (quick["base_accuracy"], quick["accuracy"]) == (0.25, 0.5)


async def test_a_run_is_chosen_by_name_and_nothing_else_is_reached(root: Path) -> None:
    complete_run(root / "quick")
    complete_run(root / "other" / "run")
    async with client_of(root) as client:
        chosen = await client.get("/api/v1/ledger", params={"run": "other/run"})
        stranger = await client.get("/api/v1/ledger", params={"run": "../runs/quick"})

    assert chosen.json()["run"] == "other/run"
    assert (stranger.status_code, stranger.headers["content-type"]) == (404, "application/problem+json")


async def test_an_empty_folder_is_a_problem_in_a_sentence(root: Path) -> None:
    async with client_of(root) as client:
        answer = await client.get("/api/v1/status")

    assert answer.status_code == 404
    assert "holds no run so far" in answer.json()["detail"]


async def test_metrics_come_in_columns(run: RunFolderBuilder, root: Path) -> None:
    run.metrics(*(step_line(step, reward__mean=step / 2) for step in (1, 2, 3)), evaluation_line(3, 0.5))

    steps = await answer_of(root, "metrics?names=reward/mean,unheard/of&max_points=2&from_step=1")
    evaluations = await answer_of(root, "metrics?kind=evaluation&names=eval/accuracy")

    assert steps["num_lines"] == 3
    assert steps["columns"] == {
        "step": [1, 3],
        "time": [1_800_000_010, 1_800_000_030],
        "seconds_since_start": [10, 30],
        "reward/mean": [0.5, 1.5],
        "unheard/of": [None, None],
    }
    assert evaluations["columns"]["eval/accuracy"] == [0.5]


async def test_names_and_the_latest_metrics(run: RunFolderBuilder, root: Path) -> None:
    run.metrics(step_line(1, reward__mean=0.5), evaluation_line(1, 0.5))

    names, latest = await answer_of(root, "metrics/names"), await answer_of(root, "metrics/latest")

    assert names["step"] == ["reward/mean", "seconds_since_start", "step", "time"]
    assert (latest["step"]["reward/mean"], latest["evaluation"]["eval/accuracy"]) == (0.5, 0.5)


LEDGER = {"issued": 10, "trained": 6, "in_flight": 2, "parked": 1, "dropped": 1}


async def test_the_ledgers_equation_is_checked(run: RunFolderBuilder, root: Path) -> None:
    run.metrics(step_line(1, **{f"ledger__{name}": count for name, count in LEDGER.items()}))
    run.journal(requested("a"), {"kind": "dropped", "rollout": "a", "window": 0, "reason": "by hand"})

    ledger = await answer_of(root, "ledger")

    assert {name: ledger[name] for name in LEDGER} == LEDGER
    assert (ledger["holds"], ledger["dropped_by_reason"], ledger["by_state"]["dropped"]) == (True, {"by hand": 1}, 1)
    assert ledger["history"]["issued"] == [10]


async def test_parked_rollouts_are_counted_by_the_kind_of_their_causes(run: RunFolderBuilder, root: Path) -> None:
    causes = {"a": "engine failed", "b": "no score: FAILED KeyError: 'x'", "c": "no score: FAILED KeyError: 'y'"}
    for rollout, cause in causes.items():
        run.journal(requested(rollout), {"kind": "parked", "rollout": rollout, "window": 0, "cause": cause})
    of_evaluation = {"kind": "parked", "rollout": "eval-0-0", "window": 0, "cause": "engine failed"}
    run.journal(requested("eval-0-0", evaluation=True), of_evaluation)

    assert (await answer_of(root, "ledger"))["parked_by_cause"] == [
        {"cause": "no score: FAILED KeyError", "num_rollouts": 2},
        {"cause": "engine failed", "num_rollouts": 1},
    ]


async def test_the_learners_own_count_is_newer_than_the_metrics(run: RunFolderBuilder, root: Path) -> None:
    run.metrics(step_line(1, ledger__issued=1))
    counts = {**LEDGER, "issued": 11, "rejected_records": 4}
    learner = process("learner", ledger=counts, duplicates={"window": 3, "score": 0})

    ledger = await answer_of(root, "ledger", FixedSource(Observation(now=NOW, presences=[learner])))

    assert (ledger["issued"], ledger["holds"], ledger["duplicates"]) == (11, False, {"window": 3, "score": 0})
    assert (ledger["rejected_records"], ledger["dead_letters"]["num_kept"]) == (4, 0)


async def test_generators_have_their_occupancy(run: RunFolderBuilder, root: Path) -> None:
    generator = process("generation", num_slots=4, num_decode_steps=10, num_active_slot_steps=30, policy_version=5)
    learner = process("learner", generators={"generation-0": {"num_transfers": 2}})

    found = await answer_of(root, "generators", FixedSource(Observation(now=NOW, presences=[generator, learner])))

    (one,) = found["items"]
    assert (one["occupancy"], one["policy_version"], one["weights"]) == (0.75, 5, {"num_transfers": 2})


async def test_generators_have_their_speed_their_cache_and_their_prefills(run: RunFolderBuilder, root: Path) -> None:
    report = {"tokens_per_second": 12.5, "num_held": 7, "kv_cache_use": 0.25, "num_cut": 2, "probe_difference": 1e-5}
    counts = {"num_prefill_tokens": 30, "num_shared_prefill_tokens": 10, "num_tokens_generated": 60}
    known = process("generation", **report, **counts)
    silent = replace(process("generation"), name="new")

    found = await answer_of(root, "generators", FixedSource(Observation(now=NOW, presences=[known, silent])))

    one, new = found["items"]
    assert {name: one[name] for name in report} == report
    assert (one["prefill_per_token"], one["shared_prefix_share"]) == (0.5, 0.25)
    unknown = (*report, "prefill_per_token", "shared_prefix_share")
    assert {name: new[name] for name in unknown} == dict.fromkeys(unknown)


async def test_reward_functions_are_counted_from_the_journal(run: RunFolderBuilder, root: Path) -> None:
    run.journal(*(score("a", 0.5), score("b", 1.0, seconds=0.03), score("c", None, error="timed out")))

    functions = await answer_of(root, "reward-functions")

    (exact,) = functions["items"]
    assert (exact["num_scored"], exact["mean_score"], exact["max_seconds"]) == (2, 0.75, 0.03)
    assert (exact["num_failed"], exact["last_error"]) == (1, "timed out")
    assert functions["configured"] == {"iterated_map": "exact"}


async def test_checkpoints_are_those_that_are_whole(run: RunFolderBuilder, root: Path) -> None:
    run.checkpoint(20, is_latest=False)
    run.checkpoint(40)
    (run.path / "checkpoints" / "global_step_60").mkdir()
    (run.path / "checkpoints" / "best.json").write_text('{"step": 20, "accuracy": 0.5, "measure": "eval/accuracy"}')

    found = (await answer_of(root, "checkpoints"))["items"]

    shown = [(one["step"], one["is_latest"], one["is_best"], one["accuracy"], one["num_bytes"]) for one in found]
    assert shown == [(20, False, True, 0.5, 7), (40, True, False, None, 7)]


async def test_the_configuration_keeps_passwords_to_itself(run: RunFolderBuilder, root: Path) -> None:
    sections = (await answer_of(root, "configuration"))["sections"]

    assert (sections["run"]["name"], sections["redis"]["url"]) == ("quick", "redis://***@localhost:6379/0")


async def test_events_are_followed_by_id(run: RunFolderBuilder, root: Path) -> None:
    run.journal(event("first"), event("second", num_bytes=7), event("third"))

    first = (await answer_of(root, "events"))["items"][0]
    later = (await answer_of(root, f"events?after_id={first['id']}&limit=1"))["items"]

    assert [(one["text"], one["extra"]) for one in later] == [("second", {"num_bytes": 7})]


async def test_a_log_is_shown_without_tokens(run: RunFolderBuilder, root: Path) -> None:
    run.log("dashboard", "one\ntwo\nat http://127.0.0.1:8265/#token=abc and redis://:secret@host\n")

    log = await answer_of(root, "logs/dashboard?lines=2")

    assert log["lines"] == ["two", "at http://127.0.0.1:8265/#token=*** and redis://***@host"]


@pytest.mark.parametrize("name", ["learner", "..%2Fconfig", "..", "%2e%2e%2fconfig.toml", "dashboard.log"])
async def test_only_logs_of_the_run_are_shown(run: RunFolderBuilder, root: Path, name: str) -> None:
    run.log("dashboard", "x")
    async with client_of(root) as client:
        answer = await client.get(f"/api/v1/logs/{name}")

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_a_link_among_the_logs_is_not_followed(run: RunFolderBuilder, root: Path, tmp_path: Path) -> None:
    run.log("dashboard", "x")
    secret = tmp_path / "secret"
    secret.write_text("of somebody else\n")
    (run.path / "logs" / "planted.log").symlink_to(secret)
    async with client_of(root) as client:
        answer = await client.get("/api/v1/logs/planted")

    assert answer.status_code == 404
    assert "expected one of dashboard" in answer.json()["detail"]
    with pytest.raises(OSError, match="symbolic link"):
        tail_of(run.path / "logs" / "planted.log", 5)


async def test_a_log_folder_that_is_a_link_is_not_followed(run: RunFolderBuilder, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "learner.log").write_text("of somebody else\n")
    (run.path / "logs").symlink_to(elsewhere)
    async with client_of(root) as client:
        answer = await client.get("/api/v1/logs/learner")

    assert answer.status_code == 404
    assert "expected one of none: nobody has logged into this run's folder" in answer.json()["detail"]
    with pytest.raises(OSError, match="Not a directory"):
        tail_of(run.path / "logs" / "learner.log", 5)


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\x00\x1b[31m", "\u202e\ufeff", "</pre>&amp;"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_passes_through_as_json(run: RunFolderBuilder, root: Path, text: str) -> None:
    run.prompts(text)
    run.journal(requested("r"), score("r", None, error=text, function=text, components={text: 1.0}), event(text))
    async with client_of(root) as client:
        answers = [await client.get(f"/api/v1/{address}") for address in ("rollouts/r", "events", "reward-functions")]

    assert {answer.headers["content-type"] for answer in answers} == {"application/json"}
    rollout, events, functions = (json.loads(answer.content) for answer in answers)
    assert (rollout["prompt_text"], rollout["score"]["components"]) == (text, {text: 1.0})
    assert (events["items"][0]["text"], functions["items"][0]["last_error"]) == (text, text)


async def test_what_a_broken_learner_writes_is_still_answered(run: RunFolderBuilder, root: Path) -> None:
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    run.journal(event("half \ud83d", extra=deep), score("r \ud83d", components={"deep": deep}))
    run.metrics({"kind": "step", "step": "many", "time": "now", "odd": deep})
    async with client_of(root) as client:
        for address in (
            "events",
            "rollouts",
            "status",
            "metrics",
            "metrics/latest",
            "reward-functions",
            "windows",
            "runs",
        ):
            assert (await client.get(f"/api/v1/{address}")).status_code == 200


async def test_a_bad_parameter_is_a_problem_that_names_it(run: RunFolderBuilder, root: Path) -> None:
    async with client_of(root) as client:
        answer = await client.get("/api/v1/rollouts?limit=501")

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["errors"] == [{"where": "query.limit", "message": "Input should be less than or equal to 500"}]


async def test_an_unknown_address_is_a_problem_document(run: RunFolderBuilder, root: Path) -> None:
    async with client_of(root) as client:
        answers = [await client.get(path) for path in ("/api/v1/nothing", "/nothing", "/static/nothing.js")]

    assert {(one.status_code, one.headers["content-type"]) for one in answers} == {(404, "application/problem+json")}


async def test_answers_are_described_in_the_openapi_document(run: RunFolderBuilder, root: Path) -> None:
    async with client_of(root) as client:
        document = (await client.get("/openapi.json")).json()

    schemas = document["components"]["schemas"]
    assert schemas["Status"]["properties"]["step"]["description"] == "Training steps done."
    assert "return" in schemas["TokenColumns"]["properties"]
    assert schemas["Problem"]["required"] == ["title", "status", "detail"]

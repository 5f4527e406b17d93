"""Responses from endpoints, their scores, and what is asked a second time: nothing that is known."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.local.evaluate import asking
from services.local.evaluate.asking import Asker, EndpointRefusedError, Sampling
from services.local.evaluate.benchmarks import BenchmarkProblem
from services.local.evaluate.responses import EvaluationIdentity, Responses, digest_of, missing
from services.local.evaluate.summary import summary_of
from tppo.config import ConfigError
from tppo.process.backoff import Backoff
from tppo.rollout import RewardRequest, Score, ScoreStatus
from tppo.run_folder.json_lines import Fields

SAMPLING = Sampling("quickstart", 0.7, 64, 0, {"enable_thinking": False}, "Be brief.", has_chat_template=True)
QUESTION = EvaluationIdentity("model", 3, "digest", 0.7, 64, 0, {"": "math"})
PROBLEMS = [
    BenchmarkProblem(number, "sums", [{"role": "user", "content": f"{number} + 1"}], str(number + 1), "{}")
    for number in range(2)
]


def completion(text: str = "so 1", *, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": text}, "finish_reason": finish_reason, "token_ids": [5, 6]}],
        "usage": {"completion_tokens": 2},
        "system_fingerprint": "policy-version-3",
    }


class FakeScorer:
    """1 where the last word is the ground truth."""

    def __init__(self, status: ScoreStatus = ScoreStatus.SCORED) -> None:
        self.status = status
        self.requests: list[RewardRequest] = []

    async def scores(self, requests: Sequence[RewardRequest]) -> list[Score]:
        self.requests += requests
        return [self._score(request) for request in requests]

    def _score(self, request: RewardRequest) -> Score:
        answer = request.response.split()[-1]
        is_scored = self.status is ScoreStatus.SCORED
        score = float(answer == request.ground_truth) if is_scored else None
        error = "" if is_scored else "no sandbox"
        return Score(request.rollout_id, 0, self.status, score=score, answer=answer if is_scored else "", error=error)


async def asked(
    responses: Responses,
    answer: Callable[[httpx.Request], httpx.Response],
    scorer: FakeScorer | None = None,
    *,
    num_samples: int = 1,
) -> None:
    known = responses.known()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://a/v1") as client:
        asker = Asker([client], scorer or FakeScorer(), SAMPLING, PROBLEMS, take=responses.append)  # type: ignore[arg-type]
        await asker.run(missing(PROBLEMS, num_samples, known), known, num_at_once=4)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "Backoff", lambda **_: Backoff(first_seconds=0.0, longest_seconds=0.0))


async def test_each_sample_is_asked_once_with_a_seed_of_its_own_and_kept_with_its_score(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/chat/completions"
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json=completion())

    responses, scorer = Responses(tmp_path, QUESTION), FakeScorer()
    await asked(responses, answer, scorer, num_samples=2)

    assert len({body["seed"] for body in bodies}) == 4
    assert bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"]) == (0.7, 64)
    assert all(request.is_evaluation for request in scorer.requests)
    line = responses.known()[0, 1]
    assert (line["score"], line["answer"], line["policy"]) == (1.0, "1", "policy-version-3")
    assert responses.known()[1, 0]["score"] == 0.0
    assert json.loads((tmp_path / "eval.json").read_text())["policy_version"] == 3


async def test_a_text_and_a_model_without_template_go_to_completions() -> None:
    plain = Sampling("m", 1.0, 8, 0, {}, None, has_chat_template=False)
    text = BenchmarkProblem(0, "sums", "1 + 1 =", "2", "{}")

    assert SAMPLING.body(text, 0)[0] == "completions"
    path, body = plain.body(PROBLEMS[1], 0)
    assert (path, body["prompt"]) == ("completions", "1 + 1")


async def test_an_endpoint_without_room_is_asked_until_it_has_some(tmp_path: Path) -> None:
    refusals = iter([429, 503, 429])

    def answer(_: httpx.Request) -> httpx.Response:
        if (status := next(refusals, None)) is not None:
            return httpx.Response(status, json={"error": {"message": "no room"}})
        return httpx.Response(200, json=completion())

    responses = Responses(tmp_path, QUESTION)
    await asked(responses, answer)

    assert len(responses.known()) == 2


async def test_what_the_endpoint_refuses_for_good_ends_the_evaluation_with_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(EndpointRefusedError, match="http://a/v1/: the prompt is too long"):
        await asked(
            Responses(tmp_path, QUESTION),
            lambda _: httpx.Response(400, json={"error": {"message": "the prompt is too long"}}),
        )


async def test_a_prompt_that_is_too_long_is_no_zero_ends_nothing_and_may_be_sampled_later(tmp_path: Path) -> None:
    room = 0

    def answer(request: httpx.Request) -> httpx.Response:
        if "1 + 1" in request.content.decode() and not room:
            error = {"message": "9 tokens of the prompt", "code": "context_length_exceeded"}
            return httpx.Response(400, json={"error": error})
        return httpx.Response(200, json=completion())

    responses = Responses(tmp_path, QUESTION)
    await asked(responses, answer)
    refused = responses.known()[1, 0]
    (found,) = summary_of(responses.known().values(), 1).values()

    assert (refused["status"], refused["score"], refused["error"]) == ("FAILED", None, "9 tokens of the prompt")
    assert (found["unscored"], found["pass@1"]["value"], found["mean_length"]) == (1, 1.0, 2.0)

    room = 1
    await asked(responses, answer)
    assert responses.known()[1, 0]["response"] == "so 1"


async def test_an_endpoint_that_never_has_room_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_REFUSALS", 3)

    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(EndpointRefusedError, match=r"no answer after 3 attempts; the last refusal: .*ConnectError"):
        await asked(Responses(tmp_path, QUESTION), gone)


async def test_a_crash_costs_the_responses_under_way_and_a_torn_line_no_more_than_itself(tmp_path: Path) -> None:
    num_asked = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal num_asked
        num_asked += 1
        return httpx.Response(200, json=completion())

    responses = Responses(tmp_path, QUESTION)
    await asked(responses, answer, num_samples=2)
    content = responses.path.read_bytes()
    responses.path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 20])  # the last line's beginning is there
    await asked(Responses(tmp_path, QUESTION), answer, num_samples=3)

    assert num_asked == 4 + 1 + 2
    assert sorted(Responses(tmp_path, QUESTION).known()) == [(p, s) for p in range(2) for s in range(3)]


async def test_a_response_without_a_score_is_no_zero_and_is_scored_again_without_being_sampled_again(
    tmp_path: Path,
) -> None:
    num_asked = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal num_asked
        num_asked += 1
        return httpx.Response(200, json=completion())

    responses = Responses(tmp_path, QUESTION)
    await asked(responses, answer, FakeScorer(ScoreStatus.FAILED))
    (before,) = summary_of(responses.known().values(), 1).values()
    await asked(responses, answer)
    (after,) = summary_of(responses.known().values(), 1).values()

    assert (before["unscored"], before["pass@1"]) == (2, None)
    assert responses.known()[0, 0]["error"] == ""
    assert (after["unscored"], after["pass@1"]["value"], num_asked) == (0, 0.5, 2)


def test_a_folder_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    Responses(tmp_path, QUESTION)

    with pytest.raises(ConfigError, match=r"eval\.json: these responses are of temperature = 0\.7, and now it is 1\.0"):
        Responses(tmp_path, EvaluationIdentity("model", 3, "digest", 1.0, 64, 0, {"": "math"}))


def test_other_problems_have_another_digest() -> None:
    assert digest_of(PROBLEMS) != digest_of(PROBLEMS[:1])


def a_line(problem: int, sample: int, score: float | None, answer: str, **changes: Any) -> Fields:
    line = {
        "problem": problem, "sample": sample, "data_source": "sums", "response": "r", "num_tokens": 10 * (sample + 1),
        "finish_reason": "stop", "status": "SCORED", "score": score, "answer": answer,
    }  # fmt: skip
    return {**line, **changes}


def test_the_summary_has_accuracies_with_intervals_lengths_and_the_share_that_was_cut() -> None:
    lines = [
        *(a_line(0, 0, 1.0, "4"), a_line(0, 1, 0.0, "5", finish_reason="length")),
        *(a_line(1, 0, 1.0, "7"), a_line(1, 1, 1.0, "7")),
        a_line(2, 0, 1.0, "9", data_source="aime"),
        a_line(2, 1, None, "", data_source="aime", status="FAILED"),
        a_line(2, 2, 1.0, "9", data_source="aime"),  # of an evaluation with more samples
    ]

    summary = summary_of(lines, 2)

    sums = summary["sums"]
    # The problems' means are 0.5 and 1: 0.75 with a standard error of 0.25, and t(0.975) of one degree is 12.706.
    assert sums["pass@1"]["value"] == 0.75
    assert sums["pass@1"]["interval"] == pytest.approx([0.75 - 12.706 * 0.25, 0.75 + 12.706 * 0.25], abs=1e-3)
    assert (sums["pass@2"]["value"], sums["maj@2"]["value"]) == (1.0, 0.75)
    assert (sums["cut_at_the_limit"], sums["mean_length"], sums["longest"]) == (0.25, 15.0, 20)
    aime = summary["aime"]
    assert (aime["unscored"], aime["pass@1"], aime["pass@2"]) == (
        1,
        {"value": 1.0, "interval": None, "problems": 1},
        None,
    )
    assert list(summary) == ["sums", "aime", "all"]
    assert (summary["all"]["problems"], summary["all"]["responses"]) == (3, 6)


def test_asking_is_spread_over_all_endpoints(tmp_path: Path) -> None:
    async def run() -> list[str]:
        hosts: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            hosts.append(request.url.host)
            return httpx.Response(200, json=completion())

        transport = httpx.MockTransport(answer)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://a/v1") as first,
            httpx.AsyncClient(transport=transport, base_url="http://b/v1") as second,
        ):
            asker = Asker([first, second], FakeScorer(), SAMPLING, PROBLEMS, take=lambda _: None)  # type: ignore[arg-type]
            await asker.run(missing(PROBLEMS, 1, {}), {}, num_at_once=1)
        return hosts

    assert asyncio.run(run()) == ["a", "b"]

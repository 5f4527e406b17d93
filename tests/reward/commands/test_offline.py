"""`tppo score` and `tppo rescore`."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.reward.commands.rescore import main as rescore
from services.reward.commands.score import main as score
from services.reward.reporting.response_log import ResponseLog, logged_responses, request_of
from tppo.config import ConfigError
from tppo.rollout import FinishReason, RewardRequest, Score, ScoreStatus

EXAMPLE = Path(__file__).parents[3] / "examples/custom_reward/python/mine.py"


def file_of(folder: Path, *lines: object) -> Path:
    path = folder / "responses.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def logged(rollout_id: str, response: str, was: float, attempt: int = 0) -> tuple[RewardRequest, Score]:
    request = RewardRequest(
        *(rollout_id, attempt, "sums", "2+2?", response, "4"),
        extra_info='{"level": 1}',
        num_response_tokens=3,
        finish_reason=FinishReason.LENGTH,
    )
    return request, Score(rollout_id, attempt, ScoreStatus.SCORED, was, function="old")


def test_each_line_is_scored_in_its_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"response": f"# {index}", "ground_truth": "3"} for index in range(5)]

    exit_code = score(["--function", "exact", str(file_of(tmp_path, *rows))])
    lines = printed(capsys)

    assert exit_code == 0
    assert [line["score"] for line in lines] == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert list(lines[0]) == ["status", "score", "components", "seconds", "error"]


def test_a_line_that_is_no_request_fails_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"response": "# 4", "ground_truth": 4}

    score(["--function", "exact", str(file_of(tmp_path, good, "{", {"response": "x"}, "[]", good))])
    lines = printed(capsys)

    assert [line["status"] for line in lines] == ["SCORED", "FAILED", "FAILED", "FAILED", "SCORED"]
    assert lines[2]["error"].startswith("line 3: KeyError('ground_truth'); expected an object")


def test_a_users_file_is_scored_in_a_worker_with_all_that_the_line_holds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info):\n"
        "    return {'score': extra_info['points'], 'is_poem': float(data_source == 'poems')}\n"
    )
    row = {"response": "r", "ground_truth": "g", "data_source": "poems", "extra_info": {"points": 0.5}}

    score(["--function", f"{tmp_path}/mine.py:compute_score", str(file_of(tmp_path, row))])
    (line,) = printed(capfd)

    assert (line["status"], line["score"], line["components"]) == ("SCORED", 0.5, {"is_poem": 1.0})


def test_a_line_says_how_its_response_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reasons = ("stop", "length", "cut", None)
    rows = [{"response": "# 4", "ground_truth": "4", "finish_reason": reason} for reason in reasons]

    score(["--function", "exact(unfinished='cut')", str(file_of(tmp_path, *rows))])
    lines = printed(capfd)

    assert [line["score"] for line in lines] == [1.0, 0.0, None, 1.0]
    assert "finish_reason 'cut': expected stop or length" in lines[2]["error"]


@pytest.mark.process
async def test_a_users_process_scores_a_file(tmp_path: Path) -> None:
    rows = [{"response": text, "ground_truth": "4"} for text in ("4", "5", "44")]
    command = ["score", "--function", "grpc:mine", "--attach-wait-seconds", "60", str(file_of(tmp_path, *rows))]
    scoring = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tppo", *command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert scoring.stderr is not None
    address = (await scoring.stderr.readline()).decode().split()[-1]
    client = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLE), address)
    try:
        output, _ = await scoring.communicate()
    finally:
        client.kill()
        await client.wait()

    assert [json.loads(line)["score"] for line in output.splitlines()] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--function", "exakt", "FILE"], "^--function = 'exakt': expected exact, boxed"),
        (["--function", "", "FILE"], "^--function = '': expected the name of a reward function"),
        (["--function", "math + grpc:mine", "FILE"], 'expected it in quotes, as in math \\+ "grpc:mine"$'),
        (
            ["--function", "exact", "--num-workers", "0", "FILE"],
            "^--num-workers = 0; expected a whole number from 1 to 1024$",
        ),
        (
            ["--function", "exact", "--timeout-seconds", "nan", "FILE"],
            "^--timeout-seconds = nan; expected a number from 0.01 to 31536000$",
        ),
        (["--function", "exact", "nowhere.jsonl"], "No such file"),
    ],
)
def test_wrong_use_is_reported_in_one_sentence(tmp_path: Path, arguments: list[str], reason: str) -> None:
    file = str(file_of(tmp_path))

    with pytest.raises(ConfigError, match=reason):
        score([file if argument == "FILE" else argument for argument in arguments])


def test_the_log_gives_back_what_was_scored(tmp_path: Path) -> None:
    request, made = logged("a", "it is # 4 👍", 1.0)

    ResponseLog(tmp_path, "reward-0").append(request, made)
    (line,) = logged_responses(tmp_path)

    assert request_of(line) == request
    assert (line["status"], line["score"], line["function"]) == ("SCORED", 1.0, "old")


def test_duplicates_count_once_and_the_latest_wins(tmp_path: Path) -> None:
    clock = iter([3.0, 1.0, 2.0])
    early = ResponseLog(tmp_path, "reward-0", clock=lambda: next(clock))
    early.append(*logged("a", "later", 1.0))
    late = ResponseLog(tmp_path, "reward-1", clock=lambda: next(clock))
    late.append(*logged("a", "earlier", 0.0))
    late.append(*logged("b", "between", 0.0))

    assert [line["response"] for line in logged_responses(tmp_path)] == ["between", "later"]


def test_torn_and_foreign_lines_lose_no_other(tmp_path: Path) -> None:
    log = ResponseLog(tmp_path, "reward-0")
    log.append(*logged("a", "first", 1.0))
    with (tmp_path / "responses/reward-0.jsonl").open("a") as file:
        file.write('{}\n{"rollout_id": 7}\n{"rollout_id": "b", "attempt": "x", "time": 0}\n{"rollout_id": "b", "resp')
    ResponseLog(tmp_path, "reward-0").append(*logged("c", "third", 1.0))

    assert [line["response"] for line in logged_responses(tmp_path)] == ["first", "third"]


def test_a_log_that_cannot_be_written_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "responses").write_text("in the way")
    log = ResponseLog(tmp_path, "reward-0")

    log.append(*logged("a", "x", 1.0))

    assert "responses" in log.last_error


def test_a_row_whose_extra_info_holds_nan_is_logged(tmp_path: Path) -> None:
    request, made = logged("a", "x", 1.0)

    ResponseLog(tmp_path, "reward-0").append(replace(request, extra_info='{"level": NaN}'), made)

    assert logged_responses(tmp_path)[0]["extra_info"] == {"level": None}


def test_a_runs_responses_are_scored_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ResponseLog(tmp_path, "reward-0")
    log.append(*logged("a", "# 4", 0.0))
    log.append(*logged("b", "# 5", 0.0))

    exit_code = rescore(["--function", "exact", str(tmp_path)])
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]

    assert exit_code == 0
    assert [(line["rollout_id"], line["score"], line["previous_score"]) for line in lines] == [
        ("a", 1.0, 0.0),
        ("b", 0.0, 0.0),
    ]
    assert captured.err.splitlines()[-1] == (
        "2 responses: mean score 0.5000 instead of 0.0000, 1 scores differ, 0 without a score"
    )


def test_a_run_without_logged_responses_is_refused_with_the_key_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward\.log_responses = true"):
        rescore(["--function", "exact", str(tmp_path)])

"""Another function's scores take the place of a log's."""

import json
from pathlib import Path

import pytest

from learner.commands.replay.records import read_scores, with_scores
from tppo.codec import decode_inbox_record, encode_inbox_record
from tppo.config import ConfigError
from tppo.rollout import FinishReason, Score, ScoreStatus, VersionSpan, Window, logprobs, tokens

WINDOW = Window("0-1-0", 0, tokens([7]), logprobs([-0.5]), (VersionSpan(0, 1),), FinishReason.STOP)
FAILED = Score("0-1-0", 0, ScoreStatus.FAILED, error="out of memory")
SCORED = Score("0-1-0", 1, ScoreStatus.SCORED, score=1.0, components={"exact": 1.0}, function="exact")


def scores_file(folder: Path, *lines: object) -> Path:
    path = folder / "rescored.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_a_score_is_replaced_and_everything_else_stays(tmp_path: Path) -> None:
    path = scores_file(tmp_path, {"rollout_id": "0-1-0", "attempt": 1, "score": 0.25, "components": {"length": 0.5}})
    log = [encode_inbox_record(record) for record in (WINDOW, FAILED, SCORED)]

    window, failed, scored = map(decode_inbox_record, with_scores(log, read_scores(path)))

    assert (window, failed) == (WINDOW, FAILED)
    assert isinstance(scored, Score)
    assert (scored.key, scored.status) == (SCORED.key, ScoreStatus.SCORED)
    assert (scored.score, scored.components) == (0.25, {"length": 0.5})


def test_a_response_that_was_not_scored_again_is_named(tmp_path: Path) -> None:
    path = scores_file(tmp_path, {"rollout_id": "0-2-0", "attempt": 0, "score": 1.0})

    with pytest.raises(ConfigError, match="none for attempt 1 of 0-1-0"):
        list(with_scores([encode_inbox_record(SCORED)], read_scores(path)))


@pytest.mark.parametrize(
    "line",
    ["no json", "[]", {"rollout_id": "a", "score": 1.0}, {"rollout_id": "a", "attempt": 0, "score": None}],
)
def test_a_line_that_is_no_score_is_named_with_its_number(tmp_path: Path, line: object) -> None:
    path = scores_file(tmp_path, {"rollout_id": "0-1-0", "attempt": 0, "score": 1}, line)

    with pytest.raises(ConfigError, match=r"rescored\.jsonl, line 2: "):
        read_scores(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.jsonl: No such file"):
        read_scores(tmp_path / "absent.jsonl")

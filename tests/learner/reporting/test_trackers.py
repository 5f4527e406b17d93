"""TensorBoard and W&B for real: what they have of a run whose steps are repeated."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from learner.reporting.trackers.contract import ReportedSteps, TrackerStart, points_of
from learner.reporting.trackers.feed import TrackerFeed
from learner.reporting.trackers.process import main as process
from learner.reporting.trackers.trackers import Trackers, check
from tests.learner.reporting.tracker_processes import a_start, a_step, an_evaluation
from tests.support.damage import DAMAGES, damage
from tppo.__main__ import main
from tppo.config import ConfigError
from tppo.config.schema import TrackersSection

Line = Mapping[str, Any]


def replies_of(kind: str, start: TrackerStart, lines: Iterable[Line]) -> list[str]:
    """The replies of a tracker's process to these lines, in this very process."""
    replies = StringIO()
    lines_in = [start_line(start), *(json.dumps(line) for line in lines)]
    process(kind, StringIO("\n".join(lines_in) + "\n"), replies)
    return [json.loads(reply)["error"] for reply in replies.getvalue().splitlines()]


def start_line(start: TrackerStart) -> str:
    return json.dumps({name: getattr(start, name) for name in TrackerStart.__dataclass_fields__})


def steps(first: int, last: int) -> list[Line]:
    return [a_step(step) for step in range(first, last + 1)]


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def history(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The rows that were logged, by the id of W&B's run, in the order of the files."""
    rows: dict[str, list[dict[str, float]]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        found = rows.setdefault(path.stem.removeprefix("run-"), [])
        for record in records(path.read_bytes()):
            if record.HasField("history"):
                items = record.history.item
                found.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return rows


def records(content: bytes) -> Iterator[Record]:
    """A log in LevelDB's form behind seven bytes: blocks of 32 KiB; records of checksum, length, kind, data."""
    position, data = 7, b""
    while position + 7 <= len(content):
        if 2**15 - position % 2**15 < 7:
            position += 2**15 - position % 2**15
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(data)
            data = b""


def test_tensorboard_shows_each_step_once_and_evaluations_beside(tmp_path: Path) -> None:
    replies = replies_of("tensorboard", a_start(tmp_path), [an_evaluation(0), *steps(1, 4), an_evaluation(2)])

    assert set(replies) == {""}
    assert points(tmp_path, "reward/mean") == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert points(tmp_path, "eval/accuracy") == [(0, 0.5), (2, 0.5)]


def test_an_evaluation_that_ends_after_a_later_one_is_in_tensorboard(tmp_path: Path) -> None:
    lines = [*steps(1, 40), an_evaluation(40), an_evaluation(20)]

    assert set(replies_of("tensorboard", a_start(tmp_path), lines)) == {""}

    assert sorted(points(tmp_path, "eval/accuracy")) == [(20, 0.5), (40, 0.5)]
    assert len(points(tmp_path, "reward/mean")) == 40


@pytest.mark.slow
def test_an_evaluation_that_ends_after_a_later_one_is_in_wandb(tmp_path: Path) -> None:
    lines = [*steps(1, 4), an_evaluation(4), an_evaluation(2), a_step(5)]

    assert set(replies_of("wandb", a_start(tmp_path), lines)) == {""}

    (rows,) = history(tmp_path).values()
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [4, 2]
    assert [row["step"] for row in rows if "reward/mean" in row] == [1, 2, 3, 4, 5]


def test_repeated_steps_leave_no_duplicate_point_in_tensorboard(tmp_path: Path) -> None:
    replies_of("tensorboard", a_start(tmp_path), [an_evaluation(0), *steps(1, 5), an_evaluation(3)])

    again = [an_evaluation(3), a_step(4, **{"reward/mean": 7.0}), *steps(5, 6)]
    replies_of("tensorboard", a_start(tmp_path, through_step=3, incarnation=2), again)

    assert points(tmp_path, "reward/mean") == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 7.0), (5, 2.5), (6, 3.0)]
    assert points(tmp_path, "eval/accuracy") == [(0, 0.5), (3, 0.5)]


@pytest.mark.slow
def test_wandb_has_each_step_once_over_restarts(tmp_path: Path) -> None:
    first = replies_of("wandb", a_start(tmp_path), [an_evaluation(0), *steps(1, 5), an_evaluation(3)])
    again = [an_evaluation(3), *steps(4, 6)]
    second = replies_of("wandb", a_start(tmp_path, through_step=3, incarnation=2), again)

    assert set(first + second) == {""}
    (rows,) = history(tmp_path).values()
    assert [(row["step"], row["reward/mean"]) for row in rows if "reward/mean" in row] == [
        (step, step / 2) for step in range(1, 7)
    ]
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 3]


@pytest.mark.slow
def test_after_a_rollback_another_run_of_wandb_begins(tmp_path: Path) -> None:
    replies_of("wandb", a_start(tmp_path), steps(1, 5))
    replies_of("wandb", a_start(tmp_path, through_step=3, incarnation=2, is_rolled_back=True), steps(4, 5))
    replies_of("wandb", a_start(tmp_path, through_step=4, incarnation=3), steps(5, 6))

    reported = {run: [row["step"] for row in rows] for run, rows in history(tmp_path).items()}
    assert reported == {"abc": [1, 2, 3, 4, 5], "abc-2": [4, 5, 6]}


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
async def test_a_process_of_its_own_takes_the_lines(tmp_path: Path, kind: str) -> None:
    feed = TrackerFeed(kind, a_start(tmp_path))

    async with Trackers([feed]).running():
        for line in steps(1, 3):
            feed.take(line)

    assert (feed.status()["num_written"], feed.last_error) == (3, "")
    shown = points(tmp_path, "reward/mean") if kind == "tensorboard" else history(tmp_path)["abc"]
    assert len(shown) == 3


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
@pytest.mark.slow
def test_reported_lines_are_on_the_disk_although_the_learner_was_killed(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-m", "learner.reporting.trackers.process", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        for line in (start_line(a_start(tmp_path)), *map(json.dumps, steps(1, 20))):
            child.stdin.write(line + "\n")
            child.stdin.flush()
            assert child.stdout.readline() == '{"error": ""}\n'
        child.stdin.write('{"half a li')
        child.stdout.close()
        child.stdin.close()
        child.wait()

    rows = points(tmp_path, "reward/mean") if kind == "tensorboard" else history(tmp_path)["abc"]
    assert len(rows) == 20


def test_an_exception_of_a_package_is_a_reply_and_the_next_line_is_tried(tmp_path: Path) -> None:
    folder = tmp_path / "trackers"
    folder.write_text("not a folder")

    replies = replies_of("tensorboard", a_start(tmp_path), steps(1, 2))

    assert replies == ["", *[f"FileExistsError: [Errno 17] File exists: '{folder}'"] * 2]


def test_a_line_gives_its_finite_numbers_and_the_end_gives_none() -> None:
    line = a_step(1, none=None, words="x", infinite=float("inf"), whole=2)

    assert points_of(line) == {"reward/mean": 0.5, "whole": 2.0}
    assert points_of(an_evaluation(1)) == {"eval/accuracy": 0.5}
    assert points_of({**line, "kind": "end"}) == {}


def reported_in(folder: Path, *, through_step: int = -1) -> ReportedSteps:
    return ReportedSteps(folder / "trackers" / "reported.json", first_branch="abc", through_step=through_step)


def test_reported_steps_are_remembered_by_kind_and_forgotten_after_a_step(tmp_path: Path) -> None:
    reported = reported_in(tmp_path)
    reported.branch = "other"
    for line in (*steps(3, 5), an_evaluation(3)):
        reported.add(line)

    again = reported_in(tmp_path)
    assert again.branch == "other"
    assert [again.includes(a_step(step)) for step in (3, 5, 6)] == [True, True, False]
    assert [again.includes(an_evaluation(step)) for step in (3, 5)] == [True, False]
    again.forget_after(4)
    assert [again.includes(a_step(step)) for step in (4, 5)] == [True, False]
    assert again.includes(an_evaluation(3))


def test_an_evaluation_that_ends_after_a_later_one_is_not_taken_for_a_reported_one(tmp_path: Path) -> None:
    reported = reported_in(tmp_path)
    reported.add(an_evaluation(40))

    again = reported_in(tmp_path)

    assert [again.includes(an_evaluation(step)) for step in (20, 40)] == [False, True]


def test_the_memory_of_reported_steps_is_bounded(tmp_path: Path) -> None:
    reported = reported_in(tmp_path)
    for step in range(1, 1101):
        reported.add(a_step(step))

    again = reported_in(tmp_path)

    assert all(again.includes(a_step(step)) for step in range(1, 1101))
    assert not again.includes(a_step(1101))
    assert (tmp_path / "trackers" / "reported.json").stat().st_size < 20_000


@pytest.mark.parametrize("kind", [*DAMAGES, "steps of another type"])
def test_where_the_memory_is_damaged_steps_up_to_the_checkpoint_count_as_reported(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "trackers" / "reported.json"
    reported_in(tmp_path).add(a_step(5))
    if kind in DAMAGES:
        damage(path, kind)
    else:
        path.write_text('{"branch": "abc", "step": {"through": 1, "single": ["x"]}, "evaluation": {}}')

    again = reported_in(tmp_path, through_step=3)

    assert again.branch == "abc"
    assert [again.includes(a_step(step)) for step in (3, 4)] == [True, False]
    again.add(a_step(4))
    assert reported_in(tmp_path).includes(a_step(4))


@pytest.mark.parametrize(("key", "value"), [("tensorboard", "true"), ("wandb", "'offline'")])
def test_a_package_that_is_not_installed_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    (tmp_path / "run.toml").write_text("[model]\npath = 'base'\n[data]\ntrain_files = ['t.jsonl']\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    for more in (["--check"], ["--redis", "redis://127.0.0.1:1"]):
        code = main(["learner", str(tmp_path / "run.toml"), f"--set=trackers.{key}={value}", *more])

        assert code == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"tppo learner: trackers.{key} = {value}: the package {key} is not installed; "
            "expected pip install 'tppo[trackers]'"
        )


def test_online_needs_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    with pytest.raises(ConfigError, match=r"^trackers\.wandb = 'online': no key of W&B; expected .* WANDB_API_KEY"):
        check(TrackersSection(wandb="online"))
    check(TrackersSection(wandb="offline"))
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    check(TrackersSection(wandb="online"))

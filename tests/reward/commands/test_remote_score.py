"""`tppo remote-score`: a file of responses, scored by a running reward service."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.reward.attached.attaching import a_server
from tppo.config import ConfigError
from tppo.config.schema import RewardSection
from tppo.scoring.remote import main

EXACT = RewardSection(default_function="exact", functions={"named": "boxed"})


def file_of(folder: Path, *lines: object) -> str:
    path = folder / "responses.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


async def scored(*arguments: str, section: RewardSection = EXACT) -> int:
    async with a_server(section) as server:
        return await asyncio.to_thread(main, [*arguments[:1], server.address, *arguments[1:]])


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_each_line_is_scored_in_its_order_over_several_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"response": f"# {index}", "ground_truth": "150"} for index in range(200)]

    exit_code = await scored(file_of(tmp_path, *rows))
    lines = printed(capsys)

    assert exit_code == 0
    assert [index for index, line in enumerate(lines) if line["score"] == 1.0] == [150]
    assert (len(lines), list(lines[0])) == (200, ["status", "score", "components", "seconds", "error"])


async def test_a_line_that_is_no_request_fails_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"response": "# 4", "ground_truth": 4}

    await scored(file_of(tmp_path, good, "{", good))

    assert [line["status"] for line in printed(capsys)] == ["SCORED", "FAILED", "SCORED"]


async def test_a_function_that_the_service_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="INVALID_ARGUMENT: function 'other'; expected boxed, exact"):
        await scored(file_of(tmp_path, {"response": "4", "ground_truth": "4"}), "--function", "other")


def test_a_service_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = main([file_of(tmp_path, {"response": "4", "ground_truth": "4"}), "127.0.0.1:1"])

    assert exit_code == 1
    assert capsys.readouterr().err.startswith("tppo remote-score: 127.0.0.1:1: UNAVAILABLE")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl: No such file"):
        main([str(tmp_path / "nowhere.jsonl"), "127.0.0.1:1"])

"""Makes runs' folders as a learner leaves them: configuration, metrics, journal, traces, a checkpoint, logs."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet
from tokenizers import Tokenizer, models

from learner.step.measurements.trace_schema import SCHEMA, Header
from tppo.run_folder.paths import trace_path

BEGAN = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC

CONFIG = """
[run]
name = "{name}"
algorithm = "tppo"
mode = "streaming"
total_training_steps = {total_training_steps}
watchdog_seconds = 60.0
[redis]
url = "redis://user:secret@localhost:6379/0"
[model]
path = "{path}/model"
[data]
train_files = ["{path}/train.jsonl"]
val_files = []
prompt_key = "prompt"
[reward]
default_function = "exact"
[reward.functions]
iterated_map = "exact"
[trace]
enabled = true
"""


class RunFolderBuilder:
    """One run; the methods add to its files."""

    def __init__(self, path: Path, *, total_training_steps: int = 3) -> None:
        self.path = path
        path.mkdir(parents=True)
        config = CONFIG.format(name=path.name, path=path, total_training_steps=total_training_steps)
        (path / "config.toml").write_text(config)

    def journal(self, *lines: Mapping[str, Any]) -> None:
        append(self.path / "journal.jsonl", lines)

    def metrics(self, *lines: Mapping[str, Any]) -> None:
        append(self.path / "metrics.jsonl", lines)

    def log(self, service: str, text: str) -> None:
        (self.path / "logs").mkdir(exist_ok=True)
        (self.path / "logs" / f"{service}.log").write_text(text)

    def prompts(self, *texts: str) -> None:
        rows = (
            {"data_source": "iterated_map", "prompt": text, "reward_model": {"ground_truth": text[::-1]}}
            for text in texts
        )
        append(self.path / "train.jsonl", rows)

    def tokenizer(self, *words: str) -> None:
        """Token n is the n-th word."""
        vocabulary = {word: number for number, word in enumerate([*words, "?"])}
        folder = self.path / "model"
        folder.mkdir()
        Tokenizer(models.WordLevel(vocabulary, unk_token="?")).save(str(folder / "tokenizer.json"))

    def summary(self, ending: str, *, cause: str = "", seconds_after_its_lines: float = 1.0) -> None:
        """As `tppo run` leaves it."""
        path = self.path / "summary.json"
        path.write_text(json.dumps({"ending": ending, "cause": cause}))
        last = max(one.stat().st_mtime for one in self.path.glob("*.jsonl"))
        os.utime(path, (last + seconds_after_its_lines, last + seconds_after_its_lines))

    def checkpoint(self, step: int, *, num_bytes: int = 7, is_latest: bool = True) -> None:
        folder = self.path / "checkpoints" / f"global_step_{step}"
        folder.mkdir(parents=True)
        manifest = {"files": {"actor/model.safetensors": [num_bytes, "digest"]}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        if is_latest:
            (folder.parent / "latest").write_text(folder.name)

    def trace(self, step: int, *rows: Mapping[str, Any]) -> None:
        (self.path / "traces").mkdir(exist_ok=True)
        schema = SCHEMA.with_metadata(Header(step, "tppo", "streaming", 32).metadata())
        parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), trace_path(self.path / "traces", step))


def append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def step_line(step: int, **numbers: Any) -> dict[str, Any]:
    """A step every ten seconds."""
    moment = {"time": BEGAN + 10.0 * step, "seconds_since_start": 10.0 * step}
    return {
        "kind": "step",
        "step": step,
        **moment,
        **{name.replace("__", "/"): value for name, value in numbers.items()},
    }


def evaluation_line(step: int, accuracy: float) -> dict[str, Any]:
    moment = {"time": BEGAN + 10.0 * step + 1, "seconds_since_start": 10.0 * step + 1}
    return {"kind": "evaluation", "step": step, **moment, "eval/step": step, "eval/accuracy": accuracy}


def requested(rollout: str, window: int = 0, *, time: float = 0.0, **more: Any) -> dict[str, Any]:
    line = {"kind": "requested", "rollout": rollout, "window": window, "time": BEGAN + time, "prompt": 0, "ordinal": 0}
    return {**line, "start": 0, "version": 0, "evaluation": False, **more}


def window(rollout: str, index: int = 0, *, time: float = 1.0, tokens: int = 4, **more: Any) -> dict[str, Any]:
    """Took a second in slot 3 of generation-0."""
    line = {"kind": "window", "rollout": rollout, "window": index, "time": BEGAN + time, "tokens": tokens}
    place = {"generator": "generation-0", "slot": 3, "started": BEGAN + time - 1, "ended": BEGAN + time}
    state = {"versions": [[0, tokens]], "finish": "length", "is_finished": False, "evaluation": False}
    return {**line, **place, **state, **more}


def last_window(rollout: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return window(rollout, index, finish="stop", is_finished=True, **more)


def score(rollout: str, value: float | None = 1.0, *, time: float = 2.0, **more: Any) -> dict[str, Any]:
    status = "FAILED" if value is None else "SCORED"
    line = {"kind": "score", "rollout": rollout, "attempt": 0, "status": status, "score": value, "time": BEGAN + time}
    return {**line, "components": {}, "function": "exact", "seconds": 0.01, "error": "", "evaluation": False, **more}


def trained(step: int, *rows: tuple[str, int]) -> dict[str, Any]:
    return {"kind": "trained", "step": step, "time": BEGAN + 10.0 * step, "rows": [list(row) for row in rows]}


def event(text: str, **more: Any) -> dict[str, Any]:
    return {"kind": "event", "event": "checkpoint", "step": 1, "text": text, "time": BEGAN + 10.0, **more}


def token(rollout: str, position: int, token_id: int, **more: Any) -> dict[str, Any]:
    """A row of a trace: of the first window, on which the policy was trained."""
    names = {"rollout_id": rollout, "window_index": 0, "position": position, "token_id": token_id, "policy_version": 0}
    numbers = {"rollout_logprob": -0.5, "old_logprob": -0.5, "ratio": 1.0, "is_clipped": False, "value": 0.25}
    advantage = {"raw_advantage": 0.5, "advantage": 1.0, "return": None}
    masks = {"in_window": True, "policy_mask": True, "value_mask": False}
    return {**names, **numbers, **advantage, **masks, **more}


def kept(rollout: str, response: str, *, time: float, score: float | None = 1.0, **more: Any) -> dict[str, Any]:
    """A line of a reward service."""
    request = {"rollout_id": rollout, "attempt": 0, "data_source": "sums", "prompt": "what is one plus one?"}
    rest = {"ground_truth": "2", "extra_info": {}, "num_response_tokens": len(response.split()), "components": {}}
    judged = {"status": "FAILED" if score is None else "SCORED", "score": score, "function": "exact"}
    line = {**request, **rest, **judged, "response": response, "is_evaluation": rollout.startswith("eval")}
    return {**line, "time": BEGAN + time, **more}


def keep(run: RunFolderBuilder, *lines: dict[str, Any], service: str = "reward-0") -> Path:
    path = run.path / "responses" / f"{service}.jsonl"
    path.parent.mkdir(exist_ok=True)
    append(path, lines)
    return path


def complete_run(path: Path) -> RunFolderBuilder:
    """A finished run of three steps in which rollout 0-0-0 took two windows and 0-0-1 was parked."""
    run = RunFolderBuilder(path)
    run.prompts("one plus one", "two plus two")
    run.tokenizer("<b>", "a", "b", "end")
    run.metrics(
        evaluation_line(0, 0.25),
        *(step_line(step, reward__mean=0.1 * step, ledger__issued=4, ledger__trained=3) for step in (1, 2, 3)),
        evaluation_line(3, 0.75),
    )
    run.journal(
        requested("0-0-0"),
        requested("0-0-1", time=0.1),
        window("0-0-0", tokens=2),
        trained(1, ("0-0-0", 0)),
        requested("0-0-0", 1, time=11.0, start=2, version=1),
        last_window("0-0-0", 1, time=12.0, tokens=2, versions=[[0, 1], [1, 1]]),
        score("0-0-0", 1.0, time=13.0, components={"exact": 1.0}),
        trained(2, ("0-0-0", 1)),
        {"kind": "parked", "rollout": "0-0-1", "window": 0, "cause": "the engine failed", "time": BEGAN + 14.0},
        event("checkpoint of step 3 is committed", step=3),
    )
    first = [token("0-0-0", 0, 0), token("0-0-0", 1, 1)]
    later = {"in_window": False, "window_index": None, "policy_mask": False, "value_mask": True, "return": 1.0}
    run.trace(1, *first)
    run.trace(
        2,
        *(row | later for row in first),
        *(
            token("0-0-0", position, position, window_index=1, value_mask=True, **{"return": 1.0})
            for position in (2, 3)
        ),
    )
    run.checkpoint(3)
    run.log("learner", "began\nredis://user:secret@localhost\nended\n")
    return run

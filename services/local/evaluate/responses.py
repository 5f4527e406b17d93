"""The responses of an evaluation on disk, each as soon as it is scored, and what is left to do after a crash.

eval.json          what was asked of whom; an evaluation that continues must be the same
responses.jsonl    a line for each response, with its score or why there is none
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.local.evaluate.benchmarks import BenchmarkProblem
from tppo.config import ConfigError
from tppo.rollout import ScoreStatus
from tppo.run_folder.json_files import Kind, fits, read_object, write_object
from tppo.run_folder.json_lines import Fields, JsonLinesWriter, read_objects

SCORED = ScoreStatus.SCORED.name
REFUSED = "refused"
"""The finish reason of a response that was not sampled, as its prompt is too long; it may be with other settings."""
NEEDED: Mapping[str, Kind] = {
    "problem": int,
    "sample": int,
    "data_source": str,
    "response": str,
    "num_tokens": int,
    "finish_reason": str,
    "status": str,
    "score": float | None,
    "answer": str,
}
"""What the summary needs of a line."""
Place = tuple[int, int]
"""Of a response: its problem and its sample."""


@dataclass(frozen=True, slots=True)
class EvaluationIdentity:
    """What every response of an evaluation has in common."""

    model: str
    policy_version: int | None  # None: whatever the run has when it answers
    problems: str  # digest
    temperature: float
    max_tokens: int
    seed: int
    functions: Mapping[str, str]  # data source -> reward function; "": of all others


class Responses:
    """Those of one folder."""

    def __init__(self, folder: Path, question: EvaluationIdentity) -> None:
        """Raises `ConfigError` where the folder has those of another evaluation."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _require_same(folder / "eval.json", question)
        self.path = folder / "responses.jsonl"
        self._writer = JsonLinesWriter(self.path)

    def append(self, line: Mapping[str, Any]) -> None:
        """Keep one. Raises `OSError` where the disk does not take it."""
        self._writer.append([line])
        if self._writer.last_error:
            raise OSError(f"{self.path}: {self._writer.last_error}")

    def known(self) -> dict[Place, Fields]:
        """The last line of each response; torn and foreign lines are left out."""
        return {(line["problem"], line["sample"]): line for line in read_objects(self.path) if fits(line, NEEDED)}


def missing(problems: Sequence[BenchmarkProblem], num_samples: int, known: Mapping[Place, Fields]) -> Iterator[Place]:
    """What is to be sampled, or scored again, one sample of all problems after the other."""
    for sample in range(num_samples):
        for problem in problems:
            line = known.get((problem.number, sample))
            if line is None or line["status"] != SCORED:
                yield problem.number, sample


def digest_of(problems: Sequence[BenchmarkProblem]) -> str:
    """Of all that is asked, and of the answers."""
    digest = hashlib.blake2b(digest_size=16)
    for problem in problems:
        digest.update(json.dumps(asdict(problem), sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _require_same(path: Path, question: EvaluationIdentity) -> None:
    asked = json.loads(json.dumps(asdict(question)))
    before = read_object(path, {})
    if before is None:
        write_object(path, asked)
        return
    for name, value in asked.items():
        if before.get(name) != value:
            raise ConfigError(
                f"{path}: these responses are of {name} = {before.get(name)!r}, and now it is {value!r}; expected the "
                "same, or another folder by --output"
            )

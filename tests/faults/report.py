"""What became of each run, kept in a file of lines, and the table of all."""

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.kinds import FAULTS, Injection

LINES = "chaos.jsonl"
TABLE = "chaos.md"
NOT_REACHED = "not reached"


@dataclass
class Report:
    """One run and its faults."""

    seed: str
    injections: list[Injection] = field(default_factory=list)
    num_steps: int = 0
    num_tokens: int = 0  # trained by the policy or left out by its mask
    tokens_lost: int = 0
    tokens_trained_twice: int = 0
    audit: str = NOT_REACHED
    replay: str = NOT_REACHED
    failure: str = ""  # with the logs of its processes
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether it finished and kept every promise."""
        kept = (self.audit, self.replay, self.failure) == ("kept", "the same", "")
        return kept and not self.tokens_lost and not self.tokens_trained_twice

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.is_good:
            return "good"
        if self.failure:
            return f"FAILED: {self.failure.splitlines()[0][:300]}"
        audit = "kept" if self.audit == "kept" else "BROKEN"
        replay = self.replay if self.replay == "the same" else "DIFFERS"
        return (
            f"BAD: {self.tokens_lost} lost, {self.tokens_trained_twice} trained twice, audit {audit}, replay {replay}"
        )

    def line(self) -> str:
        """For the console."""
        names = ", ".join(one.name for one in self.injections)
        return f"{self.seed}: {self.verdict}; {self.num_steps} steps, {self.seconds:.0f} s; {names}"

    def details(self) -> str:
        """For the folder of a run that failed."""
        return f"audit: {self.audit}\nreplay: {self.replay}\n{self.failure}"


def read(folder: Path) -> dict[str, Report]:
    """The runs that the folder has, by seed; of one that was repeated, the last."""
    path = folder / LINES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    plain = map(json.loads, lines)
    found = [Report(**{**one, "injections": [Injection(**each) for each in one["injections"]]}) for one in plain]
    return {report.seed: report for report in found}


def add(report: Report, folder: Path) -> None:
    """One more run, and the table of all."""
    with (folder / LINES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(report)) + "\n")
    (folder / TABLE).write_text("\n".join(table(read(folder).values())) + "\n", encoding="utf-8")


def table(all_reports: Iterable[Report]) -> Iterator[str]:
    """Losses are counted per run, and shown at each fault that was injected in it."""
    reports = list(all_reports)
    yield "| fault | times | runs | recovered in, median | worst | tokens lost | trained twice | replayed bit for bit |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in sorted({one.name for report in reports for one in report.injections}):
        yield _row(name, [report for report in reports if any(one.name == name for one in report.injections)], name)
    yield _row("**all**", reports)
    num_steps = sum(report.num_steps for report in reports)
    num_tokens = sum(report.num_tokens for report in reports)
    num_good = sum(report.is_good for report in reports)
    yield ""
    yield f"{len(reports)} runs, {num_steps:,} training steps, {num_tokens:,} tokens; {num_good} runs without a flaw."


def _row(title: str, reports: Sequence[Report], name: str | None = None) -> str:
    struck = [one for report in reports for one in report.injections if name is None or one.name == name]
    seconds = [one.recovered_seconds for one in struck if one.recovered_seconds is not None and one.name in FAULTS]
    times = f"{statistics.median(seconds):.1f} s | {max(seconds):.1f} s" if seconds else " | "
    lost = sum(report.tokens_lost for report in reports)
    twice = sum(report.tokens_trained_twice for report in reports)
    num_same = sum(report.replay == "the same" for report in reports)
    return f"| {title} | {len(struck)} | {len(reports)} | {times} | {lost} | {twice} | {num_same} of {len(reports)} |"

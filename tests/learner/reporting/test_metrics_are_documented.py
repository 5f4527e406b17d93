"""Every number that a run writes is explained in docs/metrics.md."""

import re
from pathlib import Path
from typing import Any

from tests.learner.fake_services import GENERATOR, FakeTransport
from tests.learner.laboratory import ArchivedStreams, Laboratory, to_the_end

NAMES = {
    re.compile("/(k_to_2|k_above_2)$"): "/GROUP",
    re.compile(f"/{GENERATOR}$"): "/GENERATOR",
    re.compile("^val-core/task/acc/mean@1$"): "val-core/SOURCE/acc/mean@N",
}
NOT_IN_THESE_RUNS = {
    "ledger/dropped/REASON",  # nobody dropped anything
    "actor/router_imbalance",  # the model has no experts
    "val-core/SOURCE/acc/best@N/mean",  # each prompt has one response
    "val-aux/SOURCE/acc/best@K/mean",
    "val-core/SOURCE/acc/maj@N/mean",
    "val-aux/SOURCE/acc/maj@K/mean",
}
DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


async def test_every_metric_has_its_line_and_every_line_its_metric(tmp_path: Path) -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}

    lines = [
        line
        for algorithm, mode in (("tppo", "streaming"), ("geppo", "lockstep"))
        for line in await lines_of_a_run(tmp_path / algorithm, algorithm, mode)
    ]

    written = {documented_as(name) for line in lines for name in line} - {"kind"}
    assert written == documented - NOT_IN_THESE_RUNS


def documented_as(name: str) -> str:
    for pattern, placeholder in NAMES.items():
        name = pattern.sub(placeholder, name)
    return name


async def lines_of_a_run(folder: Path, algorithm: str, mode: str) -> list[dict[str, Any]]:
    laboratory, streams, transport = Laboratory(folder, mode, algorithm), ArchivedStreams(), FakeTransport()
    await to_the_end(laboratory.learner("run", streams, transport), streams, transport)
    return laboratory.lines("run")

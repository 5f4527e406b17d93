"""Every number that a run writes is explained in docs/metrics.md."""

import re
from pathlib import Path

from tests.learner.fake_services import FakeTransport
from tests.learner.test_learner_service import ArchivedStreams, Laboratory, to_the_end

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


async def test_every_metric_has_its_line_and_every_line_its_metric(tmp_path: Path) -> None:
    laboratory, streams, transport = Laboratory(tmp_path, "streaming"), ArchivedStreams(), FakeTransport()
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}

    await to_the_end(laboratory.life("run", streams, transport), streams, transport)

    written = {name for line in laboratory.lines("run") for name in line} - {"kind"}
    assert written == documented

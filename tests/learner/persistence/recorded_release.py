"""A small run as this release writes it: interrupted in its fourth step, with a checkpoint after the second.

    python -m tests.learner.persistence.recorded_release FOLDER

A folder of `releases/` is recorded when `FORMAT` of checkpoints or the form of records changes, and never again: later
releases go on with it (test_recorded_releases.py).
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from learner.persistence.archive import InboxArchive
from tests.learner.fake_services import FakeTransport
from tests.learner.laboratory import Laboratory, SealedStreams, killed_at
from tppo.run_folder.paths import RunPaths
from tppo.security.record_keys import sealed_records
from tppo.streams import InboxEntry
from tppo.streams.contract import BEGINNING

MODE = "lockstep"
SECRET = "of-a-recorded-run"
RECORDS = sealed_records([SECRET])
KEPT = ("checkpoints", "identity.json", "metrics.jsonl", "journal.jsonl")


def record(folder: Path) -> None:
    """Into a folder that is not there yet."""
    with tempfile.TemporaryDirectory() as scratch:
        entries = asyncio.run(_interrupted(Laboratory(Path(scratch), MODE, records=RECORDS)))
        folder.mkdir(parents=True)
        InboxArchive(folder / "inbox").append(entries)
        RunPaths(folder).record_secret.write_text(f"{SECRET}\n", encoding="utf-8")
        for name in KEPT:
            source = Path(scratch) / "run" / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / name)


async def _interrupted(laboratory: Laboratory) -> list[InboxEntry]:
    streams, transport = SealedStreams(RECORDS), FakeTransport()
    await killed_at(3, laboratory.learner("run", streams, transport), streams, transport)
    return await streams.inbox.read(BEGINNING, max_count=10**6, wait_seconds=0)


if __name__ == "__main__":
    record(Path(sys.argv[1]))

"""Which life of which run this learner is: a small file in the run's folder, written before anything is sent.

Each life of the learner has a higher number (its incarnation), so that weights of a later life always replace those of
an earlier one, even when it resumed at an earlier step.
"""

import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

FILE_NAME = "identity.json"


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """The run and the learner's life."""

    run_id: str  # unique for ever, unlike the run's name
    incarnation: int  # 1 for the first life

    @property
    def is_first_life(self) -> bool:
        """Whether nothing of this run exists yet."""
        return self.incarnation == 1


def begin_life(run_folder: Path) -> RunIdentity:
    """The next life of the run in the folder; the first when there was none."""
    path = run_folder / FILE_NAME
    if path.exists():
        last = RunIdentity(**json.loads(path.read_text(encoding="utf-8")))
        identity = replace(last, incarnation=last.incarnation + 1)
    else:
        identity = RunIdentity(run_id=uuid.uuid4().hex, incarnation=1)
    write_atomically(path, json.dumps(asdict(identity)).encode())
    return identity


def write_atomically(path: Path, content: bytes) -> None:
    """The file holds either its old content or the new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

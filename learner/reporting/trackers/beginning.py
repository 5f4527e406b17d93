"""What a tracker's process is told first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """One life of the learner, as a tracker knows it; of JSON values."""

    folder: str
    """Of the run."""
    run: str
    run_id: str
    """Unique for ever, unlike the run's name."""
    incarnation: int
    through_step: int
    """Steps after this one are taken in this life."""
    is_rolled_back: bool = False
    """An operator has gone back to an older checkpoint: other steps will follow than those that are already told."""
    project: str = ""
    mode: str = ""
    """Of W&B: offline or online."""
    settings: Mapping[str, Any]
    """The run's configuration, without addresses."""

    def own_file(self, name: str) -> Path:
        """Where a tracker keeps what it has to remember from one life to the next."""
        return Path(self.folder) / "trackers" / name

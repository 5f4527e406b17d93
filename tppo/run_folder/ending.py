"""How a run ended: written by `tppo run` into summary.json, read by a resume and by the dashboard."""

from dataclasses import dataclass
from enum import Enum

from tppo.run_folder.json_files import DamagedFileError, read_object
from tppo.run_folder.paths import RunPaths, modified_at


class EndingKind(Enum):
    """Why a run ended."""

    FINISHED = "finished"  # after the last step, or where an operator has stopped it
    GAVE_UP = "gave up"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class RunEnding:
    """Of the run's last session."""

    kind: EndingKind
    cause: str
    """Why it gave up, in a sentence."""
    written_at: float
    """Seconds since the epoch."""


def ending_of(paths: RunPaths) -> RunEnding | None:
    """None while the run goes on, as far as its folder says: also where somebody has written to it since."""
    written_at = modified_at(paths.summary)
    if written_at < max(modified_at(paths.metrics), modified_at(paths.journal)):
        return _stopped_by_operator(paths)
    try:
        fields = read_object(paths.summary, {"ending": str, "cause": str})
    except DamagedFileError:
        return None
    kinds = {kind.value: kind for kind in EndingKind}
    if fields is None or fields["ending"] not in kinds:
        return None
    return RunEnding(kinds[fields["ending"]], fields["cause"], written_at)


def _stopped_by_operator(paths: RunPaths) -> RunEnding | None:
    """A learner that was started without `tppo run` leaves its mark alone."""
    written_at = modified_at(paths.stopped_mark)
    is_last = written_at and written_at >= max(modified_at(paths.metrics), modified_at(paths.journal))
    return RunEnding(EndingKind.FINISHED, "", written_at) if is_last else None

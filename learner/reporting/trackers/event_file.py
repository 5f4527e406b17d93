"""TensorBoard: a file of events in `tensorboard/` for each life of the learner. TensorFlow is not needed."""

from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from learner.reporting.trackers.beginning import Beginning
from learner.reporting.trackers.told import Told


def begin(beginning: Beginning) -> tuple[Told, "EventFile"]:
    """TensorBoard itself drops the points of steps that this life takes again."""
    told = Told(beginning.own_file("tensorboard.json"), first_branch=beginning.run_id)
    told.forget_after(beginning.through_step)
    return told, EventFile(Path(beginning.folder) / "tensorboard", purge_step=beginning.through_step + 1)


class EventFile:
    """Each write is on the disk before it returns."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        self._file = EventFileWriter(str(folder))
        self._file.add_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._file.flush()

    def write(self, step: int, seconds: float, points: Mapping[str, float]) -> None:
        """One event."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in points.items()]
        self._file.add_event(Event(wall_time=seconds, step=step, summary=Summary(value=values)))
        self._file.flush()

    def close(self) -> None:
        """The file is whole already."""
        self._file.close()

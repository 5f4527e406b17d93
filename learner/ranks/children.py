"""The ranks that rank 0 starts on its own machine, and how they end."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from learner.ranks.place import RankPlace
from tppo.process.interpreter import tppo_command
from tppo.process.tether import tethered


class Children:
    """By rank; none where torchrun starts the ranks."""

    def __init__(self, processes: Mapping[int, "subprocess.Popen[bytes]"]) -> None:
        self._processes = dict(processes)

    @classmethod
    def started(cls, place: RankPlace, channel: str, arguments: Sequence[str]) -> "Children":
        """`tppo learner` with these arguments, as every rank but 0; the kernel ends them with this thread."""
        command = tethered(tppo_command("learner", *arguments))
        return cls(
            {
                rank: subprocess.Popen(
                    [*command, "--name", f"learner-rank-{rank}"],
                    env={**os.environ, **place.environment_of(rank, channel, os.getpid())},
                    stdin=subprocess.DEVNULL,
                )
                for rank in range(1, place.size)
            }
        )

    def how_ended(self, rank: int, *, wait_seconds: float = 0.0) -> str:
        """In words, once it has ended; empty where it runs, or is not one of these."""
        process = self._processes.get(rank)
        if process is None or (exit_code := _wait(process, wait_seconds)) is None:
            return ""
        how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exited with code {exit_code}"
        return f"(PID {process.pid}) {how}"

    def wait(self, seconds: float) -> None:
        """Until all have ended, so long at most."""
        deadline = time.monotonic() + seconds
        for process in self._processes.values():
            _wait(process, max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """SIGKILL: one that is frozen gets no other signal."""
        for process in self._processes.values():
            process.kill()

    def __iter__(self) -> Iterator[int]:
        return iter(self._processes)


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None

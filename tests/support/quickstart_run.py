"""A small `tppo run` of the quick start in a folder of its own, which tests watch and kill parts of."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support.processes import QUICKSTART, REPOSITORY, TPPO, end_now, output_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from tppo.run_folder.json_lines import parsed_object, read_objects
from tppo.run_folder.paths import RunPaths

SMALL = {
    "dashboard.port": "0",
    "run.rollouts_per_step": "8",
    "run.max_response_length": "96",
    "run.window_length": "32",
    "evaluation.num_prompts": "16",
    "evaluation.test_freq": "50",
    "checkpoint.save_freq": "2",
    "redis.lease_seconds": "2",
}
NEVER_ENDS = {"run.total_training_steps": "100000"}
"""More steps than any test waits for."""

T = TypeVar("T")


def command_of(folder: Path, *, program: Sequence[str] = TPPO, **settings: str) -> list[str]:
    """A small run of the quick start, in this folder."""
    options = {**SMALL, "run.directory": str(folder / "runs"), **settings}
    return [*program, "run", str(QUICKSTART), *(f"--set={key}={value}" for key, value in options.items())]


class Run:
    """A `tppo run`; what it writes is read from its folder."""

    deadline_seconds = DEADLINE_SECONDS  # of each wait

    def __init__(
        self, folder: Path, *, program: Sequence[str] = TPPO, options: Sequence[str] = (), **settings: str
    ) -> None:
        """`program`: how to call `tppo`; `options`: of the first start."""
        self.folder = folder / "runs" / "quickstart"
        self._paths = RunPaths(self.folder)
        self._command = command_of(folder, program=program, **settings)
        self.process = self._started(*options)

    def _started(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [*self._command, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def resume(self, **settings: str) -> None:
        """Go on, with other settings where some are named."""
        self.process = self._started("--resume", *(f"--set={key}={value}" for key, value in settings.items()))

    def interrupt(self) -> str:
        """Its output, once Ctrl-C has ended it in order."""
        self.process.send_signal(signal.SIGINT)
        return output_of(self.process)

    def end(self) -> str:
        """Its output, once it has ended by itself."""
        output = output_of(self.process)
        assert self.process.returncode == 0, output + self.logs()
        return output

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        end_now(self.process)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The learner's metrics so far, of training steps or of evaluations."""
        return [line for line in read_objects(self._paths.metrics) if line["kind"] == kind]

    @property
    def num_steps_done(self) -> int:
        """The newest training step that was taken."""
        return max((int(line["step"]) for line in self.lines("step")), default=0)

    def summary(self) -> dict[str, Any]:
        """What `tppo run` wrote at its end."""
        return parsed_object(self._paths.summary.read_bytes()) or {}

    def incarnation(self) -> int:
        """How often the learner was started."""
        identity = parsed_object(self._paths.identity.read_bytes()) or {}
        return int(identity["incarnation"])

    def logs(self) -> str:
        """The end of what each process logged."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in self._paths.logs.glob("*.log"))

    def wait_for_step(self, step: int) -> None:
        """Until that many training steps are taken."""
        self.wait_for(lambda: self.num_steps_done >= step, f"training step {step}")

    def process_id(self, name: str, *, other_than: Collection[int] = ()) -> int:
        """Of one of the run's processes, by its name, once there is one."""
        return self.wait_for(
            lambda: [pid for pid in self._process_ids(name) if pid not in other_than], f"a process {name}"
        )[0]

    def kill(self, name: str, *, other_than: Collection[int] = ()) -> int:
        """SIGKILL to one of the run's processes, once there is one; its id."""
        process_id = self.process_id(name, other_than=other_than)
        os.kill(process_id, signal.SIGKILL)
        return process_id

    def terminate(self, name: str) -> int:
        """SIGTERM to one of the run's processes, as a spot machine's notice; its id."""
        process_id = self.process_id(name)
        os.kill(process_id, signal.SIGTERM)
        return process_id

    def join(self, folder: Path, *options: str, name: str, program: Sequence[str] = TPPO) -> "subprocess.Popen[str]":
        """Another generator, as one of another machine: all that it has of the run is an address and the token.

        The model's folder there holds no weights, and those of the learner come as bytes.
        """
        log = self._paths.logs / "dashboard.log"
        found = self.wait_for(lambda: re.findall(r"dashboard at (http://[^\s/]+)", log.read_text()), "an address")
        shutil.copytree(QUICKSTART.parent / "base/actor", folder / "model", dirs_exist_ok=True)
        (folder / "model/model.safetensors").unlink()
        shutil.copy(self._paths.token("generation"), folder / "token")
        settings = ["model.path=model", "generation.num_slots=4", "generation.share_weight_memory=false", *options]
        command = [*program, "generation", "--join", found[-1], "--token-file", "token", "--name", name]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}  # its interpreter may not have tppo installed
        return subprocess.Popen(
            [*command, *(f"--set={one}" for one in settings)], cwd=folder, text=True, env=environment
        )

    def num_windows_of(self, generator: str) -> int:
        """In the journal, whose lines are many and are not parsed for this."""
        journal, mark = self._paths.journal, f'"generator": "{generator}"'.encode()
        lines = journal.read_bytes().splitlines() if journal.exists() else []
        return sum(b'"kind": "window"' in line and mark in line for line in lines)

    def wait_for_another_window(self, generator: str) -> None:
        """Of that generator."""
        before = self.num_windows_of(generator)
        self.wait_for(
            lambda: self.num_windows_of(generator), f"a window of {generator}", is_met=lambda seen: seen > before
        )

    def wait_for(self, look: Callable[[], T], what: str, *, is_met: Callable[[T], object] = bool) -> T:
        """The first answer of `look` that meets the condition, while the run goes on."""

        def is_met_or_over(seen: T) -> object:
            is_over = self.process.poll() is not None
            return is_met(seen) or is_over

        try:
            seen = wait_until(
                look, what, is_met=is_met_or_over, poll_seconds=0.05, deadline_seconds=self.deadline_seconds
            )
            assert is_met(seen), f"the run ended before {what}; seen last: {seen!r}"
        except AssertionError as error:
            error.add_note(self.logs())
            raise
        return seen

    def _process_ids(self, name: str) -> list[int]:
        """Processes of this run whose arguments name `name`; those of a rank name the learner, too, which is rank 0."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = path.read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            is_ours = any(argument.startswith(str(self.folder).encode()) for argument in arguments)
            rank = next((one for one in arguments if one.startswith(b"learner-rank-")), name.encode())
            if is_ours and name.encode() in arguments and name.encode() == rank:
                found.append(int(path.parent.name))
        return found

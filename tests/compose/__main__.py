"""The containers for real: `make test-compose`, on a machine with an engine (DOCKER_HOST) and docker-compose.

    python -m tests.compose --wheels wheels [--enter-network /run/netns/NAME] [--steps 120]

Builds the images, from a wheelhouse where one is named; trains the quick start with the compose file, kills the process
of each container in turn, restarts Redis, scales, takes all down in mid-run and up again; waits for the end, and
examines what is in the volume with `tppo audit`. Prints times and sizes. Ends with the first thing that is not as it
should be.
"""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TARGETS = ("dashboard", "reward", "learner", "generation")
SERVICES = ("redis", "generation", "reward", "learner", "dashboard")
DEADLINE_SECONDS = 900.0
LOOK_SECONDS = 1.0
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
        return self._output(["docker-compose", "--project-name", PROJECT, *arguments])

    def get(self, path: str, token: str) -> dict[str, Any]:
        """The dashboard's answer."""
        url, entering = f"http://127.0.0.1:8265{path}", ["nsenter", f"--net={self.network}"] if self.network else []
        answer = self._output([*entering, "curl", "-sf", "-m", "10", "-H", f"Authorization: Bearer {token}", url])
        found: dict[str, Any] = json.loads(answer)
        return found

    def _output(self, command: Sequence[str]) -> str:
        ran = subprocess.run(command, capture_output=True, text=True, env=self.environment, cwd=ROOT)
        if ran.returncode:
            raise subprocess.CalledProcessError(ran.returncode, command, ran.stdout, ran.stderr)
        return ran.stdout


@dataclass
class Stack:
    """The quick start in containers."""

    engine: Engine
    token: str

    def step(self) -> int:
        """Training steps so far, as the page says; -1 where it does not answer."""
        try:
            return int(self.engine.get("/api/v1/status", self.token)["step"])
        except (subprocess.CalledProcessError, KeyError, TypeError, ValueError):
            return -1

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


def timed(what: str, action: Callable[[], object]) -> None:
    """Do it, and print what it took."""
    started = time.monotonic()
    action()
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)


def build(engine: Engine, wheels: Path | None) -> None:
    """The images, and their sizes; the wheelhouse is where the Dockerfile looks for one."""
    beside = ROOT / "wheels"
    if wheels is not None and wheels.resolve() != beside.resolve():
        shutil.copytree(wheels, beside)
    for target in TARGETS:
        timed(f"build of tppo-{target}", lambda target=target: _build(engine, target))  # type: ignore[misc]
    for target in TARGETS:
        size = int(engine.docker("image", "inspect", "--format", "{{.Size}}", f"tppo-{target}"))
        print(f"size of tppo-{target}: {size / 2**20:.0f} MiB", flush=True)


def _build(engine: Engine, target: str) -> None:
    said = engine.compose("build", target)
    if not engine.docker("images", "--quiet", f"tppo-{target}").strip():  # some releases end with code 0
        raise SystemExit(f"tppo-{target} was not built: {said[-3000:]}")


@contextmanager
def stack(wanted: argparse.Namespace) -> Iterator[Stack]:
    """Nothing of it is left behind."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "token").write_text(token)
        (folder / "metrics_token").write_text(secrets.token_hex(16))
        task = folder / "task"
        shutil.copytree(ROOT / "examples" / "iterated_map", task)
        content = (task / "quickstart.toml").read_text()
        (task / "mine.toml").write_text(
            content.replace("total_training_steps = 120", f"total_training_steps = {wanted.steps}")
        )
        folder.chmod(0o755)
        environment = os.environ | {
            "COMPOSE_PROFILES": "cpu",
            "TPPO_SECRETS": name,
            "TPPO_TASK": str(task),
            "TPPO_CONFIG": "mine.toml",
        }
        engine = Engine(environment, wanted.enter_network)
        if not wanted.built:
            build(engine, wanted.wheels)
        try:
            yield Stack(engine, token)
        except BaseException:
            log = Path(tempfile.gettempdir()) / "tppo-compose.log"
            log.write_text(engine.compose("logs", "--no-color"))
            print(f"the containers' logs are in {log}", file=sys.stderr)
            raise
        finally:
            engine.compose("down", "--volumes", "--timeout", "30")


def require_token(one: Stack) -> None:
    """The page answers nobody who does not bring it."""
    try:
        one.engine.get("/api/v1/status", "wrong")
    except subprocess.CalledProcessError:
        print("without the token the page refuses")
        return
    raise SystemExit("the page answered without the token")


def disturb(one: Stack, steps: int) -> None:
    """Each container's process killed, one after the other; each time training goes on by itself."""
    for service in SERVICES:
        before = one.step()
        if before >= steps - 10:
            raise SystemExit(f"only {steps} steps, and {service} was not killed yet; expected more --steps")
        one.kill(service)
        seconds = until(lambda before=before: one.step() > before + 1, f"a step after {service} was killed")  # type: ignore[misc]
        print(f"{service} killed at step {before}: two steps further after {seconds:.0f} s", flush=True)
        until(lambda service=service: one.is_healthy(service), f"{service} to be healthy")  # type: ignore[misc]


def examine(one: Stack, steps: int) -> None:
    """What the volume holds."""
    summary = json.loads(one.in_volume("cat", "/runs/quickstart/summary.json"))
    print(f"summary: {summary['ending']}, {summary['steps']} steps, exact {summary['final_accuracy_exact']}")
    if summary["ending"] != "finished" or summary["steps"] != steps or summary["final_accuracy_exact"] < 0.9:
        raise SystemExit(f"summary.json: {summary}; expected {steps} steps to an accuracy above 0.9")
    one.in_volume("test", "-s", "/runs/quickstart/learning_curve.png")
    with tempfile.TemporaryDirectory() as name:
        volume = Path(one.engine.docker("volume", "inspect", "--format", "{{.Mountpoint}}", VOLUME).strip())
        shutil.copytree(volume / "quickstart", Path(name) / "quickstart")
        subprocess.run([sys.executable, "-m", "tppo", "audit", str(Path(name) / "quickstart")], check=True, cwd=ROOT)


def train(one: Stack, steps: int) -> None:
    """From the first `up` to the end of the run."""
    compose = one.engine.compose
    compose("up", "--detach", "--no-build")
    print(f"first step {until(lambda: one.step() >= 1, 'the first step'):.0f} s after up", flush=True)
    require_token(one)
    disturb(one, steps)
    timed(
        "scaled to 3 generators and 2 reward services",
        lambda: compose(
            *("up", "--detach", "--no-build", "--no-recreate", "--scale", "generation=3", "--scale", "reward=2")
        ),
    )
    until(lambda: len(one.containers("generation")) == 3 and one.is_healthy("generation"), "three healthy generators")
    before = one.step()
    timed("down in mid-run", lambda: compose("down", "--timeout", "90"))
    compose("up", "--detach", "--no-build")
    seconds = until(lambda: one.step() > before, "a step after the resume")
    print(f"down at step {before} and up again: the next step after {seconds:.0f} s", flush=True)
    until(lambda: not one.containers("summary"), "the end of the run", deadline_seconds=10.0 * steps)
    examine(one, steps)
    if one.step() < 0:
        raise SystemExit("the page does not answer after the end; expected it to stay up")
    print("the page stays up after the end")


def main(argv: Sequence[str]) -> int:
    """Exit code 0: everything was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="a folder with all dependencies, for builds without an index")
    parser.add_argument("--built", action="store_true", help="take the images that are there")
    parser.add_argument("--enter-network", default="", metavar="FILE", help="namespace of the engine's published ports")
    parser.add_argument("--steps", type=int, default=300, help="training steps of the quick start")
    wanted = parser.parse_args(argv)
    try:
        with stack(wanted) as one:
            train(one, wanted.steps)
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd)} exited with code {error.returncode}: {error.stderr[-3000:]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Machines that are network namespaces, each with one cable to a switch, which is a namespace of its own.

Needs root and `ip` and `tc` of iproute2. Nothing outside these namespaces is touched, and none of it is left behind.
"""

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import is_running
from tests.support.waiting import wait_until

NOBODY = "02:00:00:00:00:fe"  # an Ethernet address that no machine has
DEVICE = "eth0"
NUMBERS = itertools.count()


class NoNamespacesError(Exception):
    """Why this process cannot make them."""


@dataclass(frozen=True)
class Machine:
    """One namespace: processes in it reach other machines by its cable alone."""

    namespace: str
    switch: str
    port: str  # the switch's end of the cable
    address: str
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
        """A process there; what it writes is added to the log."""
        with log.open("a") as output:
            inside = ["ip", "netns", "exec", self.namespace, *command]
            self.started.append(subprocess.Popen(inside, stdout=output, stderr=output, text=True, env=environment))
        return self.started[-1]

    def output_of(self, command: Sequence[str]) -> str:
        """Of a command there, once it has ended."""
        return _ran("ip", "netns", "exec", self.namespace, *command)

    def kill(self) -> None:
        """SIGKILL to all processes there, as the machine's end would be."""
        killed = _process_ids(self.namespace)
        for process_id in killed:
            with suppress(ProcessLookupError):  # a child that its parent's end has ended
                os.kill(process_id, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, killed)), f"the end of all processes of {self.namespace}")
        for process in self.started:
            process.wait()

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Its cable is pulled out: nothing passes, and no connection ends."""
        _ran("ip", "-n", self.switch, "link", "set", self.port, "down")
        try:
            yield
        finally:
            _ran("ip", "-n", self.switch, "link", "set", self.port, "up")

    @contextmanager
    def slow(self, rate: str) -> Iterator[None]:
        """Its cable passes so much, as `1mbit`, each way, and what waits for that waits up to 400 ms."""
        ends = ((self.namespace, DEVICE), (self.switch, self.port))
        for namespace, device in ends:
            queue = ["tbf", "rate", rate, "burst", "16kb", "latency", "400ms"]
            _ran("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *queue)
        try:
            yield
        finally:
            for namespace, device in ends:
                _ran("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")

    @contextmanager
    def unheard_by(self, other: "Machine") -> Iterator[None]:
        """What it sends to the other one is lost; what the other one sends arrives."""
        neighbour = ["neigh", "replace", other.address, "lladdr", NOBODY, "dev", DEVICE, "nud", "permanent"]
        _ran("ip", "-n", self.namespace, *neighbour)
        try:
            yield
        finally:
            _ran("ip", "-n", self.namespace, "neigh", "del", other.address, "dev", DEVICE)


@contextmanager
def machines(*names: str) -> Iterator[dict[str, Machine]]:
    """By name. Raises `NoNamespacesError` where there is no right to make them, no program, or no such device."""
    _require_programs()
    with ExitStack() as stack:
        try:
            made = _plugged_in(stack, names)
        except subprocess.CalledProcessError as error:
            raise NoNamespacesError(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None
        yield made


def _plugged_in(stack: ExitStack, names: Sequence[str]) -> dict[str, Machine]:
    prefix = f"tppo-{os.getpid()}-{next(NUMBERS)}"
    switch = f"{prefix}-switch"
    made: dict[str, Machine] = {}
    stack.enter_context(_namespace(switch))
    _ran("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
    _ran("ip", "-n", switch, "link", "set", "bridge", "up")
    for number, name in enumerate(names, start=1):
        made[name] = Machine(f"{prefix}-{name}", switch, f"port{number}", f"10.213.0.{number}")
        stack.enter_context(_namespace(made[name].namespace))
        stack.callback(made[name].kill)
        _plug_in(made[name])
        with made[name].slow("1gbit"):  # the kernel may lack what does it
            pass
    return made


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    _ran("ip", "netns", "add", name)
    try:
        yield
    finally:
        _ran("ip", "netns", "del", name)


def _process_ids(namespace: str) -> list[int]:
    return [int(word) for word in _ran("ip", "netns", "pids", namespace).split()]


def _plug_in(machine: Machine) -> None:
    inside = ("ip", "-n", machine.namespace)
    _ran(*inside, "link", "add", DEVICE, "type", "veth", "peer", "name", machine.port, "netns", machine.switch)
    _ran(*inside, "addr", "add", f"{machine.address}/24", "dev", DEVICE)
    for device in ("lo", DEVICE):
        _ran(*inside, "link", "set", device, "up")
    _ran("ip", "-n", machine.switch, "link", "set", machine.port, "master", "bridge", "up")


def _require_programs() -> None:
    if os.geteuid() != 0:
        raise NoNamespacesError("not root")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise NoNamespacesError(f"no {program} on PATH")


def _ran(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr.strip())
        raise
    return ran.stdout

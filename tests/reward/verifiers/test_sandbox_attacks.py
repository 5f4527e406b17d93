"""Programs that attack the machine which scores them, as root's and as another user's, in each kind of sandbox."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reward.verifiers.sandboxing import MEMORY_BYTES, Attacker, attacker, command_lines

pytestmark = pytest.mark.process

NUM_PROCESSES = 32
FORKS = """
import os, time
forked = 0
for _ in range(80):
    try:
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
    except BlockingIOError:
        break
    forked += 1
print(forked)
"""
FORKS_OF_FORKS = """
import os, time
for _ in range(6):  # 64 processes
    try:
        os.fork()
    except BlockingIOError:
        pass
time.sleep(1)
"""
MEMORY = """
import os, select, sys, time
done, report = os.pipe()
for _ in range(10):  # 480 MiB, none of them above the limit
    if os.fork() == 0:
        taken = bytearray(48 * 2**20)
        taken[::4096] = b"x" * (48 * 256)
        os.write(report, b"x")
        select.select([], [], [])
count = 0
while count < 10:
    if os.waitpid(-1, os.WNOHANG)[0]:
        sys.exit(1)
    if select.select([done], [], [], 0.05)[0]:
        count += len(os.read(done, 10))
time.sleep(20)  # which nobody waits for: it ends before
print("all of it")
"""
READS = """
for path in {paths}:
    try:
        with open(path, "rb") as file:
            print("read", path)
    except OSError as error:
        print(error.strerror)
"""
ESCAPES = """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, IPC_CREAT, PR_SET_PDEATHSIG = 0x10000000, 0o1000, 1
print(libc.unshare(CLONE_NEWUSER), libc.shmget(0, 2**20, IPC_CREAT | 0o600), libc.memfd_create(b"x", 0))
print(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.umount2(b"/proc", 2), libc.prctl(PR_SET_PDEATHSIG, 0))
for family in (40, 38, 16):  # virtual machine's host, cryptography of the kernel, netlink
    try:
        socket.socket(family, socket.SOCK_STREAM)
        print("opened", family)
    except PermissionError:
        pass
"""


@pytest.fixture(params=["root", "other"])
def user(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["bubblewrap", "namespaces"])
def service(request: pytest.FixtureRequest, user: str) -> Iterator[Attacker]:
    with attacker(user, request.param) as made:
        yield made


@pytest.mark.parametrize("has_groups", [True, False])
def test_a_fork_bomb_has_no_more_processes_than_the_limit(service: Attacker, has_groups: bool) -> None:
    ran = service.ran(FORKS, has_groups=has_groups)

    assert "processes" in ran.cause or 0 < int(ran.output) < NUM_PROCESSES


def test_forks_of_forks_end_with_the_program(service: Attacker) -> None:
    marked = MEMORY_BYTES + os.getpid()  # stands in the command lines of this program alone

    service.ran(FORKS_OF_FORKS, memory_bytes=marked)

    assert not any(str(marked) in line for line in command_lines())


@pytest.mark.parametrize("has_groups", [True, False])
def test_a_memory_bomb_over_many_processes_is_ended(service: Attacker, has_groups: bool) -> None:
    ran = service.ran(MEMORY, has_groups=has_groups)

    assert not ran.is_good
    assert "all of it" not in ran.output
    assert has_groups or ran.cause == f"more than {MEMORY_BYTES} bytes in all processes together"


@pytest.mark.parametrize("target", ["0", "-1", "os.getpid()", "os.getppid()"])
def test_sigkill_reaches_nobody_but_the_program(service: Attacker, target: str) -> None:
    ran = service.ran(f"import os\nif os.fork() == 0:\n    os.kill({target}, 9)\nos.kill({target}, 9)")

    assert ran.cause == ""
    assert ran.output == ""


@pytest.mark.parametrize("target", ["0", "-1"])
def test_a_program_that_stops_its_processes_ends_at_the_deadline(service: Attacker, target: str) -> None:
    started_at = time.monotonic()

    ran = service.ran(
        f"import os, time\nif os.fork() == 0:\n    os.kill({target}, 19)\nos.kill({target}, 19)\ntime.sleep(60)",
        seconds=0.5,
    )

    assert ran.cause == "not done within 0.5 s"
    assert time.monotonic() - started_at < 30


def test_a_program_finds_no_file_of_the_service(service: Attacker) -> None:
    with tempfile.NamedTemporaryFile("w") as answers:
        Path(answers.name).chmod(0o644)
        paths = [
            answers.name,
            "/etc/shadow",
            "/etc/passwd",
            "/proc/1/environ",
            "/proc/self/environ",
            "/sys/kernel",
            __file__,
        ]

        ran = service.ran(READS.format(paths=paths))

    assert ran.output.splitlines() == ["No such file or directory"] * len(paths)


def test_a_program_gets_out_of_its_sandbox_by_no_system_call(service: Attacker) -> None:
    ran = service.ran(ESCAPES)

    assert ran.output.splitlines() == ["-1 -1 -1", "-1 -1 -1"]


def test_a_program_reaches_no_port_of_the_machine(service: Attacker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        ran = service.ran(f"import socket\nsocket.create_connection({address}, 5)")

    assert not ran.is_good
    assert "OSError" in ran.errors or "refused" in ran.errors or "unreachable" in ran.errors


def test_threads_and_processes_of_an_honest_program_work(service: Attacker) -> None:
    source = (
        "import concurrent.futures as futures, multiprocessing\n"
        "with futures.ThreadPoolExecutor(4) as pool:\n    print(sum(pool.map(abs, [-1, -2, -3])))\n"
        "with multiprocessing.Pool(2) as pool:\n    print(sum(pool.map(abs, [-4, -5])))\n"
    )

    ran = service.ran(source, memory_bytes=512 * 2**20)

    assert (ran.output.split(), ran.exit_code) == (["6", "9"], 0), ran.errors

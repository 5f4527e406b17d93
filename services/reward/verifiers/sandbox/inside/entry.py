"""Becomes a program: isolates this process as the plan says, and executes the source.

Arguments: a socket to the service, the file that holds the source, and the plan in JSON. The process sends "ready", by
whose credentials the service knows it, and starts when the service answers. A process that ends without a "ready" was
not isolated, and no program has run.
"""

import importlib
import json
import os
import resource
import socket
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from . import host, kernel, namespaces, script
from .system_calls import refuse_system_calls

READY = b"ready"


def main() -> NoReturn:
    """Does not return: the program's end is the process's end."""
    status_fd, source_fd, plan_text = sys.argv[1:]
    status, plan = socket.socket(fileno=int(status_fd)), json.loads(plan_text)
    for module in plan["modules"]:  # whose files may not be there later
        importlib.import_module(f".{module}", __package__)
    try:
        _isolate(status, plan)
        _restrict(plan)
        with os.fdopen(int(source_fd), encoding="utf-8") as source_file:
            source = source_file.read()
        sys.path[:1] = []  # where this package came from
        sys.path.extend(plan["libraries"])
        status.sendall(READY)
        if not status.recv(1):
            os._exit(1)  # the service is gone
    except OSError as error:
        sys.stderr.write(f"no isolation: {error}")
        sys.stderr.flush()
        os._exit(1)
    if plan["is_host"]:
        _begin(source, host.serve(status))
    status.close()
    script.run(source)


def _begin(source: str, command: host.ChildTask) -> NoReturn:
    if command.role == "script":
        script.run(source)
    if command.role == "serve":
        from .calls import solution

        solution.serve(source, *command.sockets)
    from .judge import trial

    if command.role == "judge":
        trial.judge(command.plan, *command.sockets)
    trial.judge_here(command.plan, source, *command.sockets)


def _isolate(status: socket.socket, plan: Mapping[str, Any]) -> None:
    if plan["route"] != "namespaces":
        return
    kernel.die_with_parent()
    namespaces.leave(plan["uid"])
    pid = os.fork()
    if pid:
        status.close()
        exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os._exit(1 if exit_code else 0)
    os.setsid()  # or kill(0) would reach the process above
    namespaces.build_root(plan["readable"], tmp_bytes=plan["limits"]["tmp_bytes"])


def _restrict(plan: Mapping[str, Any]) -> None:
    is_sandboxed = plan["route"] != "unsandboxed"
    _limit(plan["limits"], is_sandboxed=is_sandboxed)
    if is_sandboxed and plan["uid"] is not None and os.getuid() == 0:
        kernel.become_user(plan["uid"])
    kernel.die_with_parent()
    kernel.drop_capabilities()
    if is_sandboxed:
        refuse_system_calls()


def _limit(limits: Mapping[str, int], *, is_sandboxed: bool) -> None:
    amounts = {
        "AS": limits["memory_bytes"],
        "CPU": limits["cpu_seconds"],
        "FSIZE": limits["output_bytes"],
        "NOFILE": 64,
        "CORE": 0,
        # Without namespaces the kernel counts all processes of the service's user.
        **({"NPROC": limits["num_processes"]} if is_sandboxed else {}),
    }
    for name, amount in amounts.items():
        limit = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(limit)[1]  # which only root may raise
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(limit, (amount, amount))

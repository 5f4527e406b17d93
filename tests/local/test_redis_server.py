"""The embedded server: a real one is started, killed, and started again on what it left."""

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from services.local.processes import redis_child
from services.local.redis_server import RedisServer, find_binary, free_port, major_version
from services.local.supervision.child import Child, ChildState
from services.local.supervision.supervisor import Supervisor
from tests.support.damage import damage
from tests.support.waiting import DEADLINE_SECONDS
from tppo.security.private_files import new_secret
from tppo.streams import StreamsError
from tppo.streams.connection import RedisClient, connect


def fake_server(folder: Path, name: str, version_line: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_a_new_server_on_the_path_is_preferred(tmp_path: Path) -> None:
    program = fake_server(tmp_path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64")

    assert find_binary(search_path=str(tmp_path)) == program


def test_a_server_on_the_path_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    fake_server(tmp_path, "redis-server", "Redis server v=6.2.7 sha=00000000:0 malloc=libc bits=64")

    binary = find_binary(search_path=str(tmp_path))

    assert binary.parent != tmp_path
    assert major_version(binary) >= 7


def test_a_program_without_a_version_counts_as_too_old(tmp_path: Path) -> None:
    assert major_version(fake_server(tmp_path, "valkey-server", "hello")) == 0
    assert major_version(tmp_path / "missing") == 0


async def test_a_killed_server_comes_back_at_the_same_address_with_the_same_data(tmp_path: Path) -> None:
    server = RedisServer(
        binary=find_binary(search_path=""), port=free_port(), folder=tmp_path / "redis", memory_limit_mb=64
    )
    server.folder.mkdir()
    supervisor = Supervisor(tmp_path, sleep=no_sleep)
    try:
        supervisor.start(redis_child(server, supervisor.log_path("redis")))
        async with await connected(server.url) as client:
            await client.set("key", "kept")
            process_id = (await client.info("server"))["process_id"]

        os.kill(process_id, signal.SIGKILL)

        async with await connected(server.url) as client:
            assert await client.get("key") == b"kept"
            assert (await client.info("server"))["process_id"] != process_id
    finally:
        await supervisor.stop()
    assert supervisor.states() == {"redis": ChildState.ENDED}


@pytest.mark.parametrize(
    ("name", "kind"), [("manifest", "empty"), ("manifest", "garbage"), ("incr.aof", "garbage"), ("base.rdb", "torn")]
)
async def test_a_server_whose_files_are_damaged_begins_without_them(tmp_path: Path, name: str, kind: str) -> None:
    server = RedisServer(
        binary=find_binary(search_path=""), port=free_port(), folder=tmp_path / "redis", memory_limit_mb=64
    )
    server.folder.mkdir()
    for is_damaged in (False, True):
        supervisor = Supervisor(tmp_path, sleep=no_sleep)
        try:
            supervisor.start(redis_child(server, supervisor.log_path("redis")))
            async with await connected(server.url) as client:
                kept = await client.get("key")
                await client.set("key", "kept")
        finally:
            await supervisor.stop()
        if not is_damaged:
            (path,) = (server.folder / "appendonlydir").glob(f"*.{name}")
            damage(path, kind)

    assert kept is None
    assert (server.folder / "damaged_appendonlydir").is_dir()


@pytest.mark.parametrize(("key", "value"), [("maxmemory-policy", "noeviction"), ("maxmemory", str(64 * 2**20))])
async def test_full_memory_refuses_writes_instead_of_forgetting(tmp_path: Path, key: str, value: str) -> None:
    server = RedisServer(binary=find_binary(search_path=""), port=free_port(), folder=tmp_path, memory_limit_mb=64)
    supervisor = Supervisor(tmp_path)
    try:
        supervisor.start(Child(name="redis", command=lambda _: server.command()))
        async with await connected(server.url) as client:
            assert await client.config_get(key) == {key: value}
    finally:
        await supervisor.stop()


async def test_the_server_answers_nobody_without_the_password(tmp_path: Path) -> None:
    server = RedisServer(
        binary=find_binary(search_path=""), port=free_port(), folder=tmp_path, memory_limit_mb=64, password=new_secret()
    )
    server.write_users()
    supervisor = Supervisor(tmp_path)
    try:
        supervisor.start(redis_child(server))
        async with await connected(server.url) as client:
            await client.set("key", "kept")
        for url in (f"redis://127.0.0.1:{server.port}/0", f"redis://:guessed@127.0.0.1:{server.port}/0"):
            with pytest.raises(StreamsError, match=r"(?i)auth|password"):
                await connect(url)
    finally:
        await supervisor.stop()
    assert server.password not in f"{server} {server.command()} {(tmp_path / 'redis.log').read_text()}"
    assert stat.S_IMODE((tmp_path / "users.conf").stat().st_mode) == 0o600


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


async def connected(url: str) -> RedisClient:
    """A client of a server that is only just coming up."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                return await connect(url)
            except StreamsError:
                await asyncio.sleep(0.01)

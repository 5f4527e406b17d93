"""Which refusals of a server pass, and which only a person can mend."""

from pathlib import Path

import pytest
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from services.local import preflight
from tests.support.redis_server import StartRedis
from tppo.config import Config, ConfigError
from tppo.process.shell import connected
from tppo.streams import StreamsDenied, StreamsError, StreamsUnavailable
from tppo.streams.connection import connect, translated_errors, without_password


async def test_a_wrong_password_ends_a_process_with_one_sentence(start_redis: StartRedis, tmp_path: Path) -> None:
    with start_redis(tmp_path, "--requirepass", "right") as server:
        address = server.url.removeprefix("redis://")
        for url in (server.url, f"redis://:wrong@{address}", f"redis://nobody:wrong@{address}"):
            with pytest.raises(ConfigError, match=r"refuses the user or password: .*; expected redis://") as caught:
                async with connected(url):
                    pass
            assert "wrong@" not in str(caught.value)
        async with connected(f"redis://:right@{address}") as client:
            assert await client.ping()


async def test_a_password_for_a_server_without_one_is_refused_too(redis_url: str) -> None:
    with pytest.raises(ConfigError, match="refuses the user or password: AUTH <password> called without any password"):
        async with connected(redis_url.replace("redis://", "redis://:needless@")):
            pass


async def test_a_user_who_may_not_write_ends_a_process_with_one_sentence(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    with start_redis(tmp_path) as server:
        async with connected(server.url) as client:
            await client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+info")
        with pytest.raises(ConfigError, match=r"refuses the user or password: .*permissions"):
            async with connected(server.url.replace("redis://", "redis://reader:secret@")) as client:
                await client.set("key", "value")


def test_a_wrong_password_is_found_before_anything_starts(start_redis: StartRedis, tmp_path: Path) -> None:
    needed = {"model": {"path": "model"}, "data": {"train_files": ["train.jsonl"]}}
    with start_redis(tmp_path, "--requirepass", "right") as server:
        url = server.url.replace("redis://", "redis://:wrong@")

        with pytest.raises(ConfigError, match=r"^redis\.url = 'redis://:\*{3}@127\.0\.0\.1:\d+/0': the server refuses"):
            preflight.check_redis(Config.model_validate({**needed, "redis": {"url": url}}))


@pytest.mark.parametrize(
    "error",
    [
        ReadOnlyError("You can't write against a read only replica."),
        ResponseError("MISCONF Errors writing to the AOF file"),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("BUSY Redis is busy running a script."),
    ],
)
def test_a_server_that_cannot_write_yet_is_waited_for(error: RedisError) -> None:
    with pytest.raises(StreamsUnavailable), translated_errors():
        raise error


def test_an_address_is_printed_without_its_password() -> None:
    assert without_password("redis://user:secret@host:1/0") == "redis://user:***@host:1/0"
    assert without_password("redis://host:1/0") == "redis://host:1/0"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", ""),
        ("http://localhost:6379", ""),
        ("redis://localhost:1/mine", ""),  # which the client's library takes for database 0
        ("redis://:6379", ""),
        ("redis://localhost:99999", "Port out of range 0-65535; "),
        ("redis://localhost:port", "Port could not be cast to integer value as 'port'; "),
        ("redis://:secret@[::1", "Invalid IPv6 URL; "),
    ],
)
def test_what_is_no_address_is_refused_in_one_sentence(url: str, reason: str) -> None:
    needed = {"model": {"path": "model"}, "data": {"train_files": ["train.jsonl"]}}

    with pytest.raises(ConfigError) as caught:
        preflight.check_redis(Config.model_validate({**needed, "redis": {"url": url}}))

    assert str(caught.value) == (
        f"redis.url = '{url.replace('secret', '***')}': {reason}expected redis://HOST:PORT/DATABASE, rediss:// with "
        "TLS, or unix:///PATH"
    )


async def test_a_denial_is_no_reason_to_retry(start_redis: StartRedis, tmp_path: Path) -> None:
    with start_redis(tmp_path, "--requirepass", "right") as server, pytest.raises(StreamsDenied) as caught:
        await connect(server.url)
    assert isinstance(caught.value, StreamsError)
    assert not isinstance(caught.value, StreamsUnavailable)

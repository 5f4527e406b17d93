"""The one way to a Redis server: every command of a `RedisClient` fails with the contract's own errors.

Nothing is retried here: a command whose reply was lost may have been carried out, and redis-py's own retries would
duplicate an entry silently. `tppo/streams/retry.py` is for what is idempotent or recognised by its reader.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tppo.security.environment import TLS_VARIABLES
from tppo.streams.contract import MAX_WAIT_SECONDS, StreamsDenied, StreamsError, StreamsUnavailable

OLDEST_SERVER = (7, 0)
SCHEMES = ("redis", "rediss", "unix")
EXPECTED_ADDRESS = "expected redis://HOST:PORT/DATABASE, rediss:// with TLS, or unix:///PATH"
SOCKET_TIMEOUT_SECONDS = 3 * MAX_WAIT_SECONDS  # a blocked read answers after MAX_WAIT_SECONDS
HEALTH_CHECK_SECONDS = 15  # a connection idle for longer is tried with a PING first
DENIED = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError, NoPermissionError)
UNAVAILABLE = (
    RedisConnectionError,
    RedisTimeoutError,
    OutOfMemoryError,
    ReadOnlyError,  # a replica that is not promoted yet
    ClusterDownError,
    TryAgainError,
    OSError,
)
# How refusals begin that pass, and that redis-py has no class for: a server that cannot write its file, has too few
# replicas, or is busy with a script.
PASSING = ("MISCONF", "NOREPLICAS", "BUSY ")


class RedisClient(redis.asyncio.Redis):
    """redis-py's client, whose errors are `StreamsUnavailable`, or another `StreamsError` where retrying is in vain."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Every command and script goes through here, except a pipeline's."""
        with translated_errors():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    async def in_one_round_trip(self, *commands: Sequence[str]) -> list[Any]:
        """The replies to commands of which none needs another's. Raises the first error among them."""
        pipeline = self.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with translated_errors():
            replies = await pipeline.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    @classmethod
    def from_url(cls, url: str, *args: Any, **options: Any) -> Self:
        """As redis-py's, which says that it returns its base class."""
        return cast(Self, super().from_url(url, *args, **options))

    async def __aenter__(self) -> Self:
        """As redis-py's, which says the same."""
        await super().__aenter__()
        return self


async def connect(url: str, *, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS) -> RedisClient:
    """A client of a server that answers and is recent enough; the caller closes it.

    Raises ValueError for an address that can never do, and StreamsError.
    """
    _require_address(url)
    client = RedisClient.from_url(
        url,
        **_tls_options(url),
        protocol=2,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        health_check_interval=HEALTH_CHECK_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        require_recent((await client.info("server"))["redis_version"])
    except BaseException:
        await client.aclose()
        raise
    return client


@contextmanager
def translated_errors() -> Iterator[None]:
    """What redis-py raises becomes a `StreamsError`, but for the error by which it learns to load a script."""
    try:
        yield
    except NoScriptError:
        raise
    except (RedisError, OSError) as error:
        raise _kind_of(error)(str(error)) from error


def _kind_of(error: Exception) -> type[StreamsError]:
    if isinstance(error, DENIED):  # first, as some of them are connection errors to redis-py
        return StreamsDenied
    is_passing = isinstance(error, UNAVAILABLE) or str(error).startswith(PASSING)
    return StreamsUnavailable if is_passing else StreamsError


def _tls_options(url: str) -> dict[str, str]:
    """Of rediss://: the authority, where it is not the system's, and what this process shows."""
    if not url.startswith("rediss:"):
        return {}
    options = zip(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), TLS_VARIABLES, strict=True)
    return {option: os.environ[variable] for option, variable in options if os.environ.get(variable)}


def _require_address(url: str) -> None:
    """Raise ValueError for what the client's library would refuse in its own words, or take for another database."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in SCHEMES and (parts.port is None or bool(parts.hostname))
    except ValueError as error:
        raise ValueError(f"{error}; {EXPECTED_ADDRESS}") from None
    database = "" if parts.scheme == "unix" else parts.path.strip("/")
    if not is_address or (database and not database.isdecimal()):
        raise ValueError(EXPECTED_ADDRESS)


def without_password(url: str) -> str:
    """A server's address as it may be printed."""
    try:
        password = urlsplit(url).password
    except ValueError:  # no address at all
        return re.sub("://([^@:]*):?[^@]*@", r"://\1:***@", url)
    return url.replace(f":{password}@", ":***@") if password else url


def require_recent(version: str) -> None:
    """Refuse a server whose streams lack what the scripts use."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
        raise ValueError(f"the Redis server is version {version}; expected 7.0 or newer, or Valkey")

"""`tppo generation --join ADDRESS`: a generator asks the run's dashboard for all that it needs, and brings a token.

The answer has the run's configuration and the address of its Redis. What belongs to this machine (where it listens,
its model's folder, its device) is this machine's own.
"""

import http.client
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tppo.config import Config, ConfigError, loads
from tppo.security.authentication import is_loopback
from tppo.security.tls import web_client_context
from tppo.streams.connection import without_password

PATH = "/api/v1/join"
DEADLINE_SECONDS = 10.0
MAX_BYTES = 4 * 2**20
OWN_SECTIONS = ("generation", "endpoint", "prometheus", "redis")
OWN_KEYS = ("model.path",)
NOT_OF_THE_ARCHITECTURE = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the dashboard answers, and where from."""

    address: str  # as the user gave it
    config: str  # TOML
    redis_url: str
    model: Mapping[str, Any]  # the config.json of the run's model; empty where the dashboard cannot read it
    record_key: str  # by which generators seal their records
    own_host: str  # this machine, as the dashboard's can reach it

    @classmethod
    def of(cls, body: bytes, address: str, *, own_host: str) -> "Invitation":
        """What the answer holds. Raises `ConfigError` for one that is no invitation."""
        try:
            found = json.loads(body)
            parts = found["config"], found["redis_url"], found["model"], found["record_key"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"--join {address}: the answer is no invitation; expected a run's dashboard") from None
        if list(map(type, parts)) != [str, str, dict, str]:
            raise ConfigError(f"--join {address}: the answer is no invitation; expected a run's dashboard")
        return cls(address, *parts, own_host=own_host)


def read_token(file: Path) -> str:
    """Raises `ConfigError` for a file without one."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"--token-file {file}: cannot be read: {reason}; expected {expected_token()}") from None
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"--token-file {file}: holds no token; expected {expected_token()}")
    return token


def expected_token() -> str:
    """In words."""
    return "the run's generation token, as in generation.token of its folder"


def invitation(address: str, token: str) -> Invitation:
    """Ask the dashboard. Raises `ConfigError`, in one sentence, unless it answers with a run."""
    scheme, host, port = _parted(address)
    connection = _connection(scheme, host, port)
    try:
        connection.request("GET", PATH, headers={"Authorization": f"Bearer {token}"})
        own_host = connection.sock.getsockname()[0]
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise ConfigError(
            f"--join {address}: no answer ({reason}); expected the address of the run's dashboard"
        ) from None
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ConfigError(f"--join {address}: {_refusal(answer.status, body)}")
    return Invitation.of(body, address, own_host=own_host)


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=DEADLINE_SECONDS, context=web_client_context())
    return http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)


def joined_config(invited: Invitation, overrides: Sequence[str]) -> Config:
    """The run's configuration, with this machine's own part. Raises `ConfigError`."""
    for override in overrides:
        _require_own(override)
    run = loads(invited.config, source=invited.address)
    config = loads(invited.config, [*_own_defaults(invited, run), *overrides], source=invited.address)
    if not config.redis.url:
        config = config.model_copy(update={"redis": config.redis.model_copy(update={"url": _redis_url(invited)})})
    _require_same_model(config, invited)
    return config


def _own_defaults(invited: Invitation, run: Config) -> list[str]:
    """This Python, any free port, and no endpoint, which needs a tokenizer; an address that other machines reach, for
    scrapes too where those of the run come from other machines.
    """
    own = ["generation.python=", "generation.port=0", "prometheus.port=0", "endpoint.enabled=false"]
    if is_loopback(invited.own_host):
        return own
    any_address = "::" if ipaddress.ip_address(invited.own_host).version == 6 else "0.0.0.0"
    served = ["generation", *([] if is_loopback(run.prometheus.host) else ["prometheus"])]
    places = {"host": any_address, "advertise_host": invited.own_host}
    return [*own, *(f'{section}.{key}="{place}"' for section in served for key, place in places.items())]


def _redis_url(invited: Invitation) -> str:
    host = urlsplit(invited.redis_url).hostname or ""
    if is_loopback(host) and not is_loopback(invited.own_host):
        raise ConfigError(
            f"--join {invited.address}: the run's Redis is at {without_password(invited.redis_url)}, which this "
            "machine cannot reach; expected a run whose redis.url names a server that both machines reach"
        )
    return invited.redis_url


def _require_own(override: str) -> None:
    key = override.partition("=")[0].strip()
    if key.partition(".")[0] not in OWN_SECTIONS and key not in OWN_KEYS:
        sections = ", ".join(f"{section}.*" for section in OWN_SECTIONS)
        raise ConfigError(f"--set {override}: the run decides {key}; expected one of {', '.join(OWN_KEYS)}, {sections}")


def _require_same_model(config: Config, invited: Invitation) -> None:
    """The architecture: the weights come from the learner."""
    path = config.model.path / "config.json"
    try:
        own = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(
            f"model.path = {config.model.path}: no config.json there that can be read; expected the run's model on "
            "this machine, as in --set model.path=FOLDER"
        ) from None
    names = sorted((own.keys() | invited.model.keys()) - NOT_OF_THE_ARCHITECTURE) if invited.model else []
    for name in names:
        if own.get(name) != invited.model.get(name):
            raise ConfigError(
                f"model.path = {config.model.path}: {name} is {own.get(name)!r} in its config.json; "
                f"expected {invited.model.get(name)!r}, as in the run's model"
            )


def _parted(address: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL, or of HOST:PORT."""
    try:
        parts = urlsplit(address if "//" in address else f"http://{address}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
        raise ConfigError(f"--join {address}: expected the dashboard's address, as http://HOST:8265")
    return parts.scheme, host, port


def _refusal(status: int, body: bytes) -> str:
    if status == http.HTTPStatus.UNAUTHORIZED:
        return f"it refuses the token; expected {expected_token()}"
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"status {status}"
    return f"{detail}; expected the dashboard of a run that goes on"

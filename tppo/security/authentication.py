"""Who may call: nobody without the service's bearer token. Each service has a token of its own.

A gRPC server demands its token of every call but health checks, which orchestrators make without one and which reveal
nothing else. `TPPO_TOKEN` is the operator's one secret, from which the services' tokens are derived; a process that is
handed the token of one service (`TPPO_REWARD_TOKEN`) can call no other, and cannot compute the secret. Metrics have a
token apart: scrapes are plain HTTP, and who overhears one must not be able to steer the run.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio

from tppo.config import ConfigError
from tppo.security.environment import secret_from_environment

TOKEN_VARIABLE = "TPPO_TOKEN"
METRICS_TOKEN_VARIABLE = "TPPO_METRICS_TOKEN"
METADATA_KEY = "authorization"
BEARER = "Bearer "
OPEN_TO_ALL = "/grpc.health.v1.Health/"

Metadata = tuple[tuple[str, str], ...]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class AcceptedToken(Protocol):
    """A token that may change while a process runs; its text is the newest one."""

    on_change: Callable[[str], None]
    """Called with each new one."""

    def accepts(self, given: str) -> bool:
        """Whether a caller may bring this."""


Token = str | AcceptedToken


class Service(StrEnum):
    """What is called, each by a token of its own."""

    GENERATION = "generation"  # the learner sends weights
    REWARD = "reward"  # users' own processes attach, and files are scored
    DASHBOARD = "dashboard"  # an operator steers the run
    ENDPOINT = "endpoint"  # clients of the policy: its completions, and nothing else
    LEARNER = "learner"  # its other ranks join rank 0

    @property
    def variable(self) -> str:
        """The environment variable that holds the token; with `_FILE` behind it, the path of a file that does."""
        return f"TPPO_{self.upper()}_TOKEN"


def token_from_environment(service: Service) -> str:
    """The service's token, or the one derived from the operator's secret; empty where neither is set."""
    if given := secret_from_environment(service.variable):
        return given
    secret = secret_from_environment(TOKEN_VARIABLE)
    return derived_token(secret, service) if secret else ""


def derived_token(secret: str, service: Service) -> str:
    """One-way, so that no service's token opens another; the dashboard's is the secret, which its user types."""
    if service is Service.DASHBOARD:
        return secret
    return hmac.new(secret.encode(), service.encode(), "sha256").hexdigest()


def metrics_token_from_environment() -> str:
    """The token of those who scrape, or an empty text."""
    return secret_from_environment(METRICS_TOKEN_VARIABLE)


def require_token_beyond_loopback(host: str, token: str, *, key: str = "host", variable: str = TOKEN_VARIABLE) -> None:
    """Refuse to listen where strangers can call without a token; `key` is what the user set."""
    if not token and not is_loopback(host):
        raise ConfigError(
            f"{key} = {host!r} is reachable from other machines; expected a loopback address such as 127.0.0.1, "
            f"or a token in the environment variable {variable}"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; a name other than localhost might be anybody's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_same_token(given: str, expected: Token) -> bool:
    """Compare in constant time."""
    return is_same_text(given, expected) if isinstance(expected, str) else expected.accepts(given)


def is_same_text(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def is_bearer(header: str, expected: Token) -> bool:
    """Whether an authorization header brings the token."""
    return header.startswith(BEARER) and is_same_token(header.removeprefix(BEARER), expected)


def call_metadata(token: Token) -> Metadata:
    """What a caller sends along with every gRPC call."""
    return ((METADATA_KEY, f"{BEARER}{token}"),) if token else ()


def server_interceptors(token: Token) -> list[grpc.aio.ServerInterceptor]:
    """What a gRPC server is built with; nothing when there is no token."""
    return [BearerTokenInterceptor(token)] if token else []


class BearerTokenInterceptor(grpc.aio.ServerInterceptor):
    """Turns away calls without the token, before any of their messages is read."""

    def __init__(self, token: Token) -> None:
        self._expected = token

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method's own handler, or one of the same kind that refuses."""
        handler = await continuation(handler_call_details)
        is_open = handler_call_details.method.startswith(OPEN_TO_ALL)
        if handler is None or is_open or self._is_allowed(handler_call_details.invocation_metadata):
            return handler
        return REFUSING_HANDLERS[handler.request_streaming, handler.response_streaming](_refuse)

    def _is_allowed(self, metadata: Any) -> bool:
        given = [value for key, value in metadata if key == METADATA_KEY]
        return len(given) == 1 and is_bearer(given[0], self._expected)


async def _refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "expected this service's bearer token; see docs/security.md")


REFUSING_HANDLERS: dict[tuple[bool, bool], Callable[[Any], Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether the request, and whether the response, is a stream."""

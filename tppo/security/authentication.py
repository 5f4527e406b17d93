"""Who may call: nobody but this machine, unless both sides share a token. It comes from the environment, never a file.

A server that listens beyond the loopback demands the token as a bearer token of every call but health checks, which
orchestrators make without one and which reveal nothing else. Metrics have a token of their own: scrapes are plain HTTP,
and who overhears one must not be able to steer the run.
"""

import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from tppo.config import ConfigError

TOKEN_VARIABLE = "TPPO_TOKEN"
METRICS_TOKEN_VARIABLE = "TPPO_METRICS_TOKEN"
METADATA_KEY = "authorization"
OPEN_TO_ALL = "/grpc.health.v1.Health/"

Metadata = tuple[tuple[str, str], ...]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


def token_from_environment() -> str:
    """The shared token, or an empty text."""
    return os.environ.get(TOKEN_VARIABLE, "").strip()


def metrics_token_from_environment() -> str:
    """The token of those who scrape, or an empty text."""
    return os.environ.get(METRICS_TOKEN_VARIABLE, "").strip()


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


def is_same_token(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def call_metadata(token: str) -> Metadata:
    """What a caller sends along with every gRPC call."""
    return ((METADATA_KEY, f"Bearer {token}"),) if token else ()


def server_interceptors(token: str) -> list[grpc.aio.ServerInterceptor]:
    """What a gRPC server is built with; nothing when there is no token."""
    return [BearerTokenInterceptor(token)] if token else []


class BearerTokenInterceptor(grpc.aio.ServerInterceptor):
    """Turns away calls without the token, before any of their messages is read."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}"

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method's own handler, or one of the same kind that refuses."""
        handler = await continuation(handler_call_details)
        is_open = handler_call_details.method.startswith(OPEN_TO_ALL)
        if handler is None or is_open or self._is_allowed(handler_call_details.invocation_metadata):
            return handler
        return REFUSING_HANDLERS[handler.request_streaming, handler.response_streaming](_refuse)

    def _is_allowed(self, metadata: Any) -> bool:
        given = [value for key, value in metadata if key == METADATA_KEY]
        return len(given) == 1 and is_same_token(given[0], self._expected)


async def _refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"expected the bearer token that {TOKEN_VARIABLE} holds")


REFUSING_HANDLERS: dict[tuple[bool, bool], Callable[[Any], Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether the request, and whether the response, is a stream."""

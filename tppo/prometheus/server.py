"""`/metrics` and `/healthz` over HTTP, from threads of their own: neither waits for what the process does.

prometheus_client's WSGI app answers the scrapes. Its `start_http_server` serves TLS but checks no token and bounds
neither requests nor their time, hence the server and the bearer check here.

Loop of each thread: consumes one request / waits for its bytes, `REQUEST_SECONDS` at most / unblocked by the caller, or
by that time / produces an answer. With `MAX_REQUESTS` at once, the connections of further callers are closed.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from tppo.config import ConfigError
from tppo.config.sections.services import PrometheusSection
from tppo.process.grpc_server import address, reachable
from tppo.prometheus.exporter import Exporter
from tppo.security.authentication import (
    METRICS_TOKEN_VARIABLE,
    Token,
    is_bearer,
    is_loopback,
    require_token_beyond_loopback,
)

REQUEST_SECONDS = 5.0
MAX_REQUESTS = 8
STOP_LOOK_SECONDS = 0.1  # between two looks at whether it should stop
PLAIN = ("Content-Type", "text/plain; charset=utf-8")
log = logging.getLogger(__name__)

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environment, StartResponse], Iterable[bytes]]


@contextmanager
def serving(section: PrometheusSection, exporter: Exporter, *, token: Token) -> Iterator[None]:
    """Answers scrapes, and sets the exporter's address; nothing where that is switched off. Raises `ConfigError`."""
    if not section.enabled:
        yield
        return
    require_token_beyond_loopback(section.host, str(token), key="prometheus.host", variable=METRICS_TOKEN_VARIABLE)
    with _server(section.host, section.port, metrics_app(exporter, token)) as server:
        exporter.address = address(section.advertise_host or reachable(section.host), server.server_port)
        log.info("metrics at http://%s/metrics", exporter.address)
        answering = threading.Thread(
            target=server.serve_forever, args=(STOP_LOOK_SECONDS,), name="metrics", daemon=True
        )
        answering.start()
        try:
            yield
        finally:
            server.shutdown()
            answering.join()


def metrics_app(exporter: Exporter, token: Token) -> WsgiApp:
    """prometheus_client's app at /metrics, for those who may scrape; /healthz for everybody."""
    registry = CollectorRegistry()
    registry.register(exporter)
    scrape = make_wsgi_app(registry)

    def app(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path == "/healthz":
            return _answer(start_response, HTTPStatus.OK, "ok")
        if refusal := _refusal(environment, token):
            return _answer(start_response, *refusal)
        if path != "/metrics":
            return _answer(start_response, HTTPStatus.NOT_FOUND, "expected /metrics or /healthz")
        # name[] would select by names that the exporter does not declare.
        return scrape({**environment, "QUERY_STRING": ""}, start_response)  # type: ignore[no-any-return]

    return app


def _refusal(environment: Environment, token: Token) -> tuple[HTTPStatus, str] | None:
    """Without a token, only a loopback address is taken as Host: DNS rebinding makes a browser send another."""
    if not token:
        if is_loopback(_host_name(environment.get("HTTP_HOST", ""))):
            return None
        return HTTPStatus.MISDIRECTED_REQUEST, "expected a loopback address as host"
    if is_bearer(environment.get("HTTP_AUTHORIZATION", ""), token):
        return None
    return HTTPStatus.UNAUTHORIZED, f"expected the bearer token that {METRICS_TOKEN_VARIABLE} holds"


def _answer(start_response: StartResponse, status: HTTPStatus, text: str) -> list[bytes]:
    challenge = [("WWW-Authenticate", "Bearer")] if status is HTTPStatus.UNAUTHORIZED else []
    start_response(f"{status.value} {status.phrase}", [PLAIN, *challenge])
    return [f"{text}\n".encode()]


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _server(host: str, port: int, app: WsgiApp) -> "MetricsServer":
    try:
        return MetricsServer(host, port, app)
    except OSError as error:
        reason = f"cannot listen on {host}: {error.strerror}"
        raise ConfigError(f"prometheus.port = {port}: {reason}; expected a free port") from None


class MetricsServer(ThreadingMixIn, WSGIServer):
    """One thread a request, `MAX_REQUESTS` at most."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, app: WsgiApp) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__((host, port), MetricsRequestHandler)
        self.set_app(app)

    def server_bind(self) -> None:
        """Without http.server's look-up of the host's name, which may wait for DNS."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, when there is room for one more."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """All that the thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up in mid-request is no news; anything else is, and still harms nobody."""
        log.debug("a scrape from %s failed", client_address, exc_info=True)


class MetricsRequestHandler(WSGIRequestHandler):
    """Closes connections that stand still; logs no scrapes."""

    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""

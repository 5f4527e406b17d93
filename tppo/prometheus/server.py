"""`/metrics` and `/healthz` over HTTP, from threads of their own: neither waits for what the process does.

Loop of each thread: consumes one request / waits for its bytes, `REQUEST_SECONDS` at most / unblocked by the caller, or
by that time / produces an answer. With `MAX_REQUESTS` at once, further callers are hung up on.
"""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.exposition import choose_encoder

from tppo.authentication import TOKEN_VARIABLE, is_loopback, is_same_token, require_token_beyond_loopback
from tppo.config import ConfigError
from tppo.config.schema import PrometheusSection
from tppo.grpc_server import address, reachable
from tppo.prometheus.exporter import Exporter

REQUEST_SECONDS = 5.0
MAX_REQUESTS = 8
STOP_LOOK_SECONDS = 0.1  # between two looks at whether it should stop
PLAIN = "text/plain; charset=utf-8"
log = logging.getLogger(__name__)


@contextmanager
def serving(section: PrometheusSection, exporter: Exporter, *, token: str) -> Iterator[None]:
    """Answers scrapes, and gives the exporter its address; does nothing when disabled. Raises `ConfigError`."""
    if not section.enabled:
        yield
        return
    require_token_beyond_loopback(section.host, token, key="prometheus.host")
    with _server(section.host, section.port, exporter, token) as server:
        exporter.address = address(section.advertise_host or reachable(section.host), server.server_address[1])
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


def _server(host: str, port: int, exporter: Exporter, token: str) -> "MetricsServer":
    try:
        return MetricsServer(host, port, exporter, token)
    except OSError as error:
        reason = f"cannot listen on {host}: {error.strerror}"
        raise ConfigError(f"prometheus.port = {port}: {reason}; expected a free port") from None


class MetricsServer(ThreadingMixIn, TCPServer):
    """One thread a request, `MAX_REQUESTS` at most."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, exporter: Exporter, token: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.exporter = exporter
        self.token = token
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__((host, port), MetricsHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, when there is room for one more."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread's whole life."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up in mid-request is no news; anything else is, and still harms nobody."""
        log.debug("a scrape from %s failed", client_address, exc_info=True)


class MetricsHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    timeout = REQUEST_SECONDS
    server: MetricsServer

    def do_GET(self) -> None:
        """Metrics, health, or why not."""
        path = urlsplit(self.path).path
        if path == "/healthz":
            self._answer(HTTPStatus.OK, b"ok\n")
        elif (refusal := self._refusal()) is not None:
            self._answer(*refusal)
        elif path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(self.server.exporter), content_type)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"expected /metrics or /healthz\n")

    do_HEAD = do_GET  # noqa: N815

    def _refusal(self) -> tuple[HTTPStatus, bytes] | None:
        """Without a token, only those who name the loopback: a page elsewhere whose name points here names itself."""
        if not self.server.token:
            is_local = is_loopback(_host_name(self.headers.get("Host", "")))
            return None if is_local else (HTTPStatus.MISDIRECTED_REQUEST, b"expected a loopback address as host\n")
        if is_same_token(self.headers.get("Authorization", ""), f"Bearer {self.server.token}"):
            return None
        return HTTPStatus.UNAUTHORIZED, f"expected the bearer token that {TOKEN_VARIABLE} holds\n".encode()

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = PLAIN) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""

"""A web server as our processes run it: it shuts down in time, and bounds its connections and their requests."""

import asyncio
import logging
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tppo.security.tls import WebCertificate

SHUTDOWN_SECONDS = 3
REQUEST_SECONDS = 10.0
"""For the headers and the body of a request."""
MAX_CONNECTIONS = 512
"""Readers of streams, and the requests beside them; further ones are closed at once, those that are there stay."""


def server_settings(app: ASGIApp) -> uvicorn.Config:
    """Of a server that shuts down in time and bounds its connections; over TLS, if the environment says so."""
    certificate = WebCertificate.from_environment()
    return uvicorn.Config(
        app,
        http=BoundedH11Protocol,
        log_config=None,  # as this process logs everything
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        lifespan="off",
        ssl_certfile=certificate.certificate if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )


class QuietlyEndingServer(uvicorn.Server):
    """Reports no request that it cuts off because it ends: that is in order."""

    def stop(self) -> None:
        """End soon, also before it has begun to serve."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At SIGTERM and Ctrl-C."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


class BoundedH11Protocol(H11Protocol):
    """Closes a connection beyond the bound, and one whose request is not complete in time, even if bytes trickle in.

    uvicorn bounds the time between two requests, not that of a request: whoever leaves headers or bodies unfinished
    would hold a file descriptor each.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The first request is awaited."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.transport.close()
            return
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Starts the time at the first byte of a request, and ends it at the last."""
        super().data_received(data)
        if not self._is_incomplete():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def _is_incomplete(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._is_incomplete():
            self.transport.close()

"""Who may look and who may steer.

With a token in the environment (`TPPO_DASHBOARD_TOKEN`, or the operator's `TPPO_TOKEN`), each request must bring it: as
a bearer token, or, from a browser, as the password of HTTP Basic. Without one, looking is open on the loopback, to
requests whose Host header names a loopback address: DNS rebinding makes a browser send another name here. Steering
always needs the token, and an Origin that is ours: CSRF would otherwise use the password that the browser remembers.
Those who scrape may bring `TPPO_METRICS_TOKEN` instead, which opens the scraped addresses alone: Prometheus sends it
over plain HTTP.

What the libraries do not do: `TrustedHostMiddleware` of Starlette answers 400 in plain text, to `/healthz` too, and has
a list of names where all of 127.0.0.0/8 is meant. FastAPI's security dependencies cover routes only, not static files,
the OpenAPI document and unknown addresses. So both checks are ASGI middleware of our own; FastAPI's classes parse the
header and describe the security schemes in the OpenAPI document.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException
from fastapi.security import HTTPBasic, HTTPBearer
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.dashboard.api.problems import ProblemError, problem_response
from tppo.security.authentication import TOKEN_VARIABLE, Service, Token, is_loopback, is_same_token

BEARER = HTTPBearer(auto_error=False, description="The token, as bearer token.")
BASIC = HTTPBasic(auto_error=False, description="The token as password, with any user name; for browsers.")
JOIN_PATH = "/api/v1/join"
OPEN_PATHS = {"/healthz", JOIN_PATH}  # the latter has a token of its own
MAX_BODY_BYTES = 2**20  # a thousand rollouts by name, and room to spare
SCRAPED_PATHS = {"/metrics", "/api/v1/scrape-targets"}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Refusal = Callable[[Request], Awaitable[ProblemError | None]]
"""Why a request is refused, or None."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may look and who may steer."""

    token: Token
    """Of those who steer; never empty."""
    needs_token_to_look: bool = False
    metrics_token: Token = ""
    """Of those who may scrape and nothing else; empty: there is none."""

    async def refusal_to_look(self, request: Request) -> ProblemError | None:
        """Of a request to any address but `/healthz`."""
        if self.needs_token_to_look:
            return await self._refusal_without_token(request)
        return _refusal_of_foreign_host(request)

    async def require_steering(self, request: Request) -> None:
        """A FastAPI dependency: raises a problem unless the request may change the run."""
        if not _is_same_origin(request):
            raise ProblemError(HTTPStatus.FORBIDDEN, "this request comes from a page of another origin")
        if not await self._brings_token(request):
            # Without Basic: a browser would ask its user in a window of its own.
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ProblemError(HTTPStatus.UNAUTHORIZED, "steering a run needs the token, as bearer token", challenge)

    def schemes_to_look(self) -> list[Any]:
        """Dependencies that name the security schemes in the OpenAPI document; the middleware has checked before."""
        return [Depends(BEARER), Depends(BASIC)] if self.needs_token_to_look else []

    def dependencies_to_steer(self) -> list[Any]:
        """The check, and its scheme for the OpenAPI document."""
        return [Depends(self.require_steering), Depends(BEARER)]

    async def _refusal_without_token(self, request: Request) -> ProblemError | None:
        if await self._brings_token(request) or await self._may_scrape(request):
            return None
        variables = f"{Service.DASHBOARD.variable} or {TOKEN_VARIABLE}"
        reason = f"expected the token that {variables} holds, as bearer token or as password"
        return ProblemError(HTTPStatus.UNAUTHORIZED, reason, {"WWW-Authenticate": 'Basic realm="tppo", Bearer'})

    async def _brings_token(self, request: Request) -> bool:
        given = await _given_token(request)
        return given is not None and is_same_token(given, self.token)

    async def _may_scrape(self, request: Request) -> bool:
        if not self.metrics_token or request.url.path not in SCRAPED_PATHS:
            return False
        given = await _given_token(request)
        return given is not None and is_same_token(given, self.metrics_token)


class Guard:
    """ASGI middleware: refuses requests with a problem document."""

    def __init__(self, app: ASGIApp, refusal: Refusal) -> None:
        self._app = app
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        error = None if scope["type"] != "http" else await self._refused(Request(scope))
        answer = self._app if error is None else problem_response(error.status, error.detail, error.headers)
        await answer(scope, receive, send)

    async def _refused(self, request: Request) -> ProblemError | None:
        is_open = request.url.path in OPEN_PATHS
        return _refusal_of_body(request) or (None if is_open else await self._refusal(request))


class SecurityHeaders:
    """ASGI middleware: adds the headers that say what a browser must not do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with more headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _refusal_of_foreign_host(request: Request) -> ProblemError | None:
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        host = ""
    if is_loopback(host):
        return None
    return ProblemError(
        HTTPStatus.MISDIRECTED_REQUEST, "without a token, only requests to a loopback address are answered"
    )


def _refusal_of_body(request: Request) -> ProblemError | None:
    """FastAPI reads a whole body before it asks any dependency for permission."""
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers:
        return ProblemError(HTTPStatus.LENGTH_REQUIRED, "expected a body whose length is stated")
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        reason = f"a body of {length[:20]} bytes; expected at most {MAX_BODY_BYTES}"
        return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
    return None


def _is_same_origin(request: Request) -> bool:
    """Whether no browser says that another page sent this (CSRF)."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    except ValueError:
        return False


async def _given_token(request: Request) -> str | None:
    bearer = await BEARER(request)
    if bearer is not None:
        return bearer.credentials
    try:
        basic = await BASIC(request)
    except HTTPException:  # raised for credentials that are no base64, whatever `auto_error` says
        return None
    return basic.password if basic else None

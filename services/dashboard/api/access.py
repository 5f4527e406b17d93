"""Who may look and who may steer.

Looking is open on the loopback, to requests that name the loopback as their host (a page elsewhere whose name was made
to point here names itself). With a token set, it is for those who bring it: as a bearer token, or, for browsers, as a
Basic password. Steering needs a token always, and, of a browser, a page of this very origin: others are kept from
sending along what the browser remembers.
"""

import base64
import binascii
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.dashboard.api.problems import ProblemError, problem_response
from tppo.authentication import TOKEN_VARIABLE, is_loopback, is_same_token

OPEN_PATHS = {"/healthz"}
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


class SecurityHeaders:
    """ASGI middleware: what every answer tells browsers not to do."""

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


class Guard:
    """ASGI middleware that turns requests away: `refusal_of` says why, or nothing."""

    def __init__(self, app: ASGIApp, refusal_of: Callable[[Request], str], status: HTTPStatus, challenge: str) -> None:
        self._app = app
        self._refusal_of = refusal_of
        self._status = status
        self._challenge = challenge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        is_open = scope["type"] != "http" or scope["path"] in OPEN_PATHS
        reason = "" if is_open else self._refusal_of(Request(scope))
        if not reason:
            await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": self._challenge} if self._challenge else None
        await problem_response(self._status, reason, headers)(scope, receive, send)


def refusal_without(token: str) -> Callable[[Request], str]:
    """Refuses everybody who does not bring the token."""

    def refusal_of(request: Request) -> str:
        if is_brought(request, token):
            return ""
        return f"expected the token that {TOKEN_VARIABLE} holds, as bearer token or as password"

    return refusal_of


def refusal_of_foreign_host(request: Request) -> str:
    """Refuses requests that came here under a name that is not the loopback's."""
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        host = ""
    return "" if is_loopback(host) else "without a token, only requests to a loopback address are answered"


def require_steering(request: Request, token: str) -> None:
    """Raises a problem unless the request may change the run."""
    if not is_same_origin(request):
        raise ProblemError(HTTPStatus.FORBIDDEN, "this request comes from a page of another origin")
    if not is_brought(request, token):
        # Without Basic: a browser would ask its user in a window of its own.
        challenge = {"WWW-Authenticate": "Bearer"}
        raise ProblemError(HTTPStatus.UNAUTHORIZED, "steering a run needs the token, as bearer token", challenge)


def is_same_origin(request: Request) -> bool:
    """Whether no browser says that another page sent this."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit_host(origin) == request.headers.get("host", "").lower()


def urlsplit_host(origin: str) -> str:
    """Host and port of an origin; nothing for `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_brought(request: Request, token: str) -> bool:
    """Whether the request brings the token."""
    given = given_token(request.headers.get("authorization", ""))
    return given is not None and is_same_token(given, token)


def given_token(authorization: str) -> str | None:
    """The token in an Authorization header, if there is one."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None

"""Who may look: with a token set, only those who bring it. As a bearer token, or, for browsers, as a Basic password."""

import base64
import binascii
from http import HTTPStatus

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.dashboard.problems import problem_response
from tppo.authentication import TOKEN_VARIABLE, is_same_token

OPEN_PATHS = {"/healthz"}


class TokenGuard:
    """ASGI middleware that turns away requests without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._is_allowed(Request(scope)):
            await self._app(scope, receive, send)
            return
        refusal = problem_response(
            HTTPStatus.UNAUTHORIZED,
            f"expected the token that {TOKEN_VARIABLE} holds, as bearer token or as password",
            {"WWW-Authenticate": 'Basic realm="tppo", Bearer'},
        )
        await refusal(scope, receive, send)

    def _is_allowed(self, request: Request) -> bool:
        given = given_token(request.headers.get("authorization", ""))
        return given is not None and is_same_token(given, self._token)


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

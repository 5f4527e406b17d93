"""What the endpoint refuses, in the shape of OpenAI's errors: one sentence, the parameter, and a code."""

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse


class EndpointError(Exception):
    """Ends a request with an error of OpenAI's shape."""

    def __init__(self, status: HTTPStatus, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer; it says when to try again, where that helps."""
        headers = {}
        if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers["Retry-After"] = "1"
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> EndpointError:
    """The caller's mistake."""
    return EndpointError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)

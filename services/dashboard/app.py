"""The dashboard's addresses."""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse

from services.dashboard.access import TokenGuard
from services.dashboard.page import CONTENT_SECURITY_POLICY, page_of
from services.dashboard.problems import Problem, answer_with_problems
from services.dashboard.source import Source
from services.dashboard.status import Status, status_of


def create_app(source: Source, *, run: str, total_training_steps: int, token: str = "") -> FastAPI:
    """The application for one run; with a token it answers nobody who does not bring it."""
    app = FastAPI(title="T-PPO", description="Status of a run.", version="1")
    answer_with_problems(app)
    if token:
        app.add_middleware(TokenGuard, token=token)

    async def current_status() -> Status:
        return status_of(await source.observe(), run=run, total_training_steps=total_training_steps)

    @app.get("/api/v1/status", responses={503: {"model": Problem, "description": "Redis does not answer"}})
    async def status() -> Status:
        """The run at this moment."""
        return await current_status()

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Whether this process answers, whatever the run does."""
        return "ok\n"

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """The status for people."""
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return HTMLResponse(page_of(await current_status()), headers=headers)

    return app

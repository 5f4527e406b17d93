"""The dashboard's addresses, put together."""

from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.staticfiles import StaticFiles

from services.dashboard.api.access import Access, Guard, SecurityHeaders
from services.dashboard.api.problems import Problem, ProblemError, answer_with_problems, problems
from services.dashboard.api.routes import (
    control,
    critic,
    join,
    ledger,
    metrics,
    prometheus,
    responses,
    rollouts,
    runs,
    services,
    stream,
    windows,
)
from services.dashboard.live.source import Source
from services.dashboard.live.stream import Broadcaster
from services.dashboard.live.view import Views
from services.dashboard.tokens.response import ResponseReader

STATIC = Path(__file__).parents[1] / "static"
DESCRIPTION = """A run's state, its history, and its control. Times are seconds since the epoch unless they are dates.
Every error is a problem document (RFC 9457). Pages take `offset` and `limit` and have a `total`."""


def create_app(
    views: Views,
    broadcaster: Broadcaster,
    *,
    access: Access,
    source: Source | None = None,
    joining: join.Joining | None = None,
    name: str = "dashboard",
    static: Path = STATIC,
) -> FastAPI:
    """The application for the runs of one folder; `name` is that of this process."""
    app = FastAPI(title="T-PPO", description=DESCRIPTION, version="1", docs_url=None, redoc_url=None)
    answer_with_problems(app)
    app.add_middleware(Guard, refusal=access.refusal_to_look)
    app.add_middleware(SecurityHeaders)  # added last, so outermost: refusals have the headers too
    every = APIRouter(
        prefix="/api/v1",
        dependencies=access.schemes_to_look(),
        responses=problems(unprocessable_entity="a parameter that cannot be used"),
    )
    for router in (
        *(runs.router(views), metrics.router(views), responses.router(views), windows.router(views)),
        *(rollouts.router(views, ResponseReader()), critic.router(views), ledger.router(views), services.router(views)),
        *(stream.router(views, broadcaster), prometheus.targets_router(views)),
        join.router(joining),
        control.router(views, source, access, issued_by=name),
    ):
        every.include_router(router)
    app.include_router(every)
    app.include_router(prometheus.metrics_router(views, name))
    _add_pages(app, static)
    _describe_problems(app)
    return app


def _add_pages(app: FastAPI, static: Path) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, tags=["process"])
    async def healthz() -> str:
        """Whether this process answers, whatever the run does."""
        return "ok\n"

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return _file(static / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return _file(static / "docs.html")

    if static.is_dir():
        app.mount("/static", StaticFiles(directory=static))


def _file(path: Path) -> FileResponse:
    if not path.is_file():
        raise ProblemError(HTTPStatus.NOT_FOUND, f"{path.name} is not part of this installation")
    return FileResponse(path)


def _describe_problems(app: FastAPI) -> None:
    """The OpenAPI document describes the form of a problem once; the answers refer to it."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in schemas:
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas["Problem"] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]

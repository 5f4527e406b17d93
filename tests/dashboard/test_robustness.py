"""Requests made up from the OpenAPI document: whatever is asked, no answer is a failure of the server."""

import contextlib
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from services.dashboard.api.access import Access
from services.dashboard.api.app import create_app
from services.dashboard.live.source import Observation
from services.dashboard.live.stream import Broadcaster
from tests.dashboard.clients import BEARER, NOW, TOKEN, FixedSource, process, views_of
from tests.dashboard.run_folders import complete_run

EXAMPLES_PER_OPERATION = 5
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
ENDLESS = "/api/v1/stream"  # never ends
KNOWN = {"rollout": "0-0-0", "service": "learner"}
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES_PER_OPERATION,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS: list[Any] = [not_a_server_error, content_type_conformance, response_schema_conformance]


def app_of(root: Path, *, is_live: bool) -> FastAPI:
    source = FixedSource(Observation(now=NOW, presences=[process("learner"), process("generation", num_slots=4)]))
    views = views_of(root, source if is_live else None, live="quick" if is_live else "")
    given = source if is_live else None
    return create_app(views, Broadcaster(views), access=Access(token=TOKEN), source=given, static=root / "static")


def operations_of(app: FastAPI) -> list[Any]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    results: list[Any] = list(schema.exclude(path=ENDLESS).get_all_operations())
    found = [result.ok() for result in results]
    assert len(found) >= 20
    return found


def num_held(operation: Any, mode: GenerationMode) -> int:
    """Good or bad requests, this many, each answered as the schema says; half of them name a run that exists."""
    num_answered = 0

    @SETTINGS
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), is_known=strategies.booleans())
    def check(case: Any, is_known: bool) -> None:
        nonlocal num_answered
        if is_known:
            case.path_parameters = {name: KNOWN[name] for name in case.path_parameters or {}}
            case.query = {name: value for name, value in (case.query or {}).items() if name != "run"}
        headers = {"Host": "localhost", **BEARER}
        case.call_and_validate(base_url="http://localhost", headers=headers, checks=CHECKS)
        num_answered += 1

    with contextlib.suppress(Unsatisfiable):  # an address without parameters takes no bad ones
        check()
    return num_answered


@pytest.mark.parametrize("mode", [GOOD, BAD])
@pytest.mark.slow
def test_no_request_breaks_the_dashboard_of_a_live_run(tmp_path: Path, mode: GenerationMode) -> None:
    complete_run(tmp_path / "quick")
    answered = [num_held(operation, mode) for operation in operations_of(app_of(tmp_path, is_live=True))]

    assert any(answered) if mode is BAD else all(answered)


@pytest.mark.slow
def test_no_request_breaks_the_dashboard_of_a_finished_run(tmp_path: Path) -> None:
    complete_run(tmp_path / "quick")
    assert all(num_held(operation, GOOD) for operation in operations_of(app_of(tmp_path, is_live=False)))


def test_no_request_breaks_the_dashboard_of_an_empty_folder(tmp_path: Path) -> None:
    assert all(num_held(operation, GOOD) for operation in operations_of(app_of(tmp_path, is_live=False)))

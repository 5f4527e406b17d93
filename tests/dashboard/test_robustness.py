"""Requests made up from the OpenAPI document: whatever is asked, no answer is a failure of the server."""

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from services.dashboard.app import Access, create_app
from services.dashboard.commands import CommandSender
from services.dashboard.source import Observation
from services.dashboard.stream import Broadcaster
from tests.dashboard.clients import BEARER, NOW, TOKEN, FixedSource, process, spelled_out, views_of
from tests.dashboard.run_folders import complete_run

EXAMPLES_PER_OPERATION = 8
ENDLESS = "/api/v1/stream"  # answers for ever
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
    sender = CommandSender(source, spelled_out, issued_by="dashboard") if is_live else None
    return create_app(views, Broadcaster(views), access=Access(token=TOKEN), sender=sender, static=root / "static")


def operations_of(app: FastAPI) -> list[Any]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})
    results: list[Any] = list(schema.exclude(path=ENDLESS).get_all_operations())
    found = [result.ok() for result in results]
    assert len(found) >= 20
    return found


def hold(operation: Any) -> None:
    @SETTINGS
    @hypothesis.given(case=operation.as_strategy())
    def check(case: Any) -> None:
        headers = {"Host": "localhost", **BEARER}
        case.call_and_validate(base_url="http://localhost", headers=headers, checks=CHECKS)

    check()


@pytest.mark.parametrize("is_live", [True, False])
def test_no_request_breaks_the_dashboard_of_a_run(tmp_path: Path, is_live: bool) -> None:
    complete_run(tmp_path / "quick")
    for operation in operations_of(app_of(tmp_path, is_live=is_live)):
        hold(operation)


def test_no_request_breaks_the_dashboard_of_an_empty_folder(tmp_path: Path) -> None:
    for operation in operations_of(app_of(tmp_path, is_live=False)):
        hold(operation)

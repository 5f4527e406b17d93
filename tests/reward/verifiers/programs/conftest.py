"""Programs run in a sandbox here."""

import os

import pytest

from services.reward.verifiers.sandbox.program import IsolationError, isolation


@pytest.fixture(scope="session", autouse=True)
def sandbox() -> None:
    """Skip where the kernel forbids namespaces, but fail in CI."""
    try:
        isolation()
    except IsolationError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))

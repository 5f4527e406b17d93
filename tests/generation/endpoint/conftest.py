"""The policy's folder, made once."""

from pathlib import Path

import pytest

from tests.generation.endpoint.serving import policy_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policy"))

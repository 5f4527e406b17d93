"""A folder of runs, and one run in it."""

from pathlib import Path

import pytest

from tests.dashboard.run_folders import RunFolderBuilder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def run(root: Path) -> RunFolderBuilder:
    return RunFolderBuilder(root / "quick")

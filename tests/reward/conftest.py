"""The Node.js example, whose packages `make test` installs."""

import os
import shutil
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/custom_reward/node"


@pytest.fixture(scope="session")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example; without Node.js or its packages skip, but fail in CI."""
    report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    if not shutil.which("node"):
        report("no Node.js: node is not on PATH")
    if not (EXAMPLE / "node_modules").is_dir():
        report(f"no packages in {EXAMPLE}: install them with `make node-example`")
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(EXAMPLE / "node_modules")
    return folder

"""The Node.js example with its packages, installed once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import DEADLINE_SECONDS

EXAMPLE = Path(__file__).parents[2] / "examples/custom_reward/node"


@pytest.fixture(scope="session")
def node_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node.js example with its packages; where they cannot be had, skip, but fail in CI."""
    folder = tmp_path_factory.mktemp("node")
    report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    if not shutil.which("npm"):
        report("no Node.js: npm is not on the PATH")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    installed = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
    )
    if installed.returncode != 0:
        report(f"npm ci: {installed.stderr[-500:]}")
    return folder

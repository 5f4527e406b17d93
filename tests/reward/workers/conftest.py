from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The configuration's name of one of the functions in the test module's `FUNCTIONS`."""
    (tmp_path / "mine.py").write_text(request.module.FUNCTIONS)
    return lambda name: f"{tmp_path}/mine.py:{name}"

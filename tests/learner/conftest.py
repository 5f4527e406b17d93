from pathlib import Path

import pytest

from tests.learner.laboratory import Laboratory


@pytest.fixture(params=["lockstep", "overlapped", "streaming"])
def laboratory(request: pytest.FixtureRequest, tmp_path: Path) -> Laboratory:
    """One of each mode."""
    return Laboratory(tmp_path, request.param)

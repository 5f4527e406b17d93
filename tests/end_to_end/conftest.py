"""Runs of the quick start that end with their test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.quickstart_run import Run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts a run with the settings given."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(closing(Run(tmp_path, **settings)))

"""One vLLM for all tests of this folder, which run where vLLM is installed: `make test-vllm`."""

import gc
import importlib.util
import inspect
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.vllm.served import ServedModel

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]


def pytest_sessionfinish() -> None:
    """What vLLM leaves open for its process's end would be an error of the session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)  # before auto mode's
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM's own and its dependencies' are not ours


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedModel]:
    """Started once: a start takes half a minute."""
    served = await ServedModel.start(tmp_path_factory.mktemp("vllm"))
    yield served
    await served.engine.close()


@pytest_asyncio.fixture(loop_scope="session")
async def engine(vllm: ServedModel) -> AsyncIterator[Any]:
    """The shared engine with the defaults of an engine."""
    from services.generation.update_policy import UpdatePolicy

    vllm.engine.policy, vllm.engine.has_seeds = UpdatePolicy(), True
    yield vllm.engine

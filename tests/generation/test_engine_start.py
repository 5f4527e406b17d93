"""The start of an engine, which may take half a minute."""

import asyncio
import threading
from pathlib import Path

import pytest

from services.generation import build
from services.generation.engine import Engine
from tests.generation.fake_engine import FakeEngine
from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import Config, load


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
async def test_the_event_loop_goes_on_while_an_engine_starts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_gone_on, engine = threading.Event(), FakeEngine()

    def start(config: Config) -> Engine:
        assert has_gone_on.wait(DEADLINE_SECONDS), "the event loop stands still"
        return engine

    monkeypatch.setattr(build, "build_vllm_engine" if kind == "vllm" else "build_engine", start)
    file = tmp_path / "run.toml"
    file.write_text('[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n')
    asyncio.get_running_loop().call_later(0.01, has_gone_on.set)

    async with build.running_engine(load(file, [f"generation.engine={kind}"])) as found:
        assert found is engine

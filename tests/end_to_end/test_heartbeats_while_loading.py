"""A process has heartbeats while it loads, which say so; one that cannot load leaves the run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import learner.__main__
import services.generation.__main__
import services.reward.__main__
from learner.ranks.team import ALONE
from services.generation.exposed import GENERATION_METRICS
from services.reward.reporting.exposed import REWARD_METRICS
from tests.support.waiting import until_answered
from tppo.config import Config, ConfigError
from tppo.process.presence import Presence, present
from tppo.prometheus import Exporter
from tppo.security.envelope import Sealer, Writer
from tppo.streams.connection import RedisClient

SEALER = Sealer(Writer.GENERATION, "key")
CANNOT = ConfigError("model.path = 'm': no weights")


class Loader(NamedTuple):
    """What takes long in a process, until the test ends it, and how the process is run."""

    place: str
    loads: Any
    runs: Callable[[Config], Coroutine[Any, Any, object]]


def of_learner(ended: threading.Event) -> Loader:
    def load_state(*_: object, **__: object) -> None:
        ended.wait()
        raise CANNOT

    def run(config: Config) -> Coroutine[Any, Any, object]:
        return learner.__main__._live(config, ALONE, source=Path("run.toml"), name="learner", resume=False)

    return Loader("learner.build.load_state", load_state, run)


def of_generation(ended: threading.Event) -> Loader:
    def run(config: Config) -> Coroutine[Any, Any, object]:
        exporter = Exporter(GENERATION_METRICS, run=config.run.name, service="generation")
        return services.generation.__main__._serve_requests(config, "generation", exporter, token="", sealer=SEALER)

    return Loader("services.generation.build.running_engine", never_there(ended), run)


def of_reward(ended: threading.Event) -> Loader:
    def run(config: Config) -> Coroutine[Any, Any, object]:
        exporter = Exporter(REWARD_METRICS, run=config.run.name, service="reward")
        return services.reward.__main__._serve_requests(config, "reward", exporter)

    return Loader("services.reward.__main__.scoring", never_there(ended), run)


def never_there(ended: threading.Event) -> Any:
    @asynccontextmanager
    async def loading(_config: object) -> AsyncIterator[None]:
        await asyncio.to_thread(ended.wait)
        raise CANNOT
        yield

    return loading


@pytest.mark.parametrize(
    ("loader_of", "loaded", "incarnation"),
    [
        (of_learner, "data, policy and value model", 1),
        (of_generation, "the model", None),
        (of_reward, "the reward functions", None),
    ],
)
async def test_a_process_has_heartbeats_while_it_loads_and_leaves_the_run_where_it_cannot(
    loader_of: Callable[[threading.Event], Loader],
    loaded: str,
    incarnation: int | None,
    tmp_path: Path,
    redis_url: str,
    redis_client: RedisClient,
    run_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()
    loader = loader_of(ended)
    monkeypatch.setattr(loader.place, loader.loads)
    process = asyncio.create_task(loader.runs(config_in(tmp_path, run_name, redis_url)))

    async def heartbeat() -> list[Presence]:
        return await present(redis_client, run_name)

    try:
        (first,) = await until_answered(heartbeat, "a heartbeat")
        await until_answered(heartbeat, "a later one", is_met=lambda now: now and now[0].seen_at > first.seen_at)
    finally:
        ended.set()
        (outcome,) = await asyncio.gather(process, return_exceptions=True)

    assert (first.status["loading"], first.status.get("incarnation"), first.address) == (loaded, incarnation, "")
    assert first.is_loading
    assert outcome is CANNOT or CANNOT in getattr(outcome, "exceptions", ())
    assert await heartbeat() == []


def config_in(folder: Path, run: str, redis_url: str) -> Config:
    return Config.model_validate(
        {
            "run": {"directory": folder, "name": run},
            "model": {"path": folder},
            "learner": {"device": "cpu"},
            "data": {"train_files": [folder / "train.jsonl"]},
            "redis": {"url": redis_url},
        }
    )

"""A generation service on given streams and a fake engine, and requests for it."""

import asyncio

from services.generation.fleet.handover import Handover
from services.generation.service import UNANNOUNCED_SECONDS, Announced, WindowHandler
from services.generation.weights.served_weights import ServedWeights
from tests.generation.fake_engine import FakeEngine
from tests.support.leased_worker import Heartbeats
from tests.support.waiting import DEADLINE_SECONDS
from tppo.codec import encode_window_request
from tppo.process.leased_worker import LeasedWorker, WorkerSettings
from tppo.rollout import WindowRequest
from tppo.streams import MemoryStreams, RequestQueue


async def nothing_announced() -> None:
    """A learner that has announced no weights."""


def service_on(
    queue: RequestQueue,
    engine: FakeEngine,
    weights: ServedWeights | None = None,
    *,
    name: str = "generation-0",
    capacity: int = 8,
    lease_seconds: float = 60.0,
    heartbeats: Heartbeats | None = None,
    announced: Announced = nothing_announced,
    unannounced_seconds: float = UNANNOUNCED_SECONDS,
    handover: Handover | None = None,
) -> LeasedWorker:
    settings = WorkerSettings(
        name=name,
        lease_seconds=lease_seconds,
        capacity=capacity,
        isolates_suspects=True,
        hand_over_seconds=DEADLINE_SECONDS if handover else 0.0,
    )
    handler = WindowHandler(
        name,
        engine,
        weights or ServedWeights(engine),
        announced,
        handover=handover,
        unannounced_seconds=unannounced_seconds,
    )
    hand_over = handover.end if handover else None
    return LeasedWorker(settings, queue, handler, heartbeats or Heartbeats(), hand_over=hand_over)


async def ask(streams: MemoryStreams, *requests: WindowRequest) -> None:
    await streams.window_requests.put([encode_window_request(request) for request in requests])


async def all_that_can_happen() -> None:
    """Every task comes to where it waits for something that the test holds back."""
    for _ in range(50):
        await asyncio.sleep(0)

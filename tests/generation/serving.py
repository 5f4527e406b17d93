"""A generation service on given streams and a fake engine, and requests for it."""

from services.generation.served_weights import ServedWeights
from services.generation.service import WindowHandler
from tests.generation.fake_engine import FakeEngine
from tests.support.leased_worker import Heartbeats
from tppo.codec import encode_window_request
from tppo.leased_worker import LeasedWorker, WorkerSettings
from tppo.rollout import WindowRequest
from tppo.streams import MemoryStreams, RequestQueue


def service_on(
    queue: RequestQueue,
    engine: FakeEngine,
    weights: ServedWeights | None = None,
    *,
    name: str = "generation-0",
    capacity: int = 8,
    lease_seconds: float = 60.0,
    heartbeats: Heartbeats | None = None,
) -> LeasedWorker:
    settings = WorkerSettings(name=name, lease_seconds=lease_seconds, capacity=capacity, isolates_suspects=True)
    handler = WindowHandler(name, engine, weights or ServedWeights(engine))
    return LeasedWorker(settings, queue, handler, heartbeats or Heartbeats())


async def ask(streams: MemoryStreams, *requests: WindowRequest) -> None:
    await streams.window_requests.put([encode_window_request(request) for request in requests])

"""A real reward server, and a process that attaches to it message by message."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
import grpc.aio

from services.reward.build import Scoring, attach_server, scoring
from tests.support.waiting import DEADLINE_SECONDS, until
from tppo.config.schema import RewardSection
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.rollout import RewardRequest
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc
from tppo.v1 import rollout_pb2

SCORED = rollout_pb2.SCORE_STATUS_SCORED
SECTION = RewardSection(
    default_function="exact",
    functions={"mine": "grpc:mine"},
    timeout_seconds=DEADLINE_SECONDS,
    attach_wait_seconds=DEADLINE_SECONDS,
)


@dataclass(frozen=True)
class Server:
    """A server of run `r1`, and what is behind it."""

    parts: Scoring
    address: str
    stub: "pb_grpc.RewardServiceAsyncStub"  # of the type stubs only

    async def score(
        self, rollout_id: str, response: str = "", num_response_tokens: int = 0, data_source: str = "mine"
    ) -> object:
        """The score of a response, or the status with its cause."""
        score = await self.parts.scorer.score(
            RewardRequest(rollout_id, 0, data_source, "2+2?", response, "4", num_response_tokens=num_response_tokens)
        )
        return score.score if score.score is not None else (score.status.name, score.error)


@asynccontextmanager
async def a_server(section: RewardSection = SECTION, *, token: str = "") -> AsyncIterator[Server]:
    async with (
        scoring(section) as parts,
        attach_server(section, parts, run="r1", token=token) as address,
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
    ):
        yield Server(parts, address, pb_grpc.RewardServiceStub(channel))


class Process:
    """An attached process whose every message the test decides."""

    def __init__(self, server: Server, *, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._call = server.stub.Attach(timeout=DEADLINE_SECONDS, metadata=metadata)
        self._work: list[pb.Work] = []

    async def offer(
        self,
        *names: str,
        max_held: int = 8,
        run: str = "",
        bounds: tuple[float, ...] = (),
        reports_starts: bool = False,
    ) -> "Process":
        limits = dict(zip(("min_score", "max_score"), bounds, strict=False))
        functions = [pb.OfferedFunction(name=name, **limits) for name in names or ("mine",)]
        offer = pb.Offer(
            process="a test", functions=functions, max_held=max_held, run=run, reports_starts=reports_starts
        )
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # refused already, which `_read` raises
            await self._call.write(pb.AttachRequest(offer=offer))
        accepted = await self._read()
        assert accepted.WhichOneof("message") == "accepted"
        return self

    async def work(self) -> pb.Work:
        """The next piece."""
        while not self._work:
            self._work += (await self._read()).work.work
        return self._work.pop(0)

    async def start(self, *work: pb.Work, function: str = "mine") -> None:
        """Report a call for them."""
        started = pb.Started(function=function, lease_ids=[one.lease_id for one in work])
        await self._call.write(pb.AttachRequest(started=started))

    async def answer(self, work: pb.Work, score: float, **fields: object) -> None:
        await self.send(
            {"lease_id": work.lease_id, "rollout_id": work.request.rollout_id, "status": SCORED, "score": score}
            | fields
        )

    async def send(self, result: Mapping[str, object]) -> None:
        batch = pb.ResultBatch(results=[pb.WorkResult(**result)])  # type: ignore[arg-type]
        await self._call.write(pb.AttachRequest(results=batch))

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended."""
        with suppress(grpc.aio.AioRpcError):
            while await self._call.read() is not grpc.aio.EOF:
                continue
        return await self._call.code(), await self._call.details()

    def leave(self) -> None:
        self._call.cancel()

    async def _read(self) -> pb.AttachResponse:
        message = await self._call.read()
        assert isinstance(message, pb.AttachResponse)
        return message


async def reports(server: Server, key: str, expected: object) -> None:
    """Wait until the heartbeat would report it."""
    status = server.parts.attached.status
    await until(lambda: status()[key], f"{key} = {expected}", is_met=lambda value: value == expected)

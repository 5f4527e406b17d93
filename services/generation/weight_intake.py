"""The gRPC side of a generator: takes weights from the learner.

`UpdateWeights` consumes a stream of chunks / waits for each message, `message_seconds` at most, then for the engine's
moment / unblocked by the learner, by that deadline, or by the end of the call / produces weights in use. Whatever goes
wrong, the engine goes on with those that it has.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from services.generation.served_weights import ServedWeights, StaleWeightsError, WeightIdentity
from tppo.announced_weights import AnnouncedWeights
from tppo.streams import StreamsError
from tppo.v1 import generation_pb2 as pb
from tppo.v1 import generation_pb2_grpc as pb_grpc
from tppo.weights import WeightUpdate
from tppo.weights.messages import WeightAssembler

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
MESSAGE_SECONDS = 15.0  # without a message; a transfer whose peer is gone ends

Context = grpc.aio.ServicerContext[Any, Any]


class OtherRunError(Exception):
    """Weights of another run."""


class UnannouncedWeightsError(Exception):
    """Weights that the learner has not announced."""


class WeightIntake(pb_grpc.GenerationServiceServicer):
    """Serves `tppo.v1.GenerationService`."""

    def __init__(
        self,
        weights: ServedWeights,
        announced: Callable[[], Awaitable[AnnouncedWeights | None]],
        *,
        run: str,
        name: str,
        message_seconds: float = MESSAGE_SECONDS,
    ) -> None:
        """`announced`: the newest weights that the learner has announced; may raise `StreamsError`."""
        self._weights = weights
        self._announced = announced
        self._run = run
        self._name = name
        self._message_seconds = message_seconds

    async def UpdateWeights(  # noqa: N802  gRPC's name
        self, request_iterator: AsyncIterator[pb.UpdateWeightsRequest], context: Context
    ) -> pb.UpdateWeightsResponse:
        """Replaces the weights."""
        try:
            await self._weights.take(await self._assemble(request_iterator))
        except (StaleWeightsError, OtherRunError, UnannouncedWeightsError) as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except StreamsError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"whether the weights were announced: {error}")
        except TimeoutError:
            missing = f"no message of the transfer for {self._message_seconds:g} s"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, missing)
        identity = self._weights.identity
        assert identity is not None
        return pb.UpdateWeightsResponse(
            policy_version=identity.policy_version, incarnation=identity.incarnation, digest=self._weights.digest
        )

    async def _assemble(self, messages: AsyncIterator[pb.UpdateWeightsRequest]) -> WeightUpdate:
        """The whole transfer; what need not be read to the end is refused at its manifest."""
        assembler = WeightAssembler()
        remaining = aiter(messages)
        while (message := await self._next(remaining)) is not None:
            if message.HasField("manifest"):
                await self._check(message.manifest)
            await asyncio.to_thread(assembler.feed, message)
        return await asyncio.to_thread(assembler.finish)  # hashes all bytes

    async def _next(self, messages: AsyncIterator[pb.UpdateWeightsRequest]) -> pb.UpdateWeightsRequest | None:
        async with asyncio.timeout(self._message_seconds):
            return await anext(messages, None)

    async def _check(self, manifest: pb.WeightManifest) -> None:
        if manifest.run != self._run:
            raise OtherRunError(f"these are weights of run {manifest.run!r}; {self._name} serves {self._run!r}")
        identity = WeightIdentity(manifest.incarnation, manifest.policy_version)
        self._weights.refuse_older(identity)
        announced = await self._announced()
        newest = None if announced is None else WeightIdentity(announced.incarnation, announced.policy_version)
        if announced is None or newest is None or identity > newest:
            raise UnannouncedWeightsError(f"{identity} was not announced by the learner; its newest is {newest}")
        if identity == newest and manifest.digest != announced.digest:
            raise UnannouncedWeightsError(f"{identity} has digest {manifest.digest}; announced was {announced.digest}")


def registration(intake: WeightIntake) -> Callable[[grpc.aio.Server], None]:
    """Adds the intake to a server."""
    return partial(pb_grpc.add_GenerationServiceServicer_to_server, intake)

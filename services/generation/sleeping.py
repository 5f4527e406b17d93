"""The call by which the learner lets a generator's engine free its memory before a training step on the same device.

`SleepService.sleep` consumes the request / waits for an update that is under way, then for the engine's moment /
unblocked by both / produces an engine that serves nothing until newer weights are in use and proved.
"""

import logging
from typing import Any

import grpc
import grpc.aio

from services.generation.served_weights import ServedWeights, StaleWeightsError, WeightIdentity
from tppo.config.devices import Sleep
from tppo.v1 import generation_pb2 as pb

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


class SleepService:
    """`Sleep` of `tppo.v1.GenerationService`."""

    def __init__(self, weights: ServedWeights, sleep: Sleep, *, run: str) -> None:
        """`sleep`: what the engine frees; off: nothing, as where it has a device of its own."""
        self._weights = weights
        self._sleep = sleep
        self._run = run

    async def sleep(self, request: pb.SleepRequest, context: Context) -> pb.SleepResponse:
        """Answers when the memory is free."""
        if request.run != self._run:
            text = f"the learner of run {request.run!r} trains; expected that of {self._run!r}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        identity = WeightIdentity(request.incarnation, request.policy_version)
        if self._sleep == "off":
            return pb.SleepResponse()
        try:
            await self._weights.sleep(identity, keeps_weights=self._sleep == "kv_cache")
        except StaleWeightsError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        log.info("the engine sleeps while the learner trains %s", identity)
        return pb.SleepResponse()

    def handler(self) -> "grpc.RpcMethodHandler[pb.SleepRequest, pb.SleepResponse]":
        """For a server."""
        return grpc.unary_unary_rpc_method_handler(
            self.sleep,
            request_deserializer=pb.SleepRequest.FromString,
            response_serializer=pb.SleepResponse.SerializeToString,
        )

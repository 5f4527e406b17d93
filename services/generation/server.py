"""The gRPC server around the weight intake."""

import grpc.aio

from services.generation.weight_intake import WeightIntake
from tppo import grpc_server
from tppo.config import ConfigError
from tppo.v1 import generation_pb2, generation_pb2_grpc

SERVICE_NAME = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name


async def start_server(intake: WeightIntake, *, host: str, port: int, token: str = "") -> tuple[grpc.aio.Server, int]:
    """The running server and its port, which is a free one when 0 is asked for."""

    def add_service(server: grpc.aio.Server) -> None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(intake, server)

    try:
        return await grpc_server.start_server(SERVICE_NAME, add_service, host=host, port=port, token=token)
    except ConfigError as error:
        raise ConfigError(f"generation.{error}") from None

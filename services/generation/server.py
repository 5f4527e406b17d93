"""The gRPC server around the weight intake: limits, keepalive, health and reflection."""

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.generation.weight_intake import WeightIntake
from tppo.authentication import server_interceptors
from tppo.config import ConfigError
from tppo.v1 import generation_pb2, generation_pb2_grpc

SERVICE_NAME = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
MAX_MESSAGE_BYTES = 16 * 2**20
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A frozen learner is noticed after 13 s; its own pings, every 10 s, are welcome.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two generators on one port would share its calls without a word.
    ("grpc.so_reuseport", 0),
)


async def start_server(intake: WeightIntake, *, host: str, port: int, token: str = "") -> tuple[grpc.aio.Server, int]:
    """The running server and its port, which is a free one when 0 is asked for."""
    server = grpc.aio.server(options=OPTIONS, interceptors=server_interceptors(token))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(intake, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        bound = server.add_insecure_port(address(host, port))
    except RuntimeError as error:
        raise ConfigError(f"generation.port = {port}: cannot listen on {host}: {error}") from None
    await server.start()
    for name in (health.OVERALL_HEALTH, SERVICE_NAME):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, bound


def address(host: str, port: int) -> str:
    """host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

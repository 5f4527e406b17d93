"""A gRPC server as all our processes run it, and the options of its callers: limits, keepalive, health, reflection.

A peer that froze is noticed after 13 s on either side; pings every 10 s are welcome.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tppo.config import ConfigError
from tppo.config.schema import GenerationSection, RewardSection
from tppo.security.authentication import Token, server_interceptors
from tppo.security.tls import TlsFiles

MAX_MESSAGE_BYTES = 16 * 2**20
SHARED_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Together these notice a frozen peer within seconds; the time-out of keepalive alone does not.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
)
CHANNEL_OPTIONS = (
    *SHARED_OPTIONS,
    # A peer that comes back after an hour is tried within seconds; left alone, gRPC would let two minutes pass.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
SERVER_OPTIONS = (
    *SHARED_OPTIONS,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Else two servers on one port would share its calls, and neither would report it.
    ("grpc.so_reuseport", 0),
    # What strangers can make it hold: connections, calls of each, and handshakes that never end.
    ("grpc.max_allowed_incoming_connections", 1024),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_metadata_size", 16 * 2**10),
)
SHUTDOWN_GRACE_SECONDS = 1.0  # for calls that are under way when a server stops


@asynccontextmanager
async def serving_grpc(
    service_name: str,
    add_service: Callable[[grpc.aio.Server], None],
    section: GenerationSection | RewardSection,
    *,
    key: str,
    token: Token,
    on_bound: Callable[[int], None] = lambda port: None,
) -> AsyncIterator[str]:
    """Runs a server where the section says; gives the address at which others reach it. `key` is the section's."""
    host, port = section.host, section.port
    try:
        server, port = await start_server(
            service_name, add_service, host=host, port=port, token=token, on_bound=on_bound
        )
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from None
    try:
        yield address(section.advertise_host or reachable(section.host), port)
    finally:
        await server.stop(SHUTDOWN_GRACE_SECONDS)


async def start_server(
    service_name: str,
    add_service: Callable[[grpc.aio.Server], None],
    *,
    host: str,
    port: int,
    token: Token = "",
    on_bound: Callable[[int], None] = lambda port: None,
) -> tuple[grpc.aio.Server, int]:
    """The running server and its port, which is a free one for port 0. Raises `ConfigError`.

    `on_bound` is given the port before the first call is answered.
    """
    files = TlsFiles.from_environment()
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=server_interceptors(token))
    add_service(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((service_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        if files:
            bound = server.add_secure_port(address(host, port), files.server_credentials())
        else:
            bound = server.add_insecure_port(address(host, port))
    except RuntimeError as error:
        raise ConfigError(f"port = {port}: cannot listen on {host}: {error}") from None
    on_bound(bound)
    await server.start()
    for name in (health.OVERALL_HEALTH, service_name):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, bound


def address(host: str, port: int) -> str:
    """host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """The host itself, or this machine's name where it stands for every address."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return socket.gethostname()
    return host

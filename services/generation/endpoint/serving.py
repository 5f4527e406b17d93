"""The endpoint's web server, beside whatever else its process does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.generation.endpoint.app import create_app
from services.generation.endpoint.completions import Completions, Limits
from services.generation.endpoint.prompts import PromptTokens
from services.generation.engine import Engine
from services.generation.fleet.free_slots import FreeSlots
from tppo.config import Config
from tppo.config.sections.endpoint import EndpointSection
from tppo.config.sections.run import RunSection
from tppo.process.cancellation import TaskGroup
from tppo.process.grpc_server import address, reachable
from tppo.process.listening import listener
from tppo.process.web_server import QuietlyEndingServer, server_settings
from tppo.security.authentication import Service, require_token_beyond_loopback, token_from_environment
from tppo.security.rotating_token import served_client_token
from tppo.security.tls import web_scheme

log = logging.getLogger(__name__)


def require_safe_host(config: Config) -> None:
    """Raise `ConfigError` where others could call without a token that they were given."""
    if config.endpoint.enabled:
        given = token_from_environment(Service.ENDPOINT)
        require_token_beyond_loopback(config.endpoint.host, given, key="endpoint.host")


@asynccontextmanager
async def serving_endpoint(config: Config, engine: Engine, slots: FreeSlots) -> AsyncIterator[str]:
    """Runs the server where the configuration says; gives its URL, which is empty where it is switched off."""
    section = config.endpoint
    if not section.enabled:
        yield ""
        return
    limits = _limits(config.run, section)
    prompts = PromptTokens(config.model.path, config.data.chat_template_kwargs)
    completions = Completions(engine, slots, prompts, limits, model=config.run.name)
    token = served_client_token(config.run.path, Service.ENDPOINT)
    app = await asyncio.to_thread(create_app, completions, token=token)  # FastAPI imports for it
    server = GuestServer(server_settings(app))
    with listener(section.host, section.port, key="endpoint.port") as opened:
        place = address(section.advertise_host or reachable(section.host), opened.getsockname()[1])
        url = f"{web_scheme()}://{place}/v1"
        async with TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[opened]))
            log.info("the policy answers at %s", url)
            try:
                yield url
            finally:
                server.stop()
                await asyncio.wait([serving])


def _limits(run: RunSection, section: EndpointSection) -> Limits:
    """The engine's room for a row, and the section's."""
    return Limits(run.max_prompt_length + run.max_response_length, section.max_requests, section.timeout_seconds)


class GuestServer(QuietlyEndingServer):
    """Leaves the process's signals alone: it is not what the process is for."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield

"""/metrics, for Prometheus, and /api/v1/scrape-targets, by which it finds the metrics of the other processes."""

import socket

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder

from services.dashboard.api.exposed import Scrape
from services.dashboard.api.parameters import RunName
from services.dashboard.api.problems import problems
from services.dashboard.api_model import ApiModel
from services.dashboard.history.catalog import NoSuchRunError
from services.dashboard.live.view import View, Views
from tppo.process.presence import Presence
from tppo.prometheus.exporter import ADDRESS_KEY
from tppo.security.authentication import is_loopback

FORGOTTEN_AFTER_SECONDS = 600.0
"""A process whose last heartbeat is older is no target; until then Prometheus sees that it is down."""


class ScrapeTarget(ApiModel):
    """One process, in the form of Prometheus' HTTP service discovery."""

    targets: list[str]
    """Its address, host:port."""
    labels: dict[str, str]
    """`kind`: generation, reward or learner."""


def metrics_router(views: Views, service: str) -> APIRouter:
    """The dashboard's own metrics, at its root."""
    routes = APIRouter(tags=["process"])

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """The live run, else the newest, as metrics (docs/prometheus.md)."""
        try:
            view = await views.of(None)
        except NoSuchRunError:
            view = None
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(Scrape(view, service=service)), headers={"Content-Type": content_type})

    return routes


def targets_router(views: Views) -> APIRouter:
    """The other processes' addresses."""
    routes = APIRouter(tags=["services"], responses=problems(not_found="no such run"))

    @routes.get("/scrape-targets")
    async def scrape_targets(run: RunName = None) -> list[ScrapeTarget]:
        """Where the run's processes serve their metrics, for Prometheus' `http_sd_configs`."""
        view = await views.of(run)
        known = [one for one in view.observation.presences if _is_known(view, one)]
        return [
            ScrapeTarget(targets=[address], labels={"kind": one.kind})
            for one in known
            if (address := str(one.status.get(ADDRESS_KEY) or "")) and _is_reachable(one, address)
        ]

    return routes


def _is_known(view: View, presence: Presence) -> bool:
    """While Redis does not answer, every process stays a target."""
    return bool(view.observation.error) or view.now - presence.seen_at <= FORGOTTEN_AFTER_SECONDS


def _is_reachable(presence: Presence, address: str) -> bool:
    """Not where it is the loopback of another machine: here another process may listen at that port."""
    return presence.host == socket.gethostname() or not is_loopback(address.rpartition(":")[0].strip("[]"))

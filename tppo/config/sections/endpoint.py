"""`[endpoint]`: the policy under training, for any client of OpenAI's API."""

from typing import Annotated

from pydantic import Field

from tppo.config.sections.section import Flag, Host, HostOrEmpty, Port, Seconds, Section


class EndpointSection(Section):
    """Each generator serves completions of the policy under training, by OpenAI's API; docs/endpoint.md."""

    enabled: Flag = True
    """Serve /v1/completions, /v1/chat/completions and /v1/models, to those who have the token.

    Off when nobody tries the policy while it trains.
    """
    host: Host = "127.0.0.1"
    """Address to listen on; beyond the loopback it needs TPPO_ENDPOINT_TOKEN or TPPO_TOKEN.

    To `0.0.0.0` to try the policy from other machines, behind a proxy that encrypts.
    """
    advertise_host: HostOrEmpty = ""
    """Host by which clients reach it; empty: `host`, or this machine's name where `host` is every address.

    As `generation.advertise_host`.
    """
    port: Port = 0
    """Port of the first generator; `tppo run` counts up from it. 0: any free one, which the log and the dashboard show.

    To a number of your own where clients have to find it.
    """
    max_requests: Annotated[int, Field(strict=True, ge=1, le=65536)] = 64
    """Completions that one generator holds at once, running or waiting for a slot; more are refused with status 429.
    Each prompt and each of its `n` counts. [completions]

    Up for benchmarks with many prompts at once, as `tppo eval --live` runs them.
    """
    timeout_seconds: Seconds = 600.0
    """A completion that has not ended by then is refused or cut off: training windows may take all slots. [s]

    Up for long responses of a busy generator.
    """

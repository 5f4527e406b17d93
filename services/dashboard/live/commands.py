"""Commands on their way into the run's inbox."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.dashboard.live.source import DEADLINE_SECONDS, Source

Sendable = Literal[
    "PAUSE", "RESUME", "CHECKPOINT", "STOP_AFTER_STEP", "ROLL_BACK", "RETRY_PARKED", "DROP_PARKED", "SET"
]


@dataclass(frozen=True, slots=True)
class Order:
    """A command before it is encoded."""

    command_id: str
    action: Sendable
    arguments: Mapping[str, Any]
    issued_at: float  # seconds since the epoch
    issued_by: str


Encode = Callable[[Order], bytes]
"""As a record of the inbox."""


class CommandSender:
    """Gives each command its name and puts it into the inbox."""

    def __init__(self, source: Source, encode: Encode, *, issued_by: str) -> None:
        self._source = source
        self._encode = encode
        self._issued_by = issued_by

    async def send(self, action: Sendable, arguments: Mapping[str, Any]) -> str:
        """The command's id, once Redis has it. Raises StreamsError or TimeoutError when it may not have it."""
        order = Order(uuid.uuid4().hex, action, arguments, time.time(), self._issued_by)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._source.append([self._encode(order)])
        return order.command_id

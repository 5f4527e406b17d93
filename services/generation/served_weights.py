"""Which weights the engine serves: applied in order, and awaited by the requests that need newer ones."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from services.generation.engine import Engine
from tppo.models.probe import ProbeError
from tppo.weights import WeightUpdate


@dataclass(frozen=True, order=True, slots=True)
class WeightIdentity:
    """A later incarnation of the learner replaces an earlier one, whatever their versions."""

    incarnation: int
    policy_version: int


class StaleWeightsError(Exception):
    """Older weights than those in use."""


class ServedWeights:
    """The engine's weights; one update at a time."""

    def __init__(self, engine: Engine) -> None:
        self.identity: WeightIdentity | None = None
        self.digest = ""
        self.refusal: ProbeError | None = None  # why the engine is to serve nothing
        self.on_refusal: Callable[[], None] = lambda: None
        self.while_updating: Callable[[], AbstractContextManager[None]] = nullcontext  # around each update
        self._engine = engine
        self._updating = asyncio.Lock()
        self._changed = asyncio.Condition()

    def refuse_older(self, identity: WeightIdentity) -> None:
        """Raise `StaleWeightsError` unless the weights are at least as new as those in use."""
        if self.identity is not None and identity < self.identity:
            raise StaleWeightsError(f"{identity} is older than {self.identity}, which is in use")

    async def take(self, update: WeightUpdate) -> None:
        """Bring the weights into use. ValueError: they do not fit, the old ones stay in use.

        `ProbeError`: the engine would compute wrongly with any weights, and the generator is to end.
        """
        identity = WeightIdentity(update.incarnation, update.policy_version)
        async with self._updating:
            self.refuse_older(identity)
            try:
                with self.while_updating():
                    self.digest = await self._engine.update_weights(update)
            except ProbeError as error:
                self.refusal = error
                self.on_refusal()
                raise
            self.identity = identity
        async with self._changed:
            self._changed.notify_all()

    async def at_least(self, policy_version: int) -> None:
        """Wait until the engine serves this version or a newer one."""
        if self._engine.policy_version >= policy_version:
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._engine.policy_version >= policy_version)

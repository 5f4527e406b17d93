"""Before a training step, generators on the learner's device free their memory (`placement.sleep`).

`SleepingEngines.before_step` consumes the generators with a heartbeat / waits for the answer of each, under a deadline,
and retries / unblocked by the answers, or by the end of a heartbeat / produces engines that sleep until newer weights
wake them. Until then no weights are sent: they would wake an engine in mid-step.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from learner.exchange.weight_publisher import FoundGenerator, TransferError, WeightPublisher
from tppo.process.backoff import Backoff
from tppo.streams import until_redis_answers

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.2, 5.0
logger = logging.getLogger(__name__)


class TrainedWeights(NamedTuple):
    """Those that a step is about to train."""

    run: str
    incarnation: int
    policy_version: int


LetSleep = Callable[[str, TrainedWeights], Awaitable[None]]
"""Returns when the generator at the address has freed its memory. Raises `TransferError`."""


async def nobody_sleeps(_address: str, _weights: TrainedWeights) -> None:
    """Where there are no generators."""


class GeneratorPeers(Protocol):
    """How generators are found and reached."""

    @property
    def let_sleep(self) -> LetSleep: ...

    @property
    def find_generators(self) -> Callable[[], Awaitable[Mapping[str, FoundGenerator]]]: ...


class SleepingEngines:
    """All generators of the run."""

    def __init__(self, peers: GeneratorPeers, publisher: WeightPublisher) -> None:
        self._peers, self._publisher = peers, publisher
        self.waiting_for = ""
        """Whose memory a step waits for; empty: nobody's."""

    async def before_step(self, *, is_on: bool) -> None:
        """Returns when every engine sleeps, where they are to; until weights are published none are sent."""
        if not is_on or (newest := await self._publisher.withhold()) is None:
            return
        weights = TrainedWeights(newest.run, newest.incarnation, newest.policy_version)
        asleep: set[FoundGenerator] = set()
        backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
        while awake := await self._others_than(asleep):
            self.waiting_for = f"the memory of {', '.join(sorted(awake))}"
            are_asleep = await asyncio.gather(*(self._sleeps(name, one, weights) for name, one in awake.items()))
            asleep.update(one for one, is_asleep in zip(awake.values(), are_asleep, strict=True) if is_asleep)
            if not all(are_asleep):
                await asyncio.sleep(backoff.next_delay())
        self.waiting_for = ""

    async def _others_than(self, asleep: Collection[FoundGenerator]) -> dict[str, FoundGenerator]:
        found = await until_redis_answers(self._peers.find_generators, "looking for generators")
        return {name: one for name, one in found.items() if one not in asleep}

    async def _sleeps(self, name: str, generator: FoundGenerator, weights: TrainedWeights) -> bool:
        try:
            await self._peers.let_sleep(generator.address, weights)
        except TransferError as error:
            logger.warning("the engine of %s keeps its memory: %s; retry", name, error)
            return False
        return True

"""Brings the newest weights to every generator, without making the trainer wait.

Loops:
* `_follow_generators`: consumes the list of generators that are alive / waits `DISCOVERY_SECONDS` / produces one
  sender task per generator, and ends those whose generator is gone.
* `_send_to` (one per generator): consumes `publish`ed snapshots, always the newest / waits for one that the generator
  does not have / unblocked by `publish` / produces a transfer; a failed one is retried, and the generator
  serves the weights that it has. It works on one snapshot at a time, so slow generators hold older ones: `publish`
  keeps the oldest of them, which is bound to arrive, and has the others overtaken.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from tppo.process.backoff import Backoff
from tppo.process.cancellation import TaskGroup, cancel_all
from tppo.process.event_loop import free_in_thread
from tppo.streams import until_redis_answers
from tppo.weight_probe import WeightProbe
from tppo.weights import MemoryFile
from tppo.weights.manifest import AdapterFacts, Manifest, SharedMemory
from tppo.weights.tensor_digests import digests

logger = logging.getLogger(__name__)

DISCOVERY_SECONDS = 0.5
FIRST_DELAY_SECONDS = 0.5  # between attempts at one generator
LONGEST_DELAY_SECONDS = 4.0


def new_nonce() -> str:
    """By which other processes know the memory of one copy of weights."""
    return secrets.token_hex(16)


class Snapshot:
    """The policy's weights at one version: a copy, in memory that generators on this machine can open."""

    def __init__(
        self,
        weights: MemoryFile | Mapping[str, Tensor],
        run: str,
        policy_version: int,
        *,
        incarnation: int,
        probe: WeightProbe | None = None,
        adapter: AdapterFacts | None = None,
    ) -> None:
        """The one copy of the tensors that is made, whoever is sent them; those of a file are copied already.

        `probe`: what the policy of these weights says of its rows; generators take no weights without one.
        `adapter`: where the tensors are those of adapters.
        """
        self.run, self.policy_version, self.incarnation, self.probe = run, policy_version, incarnation, probe
        self.adapter = adapter
        self.file = weights if isinstance(weights, MemoryFile) else MemoryFile.holding(weights, nonce=new_nonce())
        self.tensors: Mapping[str, Tensor] = self.file.tensors()
        free_in_thread(self, self.tensors)

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return self.file.layout.num_bytes

    @cached_property
    def manifest(self) -> Manifest:
        """With the digests, which are computed when somebody is sent the weights. Not on an event loop."""
        found = digests(self.tensors)
        place = SharedMemory(os.getpid(), self.file.number, self.file.nonce) if self.file.path else None
        return Manifest(
            run=self.run,
            incarnation=self.incarnation,
            policy_version=self.policy_version,
            digest=found.text(),
            layout=self.file.layout,
            digests=found.of_tensors,
            shared=place,
            probe=self.probe,
            adapter=self.adapter,
        )

    @property
    def digest(self) -> str:
        """Of all tensors. Not on an event loop."""
        return self.manifest.digest


@dataclass(frozen=True, slots=True)
class FoundGenerator:
    """A generator with a recent heartbeat. A restarted one has no weights, even where its address is the old one's."""

    address: str
    started_at: float


class TransferError(Exception):
    """A transfer that did not succeed; the generator serves what it served before."""

    def __init__(self, message: str, *, num_held: int = -1) -> None:
        """`num_held`: bytes of the weights that the generator said it has; -1 where it said nothing."""
        super().__init__(message)
        self.num_held = num_held


class DisprovedError(TransferError):
    """The generator has the weights, and computes otherwise than the learner; it serves nothing."""


class OvertakenError(Exception):
    """The snapshot of a transfer has been given up for a newer one."""


class Transport(Protocol):
    """A way for weights to reach a generator."""

    async def send(self, address: str, snapshot: Snapshot) -> None:
        """Returns when the generator serves the snapshot. Raises `TransferError`."""

    async def forget(self, address: str) -> None:
        """The generator there is gone, or has lost what it had."""


@dataclass(slots=True)
class GeneratorState:
    """What is known of one generator."""

    address: str
    policy_version: int = -1  # newest that it confirmed to this learner
    error: str = ""  # of the last transfer, empty when it succeeded
    started_at: float = 0.0
    num_disagreements: int = 0  # transfers after which it did not compute what the learner does

    def is_same_process_as(self, found: FoundGenerator) -> bool:
        """Whether what it confirmed still holds."""
        return (self.address, self.started_at) == (found.address, found.started_at)


@dataclass(eq=False, slots=True)
class Delivery:
    """What is under way to one generator."""

    snapshot: Snapshot | None = None  # is sent, or will be again after a pause
    transfer: "asyncio.Task[None] | None" = None

    def overtake(self) -> None:
        """Give it up."""
        self.snapshot = None
        if self.transfer is not None:
            self.transfer.cancel()


class WeightPublisher:
    """Keeps every living generator on the newest weights."""

    def __init__(
        self,
        transport: Transport,
        find_generators: Callable[[], Awaitable[Mapping[str, FoundGenerator]]],
        *,
        on_disagreement: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`find_generators`: those with a recent heartbeat, by name; `on_disagreement` is given a sentence."""
        self._transport = transport
        self._find_generators = find_generators
        self._on_disagreement = on_disagreement
        self._newest: Snapshot | None = None
        self._published = asyncio.Condition()
        self._deliveries: dict[str, Delivery] = {}
        self.generators: dict[str, GeneratorState] = {}

    async def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot the newest; returns at once."""
        async with self._published:
            self._newest = snapshot
            self._published.notify_all()
        self._overtake()

    async def withhold(self) -> Snapshot | None:
        """Send no weights to anybody until the next ones are published; the newest so far."""
        async with self._published:
            withheld, self._newest = self._newest, None
            return withheld

    async def serve(self) -> None:
        """Both loops, until cancelled."""
        async with TaskGroup() as group:
            group.create_task(self._follow_generators(group), name="following generators")

    async def _follow_generators(self, group: TaskGroup) -> None:
        senders: dict[str, asyncio.Task[None]] = {}
        while True:
            found = await until_redis_answers(self._find_generators, "looking for generators")
            for name, one in found.items():
                known = self.generators.get(name)
                if known is None or not known.is_same_process_as(one):
                    await self._end(name, senders)
                    self.generators[name] = GeneratorState(one.address, started_at=one.started_at)
                    sending = self._send_to(name, self.generators[name])
                    senders[name] = group.create_task(sending, name=f"weights to {name}")
            for name in self.generators.keys() - found.keys():
                await self._end(name, senders)
            await asyncio.sleep(DISCOVERY_SECONDS)

    async def _end(self, name: str, senders: "dict[str, asyncio.Task[None]]") -> None:
        """The process of that name is gone; another one may be at its address."""
        sender, gone = senders.pop(name, None), self.generators.pop(name, None)
        self._deliveries.pop(name, None)
        if sender is not None:
            await cancel_all([sender])
        if gone is not None and all(one.address != gone.address for one in self.generators.values()):
            await self._transport.forget(gone.address)

    async def _send_to(self, name: str, generator: GeneratorState) -> None:
        backoff = Backoff(first_seconds=FIRST_DELAY_SECONDS, longest_seconds=LONGEST_DELAY_SECONDS)
        delivery = self._deliveries[name] = Delivery()
        num_held = 0
        while True:
            is_resumed = delivery.snapshot is not None
            snapshot = delivery.snapshot or await self._newer_than(generator.policy_version)
            delivery.snapshot = snapshot
            try:
                await self._transfer(delivery, generator.address, snapshot)
            except OvertakenError:
                num_held = 0
            except TransferError as error:
                self._note(error, name, generator)
                delay_seconds = backoff.next_delay()
                version, address = snapshot.policy_version, generator.address
                logger.warning("weights %d to %s: %s; retry in %g s", version, address, error, delay_seconds)
                # Where the link breaks often, the newest weights from their beginning would never arrive.
                if not (error.num_held > num_held or (not is_resumed and error.num_held == 0)):
                    delivery.snapshot = None
                num_held = max(0, error.num_held) if delivery.snapshot else 0
                del snapshot
                await asyncio.sleep(delay_seconds)
            else:
                backoff.reset()
                num_held, delivery.snapshot = 0, None
                generator.policy_version, generator.error = snapshot.policy_version, ""

    async def _transfer(self, delivery: Delivery, address: str, snapshot: Snapshot) -> None:
        """Raises `TransferError`, and `OvertakenError`."""
        delivery.transfer = asyncio.create_task(self._transport.send(address, snapshot))
        try:
            await asyncio.wait([delivery.transfer])
            if delivery.transfer.cancelled():
                raise OvertakenError
            delivery.transfer.result()
        finally:
            await cancel_all([delivery.transfer])
            delivery.transfer = None

    def _note(self, error: TransferError, name: str, generator: GeneratorState) -> None:
        generator.error = str(error)
        if isinstance(error, DisprovedError):
            generator.num_disagreements += 1
            generator.policy_version = -1  # it has nothing that a transfer may build on
            self._on_disagreement(f"{name} disagrees with the learner: {error}")

    def _overtake(self) -> None:
        """Of the snapshots under way the oldest and the newest stay, so that few are held and each generator gets one.

        Those whose snapshot is given up go on with the newest, which then becomes the oldest of them.
        """
        under_way = [(one.snapshot.policy_version, one) for one in self._deliveries.values() if one.snapshot]
        between = sorted({version for version, _ in under_way})[1:-1]
        for version, one in under_way:
            if version in between:
                one.overtake()

    async def _newer_than(self, policy_version: int) -> Snapshot:
        async with self._published:
            await self._published.wait_for(
                lambda: self._newest is not None and self._newest.policy_version > policy_version
            )
            assert self._newest is not None
            return self._newest

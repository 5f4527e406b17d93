"""Which weights the engine serves: applied in order, proved, and awaited by the requests that need newer ones."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from services.generation.engine import Engine, EngineFailedError
from services.generation.weights.weight_proof import DisprovedWeightsError, ProofState, WeightProof, WeightVerdict
from tppo.models.probe import TOLERANCES, ProbeError, Tolerance
from tppo.process.leased_worker import HandedBackError
from tppo.rollout import Window
from tppo.weight_probe import WeightProbe
from tppo.weights import WeightUpdate

DISPROVED = "the weights in use are disproved"


@dataclass(frozen=True, order=True, slots=True)
class WeightIdentity:
    """A later incarnation of the learner replaces an earlier one, whatever their versions."""

    incarnation: int
    policy_version: int


class StaleWeightsError(Exception):
    """Older weights than those in use."""


class ServedWeights:
    """The engine's weights; one update at a time."""

    def __init__(
        self,
        engine: Engine,
        tolerance: Tolerance = TOLERANCES[torch.float32],
        *,
        crosses: bool = False,
        recomputes: bool = False,
    ) -> None:
        """`tolerance` of the types that learner and engine compute with.

        `crosses`: windows go on over an update; `recomputes`: with the KV caches that the new weights would have made.
        """
        self.identity: WeightIdentity | None = None
        self.digest = ""
        self.refusal: ProbeError | DisprovedWeightsError | None = None  # why the engine is to serve nothing
        self.failure: EngineFailedError | None = None
        self.on_refusal: Callable[[], None] = lambda: None
        self.while_updating: Callable[[], AbstractContextManager[None]] = nullcontext  # around each update
        self.while_disproved: Callable[[], AbstractContextManager[None]] = nullcontext  # until a proof
        self._disproved = ExitStack()
        self.proof = WeightProof(engine, tolerance, crosses=crosses, recomputes=recomputes)
        self._engine = engine
        self._verdict = WeightVerdict(engine.policy_version, ProofState.PROVED)
        self._fault = ""  # why the weights in use are disproved
        self._trained: WeightIdentity | None = None  # by the learner, while the engine sleeps
        self._serving: set[asyncio.Task[Any]] = set()
        self._updating = asyncio.Lock()
        self._changed = asyncio.Condition()

    @property
    def is_disproved(self) -> bool:
        """Whether the engine is known not to sample from what the learner thinks: the weights must come whole."""
        return self._verdict.state is ProofState.DISPROVED

    def status(self) -> Mapping[str, object]:
        """For the heartbeat."""
        return {
            "policy_version": self._engine.policy_version,
            "is_asleep": self._engine.is_asleep,
            "incarnation": self.identity.incarnation if self.identity else 0,
            "digest": self.digest,
            "proof": self._verdict.state.value,
            "proof_error": self._fault,
            **self.proof.status(),
        }

    def refuse_older(self, identity: WeightIdentity) -> None:
        """Raise `StaleWeightsError` unless the weights are at least as new as those in use, and not in training."""
        if self.identity is not None and identity < self.identity:
            raise StaleWeightsError(f"{identity} is older than {self.identity}, which is in use")
        if self._trained is not None and identity <= self._trained:
            raise StaleWeightsError(f"{identity}: the engine sleeps while {self._trained} is trained; expected newer")

    async def sleep(self, identity: WeightIdentity, *, keeps_weights: bool) -> None:
        """Let the engine free its memory until newer weights come. `StaleWeightsError`: there are newer ones."""
        async with self._updating:
            if self.identity is not None and identity < self.identity:
                raise StaleWeightsError(f"{identity} is older than {self.identity}, which is in use")
            with self.while_updating():
                await self._engine.sleep(keeps_weights=keeps_weights)
            self._trained = identity

    async def take(self, update: WeightUpdate, probe: WeightProbe | None = None) -> None:
        """Bring the weights into use, and prove them. ValueError: they do not fit, the old ones stay in use.

        `DisprovedWeightsError`: the engine serves nothing until they are sent again. `ProbeError`: it would compute
        wrongly with any weights. In the end the generator is to end.
        """
        identity = WeightIdentity(update.incarnation, update.policy_version)
        async with self._updating:
            self.refuse_older(identity)
            if probe is not None:
                await self.proof.begin(probe)
            try:
                await self._load(update)
                self.identity, self._trained = identity, None
                async with self._changed:
                    self._changed.notify_all()  # windows may begin, and are held back
                await self._prove(update, probe)
            finally:
                await self.proof.end()

    async def at_least(self, policy_version: int) -> None:
        """Wait until the engine serves this version or a newer one."""
        if self._serves(policy_version):
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._serves(policy_version))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Around the work on one request, which ends with `HandedBackError` once the weights are disproved."""
        if self.is_disproved:  # a request that was leased in that very moment
            raise HandedBackError(DISPROVED)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._serving or task.uncancel():
                raise
            raise HandedBackError(DISPROVED) from None
        finally:
            self._serving.discard(task)

    async def vouch_for(self, window: Window) -> None:
        """Wait for the verdict on its weights; those of a failed one are not known. Raises `HandedBackError`."""
        verdict = self._verdict
        versions = {span.policy_version for span in window.version_spans}
        if versions and verdict.policy_version not in versions:
            return
        if await verdict.wait() is not ProofState.PROVED:
            raise HandedBackError(f"the weights of version {verdict.policy_version} were not proved")

    def _serves(self, policy_version: int) -> bool:
        return self._engine.policy_version >= policy_version and not self.is_disproved

    async def _load(self, update: WeightUpdate) -> None:
        before = self._verdict
        self._replace_verdict(WeightVerdict(update.policy_version))  # windows may have their tokens from now on
        try:
            with self.while_updating():
                self.digest = await self._engine.update_weights(update)
        except ProbeError as error:
            self._disprove(error, is_final=True)
            raise
        except EngineFailedError as error:
            self.failure = error
            self.on_refusal()
            raise
        except ValueError:
            self._replace_verdict(before)
            raise

    async def _prove(self, update: WeightUpdate, probe: WeightProbe | None) -> None:
        """Where it is cancelled, the windows wait for the next update."""
        try:
            if probe is not None:
                await self.proof.require_agreement(update.policy_version, probe)
        except DisprovedWeightsError as error:
            self._disprove(error, is_final=self.proof.is_beyond_reload)
            raise
        self._verdict.settle(ProofState.PROVED)
        self._fault = ""
        self._disproved.close()

    def _replace_verdict(self, verdict: WeightVerdict) -> None:
        self._verdict.settle(ProofState.DISPROVED)  # what was not proved by now never will be
        self._verdict = verdict

    def _disprove(self, error: ProbeError | DisprovedWeightsError, *, is_final: bool) -> None:
        """Whatever is under way goes back to the queue."""
        self._verdict.settle(ProofState.DISPROVED)
        if not self._fault:
            self._disproved.enter_context(self.while_disproved())
        self._fault = str(error)
        serving, self._serving = self._serving, set()
        for task in serving:
            task.cancel()
        if is_final:
            self.refusal = error
            self.on_refusal()

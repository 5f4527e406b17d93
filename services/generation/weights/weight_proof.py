"""Whether the engine samples from what the learner thinks: its own answers to the probe of each weight update.

    handed to the engine -> UNPROVED -> PROVED
                               '------> DISPROVED -> the same or newer weights, whole -> UNPROVED ...

Windows with tokens of unproved weights are held back until the verdict. Weights that are disproved serve nothing.
"""

import asyncio
import enum
import logging
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from services.generation.engine import CrossedRow, Engine
from tppo.config.sections.placement import Placement
from tppo.models.probe import TOLERANCES, LogprobDifference, Tolerance, difference
from tppo.process.cancellation import cancel_all
from tppo.weight_probe import ProbeRow, WeightProbe

log = logging.getLogger(__name__)

PROBE_SECONDS = 600.0  # for the engine's answer; a few decode steps, and a prefill that is under way
CROSSING_ROW = 1  # of the probe: the one that the update is to meet in mid-way
MAX_RELOADS = 1  # of weights that were disproved, before the generator ends


class DisprovedWeightsError(Exception):
    """The engine does not compute what the learner does with the same weights; the text says how far they are apart."""


def looser_tolerance(*placements: Placement) -> Tolerance:
    """Of the types that the two ends compute with."""
    found = [TOLERANCES[getattr(torch, placement.compute_dtype)] for placement in placements]
    return max(found, key=lambda tolerance: tolerance.worst)


class ProofState(enum.Enum):
    """Of the weights in use; the values are shown to the user."""

    UNPROVED = "unproved"
    PROVED = "proved"
    DISPROVED = "disproved"


@dataclass(eq=False, slots=True)
class WeightVerdict:
    """On the weights that were handed to the engine at one time."""

    policy_version: int
    state: ProofState = ProofState.UNPROVED
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, state: ProofState) -> None:
        """The first verdict counts."""
        if self.state is ProofState.UNPROVED:
            self.state = state
            self._settled.set()

    async def wait(self) -> ProofState:
        """Until it is there."""
        if self.state is ProofState.UNPROVED:
            await self._settled.wait()
        return self.state


class WeightProof:
    """Probes an engine, and counts."""

    def __init__(
        self,
        engine: Engine,
        tolerance: Tolerance,
        *,
        crosses: bool,
        recomputes: bool,
        seconds: float = PROBE_SECONDS,
    ) -> None:
        """`crosses`: windows go on over an update; `recomputes`: as if the new weights had seen them from the start."""
        self._engine = engine
        self._crosses = crosses
        self._recomputes = recomputes
        self._crossing: asyncio.Task[CrossedRow] | None = None  # a row that the update meets in mid-way
        self._tolerance = tolerance
        self._seconds = seconds
        self.difference: LogprobDifference | None = None  # that the last probe found
        self.num_disagreements = 0
        self._num_in_a_row = 0

    @property
    def is_beyond_reload(self) -> bool:
        """Whether the weights were sent again and disproved again."""
        return self._num_in_a_row > MAX_RELOADS

    async def begin(self, probe: WeightProbe) -> None:
        """Before the update: hand over a row that begins under the weights in use, as the windows have that run."""
        if self._crosses and self._engine.policy_version >= 0 and not self._engine.is_asleep:
            row = min(CROSSING_ROW, len(probe.rows) - 1)
            crossing = self._engine.probe_across_update(probe.rows, row, temperature=probe.temperature)
            self._crossing = asyncio.create_task(crossing)
            await asyncio.sleep(0)  # it is in the engine's queue now

    async def end(self) -> None:
        """However the update ended."""
        crossing, self._crossing = self._crossing, None
        if crossing is not None:
            await cancel_all([crossing])

    async def require_agreement(self, policy_version: int, probe: WeightProbe) -> None:
        """Raises `DisprovedWeightsError`."""
        fault = await self._fault(policy_version, probe)
        if not fault:
            self._num_in_a_row = 0
            return
        self.num_disagreements += 1
        self._num_in_a_row += 1
        text = f"with the weights of version {policy_version} the engine {fault}"
        log.error("%s", text)
        raise DisprovedWeightsError(text)

    def status(self) -> Mapping[str, object]:
        """For the heartbeat."""
        apart = self.difference
        return {
            "probe_difference": _finite(apart.worst) if apart else 0.0,
            "probe_tolerance": self._tolerance.at(apart.size if apart else 0.0).worst,
            "num_disagreements": self.num_disagreements,
        }

    async def _fault(self, policy_version: int, probe: WeightProbe) -> str:
        """What is wrong, to follow "the engine"; empty where nothing is."""
        self.difference = None
        try:
            async with asyncio.timeout(self._seconds):
                crossed = await self._crossing if self._crossing else None
                answer = crossed.answer if crossed else None
                answer = answer or await self._engine.probe(probe.rows, temperature=probe.temperature)
        except TimeoutError:
            return f"has not answered the probe within {self._seconds:g} s"
        except ValueError as error:
            return f"cannot answer the probe: {error}"
        if answer.policy_version != policy_version:
            return f"answers the probe with those of version {answer.policy_version}"
        lengths = [[len(of_row) for of_row in rows] for rows in (answer.logprobs, probe.logprobs)]
        if lengths[0] != lengths[1]:
            return f"answers rows of {lengths[1]} tokens with {lengths[0]} log-probabilities"
        firsts = answer.num_earlier or (0,) * len(probe.rows)
        fault = self._disagreement(probe.rows, answer.logprobs, probe.logprobs, firsts)
        return fault or self._crossing_fault(policy_version, crossed)

    def _crossing_fault(self, policy_version: int, crossed: CrossedRow | None) -> str:
        """Of the row that the update met in mid-way."""
        if crossed is None:
            return ""
        if crossed.policy_version != policy_version or not crossed.num_earlier:
            log.warning("version %d met no row of the probe in mid-way; the next one may", policy_version)
            return ""
        if not self._recomputes:
            return ""
        fault = self._disagreement([crossed.row], [crossed.logprobs], [crossed.afterwards], [crossed.num_earlier])
        return f"{fault} that the update met in mid-way: it goes on with a KV cache of earlier weights" if fault else ""

    def _disagreement(
        self,
        rows: Sequence[ProbeRow],
        found: "Sequence[array[float]]",
        expected: "Sequence[array[float]]",
        firsts: Sequence[int],
    ) -> str:
        """From the first token on that the newest weights decoded in each row."""
        compared = (
            [torch.tensor(of_row)[first:] for of_row, first in zip(numbers, firsts, strict=True)]
            for numbers in (found, expected)
        )
        apart = difference(*compared)
        if self.difference is None or self.difference.worst <= apart.worst:
            self.difference = apart
        if apart.is_within(self._tolerance):
            return ""
        row, allowed = rows[apart.row], self._tolerance.at(apart.size)
        return (
            f"differs from the learner by up to {apart.worst:.3g} nats, {apart.mean:.2g} in the mean (expected at most "
            f"{allowed.worst:.3g} and {allowed.mean:.2g}), at token "
            f"{row.start + firsts[apart.row] + apart.token} of a row of {len(row.tokens)}"
        )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None

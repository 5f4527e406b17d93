"""What goes wrong with new weights on their way into an engine, whatever the engine, and what a generator makes of it.

What goes wrong inside an engine is beside the tests of that engine.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from services.generation.engine import Engine
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_proof import DisprovedWeightsError
from tests.generation.serving import ask, service_on
from tests.support.leased_worker import running
from tests.support.streams import inbox_records, memory_streams
from tppo.rollout import Window, WindowRequest
from tppo.weight_probe import WeightProbe
from tppo.weights import WeightUpdate

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
Corrupt = Callable[[Tensors, Tensors], Tensors]  # of the old and the new tensors
LAYER = "model.layers.1."
FIRST, SECOND = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight"
BIAS = f"{LAYER}mlp.down_proj.bias"
ADAPTED = ("q_proj.weight", "v_proj.weight")
HALF = 0.5


def half_of_them(old: Tensors, new: Tensors) -> Tensors:
    kept = sorted(new)[: int(len(new) * HALF)]
    return new | {name: old[name] for name in kept}


def _kept(is_kept: Callable[[str], bool]) -> Corrupt:
    """Some tensors stay those of before."""
    return lambda old, new: new | {name: tensor for name, tensor in old.items() if is_kept(name)}


TRANSFERS: dict[str, Corrupt] = {
    "two tensors swapped": lambda _, new: new | {FIRST: new[SECOND], SECOND: new[FIRST]},
    "half a transfer": half_of_them,
    "a bias missing": lambda _, new: new | {BIAS: 0 * new[BIAS]},
    "a layer left out": _kept(lambda name: name.startswith(LAYER)),
    "an adapter not applied": _kept(lambda name: name.endswith(ADAPTED)),
    "rounded to bfloat16": lambda _, new: {name: tensor.bfloat16().float() for name, tensor in new.items()},
}


def corrupted(failure: str, old: WeightUpdate, new: WeightUpdate) -> WeightUpdate:
    """The new weights, as they come where this goes wrong."""
    if failure not in TRANSFERS:
        return new
    return replace(new, tensors=TRANSFERS[failure](dict(old.tensors), dict(new.tensors)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """On an update."""

    fault: str  # empty: none
    num_posted: int  # windows, of those that need the update
    seconds: float  # from the transfer on
    worst: float  # difference, in nats

    def note(self, failure: str) -> None:
        """For the table in docs/proved-weights.md: `pytest --log-cli-level=INFO`."""
        log.info("| %s | %.2g | %.0f ms |", failure, self.worst, 1e3 * self.seconds)


async def verdict_on(
    update: WeightUpdate, probe: WeightProbe, engine: Engine, weights: ServedWeights, requests: Sequence[WindowRequest]
) -> Verdict:
    """The generator's, while requests wait that need the update."""
    streams, fault, num_posted = memory_streams(), "", len(requests)
    await ask(streams, *requests)
    async with running(service_on(streams.window_requests, engine, weights)):  # type: ignore[arg-type]
        started_at = time.perf_counter()
        try:
            await weights.take(update, probe)
            await inbox_records(streams, Window, num_posted)
        except DisprovedWeightsError as error:
            fault = str(error)
            await asyncio.sleep(0.05)  # what would be posted has been
            num_posted = await streams.inbox.length()
        seconds = time.perf_counter() - started_at
    apart = weights.proof.difference
    assert apart is not None
    return Verdict(fault, num_posted, seconds, apart.worst)

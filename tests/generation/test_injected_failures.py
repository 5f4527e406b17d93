"""Every known way in which new weights go wrong, injected into the engine: each is found before a window is posted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor

from services.generation.served_weights import ServedWeights
from services.generation.transformers_engine.sampling import Sampler
from services.generation.weight_proof import DisprovedWeightsError
from tests.generation.serving import ask, service_on
from tests.generation.tiny_models import FAST, a_decoder, a_model, a_request, an_engine, an_update, probe_of
from tests.support.leased_worker import running
from tests.support.streams import inbox_records, memory_streams
from tppo.rollout import Window
from tppo.weights import WeightUpdate

Tensors = dict[str, Tensor]
Corrupt = Callable[[Tensors, Tensors], Tensors]  # of the old and the new tensors
CONFIG = FAST["llama with biases and scaled rope"]
LAYER = "model.layers.1."
FIRST, SECOND = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
HALF = 0.5


def half_of_them(old: Tensors, new: Tensors) -> Tensors:
    kept = sorted(new)[: int(len(new) * HALF)]
    return new | {name: old[name] for name in kept}


TRANSFERS: dict[str, Corrupt] = {
    "head not updated": lambda old, new: new | {"lm_head.weight": old["lm_head.weight"]},
    "two tensors swapped": lambda _, new: new | {FIRST: new[SECOND], SECOND: new[FIRST]},
    "half a transfer": half_of_them,
    "a bias missing": lambda _, new: new | {f"{LAYER}mlp.down_proj.bias": 0 * new[f"{LAYER}mlp.down_proj.bias"]},
    "a layer left out": lambda old, new: new | {name: tensor for name, tensor in old.items() if name.startswith(LAYER)},
    "rounded to bfloat16": lambda _, new: {name: tensor.bfloat16().float() for name, tensor in new.items()},
}


def ignore_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sampler.sample

    def untempered(self: Sampler, logits: Tensor, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._temperatures = None
        return sample(self, logits, forced)

    monkeypatch.setattr(Sampler, "sample", untempered)


ENGINES = {"temperature ignored": ignore_temperature}


@pytest.mark.parametrize("failure", ["nothing", *TRANSFERS, *ENGINES])
async def test_each_failure_is_found_before_a_window_of_its_weights_is_posted(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = a_model(CONFIG), a_model(CONFIG, seed=1)
    streams = memory_streams()
    async with an_engine(CONFIG, decoder=a_decoder(CONFIG)) as engine:
        weights = ServedWeights(engine, recomputes=True)
        await weights.take(an_update(old, 0), probe_of(old))
        if failure in ENGINES:
            ENGINES[failure](monkeypatch)
        update: WeightUpdate = an_update(new, 1)
        if failure in TRANSFERS:
            update = replace(update, tensors=TRANSFERS[failure](dict(an_update(old).tensors), dict(update.tensors)))
        await ask(streams, *(a_request(str(number), min_policy_version=1, max_new_tokens=3) for number in range(3)))
        async with running(service_on(streams.window_requests, engine, weights)):  # type: ignore[arg-type]
            if failure == "nothing":
                await weights.take(update, probe_of(new))
                assert len(await inbox_records(streams, Window, 3)) == 3
                return
            with pytest.raises(DisprovedWeightsError, match="differs from the learner"):
                await weights.take(update, probe_of(new))
            await asyncio.sleep(0.05)  # what would be posted has been
            assert await streams.inbox.length() == 0

"""Every known way in which new weights go wrong, injected into our engine: each is found before a window is posted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from services.generation.transformers_engine.batch import Batch
from services.generation.transformers_engine.decoders.decoder import Switch
from services.generation.transformers_engine.decoders.llama import LlamaDecoder
from services.generation.transformers_engine.sampling import Sampler
from services.generation.update_policy import UpdatePolicy
from services.generation.weights.served_weights import ServedWeights
from tests.generation.tiny_models import FAST, a_model, a_request, an_engine, an_update, probe_of
from tests.generation.weight_failures import TRANSFERS, corrupted, verdict_on

CONFIG = FAST["llama with biases and scaled rope"]


def ignore_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sampler.sample

    def untempered(self: Sampler, logits: Tensor, forced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._temperatures = None
        return sample(self, logits, forced)

    monkeypatch.setattr(Sampler, "sample", untempered)


def keep_kv_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Batch.load

    def without_recomputing(self: Batch, switch: Switch, policy_version: int, *, recompute_cache: bool) -> None:
        load(self, switch, policy_version, recompute_cache=False)

    monkeypatch.setattr(Batch, "load", without_recomputing)


def keep_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = LlamaDecoder._switch

    def without_forgetting(self: LlamaDecoder, *parts: Any) -> object:
        prefixes = list(self._prefixes)
        replaced = switch(self, *parts)
        self._prefixes = prefixes
        return replaced

    monkeypatch.setattr(LlamaDecoder, "_switch", without_forgetting)


def keep_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    switch = LlamaDecoder._switch

    def without_the_head(self: LlamaDecoder, arranged: Any, model: Any) -> object:
        return switch(self, replace(arranged, head=self._weights.head), model)

    monkeypatch.setattr(LlamaDecoder, "_switch", without_the_head)


def lose_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM's sleep of level 2 does."""
    switch = LlamaDecoder._switch

    def without_buffers(self: LlamaDecoder, *parts: Any) -> object:
        self._rotations.zero_()
        return switch(self, *parts)

    monkeypatch.setattr(LlamaDecoder, "_switch", without_buffers)


ENGINES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the head keeps its old weights": keep_the_head,
    "temperature ignored": ignore_temperature,
    "running windows keep their KV caches": keep_kv_caches,
    "a prefix of earlier weights is shared": keep_prefixes,
    "buffers lost": lose_buffers,
}
KEPT = "a prefix of earlier weights is shared"
"""Shows where caches are kept over an update; else all that run are prefilled again."""


@pytest.mark.parametrize("failure", ["nothing", *TRANSFERS, *ENGINES])
async def test_each_failure_is_found_before_a_window_of_its_weights_is_posted(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = a_model(CONFIG), a_model(CONFIG, seed=1)
    policy = UpdatePolicy(recompute_cache=failure != KEPT)
    async with an_engine(CONFIG, policy=policy) as engine:
        weights = ServedWeights(engine, crosses=True, recomputes=policy.recompute_cache)
        await weights.take(an_update(old, 0), probe_of(old))
        if failure in ENGINES:
            ENGINES[failure](monkeypatch)
        requests = [a_request(str(number), min_policy_version=1, max_new_tokens=3) for number in range(3)]

        verdict = await verdict_on(
            corrupted(failure, an_update(old), an_update(new, 1)), probe_of(new), engine, weights, requests
        )

    verdict.note(failure)
    if failure == "nothing":
        assert (verdict.fault, verdict.num_posted) == ("", 3)
    else:
        assert "differs from the learner" in verdict.fault
        assert verdict.num_posted == 0


async def test_kv_caches_that_are_kept_on_purpose_are_no_failure() -> None:
    old, new = a_model(CONFIG), a_model(CONFIG, seed=1)
    async with an_engine(CONFIG, policy=UpdatePolicy(recompute_cache=False)) as engine:
        weights = ServedWeights(engine, crosses=True, recomputes=False)
        await weights.take(an_update(old, 0), probe_of(old))

        verdict = await verdict_on(an_update(new, 1), probe_of(new), engine, weights, [])

    assert verdict.fault == ""

"""What a generator holds while new weights come: the old ones, the new ones, and a layer besides."""

import os
import weakref
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, PreTrainedConfig

from services.generation.transformers_engine.decoders.decoder import Decoder, Free, Switch, keep
from services.generation.weights.adapter_body import MergedWeights, linear_layers
from services.generation.weights.weight_reception import DeltaReception, Reception, Receptions
from tests.generation.tiny_models import GENERAL, a_decoder, a_model
from tests.support.weights import data_of, manifest_of
from tppo.weights import MemoryFile, WeightUpdate
from tppo.weights.deltas import ChangedNumbers
from tppo.weights.manifest import Manifest

NUM_LAYERS = 8
MODEL = LlamaConfig(
    vocab_size=512,
    hidden_size=256,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=4,
    num_key_value_heads=4,
    intermediate_size=512,
    max_position_embeddings=256,
    tie_word_embeddings=False,
)
PAGES_OF_TENSOR = 2 * 4096  # that others have a part of, at both ends


def tensors_of(config: PreTrainedConfig, seed: int) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in a_model(config, seed=seed).named_parameters()}


def num_bytes(tensors: dict[str, Tensor], prefix: str = "") -> int:
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith(prefix))


def arrived(tensors: dict[str, Tensor], receptions: Receptions | None = None, **facts: Any) -> WeightUpdate:
    """By bytes."""
    receptions, manifest = receptions or Receptions(), replace(manifest_of(tensors, 2), **facts)
    reception = receptions.begin(manifest, owner=None)
    reception.add(data_of(tensors), owner=None)
    return receptions.completed(reception, owner=None)


def memory_of(update: WeightUpdate) -> int:
    assert update.file is not None
    return os.fstat(update.file.number).st_blocks * 512


def prepared(decoder: Decoder, tensors: Mapping[str, Tensor], free: Free = keep) -> tuple[Switch, int, int]:
    """The switch; and the bytes that preparing has taken: at the most, and in the end."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        switch = decoder.prepare(tensors, free)
    assert profiled.profiler is not None
    held, most = 0, 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return switch, most, held


def a_decoder_with(tensors: dict[str, Tensor], config: PreTrainedConfig = MODEL, **options: Any) -> Decoder:
    decoder = a_decoder(config, **options)
    decoder.prepare(tensors)()
    return decoder


def test_weights_that_have_arrived_shrink_as_they_are_arranged_layer_by_layer() -> None:
    decoder, tensors = a_decoder_with(tensors_of(MODEL, 0)), tensors_of(MODEL, 1)
    update, layer = arrived(tensors), num_bytes(tensors, "model.layers.0.")
    whole, freed, left = num_bytes(tensors), set[str](), list[int]()

    def free(names: Collection[str]) -> None:
        update.free(names)
        freed.update(names)
        arranged = num_bytes({name: tensors[name] for name in freed})
        left.append(memory_of(update) + arranged - whole)

    switch, most, held = prepared(decoder, update.tensors, free)

    assert len(left) == NUM_LAYERS + 2  # embedding, layers, head
    assert max(left) <= len(tensors) * PAGES_OF_TENSOR + layer // 2
    assert 0.99 * whole < held <= most <= whole + layer  # the norms are folded into other weights
    assert memory_of(update) <= len(tensors) * PAGES_OF_TENSOR
    switch()


def test_weights_of_another_type_shrink_as_they_are_converted() -> None:
    config = GENERAL["gpt-neox"]
    large = config.__class__(**{**config.to_dict(), "hidden_size": 128, "intermediate_size": 1024})
    tensors = tensors_of(large, 1)
    decoder = a_decoder_with(tensors_of(large, 0), large, dtype=torch.bfloat16)
    update = arrived(tensors)

    prepared(decoder, update.tensors, update.free)

    assert memory_of(update) <= len(tensors) * PAGES_OF_TENSOR + num_bytes(tensors) // 100


def test_weights_that_the_model_computes_with_stay_where_they_have_arrived() -> None:
    config = GENERAL["gpt-neox"]
    tensors = tensors_of(config, 1)
    update = arrived(tensors)
    decoder: Any = a_decoder_with(tensors_of(config, 0), config)

    switch, most, _ = prepared(decoder, update.tensors, update.free)
    switch()

    assert most <= num_bytes(tensors) // 10
    assert all(torch.equal(weight, tensors[name]) for name, weight in decoder.weights.items())


def test_weights_in_the_learners_memory_stay_whole() -> None:
    tensors = tensors_of(MODEL, 1)
    file = MemoryFile.holding(tensors)
    update, before = WeightUpdate.of_file(2, 0, "", file), os.fstat(file.number).st_blocks

    prepared(a_decoder_with(tensors_of(MODEL, 0)), update.tensors, update.free)

    assert os.fstat(file.number).st_blocks == before


def test_weights_that_are_kept_stay_whole_and_are_the_only_ones() -> None:
    receptions, first, second = Receptions(), tensors_of(MODEL, 0), tensors_of(MODEL, 1)
    decoder = a_decoder_with(first)

    update = arrived(first, receptions, deltas_follow=True)
    before = memory_of(update)
    prepared(decoder, update.tensors, update.free)
    assert memory_of(update) == before
    assert update.file is not None
    replaced = weakref.ref(update.file)
    del update
    manifest = replace(manifest_of(second, 3), deltas_follow=True)

    reception = receptions.begin(manifest, owner=None)

    assert replaced() is None  # before the first byte of the next ones has come
    assert reception.num_received == 0


def test_adapters_are_added_to_their_body_layer_by_layer() -> None:
    body, layers = tensors_of(MODEL, 1), list(linear_layers(MODEL).values())
    adapters = {name: torch.ones(shape) for layer in layers for name, shape in layer.shapes(2).items()}
    decoder = a_decoder_with(tensors_of(MODEL, 0))

    _, most, held = prepared(decoder, MergedWeights(body, adapters, layers, scaling=0.5))

    whole, layer = num_bytes(body), num_bytes(body, "model.layers.0.")
    assert 0.99 * whole < held <= most <= whole + 2 * layer


def test_the_base_of_a_delta_is_freed_once_the_new_weights_are_whole() -> None:
    receptions = Receptions()
    first = {"w": torch.zeros(1000), "v": torch.ones(10)}
    second = first | {"v": torch.full((10,), 2.0)}
    base = keeping(receptions, manifest_of(first, 1), first)
    numbers = ChangedNumbers(MemoryFile.holding(first), base_version=1)
    numbers.add(MemoryFile.holding(second))
    delta = numbers.encoded()
    manifest = replace(manifest_of(second, 2), delta=delta.facts, deltas_follow=True)

    reception = receptions.begin(manifest, owner=None)
    assert isinstance(reception, DeltaReception)
    reception.add(memoryview(delta.data), owner=None)
    update = receptions.completed(reception, owner=None)

    assert base() is None
    assert torch.equal(update.tensors["v"], second["v"])
    again = receptions.begin(manifest, owner=None)  # the attempt broke while the engine had not switched yet
    assert again.num_missing == 0
    assert torch.equal(receptions.completed(again, owner=None).tensors["v"], second["v"])


def keeping(receptions: Receptions, manifest: Manifest, tensors: dict[str, Tensor]) -> "weakref.ref[MemoryFile]":
    """The file in which they keep the weights."""
    manifest = replace(manifest, deltas_follow=True)
    reception = receptions.begin(manifest, owner=None)
    reception.add(data_of(tensors), owner=None)
    update = receptions.completed(reception, owner=None)
    receptions.took(manifest, update, has_arrived=True)
    assert update.file is not None
    return weakref.ref(update.file)


def test_weights_that_an_engine_may_have_begun_to_free_come_again_after_a_broken_attempt() -> None:
    receptions, tensors = Receptions(), {"w": torch.arange(8.0)}
    manifest = manifest_of(tensors)
    reception = receptions.begin(manifest, owner=None)
    reception.add(data_of(tensors), owner=None)
    receptions.completed(reception, owner=None)

    again = receptions.begin(manifest, owner=None)

    assert isinstance(again, Reception)
    assert again is not reception
    assert again.num_received == 0

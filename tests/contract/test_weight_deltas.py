"""Sparse deltas lead from any version since their base to the newest."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.weights import manifest_of
from tppo.weights import MemoryFile
from tppo.weights.deltas import BLOCK, SLICE, ChangedNumbers, EncodedDelta, applied, delta_bytes
from tppo.weights.manifest import Delta, Manifest

Tensors = dict[str, torch.Tensor]


def a_model() -> Tensors:
    return {
        "a": torch.zeros(10),
        "b": torch.zeros(4, 5, dtype=torch.bfloat16),
        "c": torch.tensor([True, False]),
        "empty": torch.zeros(0),
    }


def changed(tensors: Tensors, name: str, place: int, value: float) -> Tensors:
    copy = {key: tensor.clone() for key, tensor in tensors.items()}
    copy[name].view(-1)[place] = value
    return copy


def encoded(*versions: Tensors) -> tuple[EncodedDelta, Manifest]:
    """From the first to the last, and the manifest of the last, which is a version after it."""
    numbers = ChangedNumbers(MemoryFile.holding(versions[0]), base_version=0)
    for version in versions[1:]:
        numbers.add(MemoryFile.holding(version))
    delta = numbers.encoded()
    return delta, replace(manifest_of(versions[-1], len(versions) - 1), delta=delta.facts)


def result(base: Tensors, delta: EncodedDelta, manifest: Manifest) -> Tensors:
    return applied(MemoryFile.holding(base), manifest_of(base), manifest, memoryview(delta.data)).tensors()


def same(one: Tensors, other: Tensors) -> bool:
    return all(torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in other)


CHANGES = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9), st.sampled_from([0.0, -0.0, 1.5, float("nan")]))


@given(st.lists(st.lists(CHANGES, max_size=4), min_size=1, max_size=5))
def test_a_delta_is_right_for_every_version_since_its_base(steps: list[list[tuple[str, int, float]]]) -> None:
    versions = [a_model()]
    for step in steps:
        newest = versions[-1]
        for name, place, value in step:
            newest = changed(newest, name, place, value)
        versions.append(newest)

    delta, manifest = encoded(*versions)

    assert len(delta.data) == delta_bytes(manifest)
    for version in versions:
        assert same(result(version, delta, manifest), versions[-1])


def test_what_has_changed_and_changed_back_is_sent_to_whoever_has_the_version_between() -> None:
    first, second = a_model(), changed(a_model(), "a", 3, 1.0)

    delta, manifest = encoded(first, second, first)

    assert delta.facts == Delta(0, {"a": 1})
    assert same(result(second, delta, manifest), first)


def test_a_delta_takes_a_count_per_block_two_bytes_for_a_place_and_the_value() -> None:
    delta, _ = encoded(a_model(), changed(changed(a_model(), "a", 3, 1.0), "b", 19, 2.0))

    # a: one block, one change: 4 + 2 + 4; b: 4 + 2 + 2. 2.0 in bfloat16 is 0x4000, 1.0 in float32 is 0x3f800000.
    assert delta.data == bytes.fromhex("01000000 0300 0000803f 01000000 1300 0040")


def test_changes_in_every_slice_of_a_large_tensor_arrive() -> None:
    places = [0, BLOCK - 1, BLOCK, SLICE - 1, SLICE, 2 * SLICE + 5]
    first = {"w": torch.zeros(2 * SLICE + 6, dtype=torch.int8)}
    second = {"w": first["w"].clone()}
    second["w"][places] = 7

    delta, manifest = encoded(first, second)

    assert delta.facts.num_changed == {"w": 6}
    assert same(result(first, delta, manifest), second)


def test_weights_before_the_base_are_not_brought_to_the_newest_unnoticed() -> None:
    older = changed(a_model(), "b", 0, 9.0)
    delta, manifest = encoded(a_model(), changed(a_model(), "a", 3, 1.0))

    with pytest.raises(ValueError, match="with the delta tensor 'b' has digest"):
        result(older, delta, manifest)


def test_weights_that_differ_where_nothing_was_sent_are_noticed() -> None:
    other = changed(a_model(), "a", 4, 9.0)
    delta, manifest = encoded(a_model(), changed(a_model(), "a", 3, 1.0))

    with pytest.raises(ValueError, match="with the delta tensor 'a' has digest"):
        result(other, delta, manifest)


@given(st.binary(min_size=18, max_size=18))
def test_garbage_is_refused_or_leads_to_the_right_weights(garbage: bytes) -> None:
    delta, manifest = encoded(a_model(), changed(changed(a_model(), "a", 3, 1.0), "b", 19, 2.0))

    try:
        found = result(a_model(), replace(delta, data=garbage), manifest)
    except ValueError:
        return
    assert same(found, changed(changed(a_model(), "a", 3, 1.0), "b", 19, 2.0))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("02000000 0300 0000803f 01000000 1300 0040", "of tensor 'a' has 2 changes; expected 1"),
        ("01000000 0a00 0000803f 01000000 1300 0040", "changes number 10 of 10"),
    ],
)
def test_a_place_that_is_not_there_is_refused(data: str, complaint: str) -> None:
    delta, manifest = encoded(a_model(), changed(changed(a_model(), "a", 3, 1.0), "b", 19, 2.0))

    with pytest.raises(ValueError, match=complaint):
        result(a_model(), replace(delta, data=bytes.fromhex(data)), manifest)


@pytest.mark.parametrize("num_changed", [{"a": 0}, {"a": 11}, {"a": -1}, {"nobody": 1}, {"a": 2**40}])
def test_a_manifest_with_changes_that_there_cannot_be_is_refused(num_changed: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"the delta changes -?\d+ numbers of tensor"):
        replace(manifest_of(a_model()), delta=Delta(0, num_changed))


def test_the_share_counts_the_bytes_of_the_delta() -> None:
    numbers = ChangedNumbers(MemoryFile.holding({"w": torch.zeros(1000)}), base_version=0)
    numbers.add(MemoryFile.holding({"w": torch.cat([torch.ones(100), torch.zeros(900)])}))

    assert numbers.share == (4 + 6 * 100) / 4000

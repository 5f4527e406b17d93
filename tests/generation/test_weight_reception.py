"""Weights on their way into a generator, without a connection."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generation.weights.weight_reception import (
    DeltaReception,
    OtherTransferError,
    Reception,
    Receptions,
    WeightSource,
)
from tests.support.weights import data_of, manifest_of
from tppo.digests import ALGORITHMS
from tppo.weights import DTYPES, MemoryFile, WeightUpdate
from tppo.weights.deltas import ChangedNumbers, EncodedDelta
from tppo.weights.manifest import Manifest, SharedMemory

MODEL = {
    "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "a": torch.arange(5, dtype=torch.float32),
    "empty": torch.zeros(0, 3),
}  # 24 bytes


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Any bit patterns, NaN among them."""
    found = {}
    for name in draw(st.sets(st.text(max_size=5), max_size=4)):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES.keys() - {"bool"})))]
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        num_bytes = math.prod(shape) * dtype.itemsize
        raw = list(draw(st.binary(min_size=num_bytes, max_size=num_bytes)))
        found[name] = torch.tensor(raw, dtype=torch.uint8).view(dtype).reshape(shape)
    return found


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def add(reception: Reception | DeltaReception, data: memoryview, chunk_bytes: int = 8) -> None:
    for begin in range(0, len(data), chunk_bytes):
        reception.add(data[begin : begin + chunk_bytes], owner=reception.owner)


@given(tensors(), st.integers(1, 50))
def test_weights_arrive_bit_for_bit(sent: dict[str, torch.Tensor], chunk_bytes: int) -> None:
    reception = Reception(manifest_of(sent))
    add(reception, data_of(sent), chunk_bytes)

    received = reception.update().tensors

    assert {n: (t.dtype, t.shape, bits(t)) for n, t in received.items()} == {
        n: (t.dtype, t.shape, bits(t)) for n, t in sent.items()
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_says_whose_weights_they_are(algorithm: str) -> None:
    manifest = manifest_of(MODEL, 7, incarnation=3, algorithm=algorithm)
    reception = Reception(manifest)
    add(reception, data_of(MODEL))

    update = reception.update()

    assert (update.policy_version, update.incarnation, update.digest) == (7, 3, manifest.digest)


@given(st.lists(st.integers(0, 24), max_size=4), st.integers(1, 30))
def test_a_transfer_broken_anywhere_goes_on_where_it_ended(breaks: list[int], chunk_bytes: int) -> None:
    receptions, data = Receptions(), data_of(MODEL)

    num_sent = 0
    for place in (*sorted(breaks), len(data)):
        reception = receptions.begin(manifest_of(MODEL), owner=object())
        assert reception.num_received == num_sent
        add(reception, data[num_sent:place], chunk_bytes)
        num_sent = place

    assert all(torch.equal(tensor, MODEL[name]) for name, tensor in reception.update().tensors.items())


def test_bytes_of_other_weights_are_not_gone_on_with() -> None:
    receptions, data = Receptions(), data_of(MODEL)
    add(receptions.begin(manifest_of(MODEL), owner=None), data[:8])

    assert receptions.begin(manifest_of({**MODEL, "b": torch.ones(2)}), owner=None).num_received == 0
    assert receptions.begin(manifest_of(MODEL), owner=None).num_received == 0


def test_the_same_weights_under_a_later_version_go_on_under_it() -> None:
    receptions, data = Receptions(), data_of(MODEL)
    add(receptions.begin(manifest_of(MODEL, 3, incarnation=1), owner=None), data[:8])

    reception = receptions.begin(manifest_of(MODEL, 4, incarnation=2), owner=None)
    add(reception, data[8:])

    assert (reception.update().policy_version, reception.update().incarnation) == (4, 2)


def test_a_call_that_was_replaced_adds_nothing_more() -> None:
    receptions, first, second = Receptions(), object(), object()
    reception = receptions.begin(manifest_of(MODEL), owner=first)
    receptions.begin(manifest_of(MODEL), owner=second)

    with pytest.raises(OtherTransferError):
        reception.add(memoryview(b"x"), owner=first)
    assert reception.num_received == 0


def test_surplus_bytes_are_refused() -> None:
    reception = Reception(manifest_of(MODEL))

    with pytest.raises(ValueError, match="3 bytes too many"):
        reception.add(memoryview(bytes(27)), owner=None)


@pytest.mark.parametrize("place", [0, 19, 23])
def test_a_flipped_bit_is_found_and_names_its_tensor(place: int) -> None:
    flipped = bytearray(data_of(MODEL))
    flipped[place] ^= 1

    with pytest.raises(ValueError, match=f"tensor '{'a' if place < 20 else 'b'}' has arrived with digest"):
        add(Reception(manifest_of(MODEL)), memoryview(flipped))


def test_more_than_fits_into_memory_is_refused_before_any_is_taken() -> None:
    huge = torch.empty(2**45, device="meta")
    manifest = manifest_of({"w": torch.zeros(1)})
    layout = type(manifest.layout).of({"w": huge})

    with pytest.raises(ValueError, match="the memory that is available"):
        MemoryFile.create(layout)


def shared_by(file: MemoryFile, nonce: str = "n1") -> Manifest:
    _, _, process, _, descriptor = file.path.split("/")
    return manifest_of(MODEL, shared=SharedMemory(int(process), int(descriptor), nonce))


def test_weights_in_the_learners_memory_are_not_copied() -> None:
    file = MemoryFile.holding(MODEL, nonce="n1")

    update = Receptions().shared(shared_by(file))

    assert update is not None
    assert update.file is not None
    assert all(torch.equal(update.tensors[name], tensor) for name, tensor in MODEL.items())
    assert Path(update.file.path).stat().st_ino == Path(file.path).stat().st_ino


@pytest.mark.parametrize("nonce", ["n2", "n11"])
def test_memory_of_another_machine_is_not_taken_for_the_learners(nonce: str) -> None:
    assert Receptions().shared(shared_by(MemoryFile.holding(MODEL, nonce="n1"), nonce)) is None


def test_wrong_weights_in_the_learners_memory_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    wrong = MemoryFile.holding({**MODEL, "a": torch.ones(5)}, nonce="n1")

    assert Receptions().shared(shared_by(wrong)) is None
    assert "weights come by gRPC, as those in the learner's memory are wrong: tensor 'a'" in caplog.text


def test_a_delta_to_kept_weights_is_requested_and_goes_on_where_it_broke() -> None:
    receptions = with_kept_weights()
    second, delta = changed_model()
    manifest = replace(manifest_of(second, 2), delta=delta.facts)

    reception = receptions.begin(manifest, owner=None)
    assert reception.source is WeightSource.DELTA
    add(reception, memoryview(delta.data)[:3])
    again = receptions.begin(manifest, owner=None)
    assert again.num_received == 3
    add(again, memoryview(delta.data)[3:])

    assert all(torch.equal(tensor, second[name]) for name, tensor in again.update().tensors.items())


def changed_model() -> tuple[dict[str, torch.Tensor], EncodedDelta]:
    second = {**MODEL, "a": torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0])}
    numbers = ChangedNumbers(MemoryFile.holding(MODEL), base_version=1)
    numbers.add(MemoryFile.holding(second))
    return second, numbers.encoded()


def with_kept_weights(**changes: Any) -> Receptions:
    """Which has version 1 of the model."""
    receptions, manifest = Receptions(), replace(manifest_of(MODEL), **{"deltas_follow": True, **changes})
    reception = receptions.begin(manifest, owner=None)
    add(reception, data_of(MODEL))
    receptions.took(manifest, reception.update(), has_arrived=True)
    return receptions


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"incarnation": 3}, id="another incarnation"),
        pytest.param({"policy_version": 0}, id="a version before the base"),
        pytest.param({"policy_version": 2}, id="no older version"),
        pytest.param({"deltas_follow": False}, id="not kept"),
    ],
)
def test_all_bytes_are_requested_where_the_delta_does_not_fit(changes: dict[str, Any]) -> None:
    receptions = with_kept_weights(**changes)
    second, delta = changed_model()

    reception = receptions.begin(replace(manifest_of(second, 2), delta=delta.facts), owner=None)

    assert reception.source is WeightSource.WHOLE


def test_what_lies_in_the_learners_memory_is_not_kept() -> None:
    receptions, manifest = Receptions(), replace(manifest_of(MODEL), deltas_follow=True)
    receptions.took(manifest, WeightUpdate(1, 0, "", {}, MemoryFile.holding(MODEL)), has_arrived=False)
    second, delta = changed_model()

    reception = receptions.begin(replace(manifest_of(second, 2), delta=delta.facts), owner=None)

    assert reception.source is WeightSource.WHOLE

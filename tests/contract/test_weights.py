"""Digests of weights, and the messages of a transfer."""

import contextlib
import hashlib
import math
import struct
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.weights import chunks_of, data_of, manifest_of
from tppo.digests import ALGORITHM, algorithm_of
from tppo.v1 import generation_pb2 as pb
from tppo.weights import HASHED_BYTES, TensorLayout, byte_parts, digest
from tppo.weights.manifest import AdapterFacts, Manifest, SharedMemory
from tppo.weights.messages import chunk_message, manifest_message, parsed


def a_model() -> dict[str, torch.Tensor]:
    """24 bytes."""
    return {"b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "a": torch.arange(5, dtype=torch.float32)}


def test_the_digest_is_over_name_dtype_shape_and_digest_of_each_tensor() -> None:
    of_bytes = hashlib.sha256(struct.pack("<2f", 0.5, 2.0)).hexdigest()
    expected = hashlib.sha256(f"'w' float32 [1, 2] {of_bytes}\n".encode()).hexdigest()

    assert digest({"w": torch.tensor([[0.5, 2.0]])}, "sha256") == f"sha256:{expected}"


def test_a_new_digest_is_by_blake3_where_it_is_installed() -> None:
    pytest.importorskip("blake3")

    assert algorithm_of(digest(a_model())) == ALGORITHM == "blake3"


def test_the_digest_of_a_large_tensor_is_that_of_its_parts_together() -> None:
    large = torch.arange(HASHED_BYTES // 4 + 5, dtype=torch.float32)

    assert b"".join(byte_parts(large)) == large.numpy().tobytes()
    assert [len(part) for part in byte_parts(large)] == [HASHED_BYTES, 20]


def test_the_digest_does_not_depend_on_the_order_or_the_layout() -> None:
    matrix = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    strided = matrix.t().contiguous().t()

    assert digest({"m": matrix, "v": torch.ones(1)}) == digest({"v": torch.ones(1), "m": strided})


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"x": torch.zeros(4)}, id="name"),
        pytest.param({"w": torch.zeros(4, dtype=torch.int32)}, id="dtype"),
        pytest.param({"w": torch.zeros(2, 2)}, id="shape"),
        pytest.param({"w": torch.tensor([0.0, 0.0, 0.0, -0.0])}, id="one bit"),
        pytest.param({"w": torch.zeros(4), "x": torch.zeros(0)}, id="an empty tensor more"),
    ],
)
def test_the_digest_differs_for(other: dict[str, torch.Tensor]) -> None:
    assert digest(other) != digest({"w": torch.zeros(4)})


def test_a_manifest_survives_the_wire() -> None:
    sent = manifest_of(a_model(), 7, incarnation=3, shared=SharedMemory(12, 34, "n1"))

    received = parsed(manifest_message(sent))

    assert isinstance(received, Manifest)
    assert (received.run, received.incarnation, received.policy_version) == ("mine", 3, 7)
    assert (received.digest, received.digests) == (sent.digest, sent.digests)
    assert received.digest == digest(a_model())
    assert received.layout.tensors == sent.layout.tensors
    assert received.shared == SharedMemory(12, 34, "n1")
    assert received.shared.path == "/proc/12/fd/34"
    assert received.adapter is None


def test_what_adapters_stand_on_survives_the_wire() -> None:
    facts = AdapterFacts("blake3:ab", 0.5)

    received = parsed(manifest_message(replace(manifest_of(a_model()), adapter=facts)))

    assert isinstance(received, Manifest)
    assert received.adapter == facts


@pytest.mark.parametrize("scaling", [0.0, -1.0, math.inf, math.nan])
def test_adapters_that_would_add_nothing_finite_are_refused(scaling: float) -> None:
    facts = AdapterFacts("blake3:ab", scaling)

    with pytest.raises(ValueError, match=r"the manifest's adapters are multiplied by .*; expected a number above 0"):
        parsed(manifest_message(replace(manifest_of(a_model()), adapter=facts)))


def test_the_widest_types_come_first_and_chunks_are_full_but_the_last() -> None:
    model = {"c": torch.tensor([True]), **a_model()}

    assert [one.name for one in TensorLayout.of(model).tensors] == ["a", "b", "c"]
    chunks = [parsed(message) for message in chunks_of(data_of(model), 9)]
    assert all(isinstance(chunk, memoryview) for chunk in chunks)
    assert [len(chunk) for chunk in chunks if isinstance(chunk, memoryview)] == [9, 9, 7]
    # bfloat16 is the upper half of a float32: 1.5 is 0x3fc0, -2.0 is 0xc000.
    sent = b"".join(chunk for chunk in chunks if isinstance(chunk, memoryview))
    assert sent == struct.pack("<5f", 0, 1, 2, 3, 4) + bytes.fromhex("c03f00c0") + b"\x01"


@given(st.integers(1, 300) | st.integers(16_000, 17_000))
def test_a_chunks_message_is_protobufs_own_encoding(num_bytes: int) -> None:
    content = bytes(index % 251 for index in range(num_bytes))

    message = chunk_message(memoryview(content))

    assert message == pb.UpdateWeightsRequest(chunk=content).SerializeToString()
    chunk = parsed(message)
    assert isinstance(chunk, memoryview)
    assert bytes(chunk) == content


def test_trainable_parameters_are_sent_as_they_are() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    assert bytes(data_of({"p": parameter})) == struct.pack("<2f", 1, 2)


def a_manifest(**changes: Any) -> bytes:
    message = pb.UpdateWeightsRequest.FromString(manifest_message(manifest_of(a_model())))
    for key, value in changes.items():
        setattr(message.manifest, key, value)
    return message.SerializeToString()


def with_specs(*specs: pb.TensorSpec) -> bytes:
    manifest = pb.WeightManifest(digest="sha256:00", tensors=specs)
    return pb.UpdateWeightsRequest(manifest=manifest).SerializeToString()


@pytest.mark.parametrize("unknown", ["md5:0cc1", "0cc1", ":0cc1", ""])
def test_a_digest_of_an_unknown_algorithm_is_refused_at_the_manifest(unknown: str) -> None:
    with pytest.raises(ValueError, match=r"expected one that begins with .*sha256:, which are installed here"):
        parsed(a_manifest(digest=unknown))


def test_a_manifest_whose_digest_is_not_that_of_its_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected sha256:[0-9a-f]{64}, that of its tensors"):
        parsed(a_manifest(digest="sha256:00"))


@pytest.mark.parametrize(
    ("specs", "complaint"),
    [
        pytest.param([pb.TensorSpec(name="w", dtype="complex64")], "dtype 'complex64'", id="dtype"),
        pytest.param([pb.TensorSpec(name="w", dtype="float32", shape=[-1])], "no negative size", id="shape"),
        pytest.param([pb.TensorSpec(name="w", dtype="float32")] * 2, "twice", id="duplicate"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(specs: list[pb.TensorSpec], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parsed(with_specs(*specs))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"", "neither a manifest nor a chunk"),
        (b"\x0a", "are no tppo.v1.UpdateWeightsRequest"),
        (b"\x12", "says it has 0 bytes; its message has 1"),
        (b"\x12\x05abc", "says it has 5 bytes; its message has 5"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff", "its message has 8"),
    ],
)
def test_bytes_that_are_no_message_are_refused(message: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parsed(message)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(message: bytes) -> None:
    with contextlib.suppress(ValueError):
        parsed(message)


def test_a_dtype_that_cannot_be_sent_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="complex64"):
        manifest_of({"w": torch.zeros(1, dtype=torch.complex64)})

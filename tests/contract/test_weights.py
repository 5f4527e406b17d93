import hashlib
import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tppo.digests import ALGORITHM, ALGORITHMS, algorithm_of
from tppo.v1 import generation_pb2 as pb
from tppo.weights import DTYPES, HASHED_BYTES, WeightUpdate, byte_parts, digest
from tppo.weights.messages import WeightAssembler, to_messages

SHAPES = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Any bit patterns, NaN among them."""
    found = {}
    for name in draw(st.sets(st.text(max_size=5), max_size=4)):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES.keys() - {"bool"})))]
        shape = draw(SHAPES)
        num_bytes = math.prod(shape) * dtype.itemsize
        raw = list(draw(st.binary(min_size=num_bytes, max_size=num_bytes)))
        found[name] = torch.tensor(raw, dtype=torch.uint8).view(dtype).reshape(shape)
    return found


def messages(found: dict[str, torch.Tensor], chunk_bytes: int = 8) -> list[pb.UpdateWeightsRequest]:
    return list(to_messages(found, run="r", policy_version=7, incarnation=3, chunk_bytes=chunk_bytes))


def assembled(parts: list[pb.UpdateWeightsRequest]) -> WeightUpdate:
    assembler = WeightAssembler()
    for part in parts:
        assembler.feed(part)
    return assembler.finish()


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.reshape(-1).view(torch.uint8).tolist()


def a_model() -> dict[str, torch.Tensor]:
    """24 bytes."""
    return {"b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "a": torch.arange(5, dtype=torch.float32)}


@given(tensors(), st.integers(1, 50))
def test_weights_survive_the_wire_bit_for_bit(sent: dict[str, torch.Tensor], chunk_bytes: int) -> None:
    received = assembled(messages(sent, chunk_bytes)).tensors

    assert {n: (t.dtype, t.shape, bits(t)) for n, t in received.items()} == {
        n: (t.dtype, t.shape, bits(t)) for n, t in sent.items()
    }


def test_an_update_says_whose_weights_they_are() -> None:
    update = assembled(messages(a_model()))

    assert (update.policy_version, update.incarnation) == (7, 3)
    assert update.digest == digest(a_model())


def test_the_manifest_comes_first_and_chunks_are_full_but_the_last() -> None:
    first, *chunks = messages(a_model(), chunk_bytes=9)

    assert [(spec.name, spec.dtype, list(spec.shape)) for spec in first.manifest.tensors] == [
        ("a", "float32", [5]),
        ("b", "bfloat16", [2]),
    ]
    assert first.manifest.run == "r"
    assert [len(message.chunk) for message in chunks] == [9, 9, 6]
    # bfloat16 is the upper half of a float32: 1.5 is 0x3fc0, -2.0 is 0xc000.
    sent = b"".join(message.chunk for message in chunks)
    assert sent == struct.pack("<5f", 0, 1, 2, 3, 4) + bytes.fromhex("c03f00c0")


def test_the_digest_is_over_name_dtype_shape_and_digest_of_each_tensor() -> None:
    of_bytes = hashlib.sha256(struct.pack("<2f", 0.5, 2.0)).hexdigest()
    expected = hashlib.sha256(f"'w' float32 [1, 2] {of_bytes}\n".encode()).hexdigest()

    assert digest({"w": torch.tensor([[0.5, 2.0]])}, "sha256") == f"sha256:{expected}"


def test_a_new_digest_is_by_blake3_where_it_is_installed() -> None:
    pytest.importorskip("blake3")

    assert algorithm_of(digest(a_model())) == ALGORITHM == "blake3"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_transfer_is_verified_by_the_algorithm_that_its_digest_names(algorithm: str) -> None:
    sent = to_messages(a_model(), run="r", policy_version=7, incarnation=3, known_digest=digest(a_model(), algorithm))

    assert assembled(list(sent)).digest == digest(a_model(), algorithm)


@pytest.mark.parametrize("unknown", ["md5:0cc1", "0cc1", ":0cc1", ""])
def test_a_digest_of_an_unknown_algorithm_is_refused_at_the_manifest(unknown: str) -> None:
    manifest = pb.WeightManifest(digest=unknown)

    with pytest.raises(ValueError, match=r"expected one that begins with .*sha256:, which are installed here"):
        WeightAssembler().feed(pb.UpdateWeightsRequest(manifest=manifest))


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


def test_trainable_parameters_are_sent_as_they_are() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    assert assembled(messages({"p": parameter})).tensors["p"].tolist() == [1.0, 2.0]


def test_a_known_digest_is_not_computed_again() -> None:
    first = next(to_messages(a_model(), run="r", policy_version=0, incarnation=0, known_digest="given"))

    assert first.manifest.digest == "given"


def test_a_chunk_before_the_manifest_is_refused() -> None:
    with pytest.raises(ValueError, match="before its manifest"):
        assembled(messages(a_model())[1:])


def test_a_second_manifest_is_refused() -> None:
    first, *chunks = messages(a_model())

    with pytest.raises(ValueError, match="second manifest"):
        assembled([first, first, *chunks])


def test_missing_bytes_are_refused() -> None:
    # 24 bytes in chunks of 10: the last has 4.
    with pytest.raises(ValueError, match="4 bytes short"):
        assembled(messages(a_model(), chunk_bytes=10)[:-1])


def test_surplus_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes too many"):
        assembled([*messages(a_model()), pb.UpdateWeightsRequest(chunk=b"abc")])


def test_a_transfer_without_a_manifest_is_refused() -> None:
    with pytest.raises(ValueError, match="ended before its manifest"):
        assembled([])


def test_an_empty_message_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a manifest nor a chunk"):
        assembled([pb.UpdateWeightsRequest()])


def test_a_flipped_bit_is_found() -> None:
    *parts, last = messages(a_model())
    flipped = bytes([last.chunk[0] ^ 1]) + last.chunk[1:]

    with pytest.raises(ValueError, match="digest"):
        assembled([*parts, pb.UpdateWeightsRequest(chunk=flipped)])


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
        assembled([pb.UpdateWeightsRequest(manifest=pb.WeightManifest(tensors=specs))])


def test_a_dtype_that_cannot_be_sent_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="complex64"):
        messages({"w": torch.zeros(1, dtype=torch.complex64)})

"""The formulas of memory against numbers that were measured on real shapes, and by hand."""

from dataclasses import replace

import pytest

from tppo.models.memory_estimate import (
    MEBIBYTE,
    Checkpointing,
    ModelShape,
    Training,
    activation_bytes,
    logits_bytes,
    logits_per_chunk,
    resident_bytes,
    update_bytes,
)

QWEN = {  # Qwen2.5, and what was measured: MiB of saved activations for each token, in bfloat16
    "0.5B": (ModelShape(494_032_768, 24, 896, 4864, 896, 128, 151_936), 1.36),
    "1.5B": (ModelShape(1_543_714_304, 28, 1536, 8960, 1536, 256, 151_936), 2.86),
    "7B": (ModelShape(7_615_616_512, 28, 3584, 18_944, 3584, 512, 152_064), 6.24),
    "32B": (ModelShape(32_763_876_352, 64, 5120, 27_648, 5120, 1024, 152_064), 20.7),
}


def of_a_token(shape: ModelShape, checkpointing: Checkpointing) -> float:
    return activation_bytes(shape, Training(2, 1, checkpointing)) / MEBIBYTE


@pytest.mark.parametrize("name", QWEN)
def test_the_activations_of_a_token_are_those_that_were_measured(name: str) -> None:
    shape, measured = QWEN[name]

    assert of_a_token(shape, "off") == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("name", QWEN)
def test_full_checkpointing_leaves_a_sixth_at_most_and_selective_about_half(name: str) -> None:
    shape, measured = QWEN[name]

    assert of_a_token(shape, "full") < measured / 6
    assert measured / 3 < of_a_token(shape, "selective") < measured * 0.6


def test_masters_their_cast_and_moments_take_fourteen_bytes_a_parameter() -> None:
    shape, _ = QWEN["1.5B"]

    assert sum(resident_bytes(shape, Training(2, 1, "off")).values()) == 14 * shape.num_parameters
    assert sum(resident_bytes(shape, Training(4, 1, "off")).values()) == 12 * shape.num_parameters


def test_the_memory_of_logits_grows_no_further_than_a_chunk() -> None:
    shape, _ = QWEN["1.5B"]

    small, large = (logits_bytes(shape, Training(2, number, "off")) for number in (4096, 65_536))

    # Two tensors of 2**26 float32 logits, and the gradient of the head.
    assert small == large == 2 * 4 * 2**26 + 4 * 151_936 * 1536


def test_an_accelerators_chunk_is_a_share_of_its_memory_and_never_smaller_than_the_cpus() -> None:
    assert logits_per_chunk(80 * 2**30) == 80 * 2**30 // 64 // 4
    assert logits_per_chunk(2**30) == logits_per_chunk(None) == 2**26


def test_processes_share_weights_moments_and_gradients_and_gather_a_block_at_a_time() -> None:
    shape = ModelShape(1000, 4, hidden=10, intermediate=20, queries=10, keys=10, vocabulary=30)
    alone, shared = Training(2, 1, "off"), Training(2, 1, "off", num_processes=8)
    outside, block = 2 * 30 * 10, (1000 - 600) // 4

    assert resident_bytes(shape, shared) == {"weights": 4 * 125, "moments": 8 * 125}
    update = update_bytes(shape, shared, has_logits=False)
    assert update["gradients"] == 4 * 125
    assert update["gathered"] == 2 * (outside + 2 * block) + (2 + 4) * outside
    assert "gathered" not in update_bytes(shape, alone, has_logits=False)


def test_processes_that_share_tokens_divide_activations_and_logits() -> None:
    shape = ModelShape(1000, 4, hidden=10, intermediate=20, queries=10, keys=10, vocabulary=30)
    alone, shared = (Training(4, 9, "off", num_processes=4, sequence_size=size) for size in (1, 2))
    of_a_token = 4 * (4 * 20 + 3 * 10 + 2 * 10) + 24 * 10

    assert activation_bytes(shape, alone) == 9 * 4 * of_a_token
    assert activation_bytes(shape, shared) == 5 * 4 * of_a_token
    assert logits_bytes(shape, shared) == 3 * 4 * 5 * 30
    assert resident_bytes(shape, shared) == resident_bytes(shape, alone)


def test_adapters_alone_have_masters_moments_and_gradients() -> None:
    shape = ModelShape(1000, 4, hidden=10, intermediate=20, queries=10, keys=10, vocabulary=30)
    training = Training(2, 1, "off", num_adapted=50)

    assert resident_bytes(shape, training) == {"weights": 2 * 1000 + 4 * 50, "moments": 8 * 50}
    assert update_bytes(shape, training, has_logits=False)["gradients"] == 4 * 50
    on_another = replace(training, has_own_body=False, num_processes=2)
    assert resident_bytes(shape, on_another) == {"weights": 4 * 50, "moments": 8 * 50}

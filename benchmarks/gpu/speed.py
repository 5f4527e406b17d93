"""Peak memory of a training step against the estimate, and how fast its two updates are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.attention import seconds_of
from benchmarks.gpu.findings import Finding, judged, missing
from benchmarks.gpu.subject import Learner, Networks, Sizes, random_rows
from learner.step.estimation.experience import Sampled, gather
from tests.learner.models.live_bytes import LiveBytes
from tppo.models.device import device_bytes
from tppo.models.memory_estimate import MEBIBYTE, ModelShape, Training, resident_bytes, update_bytes

MAX_RELATIVE = 0.25
REPETITIONS = 3
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Of dense bfloat16 products, as the makers state them; in the order in which a device's name is searched."""


def of_a_step(sizes: Sizes, device: str, *, peak_tflops: float | None) -> Iterator[Finding]:
    """With both models and their moments on the device."""
    sampled = gather(random_rows(sizes))
    with _peak_bytes(device) as peak:
        learner = Learner(Networks.random(sizes, device), sizes, torch.bfloat16)
        estimates = learner.estimates(sampled)
        for _ in range(2):  # the second finds the moments of the first
            learner.update_value_model(sampled, estimates)
            learner.update_policy(sampled, estimates)
        measured = peak()
    yield _memory(learner, measured)
    peak_flops = _peak_flops(learner.policy.network.device, peak_tflops)
    updates: dict[str, Callable[[], object]] = {
        "policy": lambda: learner.update_policy(sampled, estimates),
        "value model": lambda: learner.update_value_model(sampled, estimates),
    }
    for model, update in updates.items():
        yield _speed(model, update, learner, sampled, peak_flops)
    if peak_flops is None:
        yield missing("speed", "MFU", f"no peak is known of {_device_name(device)}; give --peak-tflops")


def _memory(learner: Learner, measured: int) -> Finding:
    estimated = _estimated(learner)
    numbers = {
        "measured MiB": measured / MEBIBYTE,
        "estimated MiB": estimated / MEBIBYTE,
        "apart": abs(measured - estimated) / estimated,
    }
    return judged("memory", "peak of a step in bfloat16", numbers, at_most={"apart": MAX_RELATIVE})


def _estimated(learner: Learner) -> int:
    shape = _shape(learner)
    training = Training(2, learner.sizes.max_tokens, "off", device_bytes(learner.policy.network.device))
    resident = [*resident_bytes(shape, training).values(), *resident_bytes(shape.body(), training).values()]
    return sum(resident) + sum(update_bytes(shape, training, has_logits=True).values())


def _shape(learner: Learner) -> ModelShape:
    return ModelShape.of(learner.policy.network.config, learner.policy.network.num_parameters())


def _speed(
    model: str, update: Callable[[], object], learner: Learner, sampled: Sampled, peak_flops: float | None
) -> Finding:
    rows = range(sampled.num_rows) if model == "policy" else torch.nonzero(sampled.is_finished).flatten().tolist()
    lengths = [len(sampled.token_ids[row]) for row in rows]
    seconds = seconds_of(update, learner.policy.network.device, REPETITIONS)
    selected = int(sampled.response_mask.sum()) if model == "policy" else 0
    flops = model_flops(_shape(learner), lengths, selected) / seconds
    numbers = {"tokens per second": sum(lengths) / seconds, "seconds": seconds, "TFLOP/s": flops / 1e12}
    if peak_flops is not None:
        numbers["MFU"] = flops / peak_flops
    return Finding("speed", f"update of the {model} in bfloat16", "measured", numbers)


def model_flops(shape: ModelShape, lengths: list[int], num_selected: int) -> float:
    """Of a forward and a backward pass: 6 for each weight of a product and token, and causal attention's.

    The head counts for the selected tokens alone; what is computed a second time counts once.
    """
    of_embedding = shape.vocabulary * shape.hidden
    body = shape.num_parameters - of_embedding * (1 if shape.has_tied_head else 2)
    attention = 6 * shape.num_blocks * shape.queries * sum(length**2 for length in lengths)
    return float(6 * body * sum(lengths) + attention + 6 * of_embedding * num_selected)


def _peak_flops(device: torch.device, given: float | None) -> float | None:
    name = _device_name(str(device))
    known = next((tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)
    tflops = given or known
    return None if tflops is None else tflops * 1e12


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


@contextmanager
def _peak_bytes(device: str) -> Iterator[Callable[[], int]]:
    """Of the tensors that are made within, at the worst moment."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    live = LiveBytes()
    with live:
        yield lambda: live.peak

"""The probe of every start, over tiny models of several families: packed and alone against a plain forward pass."""

from collections.abc import Iterator

import torch
from transformers import CONFIG_MAPPING

from benchmarks.gpu.findings import Finding, judged, missing
from learner.models.loading.agreement import require_agreement
from learner.models.loading.loading import policy_from_network
from tools.tiny_families import FAMILIES, tiny_model
from tppo.models.probe import TOLERANCES, ProbeError

PART = "probe"
DTYPES = (torch.float32, torch.bfloat16)
CHECKED = ("qwen2", "llama", "qwen3", "gemma2", "gemma3_text", "gpt_oss", "mistral", "mixtral", "bloom", "gpt2", "phi")


def families(device: str, *, is_tiny: bool) -> Iterator[Finding]:
    """In each type that a learner computes in."""
    for name in CHECKED[:4] if is_tiny else CHECKED:
        for dtype in DTYPES:
            yield _of_family(name, device, dtype)


def _of_family(name: str, device: str, dtype: torch.dtype) -> Finding:
    subject = f"{name} in {str(dtype).removeprefix('torch.')}"
    if FAMILIES[name].model_type not in CONFIG_MAPPING:
        return missing(PART, subject, "this version of transformers does not have the family")
    policy = policy_from_network(tiny_model(name).to(device), compute_dtype=dtype)
    note = "rows packed" if policy.packs_rows else "rows one by one"
    try:
        apart = require_agreement(policy)
    except ProbeError as error:
        return Finding(PART, subject, "failed", note=str(error))
    limits = {"worst nats": TOLERANCES[dtype].worst, "mean nats": TOLERANCES[dtype].mean}
    return judged(PART, subject, {"worst nats": apart.worst, "mean nats": apart.mean}, at_most=limits, note=note)

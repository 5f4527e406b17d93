"""Models of families of each kind whose tokens two ranks share, beside transformers' plain forward pass."""

import torch

from learner.models.loading.inspection import why_not_dividable
from learner.models.loading.loading import policy_from_network
from learner.models.passes.outputs import row_logprobs
from learner.models.passes.packing import TokenRow
from learner.parallel.group import Group
from tools.tiny_families import VOCABULARY, tiny_config, tiny_model
from tppo.models.probe import ProbeError, difference, plain_logprobs
from tppo.weight_probe import ProbeRow

LENGTHS = (23, 3, 18, 9)
DIVIDED = (
    *("llama", "smollm3", "mistral", "gemma2", "gemma3_text", "phi", "gpt_oss", "qwen3_moe", "deepseek_v3", "gpt2"),
    *("cohere2", "diffllama"),
)
REFUSED_WHEN_TRIED = ("phimoe", "nemotron")
REFUSED_AT_ONCE = ("mamba", "jamba", "qwen3_next", "bloom", "llama4_text", "lfm2", "rwkv", "gpt_neo")
KINDS = (*DIVIDED, *REFUSED_WHEN_TRIED, *REFUSED_AT_ONCE)


def divided_families(group: Group) -> dict[str, float | None]:
    """By how many nats log-probabilities differ at most, of each family that preflight lets pass; None: refused."""
    layout = Group.joined(group.device, sequence_size=group.size)
    return {name: worst_nats(name, layout) for name in KINDS if not why_not_dividable(tiny_config(name), group.size)}


def worst_nats(name: str, group: Group) -> float | None:
    """Of rows that two ranks cut."""
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    model = tiny_model(name)
    expected = plain_logprobs(model, [ProbeRow.of(row, num_compared=len(row)) for row in rows])
    try:
        policy = policy_from_network(model, group=group)
    except ProbeError:
        return None
    found = row_logprobs(policy, [TokenRow(row, start=1) for row in rows], max_tokens=sum(LENGTHS))
    return difference(found, expected).worst

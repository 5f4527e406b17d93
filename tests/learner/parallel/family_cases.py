"""Models of many families whose tokens two ranks have between them, beside transformers' plain forward pass."""

import torch

from learner.models.loading.inspection import why_not_dividable
from learner.models.loading.loading import policy_from_network
from learner.models.passes.outputs import row_logprobs
from learner.models.passes.packing import TokenRow
from learner.parallel.group import Group
from tools.tiny_families import FAMILIES, VOCABULARY, tiny_config, tiny_model
from tppo.models.probe import ProbeError, difference, plain_logprobs
from tppo.weight_probe import ProbeRow

LENGTHS = (23, 3, 18, 9)


def divided_families(group: Group) -> dict[str, float | None]:
    """By how many nats log-probabilities differ at most, of each family that preflight lets pass; None: refused."""
    layout = Group.joined(group.device, sequence_size=group.size)
    return {name: worst_nats(name, layout) for name in FAMILIES if not why_not_dividable(tiny_config(name), group.size)}


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

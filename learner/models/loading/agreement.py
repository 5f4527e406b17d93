"""The learner's log-probabilities on rows of a probe: whether they are transformers', and what engines must find."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from learner.models.passes.outputs import Policy, row_logprobs
from learner.models.passes.packing import TokenRow
from tppo.models import probe
from tppo.rollout import logprobs
from tppo.weight_probe import ProbeRow, WeightProbe


@torch.no_grad()
def require_agreement(policy: Policy) -> probe.LogprobDifference:
    """The largest difference, of rows packed and alone. Raises `ProbeError` beyond the tolerance of the dtype."""
    network: Any = policy.network
    rows, compute_dtype = probe.rows_for(network), policy.weights.compute_dtype
    with plain_attention(network):
        policy.weights.run(lambda: _require_causal(network, rows[0], compute_dtype))
        expected = policy.weights.run(lambda: _plain_logprobs(network, rows))
    sampled = replace(policy, temperature=1.0)
    token_rows = [TokenRow(row.tokens, row.start) for row in rows]
    found = {}
    for how, max_tokens in (("rows packed", sum(len(row.tokens) for row in rows)), ("rows alone", 1)):
        found[how] = row_logprobs(sampled, token_rows, max_tokens=max_tokens)
    apart = [
        probe.require_agreement(logprobs, rows, expected, dtype=compute_dtype, who=f"the learner ({how})")
        for how, logprobs in found.items()
    ]
    return max(apart, key=lambda one: one.worst)


def weight_probe(
    policy: Policy, rows: Sequence[ProbeRow], *, max_tokens: int, frees_cache: bool = False
) -> WeightProbe:
    """What the policy says of the rows, with the very weights that it computes with and that generators are sent.

    `frees_cache`: an engine on the same device may wake with these weights, and needs the memory that torch has kept.
    """
    temperature = policy.temperature or 1.0  # as engines report greedy tokens
    sampled = replace(policy, temperature=temperature)
    found = row_logprobs(sampled, [TokenRow(row.tokens, row.start) for row in rows], max_tokens=max_tokens)
    if frees_cache:
        torch.cuda.empty_cache()
    return WeightProbe(tuple(rows), tuple(logprobs(of_row.tolist()) for of_row in found), temperature)


@torch.no_grad()
def require_runnable(network: Any) -> None:
    """Raise `ProbeError` where transformers' own forward pass of the family fails."""
    _plain_logprobs(network, probe.rows_for(network)[:1])


def _plain_logprobs(network: Any, rows: Sequence[ProbeRow]) -> list[Tensor]:
    try:
        return probe.plain_logprobs(network, rows)
    except Exception as error:  # whatever the family's code raises
        advice = "" if network.dtype == torch.float32 else "; expected compute_dtype = 'float32', in which it may not"
        of_type = f"{type(network).__name__} in {str(network.dtype).removeprefix('torch.')}"
        raise probe.ProbeError(f"transformers' forward pass of {of_type} fails: {error}{advice}") from error


@contextmanager
def plain_attention(network: Any) -> Iterator[None]:
    """Within, the network attends as transformers chooses by itself."""
    ours = network.config._attn_implementation
    network.set_attn_implementation(network.get_correct_attn_implementation(None))
    try:
        yield
    finally:
        network.set_attn_implementation(ours)


def _require_causal(network: Any, row: ProbeRow, compute_dtype: torch.dtype) -> None:
    """An encoder looks at later tokens too, and then no log-probability of a token is that of sampling it."""
    middle = len(row.tokens) // 2
    whole, half = (ProbeRow.of(row.tokens[:length], num_compared=length) for length in (len(row.tokens), middle))
    (of_whole,), (of_half,) = _plain_logprobs(network, [whole]), _plain_logprobs(network, [half])
    apart = probe.difference([of_whole[: middle - 1]], [of_half])
    if not apart.is_within(probe.TOLERANCES[compute_dtype]):
        raise probe.ProbeError(
            f"{type(network).__name__} looks at later tokens: those behind a row's half change its log-probabilities "
            f"by up to {apart.worst:.3g} nats; expected a causal language model"
        )

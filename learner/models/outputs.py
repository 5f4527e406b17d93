"""What the two models say of the selected tokens of packed rows: log-probabilities and entropies, and values.

The sampling temperature is applied here and nowhere else in the learner: logits are divided by `Policy.temperature`.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from learner.models.attention import PACKED_ATTENTION
from learner.models.packing import PackedBatch, TokenRow, pack, unpack

#: Logits held at once (64 MB in float32); more are computed in chunks, and again in the backward pass.
MAX_LOGITS_PER_CHUNK = 2**24
#: Rows that `sequence_probabilities` lays out at once: its memory does not grow with their number.
MAX_ROWS_LAID_OUT = 256


@dataclass
class Policy:
    """A causal language model, what it was found to allow, and the temperature that its tokens are sampled with."""

    network: PreTrainedModel
    packs_rows: bool  # several rows may stand in one line
    has_plain_head: bool  # logits = output embedding x last hidden state, with no cap, scale or shift
    temperature: float = 1.0  # of sampling, 0 is greedy; an operator may change it in a run


@dataclass(frozen=True)
class ValueModel:
    """A token classifier with one label, whose score is the value, and what it was found to allow."""

    network: PreTrainedModel
    packs_rows: bool


class TokenScores(NamedTuple):
    """What a policy says about the selected tokens; float32, [n] each."""

    logprobs: Tensor
    entropies: Tensor  # without gradient; empty where not requested


def token_logprobs(policy: Policy, packed: PackedBatch) -> Tensor:
    """Return the log-probabilities [n], float32, of the selected tokens under logits / temperature."""
    return _token_scores(policy, packed, _Scorer(policy.temperature, with_entropy=False)).logprobs


def token_scores(policy: Policy, packed: PackedBatch) -> TokenScores:
    """Return the log-probabilities of the selected tokens and the entropy of the distribution each was drawn from."""
    return _token_scores(policy, packed, _Scorer(policy.temperature, with_entropy=True))


def with_weights(policy: Policy, weights: Mapping[str, Tensor]) -> Policy:
    """A copy of the policy with other weights, by name, tied ones once."""
    network = copy.deepcopy(policy.network)
    unknown = network.load_state_dict(dict(weights), strict=False).unexpected_keys
    assert not unknown, f"weights of another model: {unknown}"
    return replace(policy, network=network)


@torch.no_grad()
def sequence_probabilities(policy: Policy, rows: Sequence[TokenRow], *, max_tokens: int) -> list[float]:
    """Return per row the probability of its selected tokens together, in micro-batches of at most ``max_tokens``."""
    found: list[float] = []
    for first in range(0, len(rows), MAX_ROWS_LAID_OUT):
        batches = pack(rows[first : first + MAX_ROWS_LAID_OUT], max_tokens=max_tokens)
        logprobs = unpack(batches, [token_logprobs(policy, batch).double() for batch in batches])
        found += [of_row.sum().exp().item() for of_row in logprobs]
    return found


def token_values(value_model: ValueModel, packed: PackedBatch) -> Tensor:
    """Return V(s_t), float32 [n], for each selected token: the value of the state before it."""
    batch = packed.to(value_model.network.device)
    return _all_values(value_model, batch)[batch.selected_positions]


def token_and_boundary_values(value_model: ValueModel, packed: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return `token_values` [n], and the value of the state after each row's last token [rows]."""
    batch = packed.to(value_model.network.device)
    values = _all_values(value_model, batch)
    return values[batch.selected_positions], values[batch.last_positions]


def _all_values(value_model: ValueModel, batch: PackedBatch) -> Tensor:
    parts = [batch] if value_model.packs_rows else batch.split()
    return torch.cat([forward(value_model.network, part).logits[0, :, 0] for part in parts]).float()


def _token_scores(policy: Policy, packed: PackedBatch, scorer: "_Scorer") -> TokenScores:
    batch = packed.to(policy.network.device)
    parts = [batch] if policy.packs_rows else batch.split()
    scores = [_scores_in_one_pass(policy, part, scorer) for part in parts]
    return TokenScores(*(torch.cat(tensors) for tensors in zip(*scores, strict=True)))


def _scores_in_one_pass(policy: Policy, batch: PackedBatch, scorer: "_Scorer") -> TokenScores:
    network: Any = policy.network
    positions = batch.selected_positions
    if policy.has_plain_head:
        hidden = forward(network.base_model, batch).last_hidden_state[0, positions]
        return scorer.in_chunks(hidden, batch.target_ids, network.get_output_embeddings())
    if "logits_to_keep" in inspect.signature(network.forward).parameters:
        return scorer(forward(network, batch, logits_to_keep=positions).logits[0], batch.target_ids)
    return scorer(forward(network, batch).logits[0, positions], batch.target_ids)


def forward(network: Any, batch: PackedBatch, **options: Any) -> Any:
    """The network's outputs for a micro-batch, whose rows do not attend to each other."""
    if network.config._attn_implementation == PACKED_ATTENTION:
        options["row_lengths"] = batch.row_lengths
    return network(batch.input_ids, position_ids=batch.position_ids, use_cache=False, **options)


@dataclass(frozen=True)
class _Scorer:
    temperature: float
    with_entropy: bool

    def __call__(self, logits: Tensor, target_ids: Tensor) -> TokenScores:
        logprobs = self._logprobs(logits.float())
        chosen = logprobs.gather(-1, target_ids[:, None]).squeeze(-1)
        return TokenScores(chosen, self._entropies(logprobs.detach()))

    def _logprobs(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:  # the likeliest token is certain
            return torch.full_like(logits, -torch.inf).scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
        return torch.log_softmax(logits / self.temperature, dim=-1)

    def _entropies(self, logprobs: Tensor) -> Tensor:
        if not self.with_entropy:
            return logprobs.new_empty(0)
        return -(logprobs.exp() * logprobs).sum(-1)

    def in_chunks(self, hidden: Tensor, target_ids: Tensor, head: Any) -> TokenScores:
        """Score without ever holding more than `MAX_LOGITS_PER_CHUNK` logits."""
        chunk_size = max(1, MAX_LOGITS_PER_CHUNK // head.weight.shape[0])

        def score(hidden_chunk: Tensor, targets: Tensor) -> TokenScores:
            return self(head(hidden_chunk), targets)

        if len(target_ids) <= chunk_size:
            return score(hidden, target_ids)
        chunks = zip(torch.split(hidden, chunk_size), torch.split(target_ids, chunk_size), strict=True)
        scores = [checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks]
        return TokenScores(*(torch.cat(tensors) for tensors in zip(*scores, strict=True)))

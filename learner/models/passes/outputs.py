"""What the two models say of the selected tokens of packed rows: log-probabilities and entropies, and values.

The sampling temperature is applied here and nowhere else in the learner: logits are divided by `Policy.temperature`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from learner.models.passes.attention import FLASH_ATTENTION, PACKED_ATTENTION
from learner.models.passes.division import Division, divided
from learner.models.passes.fast.body import has_fast_path, hidden_states
from learner.models.passes.logits import TokenScorer, TokenScores
from learner.models.passes.packing import PackedBatch, TokenRow
from learner.models.passes.parts import Part
from learner.models.passes.routing import imbalances
from learner.models.weights.master_weights import MasterWeights
from learner.parallel.gathering import all_from_first
from learner.parallel.group import ALONE, Group

Imbalance = Literal["off", "measured", "trained"]

#: Rows that `sequence_probabilities` lays out at once: its memory does not grow with their number.
MAX_ROWS_LAID_OUT = 256


def _is_always_there() -> None:
    """A model that shares its device with no other has no turn to take."""


@dataclass
class Policy:
    """A causal language model, what it was found to allow, and the temperature that its tokens are sampled with."""

    network: PreTrainedModel
    weights: MasterWeights  # of the network
    packs_rows: bool  # several rows may stand in one line
    has_plain_head: bool  # logits = output embedding x last hidden state, with no cap, scale or shift
    has_separable_head: bool = False  # logits = `own_head` of the last hidden state
    experts_per_token: int | None = None  # where routers can be evened out by a loss
    temperature: float = 1.0  # of sampling, 0 is greedy; an operator may change it in a run
    take_turn: Callable[[], None] = _is_always_there  # called before the network computes
    group: Group = ALONE  # of the processes that train it

    def divided(self, rows: Sequence[TokenRow], *, max_tokens: int) -> Division:
        """The rows as passes of this process."""
        return _divided(self, rows, max_tokens)


@dataclass
class ValueModel:
    """A network whose score is the value of each position, and what it was found to allow."""

    network: PreTrainedModel
    weights: MasterWeights  # of the network
    packs_rows: bool
    take_turn: Callable[[], None] = _is_always_there  # called before the network computes
    group: Group = ALONE  # of the processes that train it

    @property
    def keeps_passes(self) -> bool:
        """Whether a forward pass may be followed by others before its backward pass: nothing moves the weights away."""
        return self.group.size == 1 and self.take_turn is _is_always_there

    def divided(self, rows: Sequence[TokenRow], *, max_tokens: int) -> Division:
        """The rows as passes of this process."""
        return _divided(self, rows, max_tokens)


def _divided(model: Policy | ValueModel, rows: Sequence[TokenRow], max_tokens: int) -> Division:
    """Ranks that pass rows one by one must have as many of them in each micro-batch: one."""
    if model.group.size > 1 and not model.packs_rows:
        max_tokens = 1
    return divided(rows, max_tokens=max_tokens, group=model.group)


@torch.no_grad()
def row_logprobs(policy: Policy, rows: Sequence[TokenRow], *, max_tokens: int) -> list[Tensor]:
    """Return per row the log-probabilities of its selected tokens, on the host, in micro-batches of ``max_tokens``."""
    if not rows:
        return []
    division = policy.divided(rows, max_tokens=max_tokens)
    return division.of_rows([token_logprobs(policy, batch) for batch in division.batches])


def token_logprobs(policy: Policy, packed: PackedBatch) -> Tensor:
    """Return the log-probabilities [n], float32, of the selected tokens under logits / temperature."""
    return _token_scores(policy, packed, TokenScorer(policy.temperature, with_entropy=False)).logprobs


def token_scores(
    policy: Policy, packed: PackedBatch, *, with_entropy: bool = True, imbalance: Imbalance = "off"
) -> TokenScores:
    """Return the log-probabilities of the selected tokens and the entropy of the distribution each was drawn from.

    `imbalance`: that of the routers of a mixture of experts, over all tokens of each row; `trained` with its gradient.
    """
    return _token_scores(policy, packed, TokenScorer(policy.temperature, with_entropy), imbalance)


def with_weights(policy: Policy, weights: MasterWeights) -> Policy:
    """The policy that computes with other weights of its network."""
    return replace(policy, network=weights.network, weights=weights)


def holding(policy: Policy, tensors: Mapping[str, Tensor] | None) -> Policy:
    """The policy, or that of other tensors by name, which rank 0 has; other ranks, which have none, get their rows."""
    if tensors is None:
        return policy
    if policy.group.size > 1:
        own = {name: tensor for name, (tensor, _) in policy.weights.computed().items()}
        tensors = all_from_first(tensors, own, policy.group)
    return with_weights(policy, policy.weights.holding(tensors))


def sequence_probabilities(policy: Policy, rows: Sequence[TokenRow], *, max_tokens: int) -> list[float]:
    """Return per row the probability of its selected tokens together, in micro-batches of at most ``max_tokens``."""
    found: list[float] = []
    for first in range(0, len(rows), MAX_ROWS_LAID_OUT):
        logprobs = row_logprobs(policy, rows[first : first + MAX_ROWS_LAID_OUT], max_tokens=max_tokens)
        found += [of_row.double().sum().exp().item() for of_row in logprobs]
    return found


def token_values(value_model: ValueModel, packed: PackedBatch) -> Tensor:
    """Return V(s_t), float32 [n], for each selected token: the value of the state before it."""
    return _values_at(value_model, packed, packed.selected_positions)


def token_and_boundary_values(value_model: ValueModel, packed: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return `token_values` [n], and the value of the state after each row's last token [rows]."""
    num_selected = len(packed.selected_positions)
    values = _values_at(value_model, packed, torch.cat([packed.selected_positions, packed.last_positions]))
    return values[:num_selected], values[num_selected:]


def _values_at(value_model: ValueModel, packed: PackedBatch, positions: Tensor) -> Tensor:
    """Of places in the line that are those of selected tokens, or the last of a row [n]."""
    value_model.take_turn()
    network, run = value_model.network, value_model.weights.run
    if has_fast_path(network):
        return run(partial(_values_on_fast_path, network, packed, positions))
    passes = [run(partial(_values_in_one_pass, network, part)) for part in _parts(value_model, packed)]
    values = torch.cat(passes).float()
    return values[positions.to(values.device)]


def _values_on_fast_path(network: Any, batch: PackedBatch, positions: Tensor) -> Tensor:
    values: Tensor = network.score(hidden_states(network, batch, positions))[:, 0]
    return values


def _parts(model: Policy | ValueModel, packed: PackedBatch) -> list[Part]:
    """This rank's, of each pass that the micro-batch takes."""
    passes = [packed] if model.packs_rows else packed.split()
    return [Part.of(one, model.group.sequence).to(model.network.device) for one in passes]


def _values_in_one_pass(network: Any, part: Part) -> Tensor:
    return part.of_tokens(forward(network, part).logits[0, :, 0])


def _token_scores(
    policy: Policy, packed: PackedBatch, scorer: TokenScorer, imbalance: Imbalance = "off"
) -> TokenScores:
    policy.take_turn()
    parts = _parts(policy, packed)
    scores = [policy.weights.run(partial(_scores_in_one_pass, policy, part, scorer, imbalance)) for part in parts]
    return TokenScores(*(torch.cat(tensors) for tensors in zip(*scores, strict=True)))


def _scores_in_one_pass(policy: Policy, part: Part, scorer: TokenScorer, imbalance: Imbalance) -> TokenScores:
    through = _through_body if policy.has_plain_head or policy.has_separable_head else _through_network
    outputs, own = through(policy, part, scorer, {} if imbalance == "off" else {"output_router_logits": True})
    scores = own._replace(logprobs=part.of_selected(own.logprobs))
    if scorer.with_entropy:
        scores = scores._replace(entropies=part.of_selected(own.entropies))
    if imbalance == "off":
        return scores
    assert policy.experts_per_token is not None, "such models alone have it"
    with torch.set_grad_enabled(imbalance == "trained" and torch.is_grad_enabled()):
        router_logits = [part.of_tokens(of_layer) for of_layer in outputs.router_logits]
        of_rows = imbalances(router_logits, part.whole, experts_per_token=policy.experts_per_token)
    return scores._replace(imbalances=of_rows)


def _through_body(policy: Policy, part: Part, scorer: TokenScorer, options: dict[str, Any]) -> tuple[Any, TokenScores]:
    network: Any = policy.network
    batch = part.own
    if has_fast_path(network):
        outputs, hidden = None, hidden_states(network, batch, batch.selected_positions)
    else:
        outputs = forward(network.base_model, part, **options)
        hidden = outputs.last_hidden_state[0, batch.selected_positions]
    head: Any = network.get_output_embeddings() if policy.has_plain_head else own_head(network)
    if policy.has_plain_head:
        hidden = hidden.to(head.weight.dtype)  # as a body that ends in float32 does (mamba)
    vocabulary_size = network.config.get_text_config().vocab_size
    return outputs, scorer.of_hidden(hidden, batch.target_ids, head, vocabulary_size=vocabulary_size)


def _through_network(
    policy: Policy, part: Part, scorer: TokenScorer, options: dict[str, Any]
) -> tuple[Any, TokenScores]:
    network: Any = policy.network
    positions, target_ids = part.own.selected_positions, part.own.target_ids
    if "logits_to_keep" in inspect.signature(network.forward).parameters:
        outputs = forward(network, part, logits_to_keep=positions, **options)
        return outputs, scorer(outputs.logits[0], target_ids)
    outputs = forward(network, part, **options)
    return outputs, scorer(outputs.logits[0, positions], target_ids)


def forward(network: Any, part: Part, **options: Any) -> Any:
    """The network's outputs for this rank's part of a micro-batch, whose rows do not attend to each other.

    A row alone goes through the plain forward pass, which numbers its tokens as the family does.
    """
    implementation = network.config._attn_implementation
    if implementation == PACKED_ATTENTION:
        options["rows"] = part.rows
    else:
        assert part.sequence.size == 1, "attention alone knows that other ranks have tokens"
    if implementation in (PACKED_ATTENTION, FLASH_ATTENTION):
        options["position_ids"] = part.own.position_ids
    return network(part.own.input_ids, use_cache=False, **options)


def own_head(network: Any) -> Callable[[Tensor], Tensor]:
    """The network's own way from last hidden states [n, hidden] to logits, with its scales, caps and projections.

    Its forward pass with the body left out: the states stand in for what the body would return.
    """

    def head(states: Tensor) -> Tensor:
        body = network.base_model
        body.forward = lambda *_, **__: _BodyOutput(last_hidden_state=states[None])
        try:
            logits: Tensor = network(states.new_zeros(1, len(states), dtype=torch.long), use_cache=False).logits[0]
        finally:
            del body.forward  # its class's is in force again
        return logits

    return head


class _BodyOutput(BaseModelOutput):
    """Of a body that was left out: besides the hidden states, it has nothing of what some families add."""

    def __getattr__(self, name: str) -> None:
        return None

"""The policy and the value model: loading, and their outputs at the selected tokens of packed rows.

Any causal language model of transformers works. What a model allows is found out by trying it on a few tokens when it
is loaded: whether several rows may stand in one line, and whether its logits are nothing but a product of the last
hidden states with the output embedding. Where not, rows run one by one, or through the model's own head.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from learner.models.attention import PACKED_ATTENTION, packed_attention_for
from learner.models.packing import PackedBatch, Row, pack

#: Logits held at once (64 MB in float32); more are computed in chunks, and again in the backward pass.
MAX_LOGITS_PER_CHUNK = 2**24
#: Probing multiplies the head's output by this, so that a soft cap shows on a model whose logits are small.
_PROBE_GAIN = 1024.0
_PROBE_ROWS = ((1, 2, 3, 4, 5, 6, 7), (3, 1, 2))


@dataclass(frozen=True)
class Policy:
    """A causal language model and what it was found to allow."""

    network: PreTrainedModel
    packs_rows: bool  # several rows may stand in one line
    has_plain_head: bool  # logits = output embedding x last hidden state, with no cap, scale or shift


@dataclass(frozen=True)
class ValueModel:
    """A token classifier with one label, whose score is the value, and what it was found to allow."""

    network: PreTrainedModel
    packs_rows: bool


class TokenScores(NamedTuple):
    """What a policy says about the selected tokens; float32, [n] each."""

    logprobs: Tensor
    entropies: Tensor  # without gradient; empty where not asked for


def load_policy(path: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Policy:
    """Load a causal language model without dropout; a model repository's own code is never run."""
    config = _config_without_dropout(path)
    network = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype, trust_remote_code=False)
    return policy_from_network(_placed(network, device))


def load_value_model(path: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> ValueModel:
    """Load a critic that was saved as a token classifier with one label."""
    config = _config_without_dropout(path, num_labels=1)
    network = AutoModelForTokenClassification.from_pretrained(path, config=config, dtype=dtype, trust_remote_code=False)
    return value_model_from_network(_placed(network, device))


def value_model_from_policy(path: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> ValueModel:
    """Return a critic with the body of the policy at ``path`` and a head of zeros: its value is 0 for every state."""
    policy = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False)
    config = _config_without_dropout(path, num_labels=1)
    classifier: Any = AutoModelForTokenClassification
    network = classifier.from_config(config, dtype=dtype, trust_remote_code=False)
    network.base_model.load_state_dict(policy.base_model.state_dict())
    for name, parameter in network.named_parameters():
        if not name.startswith(f"{network.base_model_prefix}."):
            torch.nn.init.zeros_(parameter)
    return value_model_from_network(_placed(network, device).eval())


def _placed(network: torch.nn.Module, device: str) -> Any:
    """The network on its device, in memory of its own.

    Weights read from a file lie wherever the file has them, and a matrix product's last bits depend on the alignment
    of its operands: only a copy makes a resumed run take the very steps of one that was not interrupted.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
    return network.to(device)


def policy_from_network(network: PreTrainedModel) -> Policy:
    """Probe a causal language model; its attention is replaced where that lets rows stand in one line."""
    return Policy(network, packs_rows=_enable_packing(network), has_plain_head=_has_plain_head(network))


def value_model_from_network(network: PreTrainedModel) -> ValueModel:
    """Probe a token classifier; its attention is replaced where that lets rows stand in one line."""
    return ValueModel(network, packs_rows=_enable_packing(network))


def token_logprobs(policy: Policy, packed: PackedBatch, *, temperature: float) -> Tensor:
    """Return the log-probabilities [n], float32, of the selected tokens under logits / temperature."""
    return _token_scores(policy, packed, _Scorer(temperature, with_entropy=False)).logprobs


def token_scores(policy: Policy, packed: PackedBatch, *, temperature: float) -> TokenScores:
    """Return the log-probabilities of the selected tokens and the entropy of the distribution each was drawn from."""
    return _token_scores(policy, packed, _Scorer(temperature, with_entropy=True))


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
    return torch.cat([_forward(value_model.network, part).logits[0, :, 0] for part in parts]).float()


def _token_scores(policy: Policy, packed: PackedBatch, scorer: "_Scorer") -> TokenScores:
    batch = packed.to(policy.network.device)
    parts = [batch] if policy.packs_rows else batch.split()
    scores = [_scores_in_one_pass(policy, part, scorer) for part in parts]
    return TokenScores(*(torch.cat(tensors) for tensors in zip(*scores, strict=True)))


def _scores_in_one_pass(policy: Policy, batch: PackedBatch, scorer: "_Scorer") -> TokenScores:
    network: Any = policy.network
    positions = batch.selected_positions
    if policy.has_plain_head:
        hidden = _forward(network.base_model, batch).last_hidden_state[0, positions]
        return scorer.in_chunks(hidden, batch.target_ids, network.get_output_embeddings())
    if "logits_to_keep" in inspect.signature(network.forward).parameters:
        return scorer(_forward(network, batch, logits_to_keep=positions).logits[0], batch.target_ids)
    return scorer(_forward(network, batch).logits[0, positions], batch.target_ids)


def _forward(network: Any, batch: PackedBatch, **options: Any) -> Any:
    if network.config._attn_implementation == PACKED_ATTENTION:
        options["row_lengths"] = batch.row_lengths
    return network(batch.input_ids, position_ids=batch.position_ids, use_cache=False, **options)


@dataclass(frozen=True)
class _Scorer:
    temperature: float
    with_entropy: bool

    def __call__(self, logits: Tensor, target_ids: Tensor) -> TokenScores:
        logprobs = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        chosen = logprobs.gather(-1, target_ids[:, None]).squeeze(-1)
        return TokenScores(chosen, self._entropies(logprobs.detach()))

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


def _config_without_dropout(path: str, **overrides: Any) -> PreTrainedConfig:
    """Log-probabilities must agree with the generator's, so nothing is dropped, in training mode either."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False, **overrides)
    for name in config.to_dict():
        if name.endswith(("dropout", "_pdrop")):
            setattr(config, name, 0.0)
    # Absent from most configurations, and then 0.1 in the classifier.
    config.classifier_dropout = 0.0
    return config


def _enable_packing(network: PreTrainedModel) -> bool:
    """Try to let rows stand in one line; True when that gave what the model says to each row alone."""
    implementation = packed_attention_for(network)
    if implementation is None:
        return False
    original = network.config._attn_implementation
    (packed,) = pack([Row(tokens, start=1) for tokens in _PROBE_ROWS], max_tokens=sum(map(len, _PROBE_ROWS)))
    packed = packed.to(network.device)
    with torch.no_grad():
        alone = torch.cat([_forward(network, row).logits[0] for row in packed.split()])
        network.set_attn_implementation(implementation)
        if _is_close(_forward(network, packed).logits[0], alone):
            return True
    network.set_attn_implementation(original)
    return False


def _has_plain_head(network: Any) -> bool:
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        return False
    probe = pack([Row(_PROBE_ROWS[0], start=1)], max_tokens=len(_PROBE_ROWS[0]))[0].to(network.device)
    with torch.no_grad(), _amplified(head):
        logits = _forward(network, probe).logits
        return _is_close(head(_forward(network.base_model, probe).last_hidden_state), logits)


@contextmanager
def _amplified(head: torch.nn.Module) -> Iterator[None]:
    def amplify(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output * _PROBE_GAIN

    handle = head.register_forward_hook(amplify)
    try:
        yield
    finally:
        handle.remove()


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max().item()
    return bool((actual - expected).abs().max().item() <= tolerance)

"""Loads the policy and the value model, and finds out what each allows by trying it on a few tokens.

Any causal language model of transformers works. What is tried: whether several rows may stand in one line, and whether
the logits are nothing but a product of the last hidden states with the output embedding. Where not, rows run one by
one, or through the model's own head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from learner.models.attention import PACKED_ATTENTION, packed_attention_for
from learner.models.master_weights import MasterWeights, feed_in_float32
from learner.models.outputs import Policy, ValueModel, forward, own_head
from learner.models.packing import PackedBatch, TokenRow, pack
from tppo.precision import names_in_float32

#: Probing multiplies the head's output by this, so that a soft cap shows on a model whose logits are small.
_PROBE_GAIN = 1024.0
_PROBE_ROWS = ((1, 2, 3, 4, 5, 6, 7), (3, 1, 2))


def load_policy(
    path: str, *, temperature: float = 1.0, compute_dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Policy:
    """Load a causal language model without dropout; a model repository's own code is never run."""
    config = _config_without_dropout(path)
    network = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32, trust_remote_code=False)
    return policy_from_network(_placed(network, device), temperature=temperature, compute_dtype=compute_dtype)


def load_value_model(path: str, *, compute_dtype: torch.dtype = torch.float32, device: str = "cpu") -> ValueModel:
    """Load a critic that was saved as a token classifier with one label."""
    config = _config_without_dropout(path, num_labels=1)
    network = AutoModelForTokenClassification.from_pretrained(
        path, config=config, dtype=torch.float32, trust_remote_code=False
    )
    return value_model_from_network(_placed(network, device), compute_dtype=compute_dtype)


def value_model_from_policy(
    path: str, *, compute_dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> ValueModel:
    """Return a critic with the body of the policy at ``path`` and a head of zeros: its value is 0 for every state."""
    policy = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)
    config = _config_without_dropout(path, num_labels=1)
    classifier: Any = AutoModelForTokenClassification
    network = classifier.from_config(config, dtype=torch.float32, trust_remote_code=False)
    network.base_model.load_state_dict(policy.base_model.state_dict())
    for name, parameter in network.named_parameters():
        if _is_of_head(name, network):
            torch.nn.init.zeros_(parameter)
    return value_model_from_network(_placed(network, device).eval(), compute_dtype=compute_dtype)


def policy_from_network(
    network: PreTrainedModel, *, temperature: float = 1.0, compute_dtype: torch.dtype = torch.float32
) -> Policy:
    """Probe a causal language model of float32 weights, which become the masters of those that it computes with.

    Its attention is replaced where that lets rows stand in one line.
    """
    packs_rows = _enable_packing(network, compute_dtype)
    has_plain_head, has_separable_head = _has_plain_head(network), _has_separable_head(network)
    return Policy(
        network,
        MasterWeights.of(network, compute_dtype, in_float32=names_in_float32(network, compute_dtype)),
        packs_rows,
        has_plain_head=has_plain_head,
        has_separable_head=has_separable_head,
        temperature=temperature,
    )


def value_model_from_network(network: PreTrainedModel, *, compute_dtype: torch.dtype = torch.float32) -> ValueModel:
    """Probe a token classifier of float32 weights, which become the masters of those that it computes with.

    Its attention is replaced where that lets rows stand in one line. The head computes in float32 whatever the body
    does: values differ from token to token by less than bfloat16 can say.
    """
    packs_rows = _enable_packing(network, compute_dtype)
    of_head = {name for name, _ in network.named_parameters() if _is_of_head(name, network)}
    for owner in {name.rpartition(".")[0] for name in of_head}:
        feed_in_float32(network.get_submodule(owner))
    in_float32 = of_head | names_in_float32(network, compute_dtype)
    weights = MasterWeights.of(network, compute_dtype, in_float32=in_float32)
    return ValueModel(network, weights, packs_rows)


def _is_of_head(parameter: str, network: PreTrainedModel) -> bool:
    return not parameter.startswith(f"{network.base_model_prefix}.")


def _config_without_dropout(path: str, **overrides: Any) -> PreTrainedConfig:
    """Log-probabilities must agree with the generator's, so nothing is dropped, in training mode either."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False, **overrides)
    for name in config.to_dict():
        if name.endswith(("dropout", "_pdrop")):
            setattr(config, name, 0.0)
    # Absent from most configurations, and then 0.1 in the classifier.
    config.classifier_dropout = 0.0
    return config


def _placed(network: torch.nn.Module, device: str) -> Any:
    """The network on its device, in memory of its own.

    Weights read from a file lie wherever the file has them, and a matrix product's last bits depend on the alignment
    of its operands: only a copy makes a resumed run take the very steps of one that was not interrupted.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
    return network.to(device)


def _enable_packing(network: PreTrainedModel, compute_dtype: torch.dtype) -> bool:
    """Try to let rows stand in one line; True when that gave what the model says to each row alone.

    Tried in float32, where rounding hides no token of another row.
    """
    implementation = packed_attention_for(network, compute_dtype)
    if implementation is None:
        return False
    original = network.config._attn_implementation
    (packed,) = pack([TokenRow(tokens, start=1) for tokens in _PROBE_ROWS], max_tokens=sum(map(len, _PROBE_ROWS)))
    packed = packed.to(network.device)
    with torch.no_grad():
        alone = torch.cat([forward(network, row).logits[0] for row in packed.split()])
        network.set_attn_implementation(PACKED_ATTENTION)
        is_close = _is_close(forward(network, packed).logits[0], alone)
    network.set_attn_implementation(implementation if is_close else original)
    return is_close


def _has_plain_head(network: Any) -> bool:
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        return False
    probe = _probe_row(network)
    with torch.no_grad(), _amplified(head):
        logits = forward(network, probe).logits
        return _is_close(head(forward(network.base_model, probe).last_hidden_state), logits)


def _has_separable_head(network: Any) -> bool:
    if network.base_model is network:
        return False
    probe = _probe_row(network)
    with torch.no_grad():
        states = forward(network.base_model, probe).last_hidden_state[0]
        return _is_close(own_head(network)(states), forward(network, probe).logits[0])


def _probe_row(network: Any) -> PackedBatch:
    (probe,) = pack([TokenRow(_PROBE_ROWS[0], start=1)], max_tokens=len(_PROBE_ROWS[0]))
    return probe.to(network.device)


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

"""Loads the policy and the value model, and finds out what each allows by trying it on a few rows.

Any causal language model of transformers works. What is tried: whether several rows may stand in one line, and whether
the logits are nothing but a product of the last hidden states with the output embedding. Where not, rows run one by
one, or through the model's own head. In the end the policy is held against transformers' plain forward pass.
"""

import logging
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from learner.models.adapters import Adapters, AdapterWeights, on_body_of
from learner.models.agreement import require_agreement, require_runnable
from learner.models.attention import PACKED_ATTENTION, packed_attention_for
from learner.models.master_weights import MasterWeights, cast_constants, feed_in_float32
from learner.models.outputs import Policy, ValueModel, forward, own_head
from learner.models.packing import PackedBatch, TokenRow, pack
from learner.models.reading import read_network
from learner.models.routing import experts_per_token
from learner.models.value_network import HEAD, OTHER_HEADS, skeleton
from tppo.models.precision import names_in_float32
from tppo.models.probe import rows_for

#: Probing multiplies the head's output by this, so that a soft cap shows on a model whose logits are small.
_PROBE_GAIN = 1024.0

logger = logging.getLogger(__name__)


def load_policy(
    path: str,
    *,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    adapters: Adapters | None = None,
) -> Policy:
    """Load a causal language model without dropout; a model repository's own code is never run.

    Raises `WeightsError`, and `ProbeError` where it cannot be computed with as transformers does.
    """
    network = read_network(AutoModelForCausalLM, path, _plain_config(path), dtype=torch.float32)
    policy = policy_from_network(
        _placed(network, device), temperature=temperature, compute_dtype=compute_dtype, adapters=adapters
    )
    apart = require_agreement(policy)
    logger.info("the policy agrees with transformers' plain forward pass within %.2g nats", apart.worst)
    return policy


def load_value_model(
    path: str,
    *,
    compute_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    adapters: Adapters | None = None,
) -> ValueModel:
    """Load a critic that was saved by us, or as a token classifier with one label."""
    config = _plain_config(path, num_labels=1)
    network_class = skeleton(config).value_network_class()
    network = read_network(network_class, path, config, dtype=torch.float32, key_mapping=OTHER_HEADS)
    return value_model_from_network(_placed(network, device), compute_dtype=compute_dtype, adapters=adapters)


def value_model_from_policy(
    path: str,
    *,
    compute_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    adapters: Adapters | None = None,
) -> ValueModel:
    """Return a critic with the body of the policy at ``path`` and a head of zeros: its value is 0 for every state."""
    config = _plain_config(path, num_labels=1)
    network_class: Any = skeleton(config).value_network_class()
    network = read_network(
        network_class,
        path,
        config,
        dtype=torch.float32,
        may_lack={f"{HEAD}.weight", f"{HEAD}.bias"},
        only_under=f"{network_class.base_model_prefix}.",  # beside it stands the policy's own head
    )
    for parameter in network.get_submodule(HEAD).parameters():
        torch.nn.init.zeros_(parameter)
    return value_model_from_network(_placed(network, device), compute_dtype=compute_dtype, adapters=adapters)


def value_model_on_body_of(policy: Policy, path: str, *, adapters: Adapters) -> ValueModel:
    """A critic as `value_model_from_policy`, on the very weights of the policy's frozen body, with its own adapters."""
    config = _plain_config(path, num_labels=1)
    network = on_body_of(policy.network, skeleton(config).value_network_class(), config)
    in_float32 = frozenset(name for name, one in network.named_parameters() if one.dtype == torch.float32)
    feed_in_float32(network.get_submodule(HEAD))
    weights = _weights(network, policy.network.dtype, in_float32, adapters, head=HEAD)
    return ValueModel(network, weights, policy.packs_rows)


def policy_from_network(
    network: PreTrainedModel,
    *,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
    adapters: Adapters | None = None,
) -> Policy:
    """Probe a causal language model of float32 weights, which become the masters of those that it computes with.

    Its attention is replaced where that lets rows stand in one line. With adapters its weights are frozen instead.
    """
    require_runnable(network)
    packs_rows = _enable_packing(network, compute_dtype)
    has_plain_head = _has_plain_head(network)
    has_separable_head = has_plain_head or _has_separable_head(network)
    cast_constants(network, compute_dtype)
    in_float32 = names_in_float32(network, compute_dtype)
    return Policy(
        network,
        _weights(network, compute_dtype, in_float32, adapters),
        packs_rows,
        has_plain_head=has_plain_head,
        has_separable_head=has_separable_head,
        experts_per_token=experts_per_token(network),
        temperature=temperature,
    )


def value_model_from_network(
    network: PreTrainedModel, *, compute_dtype: torch.dtype = torch.float32, adapters: Adapters | None = None
) -> ValueModel:
    """Probe a value network of float32 weights, which become the masters of those that it computes with.

    Its attention is replaced where that lets rows stand in one line. The head computes in float32 whatever the body
    does: values differ from token to token by less than bfloat16 can say. With adapters the body is frozen.
    """
    packs_rows = _enable_packing(network, compute_dtype)
    of_head = {name for name, _ in network.named_parameters() if _is_of_head(name, network)}
    for owner in {name.rpartition(".")[0] for name in of_head}:
        feed_in_float32(network.get_submodule(owner))
    in_float32 = of_head | names_in_float32(network, compute_dtype)
    cast_constants(network, compute_dtype)
    return ValueModel(network, _weights(network, compute_dtype, in_float32, adapters, head=HEAD), packs_rows)


def _is_of_head(parameter: str, network: PreTrainedModel) -> bool:
    return not parameter.startswith(f"{network.base_model_prefix}.")


def _weights(
    network: PreTrainedModel,
    compute_dtype: torch.dtype,
    in_float32: Set[str],
    adapters: Adapters | None,
    head: str = "",
) -> MasterWeights:
    if adapters is None:
        return MasterWeights.of(network, compute_dtype, in_float32=in_float32)
    return AdapterWeights.into(network, adapters, compute_dtype=compute_dtype, in_float32=in_float32, head=head)


def _plain_config(path: str, **overrides: Any) -> PreTrainedConfig:
    """Log-probabilities must agree with the generator's, so nothing is dropped, and experts add no loss of their own:
    `actor.router_aux_loss_coef` adds ours.

    What is random at a router is left as it is: it acts in training mode alone, in which no network of ours is, and
    Phi-3.5-MoE cuts its experts off by the same number in evaluation.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False, **overrides)
    for part in (config, config.get_text_config()):
        for name in part.to_dict():
            if name.endswith(("dropout", "_pdrop")):
                setattr(part, name, 0.0)
            elif name == "output_router_logits":
                setattr(part, name, False)
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

    Tried in float32, where rounding hides no token of another row, on the body's outputs, as a value head of zeros
    would hide any.
    """
    implementation = packed_attention_for(network, compute_dtype)
    if implementation is None:
        return False
    rows = [TokenRow(row.tokens, row.start) for row in rows_for(network)]
    (packed,) = pack(rows, max_tokens=sum(len(row.token_ids) for row in rows))
    packed = packed.to(network.device)
    original = network.config._attn_implementation
    with torch.no_grad():
        alone = torch.cat([_body_outputs(network, row) for row in packed.split()])
        network.set_attn_implementation(PACKED_ATTENTION)
        try:
            is_close = _is_close(_body_outputs(network, packed), alone)
        except Exception as error:  # whatever a family's code raises at what it was not written for
            logger.info("rows of %s run one by one, since packed ones fail: %s", network.config.model_type, error)
            is_close = False
    network.set_attn_implementation(implementation if is_close else original)
    return is_close


def _body_outputs(network: Any, batch: PackedBatch) -> Tensor:
    """[total, width]; the logits of a model whose head and body are one."""
    if network.base_model is network:
        logits: Tensor = forward(network, batch).logits[0]
        return logits
    hidden: Tensor = forward(network.base_model, batch).last_hidden_state[0]
    return hidden


def _has_plain_head(network: Any) -> bool:
    head = network.get_output_embeddings()
    if head is None or network.base_model is network:
        return False
    batch = _probe_row(network)
    with torch.no_grad(), _amplified(head):
        logits = forward(network, batch).logits
        return _is_close(head(forward(network.base_model, batch).last_hidden_state), logits)


def _has_separable_head(network: Any) -> bool:
    if network.base_model is network:
        return False
    batch = _probe_row(network)
    with torch.no_grad():
        states = forward(network.base_model, batch).last_hidden_state[0]
        try:
            return _is_close(own_head(network)(states), forward(network, batch).logits[0])
        except Exception as error:  # as above: whatever a family's code raises where its body is left out
            logger.info("the head of %s runs with its body: %s", network.config.model_type, error)
            return False


def _probe_row(network: Any) -> PackedBatch:
    row = rows_for(network)[0]
    (batch,) = pack([TokenRow(row.tokens, row.start)], max_tokens=len(row.tokens))
    return batch.to(network.device)


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

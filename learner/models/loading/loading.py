"""Loads the policy and the value model, and finds out what each allows by trying it on a few rows.

Any causal language model of transformers works. What is tried: whether several rows may stand in one line, and whether
the logits are nothing but a product of the last hidden states with the output embedding. Where not, rows run one by
one, or through the model's own head. In the end the policy is held against transformers' plain forward pass.
"""

import logging
from collections.abc import Set
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from learner.models.loading.agreement import require_agreement
from learner.models.loading.probing import enable_packing, probe
from learner.models.loading.reading import read_network
from learner.models.loading.value_network import HEAD, OTHER_HEADS, skeleton
from learner.models.passes.outputs import Policy, ValueModel
from learner.models.passes.routing import experts_per_token
from learner.models.weights.adapters import Adapters, AdapterWeights, on_body_of
from learner.models.weights.master_weights import MasterWeights, cast_constants, feed_in_float32
from learner.models.weights.sharding import ShardedWeights
from learner.parallel.group import ALONE, Group
from tppo.models.precision import names_in_float32

logger = logging.getLogger(__name__)


def load_policy(
    path: str,
    *,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    adapters: Adapters | None = None,
    group: Group = ALONE,
) -> Policy:
    """Load a causal language model without dropout; a model repository's own code is never run.

    Raises `WeightsError`, and `ProbeError` where it cannot be computed with as transformers does.
    """
    network = read_network(AutoModelForCausalLM, path, _plain_config(path), dtype=torch.float32)
    policy = policy_from_network(
        _placed(network, device, group),
        temperature=temperature,
        compute_dtype=compute_dtype,
        adapters=adapters,
        group=group,
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
    group: Group = ALONE,
) -> ValueModel:
    """Load a critic that was saved by us, or as a token classifier with one label."""
    config = _plain_config(path, num_labels=1)
    network_class = skeleton(config).value_network_class()
    network = read_network(network_class, path, config, dtype=torch.float32, key_mapping=OTHER_HEADS)
    placed = _placed(network, device, group)
    return value_model_from_network(placed, compute_dtype=compute_dtype, adapters=adapters, group=group)


def value_model_from_policy(
    path: str,
    *,
    compute_dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    adapters: Adapters | None = None,
    group: Group = ALONE,
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
    placed = _placed(network, device, group)
    return value_model_from_network(placed, compute_dtype=compute_dtype, adapters=adapters, group=group)


def value_model_on_body_of(policy: Policy, path: str, *, adapters: Adapters) -> ValueModel:
    """A critic as `value_model_from_policy`, on the very weights of the policy's frozen body, with its own adapters."""
    config = _plain_config(path, num_labels=1)
    network = on_body_of(policy.network, skeleton(config).value_network_class(), config)
    in_float32 = frozenset(name for name, one in network.named_parameters() if one.dtype == torch.float32)
    feed_in_float32(network.get_submodule(HEAD))
    weights = _weights(_masters(network, ALONE), policy.network.dtype, in_float32, adapters, policy.group, head=HEAD)
    return ValueModel(network, weights, policy.packs_rows, group=policy.group)


def policy_from_network(
    network: PreTrainedModel,
    *,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
    adapters: Adapters | None = None,
    group: Group = ALONE,
) -> Policy:
    """Probe a causal language model of float32 weights, which become the masters of those that it computes with.

    Its attention is replaced where that lets rows stand in one line. With adapters its weights are frozen instead.
    """
    in_float32, experts = names_in_float32(network, compute_dtype), experts_per_token(network)
    masters = _masters(network, _sharing(group, adapters))
    found = masters.run(lambda: probe(masters.network, compute_dtype, group.sequence))
    weights = _weights(masters, compute_dtype, in_float32, adapters, group)
    cast_constants(weights.network, compute_dtype)
    return Policy(
        weights.network,
        weights,
        found.packs_rows,
        found.has_plain_head,
        has_separable_head=found.has_separable_head,
        experts_per_token=experts,
        temperature=temperature,
        group=group,
    )


def value_model_from_network(
    network: PreTrainedModel,
    *,
    compute_dtype: torch.dtype = torch.float32,
    adapters: Adapters | None = None,
    group: Group = ALONE,
) -> ValueModel:
    """Probe a value network of float32 weights, which become the masters of those that it computes with.

    Its attention is replaced where that lets rows stand in one line. The head computes in float32 whatever the body
    does: values differ from token to token by less than bfloat16 can say. With adapters the body is frozen.
    """
    of_head = {name for name, _ in network.named_parameters() if _is_of_head(name, network)}
    for owner in {name.rpartition(".")[0] for name in of_head}:
        feed_in_float32(network.get_submodule(owner))
    in_float32 = of_head | names_in_float32(network, compute_dtype)
    masters = _masters(network, _sharing(group, adapters))
    packs_rows = masters.run(lambda: enable_packing(masters.network, compute_dtype, group.sequence))
    weights = _weights(masters, compute_dtype, in_float32, adapters, group, head=HEAD)
    cast_constants(weights.network, compute_dtype)
    return ValueModel(weights.network, weights, packs_rows, group=group)


def _sharing(group: Group, adapters: Adapters | None) -> Group:
    """Which processes share the masters; a frozen body is divided when it has its adapters."""
    return group if adapters is None else ALONE


def _masters(network: PreTrainedModel, group: Group) -> MasterWeights:
    """Of weights that the network computes with as they are."""
    if group.size == 1:
        return MasterWeights(network, dict(network.named_parameters()))
    return ShardedWeights(network, group=group)


def _is_of_head(parameter: str, network: PreTrainedModel) -> bool:
    return not parameter.startswith(f"{network.base_model_prefix}.")


def _weights(
    masters: MasterWeights,
    compute_dtype: torch.dtype,
    in_float32: Set[str],
    adapters: Adapters | None,
    group: Group,
    head: str = "",
) -> MasterWeights:
    if adapters is None:
        return masters.computing_in(compute_dtype, in_float32=in_float32)
    return AdapterWeights.into(
        masters.network, adapters, compute_dtype=compute_dtype, in_float32=in_float32, head=head, group=group
    )


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


def _placed(network: torch.nn.Module, device: str, group: Group) -> Any:
    """The network on its device, in memory of its own; one that will be sharded stays where it is until then.

    Weights read from a file lie wherever the file has them, and a matrix product's last bits depend on the alignment
    of its operands: only a copy makes a resumed run take the very steps of one that was not interrupted.
    """
    if group.size > 1:
        return network
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
    return network.to(device)

"""A policy and a value model of a few thousand weights, the step of them, and their outputs on padded rows.

The padded outputs are the independent side: transformers' own batched forward pass, one row after the other cut out.
"""

from collections.abc import Callable, Sequence
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification

from learner.models.loading.loading import policy_from_network, value_model_from_network, value_model_on_body_of
from learner.models.passes.outputs import Policy, ValueModel
from learner.models.weights.adapters import Adapters, Body
from learner.models.weights.master_weights import MasterWeights
from learner.parallel.group import ALONE, Group
from learner.parallel.roles import Roles
from learner.rollouts.rollout import Rollout
from learner.state import new_trainer
from learner.step.trainer import Trainer
from learner.step.updates.optimization import Optimization
from tests.learner.builders import a_config, a_row
from tppo.config.schema import Config, OptimizerSection
from tppo.models.adapters import Lora

VOCABULARY = 32
WINDOW_LENGTH = 6
Gradients = dict[str, Tensor]


@cache
def _weights(kind: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(_network(kind).state_dict())


def _network(kind: str) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "num_labels": 1,
        "classifier_dropout": 0.0,
    }
    return (Qwen2ForCausalLM if kind == "policy" else Qwen2ForTokenClassification)(Qwen2Config(**sizes))


def a_network(kind: str) -> Any:
    """The same weights at every call."""
    network = _network(kind)
    network.load_state_dict(_weights(kind))
    return network.eval()


class RecordingOptimization(Optimization):
    """Keeps the gradients of each update, as they were before clipping."""

    def __init__(self, weights: MasterWeights, section: OptimizerSection) -> None:
        super().__init__(
            weights.parameters(),
            section,
            num_steps=10,
            before_update=weights.complete_gradients,
            after_update=weights.cast,
        )
        self._named = weights.masters
        self.gradients: list[Gradients] = []

    def _clip(self) -> float:
        self.gradients.append({name: p.grad.clone() for name, p in self._named.items() if p.grad is not None})
        return super()._clip()


class TinyTrainer(Trainer):
    """A trainer whose gradients can be looked at."""

    def __init__(
        self,
        config: Config,
        *,
        group: Group = ALONE,
        network: Callable[[str], PreTrainedModel] = a_network,
        roles: Roles | None = None,
    ) -> None:
        """`roles`: where the group is not of both models."""
        roles = roles or Roles.together(group)
        policy = value_model = None
        if (of_policy := roles.policy) is not None:
            policy = _policy(config, network, of_policy)
        if (of_value_model := roles.value_model) is not None:
            value_model = _value_model(config, network, of_value_model, policy)
        made = new_trainer(config, policy, value_model, roles=roles)
        vars(self).update(vars(made))  # built as the learner builds its own
        for side, section in ((self.policy_side, config.actor), (self.value_side, config.critic)):
            if side is not None:
                side.optimization = RecordingOptimization(side.weights, section)

    @property
    def models(self) -> list[Policy | ValueModel]:
        """Those that are here."""
        policies = [] if self.policy_side is None else [self.policy_side.policy]
        return [*policies, *([] if self.value_side is None else [self.value_side.value_model])]

    @property
    def recorded(self) -> dict[str, RecordingOptimization]:
        """Of the models that are here, by folder."""
        of_policy = {} if self.policy_side is None else {"actor": self.actor}
        return of_policy | ({} if self.value_side is None else {"critic": self.critic})

    @property
    def actor(self) -> RecordingOptimization:
        return _recording(super().actor)

    @property
    def critic(self) -> RecordingOptimization:
        return _recording(super().critic)


def _recording(optimization: Optimization) -> RecordingOptimization:
    assert isinstance(optimization, RecordingOptimization)
    return optimization


def _policy(config: Config, network: Callable[[str], PreTrainedModel], group: Group) -> Policy:
    return policy_from_network(
        network("policy"),
        adapters=_adapters(config),
        temperature=config.generation.temperature,
        compute_dtype=getattr(torch, config.policy_placement.compute_dtype),
        group=group,
    )


def _value_model(
    config: Config, network: Callable[[str], PreTrainedModel], group: Group, policy: Policy | None
) -> ValueModel:
    adapters = _adapters(config)
    if not (adapters and config.critic.share_body):
        return value_model_from_network(
            network("value"),
            adapters=adapters,
            compute_dtype=getattr(torch, config.value_model_placement.compute_dtype),
            group=group,
        )
    assert policy is not None
    with TemporaryDirectory() as folder:
        network("policy").config.save_pretrained(folder)
        value_model = value_model_on_body_of(policy, folder, adapters=adapters)
    head = value_model.network.get_parameter("score.weight")  # behind zeros no adapter would have a gradient
    torch.nn.init.normal_(head, std=0.3, generator=torch.Generator().manual_seed(5))
    return value_model


def _adapters(config: Config) -> Adapters | None:
    lora = Lora.of(config.actor)
    return None if lora is None else Adapters(lora, Body("", ""))


def a_step_config(**sections: dict[str, Any]) -> Config:
    """No tail is ignored, nothing warms up, advantages stay as they are, and rates are constant."""
    defaults: dict[str, dict[str, Any]] = {
        "run": {"mode": "lockstep", "window_length": WINDOW_LENGTH, "max_response_length": 18},
        "algorithm": {"num_ignored_tail_tokens": 0, "advantage_whitening": "none"},
        "actor": {"lr": 1e-3, "lr_decay": "constant"},
        "critic": {"lr": 1e-3, "lr_decay": "constant", "warmup_steps": 0},
    }
    return a_config(**{name: defaults.get(name, {}) | sections.get(name, {}) for name in defaults | sections})


def some_rows() -> list[Rollout]:
    """Right at once, cut in the first window, wrong in the second window, cut in the second window."""
    return [
        a_row([9, 4, 7, 1], score=1.0),
        a_row([8, 2, 3, 11, 12, 30], prompt=(4, 9)),
        a_row([3, 3, 17, 21, 9, 14, 5, 29, 1], window_start=6, score=-1.0, prompt=(20, 21, 22, 23)),
        a_row([6, 19, 18, 2, 2, 13, 25, 7, 31, 10, 16, 27], window_start=6),
    ]


def step(trainer: Trainer, rows: Sequence[Rollout], *, policy_version: int = 0) -> dict[str, Any]:
    return dict(trainer.step(rows, policy_version=policy_version).metrics)


def weights_of(network: torch.nn.Module) -> Gradients:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def padded_ids(rows: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """[batch, time] token ids of whole rows, padded on the right, and the mask of what is real."""
    lines = [torch.tensor([*row.prompt.token_ids, *row.response_tokens]) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(lines, batch_first=True)
    lengths = torch.tensor([len(line) for line in lines])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def padded_logprobs(network: Any, rows: Sequence[Rollout], *, temperature: float = 1.0) -> list[Tensor]:
    """Per row, of each response token."""
    ids, mask = padded_ids(rows)
    logits = network(input_ids=ids, attention_mask=mask).logits / temperature
    of_next = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return [
        of_next[index, len(row.prompt.token_ids) - 1 :][: len(row.response_tokens)] for index, row in enumerate(rows)
    ]


def padded_values(network: Any, rows: Sequence[Rollout]) -> list[Tensor]:
    """Per row, V(s_t) before each response token."""
    ids, mask = padded_ids(rows)
    values = network(input_ids=ids, attention_mask=mask).logits[..., 0]
    return [
        values[index, len(row.prompt.token_ids) - 1 :][: len(row.response_tokens)] for index, row in enumerate(rows)
    ]


def gradients_of(loss: Tensor, network: Any) -> Gradients:
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


def assert_gradients_equal(actual: Gradients, expected: Gradients, *, tolerance: float = 1e-5) -> None:
    """`tolerance` is relative to the largest entry of each parameter's gradient, but for the smallest gradients."""
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        difference = float((actual[name] - gradient).abs().max())
        assert difference <= tolerance * scale, f"{name}: {difference} against {scale}"

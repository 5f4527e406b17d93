"""A scalar head on the body of any causal language model: the value network.

It is saved as transformers saves a token classifier with one label (`config.json`, and the body's tensors under its
prefix beside `score.weight` and `score.bias`), so `AutoModel` reads its body in every family, and
`AutoModelForTokenClassification` the whole in those that have one with such a head.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

HEAD = "score"
#: Heads of transformers' own token classifiers and of checkpoints made with them.
OTHER_HEADS = {r"^classifier\.": f"{HEAD}."}


class ScalarHead:
    """What `value_network_class` puts in front of a family's `PreTrainedModel`."""

    body_class: type[PreTrainedModel]
    width: int

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        network = cast(Any, self)
        setattr(network, network.base_model_prefix, self.body_class(config))
        network.score = nn.Linear(self.width, 1)
        network.post_init()

    def forward(self, input_ids: torch.Tensor, **options: Any) -> TokenClassifierOutput:
        """The value at each position, [batch, time, 1]."""
        network = cast(Any, self)
        hidden = network.base_model(input_ids, **options).last_hidden_state
        return TokenClassifierOutput(logits=network.score(hidden))


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A causal language model on the meta device: its parts, without weights."""

    network: Any

    def value_network_class(self) -> type[PreTrainedModel]:
        """Of the same body. Raises `ValueError` where the model has none, or no output embedding."""
        body, head = self._body_name(), self.network.get_output_embeddings()
        width = getattr(getattr(head, "weight", None), "shape", (0, 0))[1]
        if body is None or not width:
            raise ValueError(f"{type(self.network).__name__} has no body that a value head could stand on")
        causal: Any = type(self.network)
        body_class: Any = type(getattr(self.network, body))
        return _value_network_class(causal, body, body_class, width)

    def _body_name(self) -> str | None:
        """The family's prefix; where that names nothing, the one part that is a model."""
        names = [name for name, part in self.network.named_children() if isinstance(part, PreTrainedModel)]
        prefix = self.network.base_model_prefix
        return prefix if prefix in names else names[0] if len(names) == 1 else None


def skeleton(config: PreTrainedConfig) -> Skeleton:
    """In about a second, whatever the model's size. Raises `ValueError` where transformers has no such causal LM."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    return Skeleton(network)


@cache
def _value_network_class(
    causal: type[PreTrainedModel], body_name: str, body: type[PreTrainedModel], width: int
) -> type[PreTrainedModel]:
    family = next(base for base in causal.__mro__[1:] if issubclass(base, PreTrainedModel))
    name = causal.__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + "ForTokenClassification"
    fields = {
        "body_class": body,
        "width": width,
        "base_model_prefix": body_name,
        "__module__": causal.__module__,  # whose source transformers reads to learn what the family can do
    }
    return type(name, (ScalarHead, family), fields)

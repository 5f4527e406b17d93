"""What the formulas say a training step takes, against the tensors that are alive at its peak."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification

from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.models.weights.activation_checkpointing import checkpoint_blocks
from learner.models.weights.adapters import Adapters, Body
from learner.state import new_trainer
from tests.learner.builders import a_config, a_row
from tests.learner.models.live_bytes import LiveBytes
from tppo.models.adapters import Lora, num_adapted
from tppo.models.memory_estimate import Checkpointing, ModelShape, Training, resident_bytes, update_bytes

NUM_ROWS = 4


@dataclass(frozen=True)
class Case:
    """A model and its micro-batch of `num_tokens`, of which a row takes half."""

    sizes: dict[str, Any]
    num_tokens: int
    checkpointing: Checkpointing = "off"
    rank: int = 0  # of adapters
    compute_dtype: torch.dtype = torch.float32

    def config(self) -> Any:
        make: Any = LlamaConfig
        return make(**self.sizes, max_position_embeddings=self.num_tokens, num_labels=1, classifier_dropout=0.0)


def sizes(hidden: int, blocks: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
    }


CASES = {
    "activations": Case(sizes(64, 6, 64), 512),
    "activations of few blocks at once": Case(sizes(64, 12, 64), 512, "full"),
    "products and attention": Case(sizes(64, 6, 64), 512, "selective"),
    "weights and moments": Case(sizes(384, 2, 64), 32),
    "logits that are kept": Case(sizes(32, 2, 2**15), 256),
    "logits in chunks": Case(sizes(16, 1, 2**18), 128),
    "adapters on a frozen body": Case(sizes(384, 2, 64), 32, rank=16),
    "activations beside adapters": Case(sizes(64, 6, 64), 512, rank=4),
    "activations beside adapters, products kept": Case(sizes(64, 6, 64), 512, "selective", rank=4),
    "activations beside adapters, computed again": Case(sizes(64, 12, 64), 512, "full", rank=4),
    "activations beside adapters in bfloat16": Case(sizes(64, 6, 64), 512, rank=4, compute_dtype=torch.bfloat16),
}


def measured(case: Case) -> int:
    """Bytes at the peak of a step with two updates, each of two micro-batches."""
    torch.manual_seed(0)
    half = case.num_tokens // 2
    network: Any = LlamaForTokenClassification
    optimizer = {"ppo_mini_batches": 2, "max_tokens_per_microbatch": case.num_tokens}
    lengths = {"window_length": half, "max_response_length": half, "mode": "lockstep"}
    config = a_config(run=lengths, actor=optimizer, critic=optimizer | {"warmup_steps": 0})
    rows = [a_row([7] * (half - 3), score=float(index % 2)) for index in range(2 * NUM_ROWS)]
    live = LiveBytes()
    with live:
        adapters = Adapters(Lora(case.rank, 16.0), Body("", "")) if case.rank else None
        options: dict[str, Any] = {"compute_dtype": case.compute_dtype, "adapters": adapters}
        policy = policy_from_network(LlamaForCausalLM(case.config()), **options)
        value_model = value_model_from_network(network(case.config()), **options)
        for model in (policy, value_model):
            checkpoint_blocks(model.network, case.checkpointing)
        new_trainer(config, policy, value_model).step(rows, policy_version=0)
    return live.peak


def estimated(case: Case) -> int:
    config = case.config()
    num_parameters = sum(parameter.numel() for parameter in LlamaForCausalLM(config).parameters())
    of_head = config.vocab_size * config.hidden_size
    policy, value_model = (ModelShape.of(config, number) for number in (num_parameters, num_parameters - of_head))
    lora = Lora(case.rank, 16.0) if case.rank else None
    training = Training(
        case.compute_dtype.itemsize, case.num_tokens, case.checkpointing, num_adapted=num_adapted(config, lora)
    )
    resident = [*resident_bytes(policy, training).values(), *resident_bytes(value_model, training).values()]
    return sum(resident) + sum(update_bytes(policy, training, has_logits=True).values())


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(name: str) -> None:
    assert estimated(CASES[name]) == pytest.approx(measured(CASES[name]), rel=0.25)

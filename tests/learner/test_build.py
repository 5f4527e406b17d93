"""What a learner's configuration makes of its models and its training step."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.models.weights.activation_checkpointing import blocks_of
from learner.networks import load_models
from learner.step.turns import Device
from tests.learner.builders import a_row
from tests.learner.tiny_models import TinyTrainer, a_network, a_step_config, padded_logprobs, step
from tppo.config import ConfigError


def test_the_policy_is_loaded_with_the_sampling_temperature(tmp_path: Path) -> None:
    a_network("policy").save_pretrained(tmp_path)
    config = a_step_config(model={"path": tmp_path}, learner={"device": "cpu"}, generation={"temperature": 0.7})

    policy, _ = load_models(config, None)

    assert policy.temperature == 0.7


def test_the_blocks_of_both_models_are_checkpointed_as_the_configuration_says(tmp_path: Path) -> None:
    a_network("policy").save_pretrained(tmp_path)
    learner = {"device": "cpu", "activation_checkpointing": "full"}

    models = load_models(a_step_config(model={"path": tmp_path}, learner=learner), None)

    assert all("forward" in vars(block) for model in models for block in blocks_of(model.network))


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offload", [False, True])
def test_a_policy_that_takes_turns_is_sent_home_before_the_value_model_is_loaded(
    offload: bool, compute_dtype: str, tmp_path: Path
) -> None:
    a_network("policy").save_pretrained(tmp_path / "policy")
    a_network("policy").save_pretrained(tmp_path / "no critic")
    config = a_step_config(
        model={"path": tmp_path / "policy", "critic_path": tmp_path / "no critic"},
        learner={"device": "cpu", "offload_idle_model": offload, "compute_dtype": compute_dtype},
    )
    sent: list[Tensor] = []

    def send_home(tensor: Tensor) -> Tensor:
        sent.append(tensor)
        return tensor.clone()

    with pytest.raises(ConfigError, match=r"^model\.critic_path = .* lacks 2 of 28 tensors, score\.bias,"):
        load_models(config, None, device_of=lambda _: Device(torch.clone, send_home))

    sizes = [2, 4] if compute_dtype == "bfloat16" else [4]  # the cast, and the masters
    num_weights = sum(parameter.numel() for parameter in a_network("policy").parameters())
    assert sum(tensor.nbytes for tensor in sent) == offload * num_weights * sum(sizes)


@pytest.mark.parametrize(
    ("mode", "algorithm", "compute_dtype", "expected"),
    [
        ("lockstep", {}, "float32", 1.0),
        ("lockstep", {}, "bfloat16", 2.0),
        ("overlapped", {}, "float32", 2.0),
        ("streaming", {}, "float32", 2.0),
        ("streaming", {"importance_cap": 3.0}, "float32", 3.0),
        ("streaming", {"importance_cap": 3.0, "importance_mode": "mask"}, "float32", 0.0),
        ("lockstep", {"importance_cap": 9.0, "importance_mode": "mask"}, "float32", 8.0),
    ],
)
def test_importance_sampling_is_capped_as_mode_and_type_want_unless_the_file_says_otherwise(
    mode: str, algorithm: dict[str, Any], compute_dtype: str, expected: float
) -> None:
    row = a_row([9, 4, 7, 1], score=1.0)
    (old,) = padded_logprobs(a_network("policy"), [row])
    sampled = [logprob - math.log(8.0) for logprob in old.tolist()]  # so that each weight is 8 before its cap
    run = {"mode": mode, "window_length": 6, "max_response_length": 18}
    options = {"num_ignored_tail_tokens": 0, "advantage_whitening": "none", **algorithm}

    metrics = step(
        TinyTrainer(a_step_config(run=run, algorithm=options, generation={"compute_dtype": compute_dtype})),
        [a_row([9, 4, 7, 1], score=1.0, rollout_logprobs=sampled)],
    )

    assert metrics["actor/importance_weight_mean"] == pytest.approx(expected)

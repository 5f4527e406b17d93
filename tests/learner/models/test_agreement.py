"""The learner's probe finds what would make its log-probabilities others than those that transformers computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.models.loading.agreement import require_agreement
from learner.models.loading.loading import (
    load_policy,
    policy_from_network,
    value_model_from_network,
    value_model_from_policy,
)
from learner.networks import load_models
from tests.learner.tiny_models import a_network, a_step_config
from tools.tiny_families import tiny_model
from tppo.config import ConfigError
from tppo.models.probe import TOLERANCES, ProbeError, difference, probe_rows


def mixes_tokens(_module: object, _inputs: object, hidden: torch.Tensor) -> torch.Tensor:
    """As a recurrent layer does, which reaches into the next row of a line."""
    return hidden + hidden.cumsum(dim=1) / 10


def test_rows_that_look_into_each_other_are_found() -> None:
    policy = policy_from_network(tiny_model("mamba"))

    with pytest.raises(ProbeError, match=r"^the learner \(rows packed\) differs .* by up to .* nats, .* in float32$"):
        require_agreement(replace(policy, packs_rows=True))


def test_a_zero_value_head_does_not_hide_rows_that_look_into_each_other() -> None:
    network: Any = a_network("value")
    torch.nn.init.zeros_(network.score.weight)
    network.model.layers[0].register_forward_hook(mixes_tokens)

    assert not value_model_from_network(network).packs_rows


def test_a_model_that_looks_at_later_tokens_is_refused_by_the_learner() -> None:
    network: Any = a_network("policy")
    network.model.layers[0].register_forward_hook(
        lambda _module, _inputs, hidden: hidden + hidden.mean(dim=1, keepdim=True)
    )

    with pytest.raises(
        ProbeError,
        match=r"^Qwen2ForCausalLM looks at later tokens: those behind a row's half change .* by up to .* nats",
    ):
        require_agreement(policy_from_network(network))


def test_weights_that_cannot_be_computed_with_end_the_learner_in_one_sentence(tmp_path: Path) -> None:
    network: Any = a_network("policy")
    with torch.no_grad():
        network.model.norm.weight[0] = torch.inf
    network.save_pretrained(tmp_path)

    with pytest.raises(ConfigError) as caught:
        load_models(a_step_config(model={"path": tmp_path}, learner={"device": "cpu"}), None)

    assert str(caught.value) == (
        f"model.path = '{tmp_path}': {tmp_path}/model.safetensors holds numbers that are not finite in "
        "model.norm.weight; expected the weights of this model, whole"
    )


def test_the_auxiliary_loss_of_experts_is_off_whatever_the_model_says(tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe")
    model.config.output_router_logits = True
    model.save_pretrained(tmp_path)

    assert load_policy(str(tmp_path)).network.config.output_router_logits is False


def test_networks_are_never_in_training_mode_in_which_routers_and_dropout_are_random(tmp_path: Path) -> None:
    tiny_model("phimoe").save_pretrained(tmp_path)
    policy, value_model = load_policy(str(tmp_path)), value_model_from_policy(str(tmp_path))

    assert not any(module.training for one in (policy, value_model) for module in one.network.modules())
    assert policy.network.config.router_jitter_noise == tiny_model("phimoe").config.router_jitter_noise > 0


def test_the_rows_reach_beyond_a_window_that_the_model_can_afford() -> None:
    def longest(window: int, num_parameters: int) -> int:
        return max(len(row.tokens) for row in probe_rows(64, window=window, num_parameters=num_parameters))

    assert longest(512, 100_000_000) == 524
    assert longest(4096, 7_000_000_000) == 33
    assert max(len(row.tokens) for row in probe_rows(64, window=512, capacity=20)) == 19


def test_a_difference_is_the_worst_one_and_what_is_no_number_is_infinite() -> None:
    rows = [torch.tensor([0.0, -1.0]), torch.tensor([-2.0])]

    apart = difference([torch.tensor([0.5, -1.0]), torch.tensor([-3.0])], rows)

    assert (apart.worst, apart.mean, apart.row, apart.token) == (1.0, 0.5, 1, 0)
    assert difference([torch.tensor([torch.nan, -1.0]), rows[1]], rows).worst == float("inf")
    assert not apart.is_within(TOLERANCES[torch.float32])


def test_rounding_may_be_as_large_as_the_numbers_that_are_rounded() -> None:
    found, expected = [torch.tensor([-20.2, -20.1])], [torch.tensor([-20.0, -20.0])]
    small_found, small = [torch.tensor([-5.2, -5.1])], [torch.tensor([-5.0, -5.0])]

    apart = difference(found, expected)

    assert apart.size == 20.0
    assert apart.is_within(TOLERANCES[torch.bfloat16])  # 0.15 in the mean, where 0.1 * 20 / 8.5 may be
    assert not difference(small_found, small).is_within(TOLERANCES[torch.bfloat16])
    assert not difference([torch.tensor([-20.6, -20.1])], expected).is_within(TOLERANCES[torch.bfloat16])


def test_a_model_whose_logits_are_large_is_trained_in_bfloat16() -> None:
    network: Any = a_network("policy")
    with torch.no_grad():
        network.lm_head.weight *= 60  # log-probabilities near -200; Gemma's are -17 in the mean

    apart = require_agreement(policy_from_network(network, compute_dtype=torch.bfloat16))

    assert apart.size > 17

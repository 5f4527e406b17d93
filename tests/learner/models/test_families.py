"""Tiny models of many families: packed or alone, rows get what transformers' plain forward pass says of each."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.models.loading.agreement import require_agreement
from learner.models.loading.loading import (
    load_policy,
    load_value_model,
    policy_from_network,
    value_model_from_network,
    value_model_from_policy,
)
from learner.models.loading.value_network import skeleton
from learner.models.passes.outputs import token_logprobs, token_values
from learner.models.passes.packing import TokenRow, pack, unpack
from tools.models_page import PAGE
from tools.tiny_families import FAMILIES, VOCABULARY, tiny_config, tiny_model
from tppo.models.probe import TOLERANCES, ProbeError, difference, plain_logprobs
from tppo.weight_probe import ProbeRow

LENGTHS = (37, 3, 18, 9)
SPECIAL = ("window", "soft cap", "ALiBi", "partial rotary", "experts", "recurrent", "sinks", "latent", "chunked")


def token_ids() -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def rows() -> list[TokenRow]:
    return [TokenRow(row, start=1) for row in token_ids()]


def test_the_families_are_many_and_half_of_them_are_special() -> None:
    special = [name for name, family in FAMILIES.items() if any(part in family.parts for part in SPECIAL)]

    assert len(FAMILIES) >= 40
    assert len(special) >= 30


def test_the_page_of_models_has_every_family() -> None:
    rows_of_page = re.findall(r"^\| (\w+) \|.*\| (?:packed|alone) \|", PAGE.read_text(), re.MULTILINE)

    assert rows_of_page == list(FAMILIES)
    assert f"tiny random models of {len(FAMILIES)}, " in PAGE.parents[1].joinpath("README.md").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_says_what_the_plain_forward_pass_said_before(name: str, tmp_path: Path) -> None:
    """Buffers that no file holds included: the model is built on the meta device when it is loaded."""
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    whole = [ProbeRow.of(row, num_compared=len(row)) for row in token_ids()]

    policy = load_policy(str(tmp_path))  # which holds itself against its own plain forward pass
    batches = pack(rows(), max_tokens=sum(LENGTHS))
    found = unpack(batches, [token_logprobs(policy, batch) for batch in batches])

    assert difference(found, plain_logprobs(model, whole)).is_within(TOLERANCES[torch.float32])


@pytest.mark.parametrize("name", FAMILIES)
def test_values_are_those_of_the_body_and_of_each_row_alone(name: str) -> None:
    torch.manual_seed(1)
    network: Any = skeleton(tiny_config(name)).value_network_class()(tiny_config(name))
    network.eval()
    with torch.no_grad():
        alone = [network(torch.tensor([row])).logits[0, :-1, 0] for row in token_ids()]
        scale = float(torch.cat(alone).abs().max())

        value_model = value_model_from_network(network)
        batches = pack(rows(), max_tokens=sum(LENGTHS))
        found = unpack(batches, [token_values(value_model, batch) for batch in batches])

    torch.testing.assert_close(found, alone, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize(
    "name",
    ["xglm", "mamba", "falcon_mamba", "falcon_h1", "gemma3", "gpt_oss", "apertus", "zamba2", "nemotron", "bloom"],
)
def test_in_bfloat16_a_family_computes_what_transformers_does_in_that_type(name: str, tmp_path: Path) -> None:
    """Those that mix types: positions, decays and states in float32 beside weights in bfloat16."""
    tiny_model(name).save_pretrained(tmp_path)
    whole = [ProbeRow.of(row, num_compared=len(row)) for row in token_ids()]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)

    policy = load_policy(str(tmp_path), compute_dtype=torch.bfloat16)  # against its own plain forward pass
    batches = pack(rows(), max_tokens=sum(LENGTHS))
    found = unpack(batches, [token_logprobs(policy, batch) for batch in batches])

    assert difference(found, plain_logprobs(plain, whole)).is_within(TOLERANCES[torch.bfloat16])


def test_a_family_that_cannot_compute_in_bfloat16_is_refused_in_one_sentence() -> None:
    policy = policy_from_network(tiny_model("minimax"), compute_dtype=torch.bfloat16)

    with pytest.raises(ProbeError, match=r"^transformers' forward pass of MiniMaxForCausalLM in bfloat16 fails: "):
        require_agreement(policy)


@pytest.mark.parametrize("name", ["gemma3_text", "olmo2", "glm4_moe", "falcon_h1", "gpt_neox", "mamba"])
def test_a_family_without_a_token_classifier_keeps_body_and_head_on_disk(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    folder = str(tmp_path)
    model.save_pretrained(folder)

    value_model = value_model_from_policy(folder)
    for parameter in value_model.network.get_submodule("score").parameters():
        torch.nn.init.normal_(parameter)
    (batch,) = pack(rows(), max_tokens=sum(LENGTHS))
    values = token_values(value_model, batch)
    value_model.network.save_pretrained(f"{folder}/critic")

    torch.testing.assert_close(token_values(load_value_model(f"{folder}/critic"), batch), values)
    body = AutoModelForCausalLM.from_pretrained(folder).base_model
    torch.testing.assert_close(value_model.network.base_model.state_dict(), body.state_dict())

"""Tiny models of many families through the general path: the layout that the first weights decide is right."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from services.generation.transformers_engine.decoders.general import GeneralDecoder, Layout
from services.generation.transformers_engine.decoders.layouts.forward_pass import ForwardPass
from services.generation.transformers_engine.decoders.model_weights import named_weights
from services.generation.transformers_engine.decoders.proof import decoded_logprobs, require_agreement
from tests.generation.tiny_models import CPU, FAST, a_decoder, a_model, an_update
from tools.tiny_families import FAMILIES, VOCABULARY, WINDOW, Family, tiny_config, tiny_model
from tppo.models.probe import TOLERANCES, ProbeError, difference, plain_logprobs, rows_for
from tppo.weight_probe import ProbeRow

BANDED = ("gemma2", "gemma3_text", "mistral", "mixtral", "gpt_oss", "cohere2", "llama4_text")
RECURRENT = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "lfm2", "qwen3_next", "nemotron_h")


def rows() -> list[ProbeRow]:
    """Others than the probe's: prefixes and decoded tokens on both sides of the window."""
    generator = torch.Generator().manual_seed(7)
    shapes = ((40, 3), (WINDOW + 2, WINDOW - 1), (25, 20), (4, 1))
    return [
        ProbeRow.of(torch.randint(VOCABULARY, (length,), generator=generator).tolist(), num_compared=length - start)
        for length, start in shapes
    ]


def a_general_decoder(name: str, model: Any) -> GeneralDecoder:
    decoder = GeneralDecoder(tiny_config(name), dtype=torch.float32, device=CPU, capacity=100)
    with torch.inference_mode():
        decoder.prepare({key: tensor.detach().clone() for key, tensor in named_weights(model).items()})()
    return decoder


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layout_that_was_chosen_decodes_other_rows_as_the_plain_forward_pass(name: str) -> None:
    model = tiny_model(name)

    decoder = a_general_decoder(name, model)
    with torch.inference_mode():
        found = decoded_logprobs(decoder, rows(), num_slots=3, device=CPU)

    assert difference(found, plain_logprobs(model, rows())).is_within(TOLERANCES[torch.float32])


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (("llama", "gpt2", "bloom", "mpt", "deepseek_v3", "qwen3_moe", *BANDED, *RECURRENT), Layout.TOGETHER),
        (("xlstm",), Layout.STACKED),
        (("rwkv",), Layout.ALONE),
        (("recurrent_gemma", "minimax"), Layout.UNCACHED),
    ],
)
def test_rows_decode_together_wherever_that_changes_nothing(names: Sequence[str], layout: Layout) -> None:
    found = {name: a_general_decoder(name, tiny_model(name)).layout for name in names}

    assert found == dict.fromkeys(names, layout)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, Layout.JOINED) for name in ("gemma3_text", "llama4_text", "jamba", "mamba2", "bloom")),
        *((name, Layout.ALONE) for name in ("gemma3_text", "jamba", "xlstm", "rwkv")),
    ],
)
def test_a_family_has_slower_layouts_that_are_right(name: str, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gets in a release of transformers in which a padded prefill, or a shared cache, is wrong."""
    monkeypatch.setattr("services.generation.transformers_engine.decoders.general.CANDIDATES", (layout,))
    model = tiny_model(name)

    decoder = a_general_decoder(name, model)
    with torch.inference_mode():
        found = decoded_logprobs(decoder, rows(), num_slots=3, device=CPU)

    assert decoder.layout is layout
    assert difference(found, plain_logprobs(model, rows())).is_within(TOLERANCES[torch.float32])


@pytest.mark.parametrize("name", BANDED)
def test_long_prefixes_of_models_with_a_window_are_prefilled_in_parts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no mask is as large as the square of a prefix."""
    monkeypatch.setattr("services.generation.transformers_engine.decoders.layouts.together.MASKED_COLUMNS", 7)
    fill, num_columns = ForwardPass.fill, []

    def noted(self: ForwardPass, tokens: Tensor, **options: Any) -> Any:
        num_columns.append(tokens.shape[1])
        return fill(self, tokens, **options)

    monkeypatch.setattr(ForwardPass, "fill", noted)
    model = tiny_model(name)

    decoder = a_general_decoder(name, model)
    with torch.inference_mode():
        found = decoded_logprobs(decoder, rows(), num_slots=3, device=CPU)

    assert decoder.layout is Layout.TOGETHER
    assert max(num_columns) == 7
    assert difference(found, plain_logprobs(model, rows())).is_within(TOLERANCES[torch.float32])


def test_weights_are_used_as_they_came_and_no_random_ones_are_made() -> None:
    model = tiny_model("gemma3_text")
    tensors = {key: tensor.detach().clone() for key, tensor in named_weights(model).items()}
    state = torch.get_rng_state()

    decoder = GeneralDecoder(tiny_config("gemma3_text"), dtype=torch.float32, device=CPU, capacity=100)
    for update in (tensors, {key: tensor + 1 for key, tensor in tensors.items()}):
        decoder.prepare(update)()
        used = {weight.data_ptr() for weight in decoder.weights.values()}
        assert used == {tensor.data_ptr() for tensor in update.values()}

    assert torch.equal(torch.get_rng_state(), state)


class OneTokenBehind:
    """A decoder whose every step answers for the token before."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.vocabulary_size, self.num_prefilled = inner.vocabulary_size, 0
        self.exchange, self.reset, self.prepare = inner.exchange, inner.reset, inner.prepare
        self.drop_weights = inner.drop_weights
        self._last: Tensor | None = None

    def step(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self._inner.step(tokens)
        self._last, behind = logits, self._last
        return logits if behind is None or behind.shape != logits.shape else behind


def test_a_decoder_that_is_wrong_is_refused_with_the_largest_difference() -> None:
    config = FAST["qwen3"]
    model = a_model(config)
    decoder = a_decoder(config)
    decoder.prepare(an_update(model).tensors)()

    with torch.inference_mode(), pytest.raises(ProbeError) as caught:
        require_agreement(OneTokenBehind(decoder), model, rows_for(model), dtype=torch.float32, num_slots=4)

    assert str(caught.value).startswith("the engine differs from transformers' plain forward pass by up to ")
    assert "expected at most 0.002 and 0.0002 in float32" in str(caught.value)


def test_the_first_weights_prove_the_fast_path_and_later_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FAST["qwen3"]
    decoder: Any = a_decoder(config)
    decoder.prepare(an_update(a_model(config)).tensors)()
    plain = decoder.step
    monkeypatch.setattr(decoder, "step", lambda tokens: plain(tokens) + torch.arange(40.0))

    decoder.prepare(an_update(a_model(config)).tensors)()
    other: Any = a_decoder(config)
    monkeypatch.setattr(other, "step", lambda tokens: type(other).step(other, tokens) + torch.arange(40.0))
    with pytest.raises(ProbeError, match="the engine differs"):
        other.prepare(an_update(a_model(config)).tensors)()


def test_a_family_that_no_layout_gets_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.tiny_families.FAMILIES", {"bert": Family("bert", "looks at later tokens")})

    with pytest.raises(ProbeError, match="no way to decode bert is right; the last one: the engine differs"):
        a_general_decoder("bert", tiny_model("bert"))

"""A model's folder must hold the whole model and nothing else; what is wrong is named by file and tensor."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2ForTokenClassification, Qwen2ForTokenClassification

from learner.models.loading.loading import load_policy, load_value_model, value_model_from_policy
from learner.models.loading.reading import WeightsError, require_weights
from learner.models.passes.outputs import token_values
from learner.models.passes.packing import TokenRow, pack
from tests.learner.tiny_models import VOCABULARY, a_network

Tensors = dict[str, Tensor]
NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    a_network("policy").save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, edit: Callable[[Tensors], object]) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return file


def without_second_layer(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.1.")]:
        del tensors[name]


def with_a_tensor_of_another_model(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)


def with_a_longer_norm(tensors: Tensors) -> None:
    tensors[NORM] = torch.ones(33)


def with_one_nan(tensors: Tensors) -> None:
    tensors[NORM][3] = torch.nan


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without_second_layer, "lacks 12 of 27 tensors, model.layers.1.input_layernorm.weight, model.layers.1."),
        (
            with_a_tensor_of_another_model,
            "holds tensors that the model does not have: model.layers.0.self_attn.q_norm.weight; expected",
        ),
        (with_a_longer_norm, f"holds tensors of other shapes: {NORM}; expected"),
        (with_one_nan, f"holds numbers that are not finite in {NORM}; expected"),
    ],
)
def test_weights_of_another_model_or_a_part_of_one_are_refused(
    folder: Path, edit: Callable[[Tensors], None], message: str
) -> None:
    file = change(folder, edit)

    for load in (load_policy, value_model_from_policy):
        with pytest.raises(WeightsError) as caught:
            load(str(folder))
        if load is load_policy:
            assert str(caught.value).startswith(f"{file} {message}")


def test_the_file_among_several_is_named(folder: Path) -> None:
    def with_infinity(tensors: Tensors) -> None:
        tensors[NORM][0] = torch.inf

    change(folder, with_infinity)
    in_two_files(folder)

    with pytest.raises(WeightsError, match=rf"model-00002-of-00002\.safetensors holds numbers .* not finite in {NORM}"):
        load_policy(str(folder))


def in_two_files(folder: Path) -> None:
    """The second has one tensor."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + (name == NORM)}-of-00002.safetensors" for name in tensors}
    for file in sorted(set(places.values())):
        of_file = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(of_file, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_whole_weights_in_one_file_or_two_pass(folder: Path) -> None:
    require_weights(folder)
    in_two_files(folder)

    require_weights(folder)


def test_a_file_that_the_index_names_and_that_is_not_there_is_named(folder: Path) -> None:
    in_two_files(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(WeightsError) as caught:
        require_weights(folder)

    assert str(caught.value) == (
        f"{folder}/model.safetensors.index.json names 1 of 2 files that are not there, "
        "model-00002-of-00002.safetensors; expected all of them"
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": 5}', "{"])
def test_an_index_without_a_table_of_files_is_refused(folder: Path, text: str) -> None:
    in_two_files(folder)
    (folder / "model.safetensors.index.json").write_text(text)

    with pytest.raises(WeightsError, match=r"index\.json has no weight_map; expected a table of tensors and the files"):
        require_weights(folder)


@pytest.mark.parametrize("num_bytes", [0, 5, 4000])
def test_a_torn_file_is_refused(folder: Path, num_bytes: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:num_bytes])

    with pytest.raises(WeightsError, match=rf"^{re.escape(str(file))}: .*; expected a file of weights, whole$"):
        load_policy(str(folder))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    with pytest.raises(
        WeightsError, match=r"^no model\.safetensors and no .*\.index\.json in .*; expected the model's"
    ):
        load_policy(str(folder))


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("load", [load_policy, value_model_from_policy, load_value_model])
def test_weights_that_are_pickled_alone_are_refused_and_never_read(folder: Path, load: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Trap(folder / "mark"), folder / "pytorch_model.bin")

    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle, which may run code; expected"):
        load(str(folder))

    assert not (folder / "mark").exists()


def test_pickled_weights_beside_safetensors_are_never_read(folder: Path) -> None:
    torch.save(Trap(folder / "mark"), folder / "pytorch_model.bin")

    load_policy(str(folder))

    assert not (folder / "mark").exists()


def a_classifier(kind: str) -> Any:
    """Of transformers, which names its head ``score`` or ``classifier``."""
    torch.manual_seed(2)
    if kind == "score":
        qwen2: Any = Qwen2ForTokenClassification
        return qwen2(a_network("value").config)
    config: Any = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)
    config.num_labels = 1
    gpt2: Any = GPT2ForTokenClassification
    return gpt2(config)


@pytest.mark.parametrize("kind", ["score", "classifier"])
def test_a_critic_that_transformers_saved_as_a_token_classifier_keeps_its_values(kind: str, tmp_path: Path) -> None:
    network = a_classifier(kind).eval()
    network.save_pretrained(tmp_path)
    (batch,) = pack([TokenRow([3, 1, 4, 1, 5], start=1)], max_tokens=5)

    values = token_values(load_value_model(str(tmp_path)), batch)

    with torch.no_grad():
        expected = network(batch.input_ids).logits[0, :-1, 0]
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-5)


def test_a_causal_language_model_is_no_critic(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks 2 of 28 tensors, score\.bias, score\.weight"):
        load_value_model(str(folder))

"""Files of tensors that are hashed while they are written: the library reads them, and so does transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.models.loading.loading import load_policy, value_model_from_policy
from learner.models.loading.named_tensors import copied, named_tensors, stored_tensors
from learner.parallel.group import ALONE
from learner.parallel.shard_files import stored, write_together
from learner.parallel.tensor_file import WrittenFile, write_tensors
from tests.support.small_disk import files_of_at_most
from tools.tiny_families import tiny_model
from tppo.digests import file_digest
from tppo.weights import DTYPES, digest


def some_tensors() -> dict[str, Tensor]:
    """Of every type, among them one without elements, one without dimensions and one that is not contiguous."""
    matrix = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    of_types = {f"of {name}": torch.tensor([0, 1, 1]).to(dtype) for name, dtype in DTYPES.items()}
    return {**of_types, "empty": torch.zeros(0, 3), "scalar": torch.tensor(0.5), "strided": matrix.t()}


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def facts(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: (tensor.dtype, tensor.shape, bits(tensor)) for name, tensor in tensors.items()}


def test_the_library_reads_what_was_written_bit_for_bit(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", some_tensors())

    assert facts(load_file(tmp_path / "file")) == facts(some_tensors())


def test_size_and_digests_are_those_of_the_file_and_of_the_tensors(tmp_path: Path) -> None:
    written = write_together(tmp_path, {"some": stored(some_tensors())}, ALONE)

    path = tmp_path / "some.safetensors"
    assert written.files == {path.name: WrittenFile(path.stat().st_size, file_digest(path))}
    assert written.digests == {"some": digest(some_tensors())}
    assert facts(load_file(path)) == facts(some_tensors())


def test_each_tensor_begins_at_a_multiple_of_the_size_of_its_type(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", some_tensors())
    content = (tmp_path / "file").read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])

    begins = {name: 8 + header_bytes + entry["data_offsets"][0] for name, entry in header.items()}

    assert all(begins[name] % tensor.element_size() == 0 for name, tensor in some_tensors().items())


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with files_of_at_most(2048), pytest.raises(OSError, match="large"):
        write_tensors(tmp_path / "file", {"w": torch.zeros(1024)})


# A model's folder


def a_model(**settings: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    network: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, **settings))
    return network.eval()


@pytest.mark.parametrize("max_file_bytes", [10**9, 3000, 1])
def test_transformers_loads_one_file_or_shards_alike(tmp_path: Path, max_file_bytes: int) -> None:
    model = a_model()
    model.config.save_pretrained(tmp_path)

    written = write_together(tmp_path, {"model": stored(stored_tensors(model))}, ALONE, max_file_bytes=max_file_bytes)

    ids = torch.arange(20)[None]
    loaded: Any = Qwen2ForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert written.digests["model"] == digest(stored_tensors(model))
    assert written.files.keys() == {path.name for path in tmp_path.glob("*.safetensors")}


def test_shards_are_no_larger_than_allowed_but_for_a_single_tensor_and_the_index_names_them(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(100), "b": torch.zeros(150), "c": torch.zeros(400), "d": torch.zeros(10)}

    write_together(tmp_path, {"model": stored(tensors)}, ALONE, max_file_bytes=1000)

    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    one, two, three = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
    assert index == {"metadata": {"total_size": 2640}, "weight_map": {"a": one, "b": one, "c": two, "d": three}}


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    assert "lm_head.weight" in stored_tensors(a_model(tie_word_embeddings=False))
    assert "lm_head.weight" not in stored_tensors(a_model(tie_word_embeddings=True))


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("qwen3_moe", "model.layers.0.mlp.experts.3.down_proj.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.3.w2.weight"),
        ("granitemoe", "model.layers.0.block_sparse_moe.input_linear.weight"),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.weight"),
    ],
)
def test_both_models_have_the_names_and_pieces_on_disk_that_others_expect(
    name: str, piece: str, tmp_path: Path
) -> None:
    """transformers joins the experts of a layer in memory; vLLM knows them as they were published."""
    tiny_model(name).save_pretrained(tmp_path)
    published = facts(load_file(tmp_path / "model.safetensors"))

    models: list[Any] = [load_policy(str(tmp_path)), value_model_from_policy(str(tmp_path))]
    policy, critic = (facts(stored_tensors(model.network, model.weights.tensors())) for model in models)

    assert piece in published
    assert policy == published
    body = {key: published[key] for key in published if key.startswith(models[1].network.base_model_prefix)}
    assert critic == body | {key: critic[key] for key in ("score.weight", "score.bias")}


def test_named_tensors_are_the_networks_own_and_a_copy_is_not() -> None:
    model = a_model()
    own, copy = named_tensors(model), copied(named_tensors(model))

    with torch.no_grad():
        model.model.norm.weight.fill_(7.0)

    assert own["model.norm.weight"].tolist() == [7.0] * 16
    assert copy["model.norm.weight"].tolist() == [1.0] * 16

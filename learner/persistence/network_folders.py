"""A network's folder in a checkpoint: a whole model's, that transformers loads, or adapters, that peft does.

Adapters stand on a body that is in no checkpoint: `body.json` names its folder and its digest, by which a resume knows
it again. docs/lora.md
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from learner.models.loading.inspection import CAUSAL_ENDINGS
from learner.models.loading.loading import load_policy, load_value_model, value_model_from_policy
from learner.models.loading.named_tensors import copied, stored_tensors
from learner.models.loading.reading import WeightsError
from learner.models.weights.adapters import Adapters, AdapterWeights, Body, peft_config
from learner.models.weights.master_weights import MasterWeights
from learner.parallel.group import ALONE
from learner.parallel.shard_files import Stored, stored, write_together
from tppo.config import ConfigError
from tppo.models.adapters import ADAPTER_CONFIG, ADAPTER_FILE, BODY_FILE, Lora, has_digest
from tppo.models.probe import ProbeError
from tppo.run_folder.json_files import DamagedFileError, read_object
from tppo.weights import DTYPES, dtype_name


def describe_network(folder: Path, weights: MasterWeights, tensors: Stored) -> None:
    """What stands beside the tensors, in their folder, but for the tokenizer."""
    network = weights.network
    if isinstance(weights, AdapterWeights):
        _write_texts(folder, network, dtype_name(next(network.parameters())))
        write_json(folder / ADAPTER_CONFIG, adapter_config(weights))
        write_json(folder / BODY_FILE, {"path": weights.adapters.body.path, "digest": weights.adapters.body.digest})
    else:
        dtypes = (DTYPES[one.facts[0].dtype] for one in tensors)
        _write_texts(folder, network, next(dtype_name(dtype) for dtype in dtypes if dtype.is_floating_point))


def adapter_config(weights: AdapterWeights) -> dict[str, Any]:
    """What peft's adapter_config.json has; in one order, whatever order its sets have."""
    found = peft_config(weights.adapters, weights.layers, weights.heads).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}


def adapters_for(lora: Lora | None, body: Body, *, key: str, seed: int, checkpoint: Path | None) -> Adapters | None:
    """The adapters of a model of the section `key`, those of the checkpoint's folder where there is one.

    None where all weights train. Raises `ConfigError` where the checkpoint's are of another body, or none.
    """
    trained_on = None if checkpoint is None else read_body(checkpoint)
    if lora is None:
        if trained_on is not None:
            raise ConfigError(
                f"{key}.lora_rank = 0: {checkpoint} holds adapters; expected the rank that the run began with"
            )
        return None
    if checkpoint is None:
        return Adapters(lora, body, seed)
    if trained_on is None:
        raise ConfigError(
            f"{key}.lora_rank = {lora.rank}: {checkpoint} holds a whole model; expected 0, or another run.name"
        )
    if not has_digest(Path(body.path), trained_on.digest):
        raise ConfigError(
            f"{body.path} holds another body than that on which the adapters in {checkpoint} were trained, which was "
            f"{trained_on.path} with the digest {trained_on.digest}; expected that one, or another run.name"
        )
    return Adapters(lora, body, seed, tensors=read_adapters(checkpoint))


def write_sum(part: Path, folder: Path) -> None:
    """The model of a checkpoint's folder `part` in float32, without its tokenizer. Raises `ConfigError`."""
    facts = json.loads((part / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    body = read_body(part)
    assert body is not None, "it holds adapters"
    lora = Lora(facts["r"], facts["lora_alpha"], facts["target_modules"])
    adapters = adapters_for(lora, body, key="export", seed=0, checkpoint=part)
    assert adapters is not None, "the rank is that of a file of peft's"
    try:
        weights = _loaded(body, adapters, is_policy=not facts["modules_to_save"])
    except (WeightsError, ProbeError, OSError) as error:
        raise ConfigError(f"{part}: the body at {body.path}: {error}") from None
    merged = stored_tensors(weights.network, weights.merged())
    _write_texts(folder, weights.network, "float32")
    written = write_together(folder, {"model": stored(merged)}, ALONE)
    if written.error:
        raise OSError(written.error)


def _loaded(body: Body, adapters: Adapters, *, is_policy: bool) -> AdapterWeights:
    if is_policy:
        weights = load_policy(body.path, adapters=adapters).weights
    else:
        architectures = json.loads((Path(body.path) / "config.json").read_text(encoding="utf-8"))["architectures"]
        is_body_of_policy = any(name.endswith(CAUSAL_ENDINGS) for name in architectures)
        load = value_model_from_policy if is_body_of_policy else load_value_model
        weights = load(body.path, adapters=adapters).weights
    assert isinstance(weights, AdapterWeights)
    return weights


def read_body(folder: Path) -> Body | None:
    """What the adapters in the folder stand on; None where it holds a whole model. Raises `ConfigError`."""
    try:
        found = read_object(folder / BODY_FILE, {"path": str, "digest": str})
    except DamagedFileError as error:
        raise ConfigError(str(error)) from None
    return None if found is None else Body(found["path"], found["digest"])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """In a folder that is not in place yet."""
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_texts(folder: Path, network: Any, dtype: str) -> None:
    network.config.dtype = dtype
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(folder)
    if network.can_generate():
        network.generation_config.to_json_file(folder / "generation_config.json")  # as it came, valid or not


def read_adapters(folder: Path) -> dict[str, Tensor]:
    """By the names of peft's files. Raises `ConfigError`."""
    path = folder / ADAPTER_FILE
    try:
        return copied(load_file(path))  # in memory of its own, not in the file's
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: {error}; expected the adapters of the checkpoint") from None

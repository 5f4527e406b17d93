"""How large the models of a run are: by their files, or by what their configurations describe.

Of a model that is not here yet, only its `config.json` need be there. Weights are counted in the headers of their
files, so nothing is loaded.
"""

import math
from pathlib import Path

from tppo.config.sections.training import ModelSection
from tppo.models.memory_estimate import ModelShape


class UnknownShapeError(Exception):
    """Nobody can say how large a model is; the text says why."""


def shapes_of(section: ModelSection) -> tuple[ModelShape, ModelShape]:
    """Of the policy, and of the value model: its own folder's, else the policy's body. Raises `UnknownShapeError`."""
    policy = _shape(section.path)
    own = section.critic_path if section.critic_path and stored_parameters(section.critic_path) else None
    return policy, policy.body() if own is None else _shape(own)


def stored_parameters(folder: Path) -> int:
    """Of the folder's safetensors files, by their headers; tied ones once. 0 where there are none."""
    from safetensors import safe_open

    found = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            found += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return found


def _shape(folder: Path) -> ModelShape:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UnknownShapeError(f"{folder}: {error}") from None
    return ModelShape.of(config, stored_parameters(folder) or _described_parameters(config))


def _described_parameters(config: object) -> int:
    """Of the model that the configuration describes, without its memory; tied ones once."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return sum(parameter.numel() for parameter in model.parameters())

"""What the models' config.json already says against training them: found without weights, in about a second."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from learner.models.loading.reading import WeightsError, require_weights
from learner.models.loading.value_network import Skeleton, skeleton
from learner.models.passes.attention import hands_attention_over
from learner.models.passes.routing import experts_per_token
from tppo.config import Config, ConfigError
from tppo.config.schema import ModelSection
from tppo.models.adapters import ADAPTER_CONFIG, AdapterError, Lora, adapted_layers
from tppo.models.library_errors import first_line
from tppo.models.tokenizer import model_config

ATTENDING_TO_TOKENS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers of which `attend_within_rows` computes all that passes from token to token."""
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def require_trainable(section: ModelSection, *, router_aux_loss_coef: float = 0.0) -> None:
    """Raise `ConfigError` for a policy or a critic that could be neither loaded nor trained."""
    policy = _trainable_at("model.path", section.path)
    if router_aux_loss_coef:
        _require_routers(section.path, policy, router_aux_loss_coef)
    if section.critic_path is not None:
        critic = _trainable_at("model.critic_path", section.critic_path)
        _require_critic(section.critic_path, critic)
        _require_same_tokens(section, policy, critic)


def require_adaptable(config: Config) -> None:
    """Raise `ConfigError` for adapters that one of the models cannot have, or where what makes them is missing."""
    model = config.model
    for key, section, (of_path, path) in (
        ("actor", config.actor, ("model.path", model.path)),
        (
            "critic",
            config.critic,
            ("model.critic_path", model.critic_path) if model.critic_path else ("model.path", model.path),
        ),
    ):
        if (lora := Lora.of(section)) is None:
            continue
        if find_spec("peft") is None:
            raise ConfigError(
                f"{key}.lora_rank = {lora.rank} needs the package peft, which is not installed here; expected "
                "`pip install -e '.[lora]'`, or 0"
            )
        read = model_config(path, key=of_path)
        try:
            adapted_layers(_skeleton(_Read(read.to_json_string(), read)).network, lora)
        except AdapterError as error:
            raise ConfigError(f"{key}.{error}") from None


def require_dividable(config: Config) -> None:
    """Raise `ConfigError` for a model whose tokens cannot be divided among `learner.sequence_parallel_size` ranks."""
    size, model = config.learner.sequence_parallel_size, config.model
    for key, path in (("model.path", model.path), ("model.critic_path", model.critic_path)):
        if size == 1 or path is None:
            continue
        read = model_config(path, key=key)
        if why := why_not_dividable(read, size):
            raise ConfigError(
                f"learner.sequence_parallel_size = {size} with {key} = '{path}': {why}; expected 1, or another model"
            )


def why_not_dividable(config: PreTrainedConfig, size: int) -> str:
    """What keeps so many ranks from having the model's tokens between them; empty where nothing does."""
    text = config.get_text_config()
    num_heads = getattr(text, "num_attention_heads", None)
    network = _skeleton(_Read(config.to_json_string(), config)).network
    if network._is_stateful or not hands_attention_over(network):
        return f"{config.model_type} passes tokens on by other ways than attention, or attends by code of its own"
    if others := sorted(set(getattr(text, "layer_types", None) or ()) - ATTENDING_TO_TOKENS):
        return f"{config.model_type} has layers of {others[0]}, which need tokens that other processes have"
    if isinstance(num_heads, int) and num_heads % size:
        return f"{config.model_type} has {num_heads} attention heads, which are to be dealt to {size} processes"
    return ""


def require_whole_weights(section: ModelSection) -> None:
    """Raise `ConfigError` where a file of weights, of policy or critic, is not there or cut short."""
    for key, path in (("model.path", section.path), ("model.critic_path", section.critic_path)):
        try:
            if path is not None:
                require_weights(path)
        except WeightsError as error:
            raise ConfigError(f"{key} = '{path}': {error}") from None


def _trainable_at(key: str, path: Path) -> PreTrainedConfig:
    if (path / ADAPTER_CONFIG).is_file():
        raise ConfigError(
            f"{key} = '{path}' holds an adapter ({ADAPTER_CONFIG}) without its body; expected a whole model, as "
            "`tppo export` makes of one"
        )
    config = model_config(path, key=key)
    _require_causal_lm(key, path, config)
    return config


def _require_causal_lm(key: str, path: Path, config: PreTrainedConfig) -> None:
    """With a body for the value head."""
    if quantization := getattr(config, "quantization_config", None):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else type(quantization).__name__
        raise ConfigError(
            f"{key} = '{path}' holds quantized weights (quantization_config: {method}), which cannot be trained; "
            "expected the model in bfloat16 or float32"
        )
    if config.is_encoder_decoder:
        raise ConfigError(f"{key} = '{path}': {config.model_type} has an encoder; expected a causal language model")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", True):
        raise ConfigError(
            f"{key} = '{path}': {config.model_type} looks at later tokens too (is_decoder = false in its config.json); "
            "expected a causal language model"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"{key} = '{path}': transformers {transformers.__version__} has no causal language model of the type "
            f"{config.model_type}; expected one, such as that of its text alone"
        )
    try:
        _skeleton(_Read(config.to_json_string(), config)).value_network_class()
    except Exception as error:  # whatever a family's code raises at sizes that do not fit each other
        raise ConfigError(
            f"{key} = '{path}': {first_line(error)}; expected a causal language model that transformers "
            f"{transformers.__version__} can build from its config.json"
        ) from None


def _require_routers(path: Path, config: PreTrainedConfig, coefficient: float) -> None:
    if experts_per_token(_skeleton(_Read(config.to_json_string(), config)).network) is None:
        raise ConfigError(
            f"actor.router_aux_loss_coef = {coefficient:g}: transformers has no load-balancing loss for "
            f"{config.model_type}, the model at model.path = '{path}'; expected 0, or a mixture of experts that has one"
        )


@dataclass(frozen=True)
class _Read:
    """A configuration, equal to others of the same text."""

    text: str
    config: PreTrainedConfig = field(compare=False)


@lru_cache(maxsize=4)
def _skeleton(read: _Read) -> Skeleton:
    return skeleton(read.config)


def _require_critic(path: Path, config: PreTrainedConfig) -> None:
    classes = [name for name in config.architectures or () if name.endswith(CAUSAL_ENDINGS)]
    if classes:
        raise ConfigError(
            f"model.critic_path = '{path}' holds a causal language model ({classes[0]}), which has no value head; "
            "expected a critic, or leave model.critic_path unset to begin with the policy's body and a head of zeros"
        )
    if config.num_labels != 1 and config.architectures:
        raise ConfigError(f"model.critic_path = '{path}' has {config.num_labels} labels; expected num_labels = 1")


def _require_same_tokens(section: ModelSection, policy: PreTrainedConfig, critic: PreTrainedConfig) -> None:
    """A critic reads the policy's token ids."""
    sizes = [config.get_text_config().vocab_size for config in (policy, critic)]
    expected = "expected a critic that was trained with the policy's tokenizer"
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"model.critic_path = '{section.critic_path}' has a vocabulary of {sizes[1]} tokens, and model.path = "
            f"'{section.path}' one of {sizes[0]}; {expected}"
        )
    assert section.critic_path is not None
    vocabularies = [_vocabulary(path) for path in (section.path, section.critic_path)]
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        raise ConfigError(
            f"model.critic_path = '{section.critic_path}' has a tokenizer.json with another vocabulary than that of "
            f"model.path = '{section.path}'; {expected}"
        )


def _vocabulary(path: Path) -> object:
    """Of the folder's tokenizer.json; None where it cannot be read, or there is none."""
    try:
        return json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return None

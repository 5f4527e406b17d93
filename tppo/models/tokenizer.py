"""A model's tokenizer, the size of its vocabulary, and what ends a response; imports transformers."""

import json
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from tppo.config import ConfigError
from tppo.models.library_errors import first_line

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Of the folder `model.path`. Raises `ConfigError`."""
    vocabulary_size(path)
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        raise ConfigError(f"model.path = '{path}': no tokenizer; expected tokenizer.json or another tokenizer's files")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer.json raises Exception itself
        raise ConfigError(f"model.path = '{path}': {first_line(error)}; expected a tokenizer's files") from None
    return tokenizer


def vocabulary_size(path: Path) -> int | None:
    """Tokens that the model knows, by its config.json. Raises `ConfigError`."""
    size = getattr(model_config(path, key="model.path").get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def stop_token_ids(model: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a response: those of generation_config.json, of config.json, and of the tokenizer."""
    stated = [tokenizer.eos_token_id, *_stated_in_config(model)]
    if (model / "generation_config.json").exists():
        stated.append(_generation_config(model).eos_token_id)
    found = {token for one in stated for token in (one if isinstance(one, list) else [one]) if isinstance(token, int)}
    if not found:
        raise ConfigError(f"model.path = '{model}': no end-of-sequence token; expected eos_token_id")
    return tuple(sorted(found))


def model_config(path: Path, *, key: str) -> PreTrainedConfig:
    """Of the folder that the key names. Raises `ConfigError`."""
    if not path.is_dir():
        raise ConfigError(f"{key} = '{path}': no such folder; expected a model that transformers loads")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a file of another JSON type raises whatever the library comes upon first
        raise ConfigError(f"{key} = '{path}': {first_line(error)}; expected a model's config.json") from None
    return config


def _generation_config(model: Path) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(model)
    except Exception as error:  # as above
        expected = "expected its generation_config.json to be whole, or none"
        raise ConfigError(f"model.path = '{model}': {first_line(error)}; {expected}") from None


def _stated_in_config(model: Path) -> Iterator[object]:
    """As the file says: where it is silent, transformers gives a family's default, which may be any of our tokens."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    for part in (config, *(config.get(name) for name in ("text_config", "llm_config"))):
        if isinstance(part, dict):
            yield part.get("eos_token_id")

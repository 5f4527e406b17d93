"""The policy's tokenizer, what ends a response, and the readers that follow from them; imports transformers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from learner.data.evaluation_prompts import EvaluationPromptReader
from learner.data.prompts import PromptLimits, PromptReader, Tokenizer
from tppo.config import Config, ConfigError
from tppo.models.context_length import context_length, position_key, rotary_border

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Of the folder `model.path`. Raises `ConfigError`."""
    vocabulary_size(path)
    if not any((path / name).exists() for name in TOKENIZER_FILES):
        raise ConfigError(f"model.path = '{path}': no tokenizer; expected tokenizer.json or another tokenizer's files")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer.json raises Exception itself
        raise ConfigError(f"model.path = '{path}': {_first_line(error)}; expected a tokenizer's files") from None
    return tokenizer


def vocabulary_size(path: Path) -> int | None:
    """Tokens that the model knows, by its config.json. Raises `ConfigError`."""
    size = getattr(_model_config(path, key="model.path").get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def require_context(config: Config) -> None:
    """Raise `ConfigError` when a response at its limit would be longer than what one of the models can look at."""
    run = config.run
    num_tokens = run.max_prompt_length + run.max_response_length
    for key, path in (("model.path", config.model.path), ("model.critic_path", config.model.critic_path)):
        if path is None:
            continue
        of_model = _model_config(path, key=key)
        limit, border = context_length(of_model), rotary_border(of_model)
        tokens = (
            f"run.max_prompt_length = {run.max_prompt_length} and run.max_response_length = "
            f"{run.max_response_length} make {num_tokens} tokens, and the model at {key} = '{path}'"
        )
        if limit is not None and limit < num_tokens:
            raise ConfigError(f"{tokens} can look at {limit} ({position_key(of_model)}); expected at most that many")
        if border is not None and border[1] < num_tokens:
            raise ConfigError(
                f"{tokens} has rope_type '{border[0]}', which turns all tokens of a row otherwise once it is longer "
                f"than {border[1]}, so that their log-probabilities change after they were sampled; expected at most "
                f"{border[1]}"
            )


def _model_config(path: Path, *, key: str) -> PreTrainedConfig:
    if not path.is_dir():
        raise ConfigError(f"{key} = '{path}': no such folder; expected a model that transformers loads")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a file of another JSON type raises whatever the library comes upon first
        raise ConfigError(f"{key} = '{path}': {_first_line(error)}; expected a model's config.json") from None
    return config


def _generation_config(model: Path) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(model)
    except Exception as error:  # as above
        expected = "expected its generation_config.json to be whole, or none"
        raise ConfigError(f"model.path = '{model}': {_first_line(error)}; {expected}") from None


def stop_token_ids(model: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a response: those of generation_config.json, of config.json, and of the tokenizer."""
    stated = [tokenizer.eos_token_id, *_stated_in_config(model)]
    if (model / "generation_config.json").exists():
        stated.append(_generation_config(model).eos_token_id)
    found = {token for one in stated for token in (one if isinstance(one, list) else [one]) if isinstance(token, int)}
    if not found:
        raise ConfigError(f"model.path = '{model}': no end-of-sequence token; expected eos_token_id")
    return tuple(sorted(found))


def _stated_in_config(model: Path) -> Iterator[object]:
    """As the file says: where it is silent, transformers gives a family's default, which may be any of our tokens."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    for part in (config, *(config.get(name) for name in ("text_config", "llm_config"))):
        if isinstance(part, dict):
            yield part.get("eos_token_id")


def prompt_readers(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[PromptReader, EvaluationPromptReader]:
    """Of the training and of the evaluation prompts. Raises `ConfigError`."""
    path = config.model.path
    require_context(config)
    stops = stop_token_ids(path, tokenizer)
    limits = PromptLimits(config.run.max_prompt_length, frozenset(stops), vocabulary_size(path))
    reader = PromptReader(config.data, cast(Tokenizer, tokenizer), limits)
    own = tokenizer.eos_token_id
    end_token_id = own if isinstance(own, int) else stops[0]
    return reader, EvaluationPromptReader(config.evaluation, reader, end_token_id)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

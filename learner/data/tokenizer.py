"""The readers that follow from the policy's tokenizer and from what ends a response; imports transformers."""

from typing import cast

from transformers import PreTrainedTokenizerBase

from learner.data.evaluation_prompts import EvaluationPromptReader
from learner.data.prompts import PromptLimits, PromptReader, Tokenizer
from tppo.config import Config, ConfigError
from tppo.models.context_length import context_length, position_key, rotary_border
from tppo.models.tokenizer import model_config, stop_token_ids, vocabulary_size


def require_context(config: Config) -> None:
    """Raise `ConfigError` when a response at its limit would be longer than what one of the models can look at."""
    run = config.run
    num_tokens = run.max_prompt_length + run.max_response_length
    for key, path in (("model.path", config.model.path), ("model.critic_path", config.model.critic_path)):
        if path is None:
            continue
        of_model = model_config(path, key=key)
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

"""What a model's configuration says of the tokens that it can look at."""

from typing import Any

import pytest
from transformers import (
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from tppo.context_length import context_length

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "rope_theta": 5e5,
}  # fmt: skip


def llama(**keys: Any) -> LlamaConfig:
    return LlamaConfig(max_position_embeddings=4096, **keys)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (llama(), 4096),
        (GPT2Config(n_positions=1024), 1024),
        (BloomConfig(), None),  # ALiBi: distances, not positions
        (llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), 8192),
        (Qwen2Config(max_position_embeddings=32768, rope_parameters=YARN), 131072),
        (LlamaConfig(max_position_embeddings=131072, rope_parameters=LLAMA3), 131072),
        (Gemma3TextConfig(max_position_embeddings=131072), 131072),
        (LlavaConfig(text_config=llama()), 4096),
    ],
)
def test_the_context_of_a_model_is_read_from_its_configuration(config: PreTrainedConfig, expected: int | None) -> None:
    assert context_length(config) == expected

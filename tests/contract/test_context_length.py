"""What a model's configuration says of the tokens that it can look at."""

from typing import Any

import pytest
from transformers import (
    BloomConfig,
    CodeGenConfig,
    Gemma3TextConfig,
    GPT2Config,
    KimiLinearConfig,
    LlamaConfig,
    LlavaConfig,
    MambaConfig,
    MptConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
)

from tppo.models.context_length import context_length, require_one_rotary_table, rotary_border

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
        (MptConfig(max_seq_len=512), 512),
        (CodeGenConfig(n_positions=640, n_ctx=640), 640),
        (KimiLinearConfig(max_position_embeddings=4096), 4096),
        (MambaConfig(), None),
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


LONGROPE = {
    "rope_type": "longrope", "original_max_position_embeddings": 64, "rope_theta": 1e4,
    "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
}  # fmt: skip


def test_rows_beyond_the_border_of_a_rotary_embedding_are_refused() -> None:
    config = llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})

    require_one_rotary_table(config, 4096)
    with pytest.raises(
        ValueError, match=r"llama has rope_type 'dynamic', which turns .* longer than 4096; .* not 4097"
    ):
        require_one_rotary_table(config, 4097)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (llama(), None),
        (Qwen2Config(max_position_embeddings=32768, rope_parameters=YARN), None),
        (llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), ("dynamic", 4096)),
        (
            Phi3Config(
                hidden_size=32, num_attention_heads=4, max_position_embeddings=256, pad_token_id=0,
                original_max_position_embeddings=64, rope_parameters=LONGROPE,
            ),
            ("longrope", 64),
        ),
        (BloomConfig(), None),
    ],
)  # fmt: skip
def test_the_length_at_which_a_rotary_embedding_changes_is_known(
    config: PreTrainedConfig, expected: tuple[str, int] | None
) -> None:
    assert rotary_border(config) == expected

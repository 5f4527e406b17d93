"""A model that looks at images too is trained as a language model: a step leaves its other parts as they were."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from learner.models.loading.loading import load_policy, value_model_from_policy
from learner.models.loading.named_tensors import stored_tensors
from learner.state import new_trainer
from tests.learner.tiny_models import a_step_config, some_rows, step
from tools.tiny_families import tiny_model


def test_a_step_moves_what_reads_text_and_nothing_else(tmp_path: Path) -> None:
    tiny_model("gemma3").save_pretrained(tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    policy, value_model = load_policy(str(tmp_path)), value_model_from_policy(str(tmp_path))
    trainer: Any = new_trainer(a_step_config(), policy, value_model)

    metrics = step(trainer, some_rows())

    after = stored_tensors(policy.network, policy.weights.tensors())
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert after.keys() == before.keys()
    assert moved == {"language_model"}
    assert metrics["actor/grad_norm"] > 0
    assert metrics["critic/grad_norm"] > 0

"""An unknown key is answered by ours of the same meaning, or of nearly the same letters."""

from pathlib import Path

import pytest

from tppo.config import ConfigError, load
from tppo.config.mistakes import all_keys
from tppo.config.other_names import OURS_BY_NAME

MINIMAL = '[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("learning_rate=1e-4", "did you mean actor.lr?"),
        ("learning_rate=", "did you mean actor.lr?"),
        ("learning-rate=", "did you mean actor.lr?"),
        ("actor.learning_rate=1e-4", "did you mean actor.lr?"),
        ("critic.learning_rate=1e-4", "did you mean critic.lr?"),
        ("lr=1e-4", "did you mean actor.lr or critic.lr?"),
        ("seed=1", "did you mean run.seed?"),
        ("training.seed=1", "did you mean run.seed?"),
        ("temperature=1", "did you mean generation.temperature or evaluation.temperature?"),
        ("num_generations=8", "did you mean data.samples_per_prompt?"),
        ("max_completion_length=512", "did you mean run.max_response_length?"),
        ("per_device_train_batch_size=8", "did you mean run.rollouts_per_step?"),
        ("actor_rollout_ref.actor.optim.lr=1e-6", "did you mean actor.lr or critic.lr?"),
        ("actor_rollout_ref.rollout.n=4", "did you mean data.samples_per_prompt?"),
        ("actor_rollout_ref.model.path='m'", "did you mean model.path?"),
        ("trainer.total_epochs=1", "did you mean run.total_training_steps?"),
        ("trainer.save_freq=5", "did you mean checkpoint.save_freq?"),
        ("trainer.project_name=mine", "did you mean trackers.wandb_project?"),
        ("data.train_batch_size=32", "did you mean run.rollouts_per_step?"),
        ("data.max_prompt_length=64", "did you mean run.max_prompt_length?"),
        ("algorithm.gae_lambda=0.9", "did you mean algorithm.lam?"),
        ("actor.clip_ratio=0.1", "did you mean algorithm.clip_ratio_low?"),
        ("model_name_or_path=m", "did you mean model.path?"),
        ("reward.reward_funcs=exact", "did you mean reward.default_function?"),
        ("model.dtype='bfloat16'", "did you mean learner.compute_dtype?"),
        ("model.device='cuda'", "did you mean learner.device or critic.device or generation.device?"),
        ("actor.fp16=true", "did you mean learner.compute_dtype?"),
        ("run.sede=1", "did you mean run.seed?"),
        ("critic.router_aux_loss_coef=0.01", "did you mean actor.router_aux_loss_coef?"),
        ("rnu.seeed=1", "did you mean run?"),
        ("actor.lr.peak=1", ""),
        ("run.zzz=1", "expected one of name, directory, seed"),
        ("zzz=1", "expected one of run, model, learner, data"),
    ],
)
def test_an_unknown_key_suggests_ours(file: Path, override: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, [override])

    assert suggestion in str(caught.value)


def test_every_name_of_another_system_leads_to_a_key_and_none_is_a_key_itself() -> None:
    keys = set(all_keys())

    assert set(OURS_BY_NAME.values()) <= keys
    assert not OURS_BY_NAME.keys() & {key.partition(".")[2] for key in keys}


@pytest.mark.parametrize(
    "override",
    [
        "generation.top_p=0.9",
        "generation.top_k=50",
        "generation.min_p=0.05",
        "evaluation.top_p=0.95",
        "actor_rollout_ref.rollout.top_k=-1",
        "generation.repetition_penalty=1.1",
    ],
)
def test_sampling_from_another_distribution_than_the_policy_is_refused_with_the_reason(
    file: Path, override: str
) -> None:
    key, _, value = override.partition("=")

    with pytest.raises(ConfigError) as caught:
        load(file, [override])

    assert f"unknown key {key} = {value}; expected no such key: the policy that is trained" in str(caught.value)

"""Keys that do not go together are refused in one sentence, however each of them was written down."""

from pathlib import Path

import pytest

from tppo.config import ConfigError, dump, load

MINIMAL = '[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'

CONTRADICTIONS = [
    (
        ["generation.gather_seconds=0.5", "run.mode=overlapped"],
        "generation.gather_seconds = 0.5 with run.mode = 'overlapped', in which the learner waits for the slowest "
        "response of a step; expected 0, or run.mode = 'streaming'",
    ),
    (
        ["generation.gather_seconds=1", "generation.engine=vllm", "run.mode=streaming"],
        "generation.gather_seconds = 1 with generation.engine = 'vllm', in which no response stands still; expected 0",
    ),
    (
        ["run.window_length=64", "algorithm.num_ignored_tail_tokens=64"],
        "algorithm.num_ignored_tail_tokens = 64 with run.window_length = 64: no token of an unfinished window would "
        "train the policy; expected at most 63",
    ),
    (
        ["run.max_response_length=1000", "run.window_length=100", "algorithm.overlong_buffer_length=1001"],
        "algorithm.overlong_buffer_length = 1001 is longer than run.max_response_length = 1000; expected at most that",
    ),
    (
        ["run.max_policy_lag=4", "run.max_token_lag=3"],
        "run.max_token_lag = 3 is below run.max_policy_lag = 4: the oldest windows would be masked out of the policy "
        "loss; expected at least 4",
    ),
    (
        ["run.rollouts_per_step=8", "actor.ppo_mini_batches=9"],
        "actor.ppo_mini_batches = 9: a training step has 8 windows (run.rollouts_per_step = 8); expected at most 8",
    ),
    (
        ["run.rollouts_per_step=8", "critic.ppo_mini_batches=9"],
        "critic.ppo_mini_batches = 9: a training step has 8 windows (run.rollouts_per_step = 8); expected at most 8",
    ),
    (
        ["run.total_training_steps=20", "critic.warmup_steps=20"],
        "critic.warmup_steps = 20 with run.total_training_steps = 20: the policy would never train; expected fewer "
        "than 20",
    ),
    (
        ["critic.warmup_steps=10", "actor.lr_warmup_steps=181", "actor.ppo_epochs=2"],
        "actor.lr_warmup_steps = 181 with run.total_training_steps = 100: the learning rate would not reach its peak; "
        "expected at most 180 updates",
    ),
    (
        ["critic.lr_warmup_steps=101"],
        "critic.lr_warmup_steps = 101 with run.total_training_steps = 100: the learning rate would not reach its peak; "
        "expected at most 100 updates",
    ),
    (
        ["algorithm.num_reused_batches=8"],
        "algorithm.num_reused_batches = 8 is a key of geppo, and run.algorithm = 'tppo'; expected no such key, or "
        "run.algorithm = 'geppo'",
    ),
    (
        ["run.algorithm=geppo", "algorithm.ewma_center_of_mass=4"],
        "algorithm.ewma_center_of_mass = 4.0 is a key of ppo-ewma, and run.algorithm = 'geppo'; expected no such key, "
        "or run.algorithm = 'ppo-ewma'",
    ),
    (
        ["actor.lr_decay_steps=12", "actor.lr_warmup_steps=12"],
        "actor.lr_decay_steps = 12 with actor.lr_warmup_steps = 12: the decay would end before the learning rate has "
        "reached its peak; expected more than 12",
    ),
    (
        ["critic.lr_decay_steps=12", "critic.lr_decay=constant"],
        "critic.lr_decay_steps = 12 with critic.lr_decay = 'constant', which has no decay; expected one of them",
    ),
    (
        ["run.algorithm=geppo", "algorithm.importance_cap=none"],
        "algorithm.importance_cap = 'none' with run.algorithm = 'geppo', which needs a cap; expected a number, or no "
        "such key",
    ),
    (
        ["algorithm.old_logprobs=rollout", "algorithm.importance_cap=2"],
        "algorithm.importance_cap = 2.0 with algorithm.old_logprobs = 'rollout', where the ratio is to the policy that "
        "sampled already; expected 'none', or no such key",
    ),
    (
        ["algorithm.old_logprobs=rollout", "algorithm.importance_mode=mask"],
        "algorithm.importance_mode = 'mask' where there are no importance weights; expected 'truncate', or no such key "
        "with algorithm.old_logprobs = 'rollout'",
    ),
    (
        ["run.algorithm=ppo-ewma", "algorithm.importance_mode=mask"],
        "algorithm.importance_mode = 'mask' with run.algorithm = 'ppo-ewma', whose formula truncates; expected "
        "'truncate', or no such key",
    ),
    (
        ["run.mode=lockstep", "algorithm.importance_mode=mask"],
        "algorithm.importance_mode = 'mask' where there are no importance weights; expected a number as "
        "algorithm.importance_cap, above which a weight is masked",
    ),
    (
        ["learner.offload_idle_model=true", "learner.device=cuda:0", "critic.device=cuda:1"],
        "learner.offload_idle_model = true with critic.device = 'cuda:1' and learner.device = 'cuda:0': each model has "
        "its own device; expected the same device, or false",
    ),
    (
        ["critic.lora_alpha=32.0"],
        "critic.lora_alpha = 32.0 with critic.lora_rank = 0, which trains all weights; expected a rank of at least 1, "
        "or no such key",
    ),
    (
        ["actor.target_modules=['q_proj']"],
        "actor.target_modules = ['q_proj'] with actor.lora_rank = 0, which trains all weights; expected a rank of at "
        "least 1, or no such key",
    ),
    (
        ["actor.lora_rank=8", "critic.share_body=true"],
        "critic.share_body = true with critic.lora_rank = 0: both models stand on the policy's frozen body; expected a "
        "rank of at least 1, or critic.share_body = false",
    ),
    (
        ["actor.lora_rank=8", "critic.lora_rank=8", "critic.share_body=true", "model.critic_path=c"],
        "critic.share_body = true with a model.critic_path: both models stand on the policy's frozen body; expected no "
        "such key, or critic.share_body = false",
    ),
    (
        ["learner.num_processes=4", "learner.sequence_parallel_size=3"],
        "learner.sequence_parallel_size = 3 with learner.num_processes = 4; expected a divisor of that number, or "
        "learner.num_processes = WORLD_SIZE under torchrun",
    ),
    (
        ["learner.fsdp_size=2"],
        "learner.fsdp_size = 2 with learner.num_processes = 1; expected a divisor of that number, or "
        "learner.num_processes = WORLD_SIZE under torchrun",
    ),
    (
        ["actor.lora_rank=8", "critic.lora_rank=8", "critic.share_body=true", "critic.compute_dtype=bfloat16"],
        "critic.share_body = true with critic.compute_dtype = 'bfloat16': both models stand on the policy's frozen "
        "body; expected 'float32', or critic.share_body = false",
    ),
    (
        ["actor.lora_rank=8", "critic.lora_rank=8", "critic.share_body=true", "critic.num_processes=1"],
        "critic.share_body = true with critic.num_processes = 1: both models stand on the policy's frozen body; "
        "expected 0, or critic.share_body = false",
    ),
    (
        ["critic.num_processes=1", "learner.num_processes=2", "learner.sequence_parallel_size=2"],
        "critic.num_processes = 1 with learner.sequence_parallel_size = 2: the processes of one model divide its rows "
        "and its weights alone; expected 0, or no such key",
    ),
    (
        ["critic.num_processes=1", "learner.offload_idle_model=true"],
        "learner.offload_idle_model = true with critic.num_processes = 1, whose processes share the memory of two "
        "models; expected false, or critic.num_processes = 0",
    ),
    (
        ["critic.num_processes=2", "critic.device=cuda:1"],
        "critic.device = 'cuda:1' with critic.num_processes = 2: each process has a device of its own; expected "
        "'cuda', 'auto' or 'cpu'",
    ),
    (
        ["learner.compile=true", "critic.num_processes=2"],
        "learner.compile = true with critic.num_processes = 2: compiled blocks have not been tried with divided "
        "weights; expected 1, or no compilation",
    ),
    (
        ["learner.num_processes=2", "learner.offload_idle_model=true"],
        "learner.offload_idle_model = true with learner.num_processes = 2, whose processes share the memory of two "
        "models; expected false, or learner.num_processes = 1",
    ),
    (
        ["learner.num_processes=2", "critic.device=cuda:1"],
        "critic.device = 'cuda:1' with learner.num_processes = 2: each process has a device of its own; expected "
        "'cuda', 'auto' or 'cpu'",
    ),
    (
        ["learner.compile=true", "learner.activation_checkpointing=selective"],
        "learner.compile = true with learner.activation_checkpointing = 'selective', which keeps the results of "
        "operations that a compiled block no longer shows; expected 'full' or 'off', or no compilation",
    ),
    (
        ["learner.compile=true", "learner.num_processes=2"],
        "learner.compile = true with learner.num_processes = 2: compiled blocks have not been tried with divided "
        "weights; expected 1, or no compilation",
    ),
]


def write(folder: Path, text: str = "") -> Path:
    path = folder / "run.toml"
    path.write_text(MINIMAL + text)
    return path


@pytest.mark.parametrize(("overrides", "sentence"), CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused_in_one_sentence(
    tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    path = write(tmp_path)

    with pytest.raises(ConfigError) as caught:
        load(path, overrides)

    assert str(caught.value) == f"{path}: {sentence}"


@pytest.mark.parametrize(
    "overrides",
    [
        ["run.window_length=64", "algorithm.num_ignored_tail_tokens=63"],
        ["run.window_length=8", "run.max_response_length=8"],  # no response has an unfinished window
        ["algorithm.overlong_buffer_length=2048"],
        ["run.max_policy_lag=4", "run.max_token_lag=4"],
        ["run.rollouts_per_step=8", "actor.ppo_mini_batches=8"],
        ["run.algorithm=geppo", "run.rollouts_per_step=8", "actor.ppo_mini_batches=32"],  # of four steps' windows
        ["run.total_training_steps=20", "critic.warmup_steps=19"],
        ["critic.warmup_steps=10", "actor.lr_warmup_steps=90"],
        ["run.algorithm=geppo", "algorithm.num_reused_batches=8"],
        ["run.mode=lockstep", "algorithm.importance_mode=mask", "learner.compute_dtype=bfloat16"],
        ["algorithm.old_logprobs=rollout", "algorithm.importance_cap=none"],
        ["algorithm.old_logprobs=rollout", "run.algorithm=vapo"],
    ],
)
def test_keys_at_their_limits_go_together(tmp_path: Path, overrides: list[str]) -> None:
    assert load(write(tmp_path), overrides).warnings is not None


def test_a_trial_that_is_shorter_than_the_files_warm_ups_is_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path, "[actor]\nlr_warmup_steps = 12\n[critic]\nwarmup_steps = 8\n")

    trial = load(path, ["run.total_training_steps=8"])
    its_own_file = load(write(tmp_path, "\n"), [])  # the default warm-up fits a run of the default length

    assert [warning.partition(":")[0] for warning in trial.warnings] == [
        "critic.warmup_steps = 8 with run.total_training_steps = 8",
        "actor.lr_warmup_steps = 12 with run.total_training_steps = 8",
    ]
    assert its_own_file.warnings == ()


def test_the_file_that_a_short_trial_leaves_is_read_by_its_processes(tmp_path: Path) -> None:
    path = write(tmp_path, "[actor]\nlr_warmup_steps = 12\n")
    trial = load(path, ["run.total_training_steps=8"])
    left = tmp_path / "config.toml"
    left.write_text(dump(trial))

    assert load(left) == trial


def test_a_system_on_the_command_line_drops_the_keys_of_the_files_system(tmp_path: Path) -> None:
    path = write(tmp_path, '[run]\nalgorithm = "geppo"\n[algorithm]\nnum_reused_batches = 8\n')

    assert load(path).algorithm.num_reused_batches == 8
    assert load(path, ["run.algorithm=ppo"]).algorithm.num_reused_batches == 4

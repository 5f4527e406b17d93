"""Every key refuses what makes no sense there, in one sentence: the key, the value, and what was expected."""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tppo.config import ConfigError, load
from tppo.config.mistakes import all_keys

KEY_OF_A_TABLE = re.compile(r"'(\w+)': ")
MINIMAL = '[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'

# What was expected, the keys with the same expectation, and the values that each of them refuses, as TOML writes them.
REFUSED: list[tuple[str, str, list[str]]] = [
    (
        "1 to 100 letters, digits, '.', '_' or '-', the first a letter or a digit",
        "run.name",
        ["'a run'", "'../a'", "'a/b'", "'-a'", "''", "5", "'{}'", "'a\u00e9'", "true"],
    ),
    ("a path", "run.directory model.path model.critic_path", ["5", "true", "['m']"]),
    ("a path", "run.directory model.path model.critic_path", ["''"]),
    ("a list with at least one entry, each a path", "data.train_files", ["[]", "'t.jsonl'", "[5]", "5"]),
    ("a list, each a path", "data.val_files", ["'v.jsonl'", "[True]", "['v.jsonl', 5]", "['']"]),
    ("a whole number from 0 to 9223372036854775807", "run.seed", ["-1", "'7'", "1.5", "true", "9223372036854775808"]),
    ("'tppo', 'ppo', 'vapo', 'ppo-ewma' or 'geppo'", "run.algorithm", ["'grpo'", "1", "'PPO'"]),
    ("'lockstep', 'overlapped' or 'streaming'", "run.mode", ["'fast'", "true"]),
    (
        "a whole number from 1 to 1000000000",
        "run.total_training_steps",
        ["0", "-5", "1000.0", "'100'", "true", "10000000000"],
    ),
    ("a whole number from 1 to 1000000", "run.rollouts_per_step", ["0", "100000000", "32.0", "true"]),
    (
        "a whole number from 1 to 16777216",
        "run.window_length run.max_prompt_length run.max_response_length actor.max_tokens_per_microbatch "
        "critic.max_tokens_per_microbatch",
        ["0", "-1", "100000000", "2.5", "'8'", "true"],
    ),
    ("a whole number from 0 to 1000 or 'none'", "run.max_policy_lag", ["-1", "100000", "'None'", "0.5"]),
    ("a whole number from 0 to 1000000000", "run.max_token_lag", ["-1", "1000000000.0", "true"]),
    (
        "a whole number from 0 to 1000000000",
        "actor.lr_warmup_steps critic.lr_warmup_steps critic.warmup_steps evaluation.test_freq checkpoint.save_freq "
        "actor.entropy_freq trace.log_completions",
        ["-1", "0.1", "10000000000", "'never'", "false"],
    ),
    (
        "true or false",
        "reward.allow_unsandboxed run.archive_inbox data.shuffle generation.recompute_cache_on_update "
        "generation.share_weight_memory generation.seeds "
        "reward.log_responses evaluation.val_before_train evaluation.after_training trace.enabled "
        "trackers.tensorboard endpoint.enabled prometheus.enabled learner.offload_idle_model critic.share_body "
        "learner.compile learner.deterministic",
        ["1", "'yes'", "'true'"],
    ),
    (
        "a number from 0.01 to 31536000",
        "run.watchdog_seconds endpoint.timeout_seconds reward.timeout_seconds reward.attach_wait_seconds "
        "learner.rank_timeout_seconds",
        ["0", "-1.0", "1e-30", "1e+300", "inf", "nan", "'30s'", "true"],
    ),
    (
        "'float32' or 'bfloat16' (not float16, in which gradients underflow)",
        "learner.compute_dtype critic.compute_dtype generation.compute_dtype",
        ["'float16'", "'fp16'", "'float64'", "32", "true"],
    ),
    ("'recomputed' or 'rollout'", "algorithm.old_logprobs", ["'learner'", "true", "'none'"]),
    ("'truncate' or 'mask'", "algorithm.importance_mode", ["'drop'", "true", "2.0"]),
    (
        "'auto', 'cpu', 'cuda', 'cuda:1' or another number, 'mps' or 'xpu'",
        "learner.device critic.device generation.device",
        ["'banana'", "'gpu'", "'cuda:'", "'cuda:x'", "'cuda:-1'", "'CUDA'", "''", "0"],
    ),
    (
        "numbers of GPUs, each once, such as '0', '0,2' or '0-3'",
        "placement.policy placement.value_model placement.generation",
        ["''", "-1", "'cuda:0'", "'0,0'", "'3-1'", "'0-'", "'1,2,'", "true", "0.5", "[0, 1]", "1000"],
    ),
    ("'none' or 'paper'", "algorithm.recipe", ["'vapo'", "true", "''", "1"]),
    ("'auto', 'off', 'kv_cache' or 'weights'", "placement.sleep", ["true", "'on'", "1", "'level 2'"]),
    (
        "a text that is not empty",
        "data.prompt_key data.reward_fn_key data.system_prompt",
        ["''", "5", "['prompt']"],
    ),
    (
        "a table, each value true or false, a number or a text",
        "data.chat_template_kwargs",
        ["'enable_thinking'", "false", "{'budget': ['low']}", "{'budget': {'low': 1}}"],
    ),
    ("'off', 'selective' or 'full'", "learner.activation_checkpointing", ["'on'", "true", "'none'"]),
    ("'refuse' or 'skip'", "data.overlong_prompts", ["'truncate'", "true"]),
    (
        "a whole number from 1 to 65536",
        "data.samples_per_prompt generation.num_slots endpoint.max_requests",
        ["0", "100000000", "1.5", "true"],
    ),
    ("a number from 0.001 to 1", "algorithm.gamma", ["0", "1.5", "-1", "5e-324", "true", "'1'"]),
    ("a number from 0 to 1 or 'length_adaptive'", "algorithm.lam", ["2.0", "-0.1", "'adaptive'", "true", "nan"]),
    (
        "a number from 0 to 1",
        "reward.kept_prompts algorithm.lam_floor algorithm.clip_ratio_low actor.min_lr_ratio critic.min_lr_ratio",
        ["1.5", "-0.1", "'0.5'", "true", "nan"],
    ),
    (
        "a number from 1e-12 to 1e+12",
        "algorithm.lam_alpha algorithm.clip_ratio_high algorithm.overlong_penalty_factor "
        "algorithm.ewma_center_of_mass algorithm.lr_adaptation_factor actor.grad_clip critic.grad_clip "
        "actor.lora_alpha critic.lora_alpha",
        ["0", "-1", "1e-30", "1e+300", "inf", "'none'", "true"],
    ),
    (
        "a number from 0 to 1000",
        "algorithm.lm_loss_weight actor.weight_decay critic.weight_decay actor.router_aux_loss_coef",
        ["-0.1", "1e+300", "inf", "'none'", "true"],
    ),
    ("a number from -1e+12 to 1e+12", "algorithm.lm_score_threshold", ["inf", "nan", "true", "'0.5'"]),
    ("'hold' or 'bootstrap'", "algorithm.boundary", ["'zero'", "true"]),
    (
        "a whole number from 0 to 16777216",
        "algorithm.num_ignored_tail_tokens algorithm.overlong_buffer_length",
        ["-1", "0.5", "100000000", "true"],
    ),
    ("'scale_only', 'full' or 'none'", "algorithm.advantage_whitening", ["true", "'scale'"]),
    ("'tokens', 'rows', 'constant' or 'running'", "algorithm.loss_normalizer", ["'mean'", "1"]),
    (
        "a whole number from 1 to 1000000000 or 'none'",
        "actor.lr_decay_steps critic.lr_decay_steps",
        ["0", "-1", "1.5", "true"],
    ),
    ("a number above 1 and at most 1e+12", "algorithm.clip_ratio_c", ["1.0", "0.2", "1e+300", "inf", "true"]),
    ("'all_windows' or 'current_window'", "algorithm.lm_tokens", ["'all'"]),
    ("a whole number from 1 to 1000000", "algorithm.num_reused_batches", ["0", "1.5", "true"]),
    ("a whole number from 1 to 1000000 or 'none'", "evaluation.num_prompts", ["0", "1.5", "true", "'all'"]),
    ("a whole number from 1 to 1000000", "actor.ppo_mini_batches critic.ppo_mini_batches", ["0", "-1", "0.5"]),
    ("a number from 1e-12 to 1", "actor.lr critic.lr", ["true", "0", "-0.001", "5", "'1e-6'", "1e-30", "nan"]),
    ("'linear', 'cosine' or 'constant'", "actor.lr_decay critic.lr_decay", ["'none'", "true"]),
    (
        "a list of 2, each a number at least 0 and below 1",
        "actor.betas critic.betas",
        ["[1, 1]", "[0.9, 1.0]", "[0.9]", "[0.9, 0.95, 0.99]", "0.9", "[-0.1, 0.9]", "[True, 0.9]"],
    ),
    (
        "a whole number from 1 to 1000",
        "actor.ppo_epochs critic.ppo_epochs reward.max_attempts",
        ["0", "100000", "true"],
    ),
    (
        "a number from 1e-12 to 1e+12 or 'none'",
        "critic.cliprange_value_low critic.cliprange_value_high algorithm.importance_cap actor.max_kl "
        "algorithm.max_engine_kl",
        ["0", "-1", "'off'", "inf", "true"],
    ),
    ("a whole number from 0 to 4096", "actor.lora_rank critic.lora_rank", ["-1", "4097", "8.0", "true"]),
    (
        "'all-linear', or a list with at least one name of a linear layer, such as ['q_proj', 'v_proj']",
        "actor.target_modules critic.target_modules",
        ["'q_proj'", "[]", "['']", "[5]", "true"],
    ),
    (
        "a list, each a text that is not empty",
        "actor.exclude_modules critic.exclude_modules",
        ["'q_proj'", "['']", "[5]"],
    ),
    ("'row_mean' or 'token_mean'", "critic.loss_aggregation", ["'mean'"]),
    ("'transformers' or 'vllm'", "generation.engine", ["'sglang'", "true"]),
    ("a path", "generation.python reward.responses_directory", ["5", "''", "['python']"]),
    ("a table of engine arguments of vLLM", "generation.vllm", ["'eager'", "5", "[1]"]),
    (
        "a whole number from 1 to 1024",
        "generation.replicas reward.replicas reward.num_workers learner.num_processes learner.sequence_parallel_size",
        ["0", "-1", "100000", "true"],
    ),
    ("a whole number from 2 to 1024 or 'none'", "learner.fsdp_size", ["1", "0", "2.0", "'all'", "true"]),
    ("a whole number from 0 to 1024", "critic.num_processes", ["-1", "1025", "1.5", "true"]),
    ("a whole number from 1 to 256", "evaluation.samples_per_prompt", ["0", "-1", "257", "'8'", "true"]),
    (
        "a table, each value a list with at least one entry, each a path",
        "evaluation.sets",
        ["'aime.jsonl'", "{'aime': 'aime.jsonl'}", "{'aime': []}", "{'aime': [5]}"],
    ),
    ("a whole number from 0 to 1000000", "generation.num_prefetched", ["-1", "100000000", "true"]),
    ("a whole number from 1 to 4096", "reward.concurrency", ["0", "-1", "5000", "64.0", "true"]),
    ("a number from 0.01 to 100", "generation.temperature", ["0", "1e-30", "-1", "1000.0", "true"]),
    ("0 or a number from 0.01 to 100", "evaluation.temperature", ["1e-30", "-1", "1000.0", "'greedy'", "false"]),
    ("'in_flight' or 'between_windows'", "generation.weight_update", ["'now'"]),
    (
        "a number from 0.01 to 31536000 or 'auto' or 'none'",
        "generation.max_window_seconds",
        ["0", "-1", "'always'", "true"],
    ),
    ("a number from 0 to 60", "generation.gather_seconds", ["-1", "61", "'5'", "true"]),
    ("a number from 0 to 3600", "generation.hand_over_seconds", ["-1", "3601", "'5'", "true"]),
    (
        "a host name or an address without port, such as '127.0.0.1'",
        "generation.host endpoint.host reward.host dashboard.host prometheus.host",
        ["''", "'http://a'", "'a b'", "'[::1]'", "'127.0.0.1:80'", "'256.1.1.1'", "'127.1'", "5"],
    ),
    (
        "a host name or an address without port, or an empty text",
        "generation.advertise_host endpoint.advertise_host reward.advertise_host prometheus.advertise_host",
        ["'http://a'", "'a b'", "'gpu-1:50051'", "5"],
    ),
    (
        "a whole number from 0 to 65535",
        "generation.port endpoint.port reward.port prometheus.port",
        ["-1", "65536", "'8265'", "true"],
    ),
    ("a whole number from 0 to 65535 or 'none'", "dashboard.port", ["-1", "65536", "'8265'", "true"]),
    ("a table, each value a text that is not empty", "reward.functions", ["'exact'", "{'sums': 5}", "{'sums': ''}"]),
    ("a text", "reward.default_function redis.url", ["5", "true", "['exact']"]),
    (
        "a whole number from 1 to 1073741824",
        "reward.memory_limit_mb reward.kept_responses_mb redis.memory_limit_mb",
        ["0", "-1", "1.5", "'1G'", "10000000000"],
    ),
    ("a whole number from 2 to 1000", "redis.max_deliveries", ["1", "0", "100000", "true"]),
    ("1 to 64 letters, digits or '_'", "evaluation.solution_key evaluation.group_key", ["''", "'a b'", "'k/l'", "5"]),
    ("a list, each a whole number at least 0", "evaluation.group_bounds", ["20", "[-1]", "['20']", "[0.5]", "[True]"]),
    ("a whole number from 1 to 1000000", "checkpoint.keep", ["0", "-1", "'none'", "true"]),
    ("a whole number from 1 to 1000000 or 'none'", "reward.max_consecutive_failures", ["0", "-1", "true"]),
    ("'off', 'offline' or 'online'", "trackers.wandb", ["true", "'disabled'"]),
    (
        "1 to 128 letters, none of them '/', '\\', '#', '?', '%' or ':'",
        "trackers.wandb_project",
        ["''", "'a/b'", "5"],
    ),
    ("a number from 1 to 86400", "redis.lease_seconds", ["0.01", "0", "1e+300", "nan", "'15s'", "true"]),
]
CASES = [(key, value, expected) for expected, keys, values in REFUSED for key in keys.split() for value in values]


@pytest.fixture
def file() -> Iterator[Path]:
    """In a folder of a short name: a long value is shortened in the sentence, and paths come out absolute."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(MINIMAL)
        yield path


def as_toml(value: str) -> str:
    return KEY_OF_A_TABLE.sub(r"\1 = ", value.replace("True", "true"))


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    return str(caught.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize(("key", "value", "expected"), CASES)
def test_a_value_that_makes_no_sense_is_refused_in_one_sentence(
    file: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, expected: str
) -> None:
    monkeypatch.chdir(file.parent)

    sentence = refusal(file, f"{key}={as_toml(value)}")

    assert sentence.replace(f"{file.parent}/", "") == f"{key} = {value}; expected {expected}"


@pytest.mark.parametrize(
    ("override", "value", "expected"),
    [
        ('run.directory="a\\u0000b"', r"'{folder}a\x00b'", "a path"),
        ('model.path="a\\u0000b"', r"'{folder}a\x00b'", "a path"),
        ('run.name="a\\n"', r"'a\n'", "1 to 100 letters, digits, '.', '_' or '-', the first a letter or a digit"),
        ('trackers.wandb_project="a\\tb"', r"'a\tb'", "1 to 128 letters, none of them '/', '\\', '#', '?', '%' or ':'"),
        ("run.seed=1979-05-27", "1979-05-27", "a whole number from 0 to 9223372036854775807"),
        ("actor.lr=07:32:00", "07:32:00", "a number from 1e-12 to 1"),
    ],
)
def test_letters_that_nobody_sees_and_dates_are_refused_as_they_were_written(
    file: Path, monkeypatch: pytest.MonkeyPatch, override: str, value: str, expected: str
) -> None:
    monkeypatch.chdir(file.parent)
    key = override.partition("=")[0]
    folder = f"{file.parent}/" if key == "model.path" else ""

    assert refusal(file, override) == f"{key} = {value.format(folder=folder)}; expected {expected}"


def test_every_key_is_in_the_table() -> None:
    assert {key for key, _, _ in CASES} == set(all_keys())


def test_a_long_value_is_shortened_in_the_sentence(file: Path) -> None:
    beginning, end = refusal(file, f"run.name={'a' * 300}").split("...")

    assert beginning == "run.name = '" + 37 * "a"
    assert end.startswith(38 * "a" + "'; expected 1 to 100 letters")


@pytest.mark.parametrize("section", ["run", "actor", "reward"])
def test_a_section_that_is_no_table_is_refused(tmp_path: Path, section: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"{section} = 5\n{MINIMAL}")

    assert refusal(path) == f"{section} = 5; expected a table of keys, such as [{section}]"

"""`run.algorithm` switches the system, and what contradicts it is refused."""

from pathlib import Path

import pytest

from tppo.config import Config, ConfigError, dump, load, presets

BASE = '[model]\npath = "m"\n[data]\ntrain_files = ["t.jsonl"]\n'
TUNED_FOR_TPPO = BASE + (
    '[run]\nmode = "streaming"\nmax_policy_lag = 1\nwindow_length = 256\nmax_response_length = 1024\n'
    "[algorithm]\nlam = 0.98\nclip_ratio_low = 0.1\nlm_loss_weight = 0.2\n"
)


def load_text(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "run.toml"
    path.write_text(text)
    return load(path, overrides)


@pytest.mark.parametrize("algorithm", ["ppo", "vapo", "ppo-ewma", "geppo"])
def test_the_compared_systems_take_whole_responses_and_wait_for_them(tmp_path: Path, algorithm: str) -> None:
    run = load_text(tmp_path, BASE + f'[run]\nalgorithm = "{algorithm}"\nmax_response_length = 777\n').run

    assert (run.window_length, run.mode, run.policy_lag_bound) == (777, "lockstep", 0)


@pytest.mark.parametrize("algorithm", ["ppo", "ppo-ewma", "geppo"])
def test_ppo_and_its_kin_have_one_lambda_a_symmetric_clip_and_no_likelihood_loss(
    tmp_path: Path, algorithm: str
) -> None:
    options = load_text(tmp_path, BASE + f'[run]\nalgorithm = "{algorithm}"\n').algorithm

    assert options.lam == 0.95
    assert (options.clip_ratio_low, options.clip_ratio_high, options.lm_loss_weight) == (0.2, 0.2, 0.0)


def test_vapo_has_an_adaptive_lambda_a_higher_upper_clip_and_a_likelihood_loss(tmp_path: Path) -> None:
    options = load_text(tmp_path, BASE + '[run]\nalgorithm = "vapo"\n').algorithm

    assert (options.lam, options.lam_alpha, options.lam_floor) == ("length_adaptive", 0.05, 0.95)
    assert (options.clip_ratio_low, options.clip_ratio_high, options.lm_loss_weight) == (0.2, 0.28, 0.1)


def test_ppo_ewma_caps_its_ratio_at_a_hundred_and_geppo_its_traces_at_one(tmp_path: Path) -> None:
    caps = {
        algorithm: load_text(tmp_path, BASE, f"run.algorithm={algorithm}").importance_cap
        for algorithm in ("tppo", "ppo", "vapo", "ppo-ewma", "geppo")
    }

    assert caps == {"tppo": 2.0, "ppo": None, "vapo": None, "ppo-ewma": 100.0, "geppo": 1.0}


def test_tppo_leaves_every_key_as_it_is(tmp_path: Path) -> None:
    assert load_text(tmp_path, TUNED_FOR_TPPO, "run.algorithm=tppo") == load_text(tmp_path, TUNED_FOR_TPPO)


def test_a_system_on_the_command_line_replaces_what_the_file_chose_for_another_system(tmp_path: Path) -> None:
    config = load_text(tmp_path, TUNED_FOR_TPPO, "run.algorithm=ppo")

    assert (config.run.window_length, config.run.mode, config.run.max_policy_lag) == (1024, "lockstep", None)
    assert (config.algorithm.clip_ratio_low, config.algorithm.clip_ratio_high) == (0.1, 0.1)
    assert (config.algorithm.lam, config.algorithm.lm_loss_weight) == (0.98, 0.0)


def test_what_is_not_fixed_may_be_chosen_beside_the_system(tmp_path: Path) -> None:
    config = load_text(tmp_path, TUNED_FOR_TPPO, "run.algorithm=ppo", "run.mode=streaming", "algorithm.lam=1.0")

    assert (config.run.mode, config.run.policy_lag_bound, config.algorithm.lam) == ("streaming", 1, 1.0)


def test_the_resolved_configuration_of_a_system_loads_back_equal(tmp_path: Path) -> None:
    config = load_text(tmp_path, TUNED_FOR_TPPO, "run.algorithm=geppo")

    assert load_text(tmp_path, dump(config)) == config


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("run.window_length=64", "run.window_length = 64 contradicts run.algorithm = 'ppo'; "
         "expected run.max_response_length = 1024, or no such key"),
        ("algorithm.lam=length_adaptive", "algorithm.lam = 'length_adaptive' contradicts run.algorithm = 'ppo'; "
         "expected a number such as 0.95, or no such key"),
        ("algorithm.clip_ratio_high=0.28", "algorithm.clip_ratio_high = 0.28 contradicts run.algorithm = 'ppo'; "
         "expected algorithm.clip_ratio_low = 0.1, or no such key"),
        ("algorithm.lm_loss_weight=0.1", "algorithm.lm_loss_weight = 0.1 contradicts run.algorithm = 'ppo'; "
         "expected 0.0, or no such key"),
    ],
)  # fmt: skip
def test_a_key_that_contradicts_the_system_is_refused_in_one_sentence(
    tmp_path: Path, override: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, TUNED_FOR_TPPO, "run.algorithm=ppo", override)

    assert str(caught.value) == f"{tmp_path / 'run.toml'}: {sentence}"


@pytest.mark.parametrize("algorithm", ["ppo-ewma", "geppo"])
def test_a_formula_with_both_log_probabilities_has_the_learners_old_ones(tmp_path: Path, algorithm: str) -> None:
    chosen_for_tppo = BASE + '[algorithm]\nold_logprobs = "rollout"\n'

    assert load_text(tmp_path, chosen_for_tppo, f"run.algorithm={algorithm}").algorithm.old_logprobs == "recomputed"
    with pytest.raises(
        ConfigError, match=r"algorithm\.old_logprobs = 'rollout' contradicts .* expected 'recomputed', or"
    ):
        load_text(tmp_path, BASE, f"run.algorithm={algorithm}", "algorithm.old_logprobs=rollout")


def test_a_contradiction_within_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.window_length = 64 contradicts run\.algorithm = 'vapo'"):
        load_text(tmp_path, BASE + '[run]\nalgorithm = "vapo"\nwindow_length = 64\n')


def test_an_unknown_system_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.algorithm = 'grpo'; expected 'tppo', 'ppo'"):
        load_text(tmp_path, BASE, "run.algorithm=grpo")


def test_a_system_that_is_not_a_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.algorithm = \['ppo'\]; expected 'tppo', 'ppo'"):
        load_text(tmp_path, BASE, "run.algorithm=['ppo']")


def test_geppo_does_not_reuse_rows_that_would_be_masked_as_too_old(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_reused_batches = 8 with run\.max_token_lag = 6.*expected at most 7"):
        load_text(tmp_path, BASE, "run.algorithm=geppo", "algorithm.num_reused_batches=8", "run.max_token_lag=6")


def test_the_description_lists_what_the_system_sets() -> None:
    assert list(presets.description("tppo")) == []
    assert list(presets.description("ppo")) == [
        "run.window_length = run.max_response_length",
        "run.mode = lockstep, unless chosen otherwise",
        "run.max_policy_lag = unset, unless chosen otherwise",
        "algorithm.lam = 0.95, unless another number is chosen",
        "algorithm.clip_ratio_high = algorithm.clip_ratio_low",
        "algorithm.lm_loss_weight = 0.0",
    ]

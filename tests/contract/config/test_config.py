"""The configuration file: what is accepted, and the one sentence that each mistake earns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.damage import DAMAGES, damage
from tppo.__main__ import VERBS, main
from tppo.config import Config, ConfigError, dump, load
from tppo.config.mistakes import all_keys, section_of
from tppo.config.sections.placement import Placement

MINIMAL = """
[model]
path = "base/actor"
[data]
train_files = ["train.jsonl"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_paths_in_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL))

    assert config.model.path == tmp_path / "base/actor"
    assert config.data.train_files == [tmp_path / "train.jsonl"]


def test_paths_in_overrides_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, MINIMAL)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    config = load(path, ["model.path=mine", "data.val_files=['v.jsonl']"])

    assert config.model.path == tmp_path / "elsewhere/mine"
    assert config.data.val_files == [tmp_path / "elsewhere/v.jsonl"]


def test_a_reward_function_by_path_is_relative_to_the_file(tmp_path: Path) -> None:
    text = MINIMAL + '[reward.functions]\nmine = "score.py:compute_score"\nother = "exact"\n'

    functions = load(write(tmp_path, text)).reward.functions

    assert functions == {"mine": f"{tmp_path}/score.py:compute_score", "other": "exact"}


def test_files_quoted_in_a_sum_of_reward_functions_are_relative_to_the_file(tmp_path: Path) -> None:
    text = MINIMAL + """[reward]\ndefault_function = 'math + 0.5*"score.py:f" - length(limit=9, buffer=3)'\n"""

    spec = load(write(tmp_path, text)).reward.default_function

    assert spec == f'math + 0.5*"{tmp_path}/score.py:f" - length(limit=9, buffer=3)'


def test_overrides_win_and_are_read_as_toml_values(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL), ["run.seed=7", "run.mode=lockstep", "actor.lr=1e-3"])

    assert (config.run.seed, config.run.mode, config.actor.lr) == (7, "lockstep", 1e-3)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_refused_in_one_sentence_that_names_it(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, MINIMAL)
    damage(path, kind)

    with pytest.raises(ConfigError) as refusal:
        load(path)

    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def test_an_override_that_is_too_deep_or_too_large_for_toml_is_a_text(tmp_path: Path) -> None:
    for value in ("[" * 100_000, "9" * 10_000):
        with pytest.raises(ConfigError, match=r"run\.seed = .*expected a whole number"):
            load(write(tmp_path, MINIMAL), [f"run.seed={value}"])


def test_a_dumped_configuration_loads_back_equal(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL), ["run.max_policy_lag=3", "critic.cliprange_value_low=0.2"])

    assert load(write(tmp_path, dump(config))) == config


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ("[run]\nwindow_lenght = 64", "unknown key run.window_lenght = 64; did you mean run.window_length?"),
        ("[runn]\nseed = 1", "unknown key runn.seed = 1; did you mean run.seed?"),
        ("[run]\nseed = -1", "run.seed = -1; expected a whole number from 0 to 9223372036854775807"),
        ("[run]\nseed = 'abc'", "run.seed = 'abc'; expected a whole number from 0 to 9223372036854775807"),
        (
            "[run]\nname = 'a b'",
            "run.name = 'a b'; expected 1 to 100 letters, digits, '.', '_' or '-', the first a letter or a digit",
        ),
        ("[run]\nmode = 'fast'", "run.mode = 'fast'; expected 'lockstep', 'overlapped' or 'streaming'"),
        (
            "[run]\nwindow_length = 4096\nmax_response_length = 2048",
            "[run] window_length = 4096 is longer than max_response_length = 2048; "
            "expected a window of at most the limit",
        ),
        (
            "[run]\nmode = 'lockstep'\nmax_policy_lag = 2",
            "[run] max_policy_lag = 2 in mode lockstep; expected 0 or no such key",
        ),
        (
            "[data.chat_template_kwargs]\ntokenize = true\n",
            "[data] chat_template_kwargs.tokenize = True is set by the learner itself; expected variables of the chat "
            "template, such as enable_thinking",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_its_value_and_what_was_expected(
    tmp_path: Path, extra: str, sentence: str
) -> None:
    path = write(tmp_path, MINIMAL + extra)

    with pytest.raises(ConfigError) as caught:
        load(path)

    assert str(caught.value) == f"{path}: {sentence}"


def test_an_override_without_a_value_is_as_if_the_file_did_not_have_the_key(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "[run]\nmax_policy_lag = 3\n[actor]\nmax_kl = 0.1\nlr = 0.5\n")

    config = load(path, ["run.max_policy_lag=", "actor.max_kl=", "actor.lr=", "generation.host=", "critic.lr="])

    assert (config.run.max_policy_lag, config.actor.max_kl, config.actor.lr) == (None, None, 1e-6)
    assert (config.generation.host, config.critic.lr) == ("127.0.0.1", 2e-6)


def optional_numbers() -> list[str]:
    """Every key that is a number or unset, by its JSON schema."""
    return [
        key
        for key in all_keys()
        for section, name in [key.split(".")]
        for kinds in [section_of(section).model_json_schema()["properties"][name].get("anyOf", [])]
        if {"null"} < {kind.get("type") for kind in kinds} <= {"null", "integer", "number"}
    ]


def test_a_number_that_may_be_unset_is_so_by_none_too(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)

    unset = load(path, [f"{key}=none" for key in optional_numbers()])

    assert unset == load(path)
    assert set(optional_numbers()) == {
        *("run.max_policy_lag", "actor.max_kl", "actor.lr_decay_steps", "critic.lr_decay_steps"),
        *("evaluation.num_prompts", "reward.max_consecutive_failures", "dashboard.port"),
        "learner.fsdp_size",
    }


@pytest.mark.parametrize("mode", ["lockstep", "overlapped", "streaming"])
def test_importance_weights_are_turned_off_by_none_and_left_to_the_mode_when_unset(tmp_path: Path, mode: str) -> None:
    path = write(tmp_path, MINIMAL)

    caps = [
        load(path, [f"run.mode={mode}", *chosen]).importance_cap
        for chosen in (
            *([], ["algorithm.importance_cap=none"], ["algorithm.importance_cap=3"]),
            ["algorithm.old_logprobs=rollout"],
        )
    ]

    assert caps == [None if mode == "lockstep" else 2.0, None, 3.0, None]


def test_value_model_and_generators_are_placed_as_the_policy_but_for_keys_of_their_own(tmp_path: Path) -> None:
    text = MINIMAL + "[learner]\ncompute_dtype = 'bfloat16'\ndevice = 'cuda'\n"

    plain = load(write(tmp_path, text))
    placed = load(write(tmp_path, text), ["critic.compute_dtype=float32", "generation.device=cuda:1"])

    policy = Placement("bfloat16", "cuda", "learner.device")
    assert plain.policy_placement == plain.value_model_placement == plain.generator_placement == policy
    assert placed.policy_placement == policy
    assert placed.value_model_placement == Placement("float32", "cuda", "learner.device")
    assert placed.generator_placement == Placement("bfloat16", "cuda:1", "generation.device")


def test_of_two_overrides_of_a_key_the_later_one_counts_also_when_it_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)

    assert load(path, ["run.seed=7", "run.seed="]).run.seed == 0
    assert load(path, ["run.seed=", "run.seed=7"]).run.seed == 7


@pytest.mark.parametrize("override", ["run.seed", "=3", "run..seed=3"])
def test_an_override_without_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"expected section\.key=value"):
        load(write(tmp_path, MINIMAL), [override])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"key data is missing"):
        load(write(tmp_path, '[model]\npath = "x"\n'))


def test_the_console_script_exits_with_2_on_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "unknown verb 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["trian"], "did you mean run?"),
        (["rn", "run.toml"], "did you mean run?"),
        (["train"], "did you mean run?"),
        (["evaluate"], "did you mean eval?"),
        (["dashbord"], "did you mean dashboard?"),
        (["RUN"], "did you mean run?"),
        (["start"], "did you mean run?"),
        (["resume"], "did you mean run?"),
        (["check"], "did you mean doctor?"),
        (["xyzzy"], "expected one of run, compare, doctor, pretrain-critic,"),
    ],
)
def test_an_unknown_verb_suggests_the_nearest_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], suggestion: str
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"tppo: unknown verb {arguments[0]!r}; {suggestion}")


@pytest.mark.parametrize("option", ["--version", "-V", "version"])
def test_the_console_script_says_its_version(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main([option]) == 0
    assert re.fullmatch(r"tppo \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_is_a_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: tppo VERB ...")


def test_help_of_a_verb_is_what_the_verb_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["help", "run"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: tppo run")


def test_the_console_script_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "generation" in capsys.readouterr().out


def test_the_dashboard_says_that_it_takes_a_file_or_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such file; expected the run's TOML file, or a folder of runs" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_loads_nothing_heavy(verb: str) -> None:
    program = (
        "import contextlib, sys, tppo.__main__\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    tppo.__main__.main(['{verb}', '--help'])\n"
        "print('loaded', sorted({'torch', 'transformers', 'fastapi', 'matplotlib'} & sys.modules.keys()))"
    )

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed.startswith(f"usage: tppo {verb}")
    assert printed.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize(("mode", "bound"), [("lockstep", 32), ("overlapped", 64), ("streaming", 64)])
def test_the_bound_of_windows_out_follows_from_the_mode(tmp_path: Path, mode: str, bound: int) -> None:
    assert load(write(tmp_path, MINIMAL), [f"run.mode={mode}"]).run.max_windows_out == bound


# Windows of 256 tokens: a response of 2000 has eight, one of 2048 too, one of 2049 nine.
@pytest.mark.parametrize(("limit", "warmup_steps", "num_needed"), [(2000, 7, 8), (2048, 7, 8), (2049, 8, 9)])
def test_a_warm_up_that_no_response_of_the_limit_fits_into_is_warned_of(
    tmp_path: Path, limit: int, warmup_steps: int, num_needed: int
) -> None:
    overrides = [f"run.max_response_length={limit}", "run.window_length=256"]
    path = write(tmp_path, MINIMAL)

    (warning,) = load(path, [*overrides, f"critic.warmup_steps={warmup_steps}"]).warnings

    assert warning == (
        f"critic.warmup_steps = {warmup_steps}: a response of run.max_response_length = {limit} needs {num_needed} "
        "steps of 256 tokens, so the policy trains before the value model has seen one; "
        f"expected {num_needed} or more, or model.critic_path"
    )
    assert load(path, [*overrides, f"critic.warmup_steps={num_needed}"]).warnings == ()
    assert load(path, [*overrides, "critic.warmup_steps=0", "model.critic_path=trained"]).warnings == ()


def test_what_may_be_unset_is_unset_by_default() -> None:
    """A written configuration leaves out what is unset, so another default would come back with it."""
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    others = [
        f"{section}.{key}"
        for section, model in sections.items()
        for key, field in getattr(model, "model_fields", {}).items()
        if type(None) in getattr(field.annotation, "__args__", ()) and field.default is not None
    ]

    assert others == []

"""Reward functions by name."""

from pathlib import Path

import pytest

from services.reward.verifiers.functions import load
from services.reward.verifiers.placement import Place, calls
from tppo.rollout import RewardRequest

REQUEST = RewardRequest("r1", 0, "gsm8k", "2+2?", r"# 4 \boxed{4}", "4", extra_info='{"split": "train"}')


def file_with(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("spec", "score"), [("exact", 0.0), ("boxed", 1.0)])
def test_built_ins_run_inside_the_service(spec: str, score: float) -> None:
    assert [call.place for call in calls(spec)] == [Place.INLINE]
    assert load(spec)(REQUEST) == score


def test_a_function_of_verls_signature_receives_the_request(tmp_path: Path) -> None:
    file = file_with(
        tmp_path,
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return {'score': 1.0, 'seen': [data_source, solution_str, ground_truth, extra_info]}\n",
    )

    result = load(f"{file}:compute_score")(REQUEST)

    assert result == {"score": 1.0, "seen": ["gsm8k", r"# 4 \boxed{4}", "4", {"split": "train"}]}


def test_a_users_function_runs_in_a_worker(tmp_path: Path) -> None:
    assert [call.place for call in calls(f"{tmp_path}/mine.py:compute_score")] == [Place.WORKER]


def test_a_users_file_may_import_its_neighbours_and_define_dataclasses(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("FULL = 2.0\n")
    file = file_with(
        tmp_path,
        "from __future__ import annotations\n"
        "import dataclasses, neighbour_of_mine\n"
        "@dataclasses.dataclass\n"
        "class Verdict:\n    points: float\n"
        "def compute_score(data_source, solution_str, ground_truth, extra_info, **more):\n"
        "    return Verdict(neighbour_of_mine.FULL).points\n",
    )

    assert load(f"{file}:compute_score")(REQUEST) == 2.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "{file}: has no function 'compute_score'; expected a function in it"),
        (
            "def score(): pass\ndef other(): pass",
            "{file}: has no function 'compute_score'; expected one of score, other",
        ),
        ("compute_score = 3", "{file}: has no function 'compute_score'"),
        (
            "import nowhere_to_be_found",
            "{file}: does not load: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("def compute_score(:", "{file}: does not load: SyntaxError: "),
        (
            "def compute_score(x): return 1.0",
            "reward function '{file}:compute_score': its parameters are (x); "
            "expected (data_source, solution_str, ground_truth, extra_info)",
        ),
    ],
)
def test_a_function_that_cannot_be_loaded_is_reported_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    file = file_with(tmp_path, text)

    with pytest.raises(ValueError, match=r"^.*$") as caught:
        load(f"{file}:compute_score")

    assert str(caught.value).startswith(sentence.format(file=file))


@pytest.mark.parametrize("spec", ["exakt", "exact + exakt"])
def test_an_unknown_name_is_refused_with_what_is_expected(spec: str) -> None:
    with pytest.raises(ValueError, match=r"expected exact, boxed, .*, path/to/file\.py:name or grpc:name") as caught:
        load(spec)

    assert "exakt" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "quoted"),
    [
        ("0.5*math + 0.5*grpc:mine", '0.5*math + 0.5*"grpc:mine"'),
        ("grpc:judge - 0.1*exact + 1*math", '"grpc:judge" - 0.1*exact + 1*math'),
        ("math + reasoning_gym:chain_sum", 'math + "reasoning_gym:chain_sum"'),
        ("my/score.py:f + 0.2*math", '"my/score.py:f" + 0.2*math'),
    ],
)
def test_a_name_with_a_colon_in_a_sum_is_refused_with_its_quotes(spec: str, quoted: str) -> None:
    with pytest.raises(ValueError, match="stands in a sum; expected it in quotes, as in ") as caught:
        load(spec)

    assert str(caught.value).endswith(f" {quoted}")


def test_a_file_at_the_end_of_a_sum_is_refused_with_a_word_on_quotes() -> None:
    with pytest.raises(ValueError, match=r"mine\.py: no such file; .* in quotes in a sum, as in 0\.9\*math"):
        load("0.5*math + 0.5*mine.py:f")


@pytest.mark.parametrize(
    "spec", ["mine.py", ":f", "mine.txt:f", "2*3", "exact*exact", "exact(open('f'))", "a.b", "", "exact +"]
)
def test_what_is_no_sum_of_functions_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"expected a name, path/to/file\.py:name, grpc:name, or a sum"):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("length(limit=10)", "missing a required argument: 'buffer'"),
        ("length(limit=10, buffer=20)", "expected 0 < buffer <= limit"),
        ("regex('(')", "expected a regular expression of Python"),
        ("format(3)", "too many positional arguments"),
        ("repetition(ngram=0)", "expected at least 1"),
    ],
)
def test_wrong_arguments_of_a_built_in_are_reported(spec: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(spec)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.py: no such file"):
        load(f"{tmp_path}/none.py:f")

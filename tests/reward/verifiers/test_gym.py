"""reasoning-gym's verifiers, made exact and safe."""

import json
from pathlib import Path

import pytest

from services.reward.verifiers.functions import load
from services.reward.verifiers.gym import LITERAL_TASKS, SYMBOLIC_TASKS, is_safe_to_evaluate, stated_answer
from tppo.rollout import RewardRequest

reasoning_gym = pytest.importorskip("reasoning_gym")
COUNTDOWN = {"metadata": {"numbers": [6, 61, 94, 4], "target": 309}}


def verdict(task: str, response: str, ground_truth: str, extra_info: object) -> object:
    request = RewardRequest("r", 0, task, "question", response, ground_truth, json.dumps(extra_info))
    return load(f"reasoning_gym:{task}")(request)


@pytest.mark.parametrize(
    ("answer", "score"),
    [("94*4 - 61 - 6", 1.0), ("(94 * 4) - (6 + 61)", 1.0), ("94*4", 0.0), ("309", 0.0), ("", 0.0)],
)
def test_another_solution_of_the_same_task_gets_full_marks(answer: str, score: float) -> None:
    assert verdict("countdown", f"<answer>{answer}</answer>", "94*4 - 61 - 6", COUNTDOWN) == score


def test_an_answer_that_contains_the_right_one_gets_nothing() -> None:
    entry = reasoning_gym.create_dataset("chain_sum", size=1, seed=1)[0]
    ask = [entry["answer"], f"{entry['answer']} or 7"]

    scores = [verdict("chain_sum", answer, entry["answer"], {"metadata": {}}) for answer in ask]

    assert scores == [1.0, 0.0]


@pytest.mark.parametrize("task", sorted(LITERAL_TASKS | SYMBOLIC_TASKS))
@pytest.mark.parametrize("inside", ["open({!r}, 'w')", "f'{{open({!r}, chr(119))}}'", "sin('open({!r}, chr(119))')"])
def test_code_in_an_answer_is_not_run(task: str, inside: str, tmp_path: Path) -> None:
    victim = tmp_path / "written"
    entry = reasoning_gym.create_dataset(task, size=1, seed=1)[0]

    score = verdict(task, f"<answer>{inside.format(str(victim))}</answer>", entry["answer"], {})

    assert score == 0.0
    assert not victim.exists()


def test_every_verifier_that_evaluates_answers_is_known() -> None:
    folder = Path(reasoning_gym.__file__).parent
    evaluating = {
        path.stem
        for path in folder.rglob("*.py")
        if any(call in path.read_text() for call in ("eval(answer)", "parse_expr(answer"))
    }

    assert evaluating == LITERAL_TASKS | SYMBOLIC_TASKS


@pytest.mark.parametrize("formula", ["x**2/2 + C", "3*x + sin(2*x)", "1.5*exp(-x)", "[[1, 0], [0, 1]]"])
def test_formulas_and_literals_pass(formula: str) -> None:
    task = "n_queens" if formula.startswith("[") else "simple_integration"
    assert is_safe_to_evaluate(formula, task)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<answer>no</answer></think>so <answer> 4 </answer>", "4"),
        (r"<think>5</think> it is \boxed{4}", "4"),
        ("  4\n", "4"),
    ],
)
def test_the_answer_is_what_the_response_states_last(response: str, answer: str) -> None:
    assert stated_answer(response) == answer


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="reasoning-gym has no task 'poems'"):
        load("reasoning_gym:poems")

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from examples.iterated_map import task
from examples.iterated_map.make_base import TASKS, flawed_response, write_data
from examples.iterated_map.sampling import sample_responses

FOLDER = Path(task.__file__).parent
THREE_STEPS_FROM_42 = task.Problem(start=42, num_steps=3)
# 37*42 + 11 = 1565 = 16*97 + 13, 37*13 + 11 = 492 = 5*97 + 7, 37*7 + 11 = 270 = 2*97 + 76
SOLUTION = "000213" + "000107" + "000076" + "#76"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER / "base" / "actor")


def prompts(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "data" / f"{name}.jsonl").read_text().splitlines()]


def test_a_solution_counts_down_and_ends_in_the_result() -> None:
    assert THREE_STEPS_FROM_42.prompt == "?000342"
    assert THREE_STEPS_FROM_42.solution() == SOLUTION


def test_a_solution_has_three_tokens_a_step_and_three_more(tokenizer: Any) -> None:
    assert len(tokenizer.encode(SOLUTION + tokenizer.eos_token)) == 3 * 3 + 3


@pytest.mark.parametrize("kind", [task.QUICKSTART, task.SHORTER])
def test_the_longest_solution_fits_into_a_response(tokenizer: Any, kind: task.Map) -> None:
    longest = task.Problem(0, kind.most_steps, kind)

    assert len(tokenizer.encode(longest.solution() + tokenizer.eos_token)) <= kind.max_response_length


@pytest.mark.parametrize("kind", [task.QUICKSTART, task.SHORTER])
def test_a_value_comes_again_after_as_many_steps_as_there_are_others(kind: task.Map) -> None:
    values = list(task.Problem(42, 2 * kind.modulus, kind).values())

    assert len(set(values)) == kind.modulus - 1
    assert values[: kind.modulus - 1] != values[1 : kind.modulus]
    assert values[0] == values[kind.modulus - 1]


def test_the_data_here_are_those_that_are_made(tmp_path: Path) -> None:
    write_data(tmp_path, task.QUICKSTART)

    for name in ("train.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (FOLDER / "data" / name).read_bytes()


def test_decoding_gives_back_the_text(tokenizer: Any) -> None:
    text = THREE_STEPS_FROM_42.prompt + SOLUTION

    assert tokenizer.decode(tokenizer.encode(text + tokenizer.eos_token), skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (SOLUTION, 1.0),
        ("#76", 1.0),
        ("#99#76", 1.0),
        ("#77", 0.0),
        ("76", 0.0),
        ("#7600", 0.0),
        ("#76#", 0.0),
        ("", 0.0),
    ],
)
def test_a_response_scores_for_exactly_the_result_after_its_last_mark(response: str, score: float) -> None:
    assert task.compute_score(task.DATA_SOURCE, response, "76") == score


def test_the_number_of_steps_is_heavy_tailed_between_its_bounds() -> None:
    generator = random.Random(0)

    drawn = [task.draw_problem(generator).num_steps for _ in range(20_000)]

    # Pareto with exponent .6 from 2: P(k = 2) = (1 - (2/3)^.6) / (1 - (2/681)^.6) = .2159 / .9698 = .2226
    assert drawn.count(2) / len(drawn) == pytest.approx(0.2226, abs=0.01)
    assert min(drawn) == 2
    assert 600 < max(drawn) <= 680


def test_leaving_out_a_hundred_steps_gives_another_result() -> None:
    values = list(task.Problem(start=42, num_steps=400).values())

    assert all(values[step] != values[step + 100] for step in range(300))


def test_a_flawed_solution_is_a_random_answer_or_a_beginning_of_the_solution() -> None:
    generator = random.Random(0)
    problem = task.Problem(start=7, num_steps=200)

    worked = [flawed_response(problem, TASKS["quickstart"], generator).partition("#")[0] for _ in range(50)]

    assert all(problem.solution().startswith(steps) for steps in worked)
    assert "" in worked
    assert any(0 < len(steps) < 6 * 200 for steps in worked)


def test_no_validation_prompt_is_trained_on() -> None:
    train, validation = prompts("train"), prompts("validation")

    assert (len(train), len(validation)) == (4096, 512)
    assert not {record["prompt"] for record in train} & {record["prompt"] for record in validation}


def test_the_ground_truth_of_each_prompt_is_its_result() -> None:
    for record in prompts("validation"):
        num_steps, value = record["prompt"][1:5], int(record["prompt"][5:])
        for _ in range(int(num_steps)):
            value = (37 * value + 11) % 97
        assert record["reward_model"]["ground_truth"] == f"{value:02d}"
        assert record["extra_info"]["k"] == int(num_steps)


def test_the_base_policy_answers_some_short_problems_right_and_not_all(tokenizer: Any) -> None:
    network = AutoModelForCausalLM.from_pretrained(FOLDER / "base" / "actor")
    torch.manual_seed(0)
    encoded = torch.tensor([tokenizer.encode(THREE_STEPS_FROM_42.prompt)] * 64)

    responses = sample_responses(network, encoded, max_response_length=64, end_id=tokenizer.eos_token_id)

    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    right = sum(task.compute_score(task.DATA_SOURCE, text, "76") for text in texts)
    assert 0.2 < right / 64 < 0.7


def test_the_base_critic_is_a_token_classifier_with_one_label() -> None:
    critic = AutoModelForTokenClassification.from_pretrained(FOLDER / "base" / "critic")

    assert critic.config.num_labels == 1

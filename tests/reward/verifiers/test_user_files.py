"""Files written for other trainers, as their documentation shows them, called unchanged."""

from collections.abc import Awaitable
from pathlib import Path

import pytest

from services.reward.verifiers.functions import load
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.scoring.outcome import Outcome, outcome_of

REQUEST = RewardRequest(
    "r", 0, "sums", "2+2?", r"<think>two</think> \boxed{4}", "4", extra_info='{"level": 3, "task": "math"}'
)
TRL_TEXT = """
import re

def reward_func(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\\\boxed\\{(.*?)\\}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if content == truth else 0.0 for content, truth in zip(contents, ground_truth)]
"""
TRL_MESSAGES = """
import re

def format_reward_func(completions, **kwargs):
    pattern = r"^<think>.*?</think> .*$"
    completion_contents = [completion[0]["content"] for completion in completions]
    matches = [re.match(pattern, content) for content in completion_contents]
    return [1.0 if match else 0.0 for match in matches]
"""
TRL_TASK = """
def coding_reward_func(prompts, completions, task, **kwargs):
    return [1.0 if kind == "coding" else None for kind in task]
"""
TRL_ASYNC = """
import asyncio

async def async_reward_func(prompts, completions, solution, **kwargs):
    await asyncio.sleep(0)
    return [0.25 if solution == ["4"] and prompts == ["2+2?"] else 0.0 for _ in completions]
"""
OPENRLHF = """
import torch

def reward_func(queries, prompts, labels, **kwargs):
    reward = torch.tensor([float(query == prompt + r"<think>two</think> \\boxed{4}" and label == "4")
                           for query, prompt, label in zip(queries, prompts, labels)])
    return {"rewards": reward, "scores": reward / 2, "extra_logs": {"dummy_scores": reward * 3}}
"""
OPENRLHF_TENSOR = """
import torch

def reward_func(queries, prompts, labels):
    return torch.tensor([0.5] * len(queries))
"""


def result_of(folder: Path, text: str, name: str) -> object:
    (folder / "mine.py").write_text(text)
    return load(f"{folder}/mine.py:{name}")(REQUEST)


def test_trls_completions_are_texts(tmp_path: Path) -> None:
    assert result_of(tmp_path, TRL_TEXT, "reward_func") == 1.0


def test_trls_completions_are_messages_for_a_function_that_reads_messages(tmp_path: Path) -> None:
    assert result_of(tmp_path, TRL_MESSAGES, "format_reward_func") == 1.0


def test_trls_none_is_an_abstention_and_columns_come_from_extra_info(tmp_path: Path) -> None:
    outcome = outcome_of(result_of(tmp_path, TRL_TASK, "coding_reward_func"))

    assert outcome.status is ScoreStatus.ABSTAINED


async def test_trls_functions_may_be_asynchronous(tmp_path: Path) -> None:
    result = result_of(tmp_path, TRL_ASYNC, "async_reward_func")

    assert isinstance(result, Awaitable)
    assert await result == 0.25


def test_a_type_error_of_another_kind_is_not_retried_with_messages(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        result_of(tmp_path, "def f(completions, **kwargs): return [1 + completions[0]]", "f")


def test_openrlhfs_rewards_are_the_score_and_its_logs_components(tmp_path: Path) -> None:
    outcome = outcome_of(result_of(tmp_path, OPENRLHF, "reward_func"))

    assert outcome == Outcome(ScoreStatus.SCORED, 1.0, {"scores": 0.5, "dummy_scores": 3.0})


def test_openrlhf_may_return_a_bare_tensor(tmp_path: Path) -> None:
    assert outcome_of(result_of(tmp_path, OPENRLHF_TENSOR, "reward_func")).score == 0.5


@pytest.mark.parametrize("returned", ["[]", "[1.0, 2.0]"])
def test_another_number_of_rewards_than_responses_is_an_error(tmp_path: Path, returned: str) -> None:
    with pytest.raises(ValueError, match="rewards for 1 response"):
        result_of(tmp_path, f"def f(completions, **kwargs): return {returned}", "f")


def test_no_list_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected one reward for each response"):
        result_of(tmp_path, "def f(completions, **kwargs): return 1.0", "f")

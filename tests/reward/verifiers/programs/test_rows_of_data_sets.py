"""The rows of public data sets: which tests they hold, whatever their columns are called."""

import json

import pytest

from services.reward.verifiers.programs import formats
from services.reward.verifiers.programs.formats import Calls, StandardIO
from services.reward.verifiers.programs.python_tests import PythonTests
from tests.reward.verifiers.programs.scoring import ADD, WRONG_ADD, outcome
from tppo.rollout import RewardRequest

ONE = {"input": "1 2", "output": "3"}
OTHER = {"input": "3 4", "output": "7"}
CALL = {"input": "1\n2", "output": "3", "testtype": "functional"}
SOLUTION = json.dumps({"entry_point": "Solution().add"})
SCRIPTS: dict[str, object] = {
    "livecodebench": {
        "public_test_cases": json.dumps([{**ONE, "testtype": "stdin"}]),
        "private_test_cases": json.dumps([{**OTHER, "testtype": "stdin"}]),
    },
    "codeforces": {"official_tests": [ONE, OTHER], "language": "python", "examples": None},
    "synthetic-1": {
        "verification_info": json.dumps(
            {
                "language": "python",
                "test_cases": [{**one, "type": "stdin_stdout", "fn_name": None} for one in (ONE, OTHER)],
            }
        )
    },
    "synthetic-2": {"inputs": ["1 2", "3 4"], "outputs": ["3", "7"], "fn_name": None},
    "eurus-2": json.dumps({"inputs": ["1 2", "3 4"], "outputs": ["3", "7"], "fn_name": ""}),
    "rstar-coder": {"stdin": ["1 2", "3 4"], "stdout": ["3", "7"]},
    "pairs": [["1 2", "3"], ["3 4", "7"]],
    "taco": {"input_output": json.dumps({"inputs": [["1 2"], ["3 4"]], "outputs": [["3"], ["7"]]})},
}
FUNCTIONS: dict[str, tuple[object, str, str]] = {
    "livecodebench": (
        {
            "public_test_cases": json.dumps([CALL]),
            "private_test_cases": "[]",
            "metadata": json.dumps({"func_name": "add"}),
        },
        "{}",
        "",
    ),
    "leetcodedataset": ([{"input": "a = 1, b = 2", "output": "3"}], SOLUTION, ""),
    "synthetic-1": (
        {"test_cases": [{"type": "function_call", "fn_name": "add", "input": [1, 2], "output": 3}]},
        "{}",
        "",
    ),
    "named arguments": (
        {"fn_name": "add", "inputs": [{"b": 2, "a": 1}], "outputs": [3]},
        "{}",
        "def add(a: int, b=0):",
    ),
}
ASSERTION = """import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    return False

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp, f"out: {out}, exp: {exp}"

"""
LOOP = "inputs = [[1, 2], [3, 4]]\nresults = [3, 7]\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n    "


def held(ground_truth: object, extra_info: str = "{}", prompt: str = "") -> StandardIO | Calls | PythonTests:
    text = ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth)
    return formats.tests_of(RewardRequest("r", 0, "code", prompt, "", text, extra_info), form="")


@pytest.mark.parametrize("ground_truth", SCRIPTS.values(), ids=list(SCRIPTS))
def test_inputs_and_outputs_of_scripts_are_found(ground_truth: object) -> None:
    assert held(ground_truth) == StandardIO(["1 2", "3 4"], ["3", "7"])


@pytest.mark.parametrize(("ground_truth", "extra_info", "prompt"), FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_calls_of_functions_are_found(ground_truth: object, extra_info: str, prompt: str) -> None:
    found = held(ground_truth, extra_info, prompt)

    assert isinstance(found, Calls)
    assert (found.function.rpartition(".")[2], list(found.calls)) == ("add", [([1, 2], 3)])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("None", None),
        ("[1, None, 'a']", [1, None, "a"]),
        ("(1, 2)", [1, 2]),
        ('"a"', "a"),
        ("a b", "a b"),
    ],
)
def test_values_may_be_written_as_python_has_them(text: str, value: object) -> None:
    found = held([{"input": text, "output": text, "testtype": "functional", "fn_name": "f"}, {**CALL, "fn_name": "f"}])

    assert isinstance(found, Calls)
    assert found.calls[0] == ([value], value)


@pytest.mark.parametrize("text", ["nums = [3,3], target = 6", "nums = [3, 3], target = 6 ", "nums = [3,3],target = 6"])
def test_leetcodes_arguments_are_read_in_their_order(text: str) -> None:
    found = held([{"input": text, "output": "[null, true]"}], SOLUTION)

    assert isinstance(found, Calls)
    assert found.calls == [([[3, 3], 6], [None, True])]


def test_compressed_tests_are_refused() -> None:
    with pytest.raises(ValueError, match="private_test_cases of the ground truth is no list of tests"):
        held({"public_test_cases": json.dumps([ONE]), "private_test_cases": "eJxrYJmqxQABPVIZEpMUu="})


@pytest.mark.process
@pytest.mark.parametrize(
    "ground_truth",
    [
        {"test": f"{ASSERTION}{LOOP}assertion(add(*inp), exp, 0)\n"},
        {
            "test": f"{ASSERTION}def check(candidate):\n"
            + "".join(f"    {line}\n" for line in f"{LOOP}assertion(candidate(*inp), exp, 0)".split("\n")),
            "entry_point": "add",
        },
    ],
    ids=["mbpp+", "humaneval+"],
)
def test_the_assertions_of_evalplus_judge_programs(ground_truth: object) -> None:
    assert outcome(ADD, ground_truth).score == 1.0
    assert outcome(WRONG_ADD, ground_truth).score == 0.0

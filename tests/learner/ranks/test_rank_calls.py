"""What all ranks compute from, arrives at the others as it was sent."""

from array import array

import torch

from learner.ranks import calls
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout, State
from tppo.rollout import logprobs, tokens

PROMPT = Prompt(3, "what is 1 + 1?", tokens([5, 6, 7]), "sums", "2", '{"a": 1}', solution=tokens([8, 9]))


def test_the_rows_of_a_step_arrive_as_they_were_sent() -> None:
    unfinished = Rollout(
        "0-3-1",
        PROMPT,
        ordinal=4,
        window_index=1,
        window_start=2,
        generator="generation-1",
        response_tokens=tokens([1, 2, 3, 2_000_000]),
        rollout_logprobs=logprobs([-0.1, -1e-30, -3.3333333, float("-inf")]),
        token_versions=tokens([0, 0, 1, 1]),
        values=logprobs([0.25, -0.5]),
        sampled_mask=array("b", [1, 0, 1, 1]),
        state=State.READY,
        ready_position=(1_700_000_000_000, 3),
    )
    finished = Rollout("0-3-2", PROMPT, ordinal=5, is_finished=True, score=0.1, state=State.READY)

    message = calls.step([unfinished, finished], policy_version=7)
    arrived = calls.rows_of(message)

    assert message.fields["policy_version"] == 7
    for sent, row in zip([unfinished, finished], arrived, strict=True):
        assert row.prompt.token_ids == PROMPT.token_ids
        row.prompt = sent.prompt
        assert row == sent


def test_no_text_and_no_answer_travels() -> None:
    message = calls.step([Rollout("0-3-1", PROMPT, ordinal=0)], policy_version=0)

    assert b"what is" not in message.encoded()
    assert b'"a": 1' not in message.encoded()


def test_prompts_of_an_evaluation_arrive_as_they_were_sent() -> None:
    plain = Prompt(4, "t", tokens([1]), "sums", "2", "{}")

    prompts = calls.prompts_of(calls.solution_probabilities([PROMPT, plain], 0.5, None))

    assert [(one.token_ids, one.solution) for one in prompts] == [
        (PROMPT.token_ids, PROMPT.solution),
        (tokens([1]), None),
    ]


def test_that_a_call_is_of_other_weights_travels_and_the_weights_do_not() -> None:
    weights = {"head": torch.ones(1000)}

    for call in (calls.probe(weights), calls.solution_probabilities([PROMPT], 1.0, weights)):
        assert calls.weights_of(call) == {}
        assert len(call.body) < 100


def test_a_call_without_weights_is_of_the_present_ones() -> None:
    assert calls.weights_of(calls.probe(None)) is None
    assert calls.weights_of(calls.solution_probabilities([PROMPT], 1.0, None)) is None

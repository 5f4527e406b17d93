"""The probability of whole responses: what the exact accuracy is a mean of."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from learner.models.loading.loading import policy_from_network
from learner.models.passes import outputs
from learner.models.passes.outputs import Policy, sequence_probabilities, with_weights
from learner.models.passes.packing import TokenRow
from tests.learner.builders import a_row
from tests.learner.tiny_models import VOCABULARY, a_network, padded_logprobs, weights_of

RESPONSES = ([9, 4, 7, 1], [8, 2], [3, 3, 17, 21, 9, 14, 5, 29, 1], [6])
PROMPT = (5, 6, 7)


def a_policy(temperature: float = 1.0) -> Policy:
    return policy_from_network(a_network("policy"), temperature=temperature)


def rows_of(responses: Sequence[list[int]] = RESPONSES) -> list[TokenRow]:
    return [TokenRow([*PROMPT, *response], start=len(PROMPT)) for response in responses]


def by_the_plain_formula(temperature: float = 1.0) -> list[float]:
    """exp of the sum of log softmax(logits / temperature), on padded rows."""
    rows = [a_row(response, prompt=PROMPT) for response in RESPONSES]
    with torch.no_grad():
        logprobs = padded_logprobs(a_network("policy"), rows, temperature=temperature)
    return [math.exp(sum(of_row.tolist())) for of_row in logprobs]


def test_under_a_uniform_policy_each_token_divides_by_the_vocabulary() -> None:
    policy = a_policy()
    network: Any = policy.network
    torch.nn.init.zeros_(network.lm_head.weight)

    # 32 tokens are equally likely; the prompt's three count nothing.
    assert VOCABULARY == 32
    assert sequence_probabilities(policy, rows_of([[9, 4, 7], [8], []]), max_tokens=64) == pytest.approx(
        [1 / 32768, 1 / 32, 1.0], rel=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_it_is_the_product_of_the_tokens_probabilities_at_the_temperature(temperature: float) -> None:
    found = sequence_probabilities(a_policy(temperature), rows_of(), max_tokens=64)

    assert found == pytest.approx(by_the_plain_formula(temperature), rel=1e-4)


@pytest.mark.parametrize("max_tokens", [1, 13, 1000])
def test_micro_batches_do_not_change_it(max_tokens: int) -> None:
    assert sequence_probabilities(a_policy(), rows_of(), max_tokens=max_tokens) == pytest.approx(
        by_the_plain_formula(), rel=1e-4
    )


def test_rows_that_are_laid_out_one_group_after_the_other_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_ROWS_LAID_OUT", 3)

    found = sequence_probabilities(a_policy(), rows_of(), max_tokens=64)

    assert found == pytest.approx(by_the_plain_formula(), rel=1e-4)


def test_a_greedy_policy_takes_the_likeliest_tokens_and_nothing_else() -> None:
    policy = a_policy(temperature=0.0)
    likeliest = [*PROMPT]
    for _ in range(4):
        logits = policy.network(torch.tensor([likeliest])).logits[0, -1]
        likeliest.append(int(logits.argmax()))
    other = [*likeliest[:-1], (likeliest[-1] + 1) % VOCABULARY]

    found = sequence_probabilities(
        policy, [TokenRow(likeliest, start=len(PROMPT)), TokenRow(other, start=len(PROMPT))], max_tokens=64
    )

    assert found == [1.0, 0.0]


def test_other_weights_leave_the_policy_as_it_is() -> None:
    policy = a_policy()
    before = weights_of(policy.network)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in before.items()}

    other = with_weights(policy, policy.weights.holding(zeros))

    assert sequence_probabilities(other, rows_of([[9]]), max_tokens=8) == pytest.approx([1 / 32])
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.network.state_dict().items())


def test_it_leaves_no_graph_behind() -> None:
    policy = a_policy()

    sequence_probabilities(policy, rows_of(), max_tokens=64)

    assert all(parameter.grad is None for parameter in policy.network.parameters())

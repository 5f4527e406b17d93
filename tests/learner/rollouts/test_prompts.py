"""The seeded, endless order in which prompts are requested."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.rollouts.prompts import PromptOrder


def ids(order: PromptOrder, count: int) -> list[str]:
    return [order.at(ordinal)[1] for ordinal in range(count)]


def test_unshuffled_prompts_come_in_file_order_each_sampled_in_a_row() -> None:
    order = PromptOrder(num_prompts=2, samples_per_prompt=2, seed=0, shuffle=False)

    assert ids(order, 6) == ["0-0-0", "0-0-1", "0-1-0", "0-1-1", "1-0-0", "1-0-1"]
    assert order.at(3)[0] == 1


def test_each_epoch_takes_every_prompt_once_in_another_order() -> None:
    order = PromptOrder(num_prompts=20, samples_per_prompt=1, seed=0, shuffle=True)

    first, second = ([order.at(epoch * 20 + place)[0] for place in range(20)] for epoch in range(2))

    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_the_order_is_drawn_from_the_seed() -> None:
    orders = [PromptOrder(num_prompts=20, samples_per_prompt=1, seed=seed, shuffle=True) for seed in (7, 7, 8)]

    same, again, other = (ids(order, 20) for order in orders)

    assert same == again != other


@given(
    num_prompts=st.integers(1, 12),
    samples_per_prompt=st.integers(1, 4),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
    ordinal=st.integers(0, 300),
)
def test_a_rollout_id_has_its_number(
    num_prompts: int, samples_per_prompt: int, seed: int, shuffle: bool, ordinal: int
) -> None:
    order = PromptOrder(num_prompts, samples_per_prompt, seed, shuffle)
    index, rollout_id = order.at(ordinal)

    assert order.ordinal(rollout_id) == ordinal
    assert rollout_id.split("-")[1] == str(index)


@pytest.mark.parametrize("rollout_id", ["eval-3-0", "0-5-0", "0-0-2", "0-0", "", "0-x-0", "0--1-0"])
def test_an_id_that_is_not_of_this_order_has_no_number(rollout_id: str) -> None:
    assert PromptOrder(num_prompts=5, samples_per_prompt=2, seed=0, shuffle=True).ordinal(rollout_id) is None

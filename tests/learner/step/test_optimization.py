"""The course of the learning rate, and updates that are skipped."""

import copy
import math
from typing import Any

import pytest
import torch

from learner.step.updates.optimization import Optimization, learning_rate_factor, mini_batches
from tppo.config.schema import ActorSection


def factors(total: int, **section: Any) -> list[float]:
    return [learning_rate_factor(n, ActorSection(**section), total_updates=total) for n in range(total)]


def test_the_rate_warms_up_linearly_and_stays_at_its_peak_when_constant() -> None:
    assert factors(6, lr_warmup_steps=4, lr_decay="constant") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_linear_decay_falls_from_the_peak_to_the_smallest_rate_at_the_last_update() -> None:
    assert factors(5, lr_decay="linear", min_lr_ratio=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_the_cosine_decay_is_half_way_down_in_the_middle() -> None:
    # cos at 0, 60, 90, 120 and 180 degrees would be 1, 1/2, 0, -1/2, -1; five updates stand 45 degrees apart.
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]

    assert factors(5, lr_decay="cosine", min_lr_ratio=0.0) == pytest.approx(expected)


def test_the_decay_begins_where_the_warm_up_ends() -> None:
    expected = [0.5, 1.0, 1.0, 0.75, 0.5]

    assert factors(5, lr_warmup_steps=2, lr_decay="linear", min_lr_ratio=0.5) == pytest.approx(expected)


def test_updates_beyond_the_planned_ones_keep_the_smallest_rate() -> None:
    section = ActorSection(lr_decay="linear", min_lr_ratio=0.1)

    assert learning_rate_factor(99, section, total_updates=5) == pytest.approx(0.1)


def an_optimization(**section: Any) -> tuple[Optimization, torch.nn.Parameter]:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    defaults: dict[str, Any] = {"lr": 0.5, "lr_decay": "linear", "weight_decay": 0.1, "ppo_mini_batches": 5}
    return Optimization([weight], ActorSection(**defaults | section), num_steps=2), weight


def update(optimization: Optimization, weight: torch.nn.Parameter, gradient: list[float]) -> Any:
    weight.grad = torch.tensor(gradient)
    return optimization.update()


def test_the_first_update_moves_each_weight_by_the_rate_against_its_gradients_sign() -> None:
    optimization, weight = an_optimization(weight_decay=0.0)

    done = update(optimization, weight, [0.3, -0.4])

    assert weight.tolist() == pytest.approx([0.5, -1.5], abs=1e-5)
    assert (done.grad_norm, done.lr, done.was_skipped) == (pytest.approx(0.5), 0.5, False)
    assert weight.grad is None


def test_the_reported_norm_is_that_before_clipping() -> None:
    optimization, weight = an_optimization(grad_clip=1.0)

    assert update(optimization, weight, [3.0, -4.0]).grad_norm == pytest.approx(5.0)
    # (1 - beta1) of the gradient clipped to norm 1.
    assert optimization.adamw.state[weight]["exp_avg"].tolist() == pytest.approx([0.06, -0.08])


def test_updates_give_the_bits_of_torchs_own_step_whether_the_gradients_are_clipped_or_not() -> None:
    optimization, weight = an_optimization(grad_clip=1.0, lr_decay="constant")
    other = torch.nn.Parameter(weight.detach().clone())
    adamw = torch.optim.AdamW([other], lr=0.5, betas=ActorSection().betas, weight_decay=0.1, fused=True)

    for gradient in ([0.3, -0.7], [3.0, -4.0], [0.6, -0.8], [0.1, 0.2]):  # of norms below, above and at the bound
        update(optimization, weight, gradient)
        other.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([other], 1.0)
        adamw.step()

    assert torch.equal(weight, other)
    assert torch.equal(optimization.adamw.state[weight]["exp_avg_sq"], adamw.state[other]["exp_avg_sq"])
    assert torch.equal(optimization.adamw.state[weight]["step"], torch.tensor(4.0))


def test_the_schedule_counts_all_updates_of_all_steps() -> None:
    optimization, weight = an_optimization(min_lr_ratio=0.1)  # 2 steps of 5 mini-batches

    rates = [update(optimization, weight, [1.0, 1.0]).lr for _ in range(10)]

    assert rates == pytest.approx([0.5 - 0.05 * n for n in range(10)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_leaves_weights_moments_and_schedule(bad: float) -> None:
    optimization, weight = an_optimization()
    update(optimization, weight, [0.3, -0.4])
    before = weight.tolist(), optimization.adamw.state[weight]["exp_avg"].tolist()

    done = update(optimization, weight, [bad, 1.0])

    assert done.was_skipped
    assert (weight.tolist(), optimization.adamw.state[weight]["exp_avg"].tolist()) == before
    assert (optimization.num_updates, optimization.num_skipped) == (1, 1)
    assert weight.grad is None


def test_a_skipped_update_leaves_no_gradient_behind_and_is_counted_through_a_restart() -> None:
    optimization, weight = an_optimization()
    weight.grad = torch.tensor([0.3, -0.4])

    optimization.skip()

    assert (weight.tolist(), optimization.num_updates) == ([1.0, -2.0], 0)
    assert weight.grad is None
    resumed, _ = an_optimization()
    resumed.load_state_dict(optimization.state_dict())
    assert resumed.num_skipped_kl == 1


def test_a_restored_optimization_goes_on_as_the_first_would_have() -> None:
    first, weight = an_optimization()
    update(first, weight, [0.3, -0.4])
    update(first, weight, [math.nan, 0.0])
    second, other_weight = an_optimization()
    other_weight.data.copy_(weight.data)

    second.load_state_dict(copy.deepcopy(first.state_dict()))

    assert update(second, other_weight, [1.0, 2.0]) == update(first, weight, [1.0, 2.0])
    assert torch.equal(other_weight, weight)
    assert (second.num_updates, second.num_skipped) == (2, 1)


def continued(first: Optimization, *, num_steps: int, **section: Any) -> list[float]:
    """The rates of the remaining updates, one each step, of a run that was resumed with so many steps."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    defaults: dict[str, Any] = {"lr": 0.5, "lr_decay": "linear", "min_lr_ratio": 0.2}
    resumed = Optimization([weight], ActorSection(**defaults | section), num_steps=num_steps)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    return [update(resumed, weight, [1.0, 1.0]).lr for _ in range(num_steps - first.num_updates)]


@pytest.mark.parametrize(
    ("lr_decay", "rates"),
    [
        # Five updates fall from .5 by .1 to .1. After two of them the next is .3; nine steps leave seven updates.
        ("linear", [0.3 - n * 0.2 / 6 for n in range(7)]),
        # Half-way between 1 and .2 of the peak stands .6; then cos at 0, 30, ... 180 degrees.
        ("cosine", [0.1 + 0.2 * (1 + math.cos(math.radians(30 * n))) / 2 for n in range(7)]),
        ("constant", [0.5] * 7),
    ],
)
def test_the_rate_of_a_prolonged_run_goes_on_where_it_stood_and_decays_to_the_new_end(
    lr_decay: str, rates: list[float]
) -> None:
    section: dict[str, Any] = {"ppo_mini_batches": 1, "min_lr_ratio": 0.2, "lr_decay": lr_decay}
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    first = Optimization([weight], ActorSection(lr=0.5, **section), num_steps=5)
    for _ in range(2):
        update(first, weight, [1.0, 1.0])

    assert continued(first, num_steps=9, **section) == pytest.approx(rates)


def test_a_run_that_was_prolonged_resumes_on_its_new_schedule() -> None:
    prolonged, weight = an_optimization(min_lr_ratio=0.1)  # ten updates
    for _ in range(4):
        update(prolonged, weight, [1.0, 1.0])
    first = Optimization([weight], ActorSection(lr=0.5, min_lr_ratio=0.1), num_steps=16)
    first.load_state_dict(copy.deepcopy(prolonged.state_dict()))
    expected = [0.3 - n * 0.25 / 11 for n in range(12)]  # .5 less four times .05, to .05 in the last of 16 updates

    rates = [update(first, weight, [1.0, 1.0]).lr for _ in range(3)]

    assert rates + continued(first, num_steps=16, min_lr_ratio=0.1) == pytest.approx(expected)


def test_a_run_that_is_prolonged_after_its_end_keeps_its_smallest_rate() -> None:
    first, weight = an_optimization(min_lr_ratio=0.2, ppo_mini_batches=1)
    for _ in range(2):
        update(first, weight, [1.0, 1.0])

    assert continued(first, num_steps=4) == pytest.approx([0.1, 0.1])


def test_a_run_that_is_prolonged_while_its_rate_warms_up_has_the_longer_runs_schedule() -> None:
    section: dict[str, Any] = {"lr_warmup_steps": 4, "ppo_mini_batches": 1}
    first, weight = an_optimization(**section)
    update(first, weight, [1.0, 1.0])

    # Of four steps' warm-up .5, .75 and 1 of the peak are left; then 1 and the smallest share.
    assert continued(first, num_steps=6, **section) == pytest.approx([0.25, 0.375, 0.5, 0.5, 0.1])


def test_a_decay_of_its_own_length_ends_there_whatever_the_length_of_the_run() -> None:
    section: dict[str, Any] = {"min_lr_ratio": 0.2, "ppo_mini_batches": 1, "lr_decay_steps": 3}
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimization = Optimization([weight], ActorSection(lr=0.5, **section), num_steps=100)

    rates = [update(optimization, weight, [1.0, 1.0]).lr for _ in range(4)]

    assert rates == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_prolonging_a_run_does_not_move_a_decay_of_its_own_length() -> None:
    section: dict[str, Any] = {"min_lr_ratio": 0.2, "ppo_mini_batches": 1, "lr_decay_steps": 3}
    first, weight = an_optimization(**section)
    update(first, weight, [1.0, 1.0])

    assert continued(first, num_steps=6, **section) == pytest.approx([0.3, 0.1, 0.1, 0.1, 0.1])


def test_mini_batches_are_dealt_like_cards_in_the_first_pass() -> None:
    assert list(mini_batches([7, 8, 9, 10, 11], count=2, epochs=1, seed="0/3")) == [[7, 9, 11], [8, 10]]


def test_later_passes_deal_all_rows_again_in_another_order_that_follows_from_the_seed() -> None:
    rows = list(range(100, 120))

    passes = list(mini_batches(rows, count=2, epochs=3, seed="0/3"))

    first, second, third = passes[:2], passes[2:4], passes[4:]
    assert first == [rows[::2], rows[1::2]]
    assert all(sorted([*one, *other]) == rows for one, other in (second, third))
    assert first != second != third != first
    assert list(mini_batches(rows, count=2, epochs=3, seed="0/3")) == passes
    assert list(mini_batches(rows, count=2, epochs=3, seed="0/4"))[2:] != passes[2:]


def test_one_mini_batch_has_all_rows_in_their_order_in_every_pass() -> None:
    assert list(mini_batches([7, 8, 9], count=1, epochs=3, seed="0/3")) == [[7, 8, 9]] * 3


def test_there_are_no_empty_mini_batches() -> None:
    assert list(mini_batches([7, 8], count=3, epochs=1, seed="0/3")) == [[7], [8]]
    assert list(mini_batches([], count=3, epochs=1, seed="0/3")) == []

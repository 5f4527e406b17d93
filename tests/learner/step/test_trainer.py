"""A whole step: which model moves, what is left behind, and that plain PPO is the limit of long windows."""

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch

from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.rollouts.rollout import Rollout
from learner.state import new_trainer
from tests.learner.builders import a_prompt, a_row
from tests.learner.plain_ppo import PlainPPO
from tests.learner.tiny_models import (
    TinyTrainer,
    a_network,
    a_step_config,
    padded_logprobs,
    padded_values,
    some_rows,
    step,
    weights_of,
)
from tppo.rollout import tokens


def finished_rows() -> list[Rollout]:
    """Six responses in one window each, of 2 to 12 tokens, half of them right."""
    generator = torch.Generator().manual_seed(3)
    return [
        a_row(torch.randint(3, 32, (2 * n,), generator=generator).tolist(), score=(-1.0) ** n, prompt=(4 + n, 9))
        for n in range(1, 7)
    ]


def assert_unchanged(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(network).items())


@pytest.mark.parametrize(("num_mini_batches", "num_epochs"), [(1, 1), (2, 1), (2, 2)])
def test_with_windows_as_long_as_responses_a_step_is_ppo_with_decoupled_gae(
    num_mini_batches: int, num_epochs: int
) -> None:
    updates: dict[str, Any] = {
        "lr": 1e-3, "ppo_mini_batches": num_mini_batches, "ppo_epochs": num_epochs, "max_tokens_per_microbatch": 20,
    }  # fmt: skip
    trainer = TinyTrainer(
        a_step_config(
            run={"window_length": 18},
            algorithm={"num_ignored_tail_tokens": 8, "advantage_whitening": "scale_only"},
            actor=updates,
            critic=updates,
        )
    )
    plain = PlainPPO(a_network("policy"), a_network("value"), 1e-3, num_mini_batches, num_epochs)

    for version in range(2):
        step(trainer, finished_rows(), policy_version=version)
        plain.step(finished_rows())

    for network, expected in (
        (trainer.policy.network, plain.policy),
        (trainer.value_model.network, plain.value_network),
    ):
        initial = weights_of(a_network("policy" if network is trainer.policy.network else "value"))
        moved = weights_of(expected)
        for name, tensor in weights_of(network).items():
            torch.testing.assert_close(tensor - initial[name], moved[name] - initial[name], atol=4e-5, rtol=0)


def test_while_the_value_model_warms_up_the_policy_and_its_moments_stay_untouched() -> None:
    trainer = TinyTrainer(a_step_config(critic={"lr": 1e-3, "warmup_steps": 2}))
    policy, values = weights_of(trainer.policy.network), weights_of(trainer.value_model.network)

    for version in range(2):
        metrics = step(trainer, some_rows(), policy_version=version)
    assert_unchanged(trainer.policy.network, policy)
    assert (trainer.actor.num_updates, trainer.actor.adamw.state, "actor/lr" in metrics) == (0, {}, False)
    assert not torch.equal(weights_of(trainer.value_model.network)["score.weight"], values["score.weight"])

    step(trainer, some_rows(), policy_version=2)
    assert trainer.actor.num_updates == 1


def test_the_policys_rate_ends_at_its_least_though_its_first_steps_were_the_value_models_alone() -> None:
    rates = {"lr": 1e-3, "lr_warmup_steps": 0, "lr_decay": "linear", "min_lr_ratio": 0.25}
    run = {"total_training_steps": 4, "mode": "lockstep", "window_length": 6, "max_response_length": 18}
    config = a_step_config(run=run, actor=rates, critic=rates | {"warmup_steps": 1})
    networks = policy_from_network(a_network("policy")), value_model_from_network(a_network("value"))
    trainer = new_trainer(config, *networks)

    numbers_of_steps = [step(trainer, some_rows(), policy_version=version) for version in range(4)]

    assert [numbers["actor/lr"] for numbers in numbers_of_steps[1:]] == pytest.approx([1e-3, 0.625e-3, 0.25e-3])
    assert numbers_of_steps[-1]["critic/lr"] == pytest.approx(0.25e-3)


@pytest.mark.parametrize(("lr", "at_least", "at_most"), [(1e-3, 0.3, 0.9), (1e-12, 0.0, 0.02)])  # some are 0
def test_the_share_of_weights_that_a_step_has_changed_is_that_of_the_type_they_compute_in(
    lr: float, at_least: float, at_most: float
) -> None:
    rates = {"lr": lr, "lr_decay": "constant"}
    learner = {"compute_dtype": "bfloat16"}
    trainer = TinyTrainer(a_step_config(actor=rates, critic=rates | {"warmup_steps": 1}, learner=learner))

    first, second = (step(trainer, some_rows(), policy_version=version) for version in range(2))

    assert "actor/weights_changed_fraction" not in first, "the value model warms up"
    for share in (first["critic/weights_changed_fraction"], second["actor/weights_changed_fraction"]):
        assert at_least <= share <= at_most


def test_a_step_with_no_token_to_train_leaves_the_policy_untouched() -> None:
    trainer = TinyTrainer(a_step_config(algorithm={"num_ignored_tail_tokens": 6}, actor={"lr": 1.0}))
    before = weights_of(trainer.policy.network)

    metrics = step(trainer, [row for row in some_rows() if not row.is_finished])

    assert_unchanged(trainer.policy.network, before)
    assert (metrics["tokens/policy_mask"], trainer.actor.num_updates) == (0, 0)


def test_the_same_rows_give_the_same_weights_to_the_last_bit() -> None:
    trainers = [TinyTrainer(a_step_config(actor={"ppo_mini_batches": 2, "ppo_epochs": 2})) for _ in range(2)]

    for trainer in trainers:
        for version in range(3):
            step(trainer, some_rows(), policy_version=version)

    assert_unchanged(trainers[0].policy.network, weights_of(trainers[1].policy.network))
    assert_unchanged(trainers[0].value_model.network, weights_of(trainers[1].value_model.network))


def test_a_step_returns_the_values_that_its_window_tokens_had_before_the_update() -> None:
    rows = some_rows()
    expected = padded_values(a_network("value"), rows)

    result = TinyTrainer(a_step_config()).step(rows, policy_version=0)

    for values, of_row, row in zip(result.values, expected, rows, strict=True):
        assert list(values) == pytest.approx(of_row[row.window_start :].tolist(), abs=1e-5)


EDGES = {
    "one row": [a_row([9, 4, 1], score=1.0)],
    "one token": [a_row([1], score=1.0)],
    "one cut token": [a_row([9])],
    "an empty window": [a_row([9, 4, 7], window_start=3), a_row([9, 1], score=1.0)],
    "only an empty window": [a_row([9, 4, 7], window_start=3)],
    "a finished row without a token": [a_row([], score=0.0)],
    "a finished row whose last window is empty": [a_row([9, 4, 7], window_start=3, score=-1.0)],
    "all cut": [row for row in some_rows() if not row.is_finished],
    "all finished": [row for row in some_rows() if row.is_finished],
}


@pytest.mark.parametrize("whitening", ["scale_only", "full", "none"])
@pytest.mark.parametrize("rows", EDGES.values(), ids=EDGES)
def test_no_edge_leaves_a_number_that_is_not_finite(rows: list[Rollout], whitening: str) -> None:
    algorithm = {"advantage_whitening": whitening, "num_ignored_tail_tokens": 8, "lm_loss_weight": 0.1}
    trainer = TinyTrainer(a_step_config(algorithm=algorithm))

    metrics = step(trainer, rows)

    assert all(value is None or math.isfinite(value) for value in metrics.values()), metrics
    for network in (trainer.policy.network, trainer.value_model.network):
        assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    assert metrics["critic/num_skipped_updates"] == metrics.get("actor/num_skipped_updates", 0) == 0


def test_the_bootstrap_boundary_takes_the_value_after_the_last_token() -> None:
    row = a_row([9, 4, 7])
    then_any_token = a_row([9, 4, 7, 2])
    *_, before_last, after_last = padded_values(a_network("value"), [then_any_token])[0].tolist()

    def last_advantage(boundary: str) -> float:
        algorithm = {"boundary": boundary, "lam": 0.0, "num_ignored_tail_tokens": 0}
        metrics = step(TinyTrainer(a_step_config(algorithm=algorithm)), [row])
        return float(metrics["critic/advantages/mean"]) * 3

    # With lambda = 0 the advantages are the temporal differences; only the last one knows the boundary.
    assert last_advantage("bootstrap") - last_advantage("hold") == pytest.approx(after_last - before_last, abs=1e-5)


def test_the_steps_numbers_describe_its_rows() -> None:
    rows = [
        a_row([9, 4, 1], score=1.0, versions=[2, 3, 3]),
        a_row([9, 1], score=0.0, versions=[1, 1]),
        a_row([9, 4, 7, 5, 2], window_start=4, versions=[0, 0, 0, 0, 3]),
    ]

    metrics = step(TinyTrainer(a_step_config(algorithm={"num_ignored_tail_tokens": 1})), rows, policy_version=3)

    assert metrics["reward/mean"] == 0.5
    assert metrics["reward/std"] == pytest.approx(math.sqrt(0.5))
    assert (metrics["response_length/mean"], metrics["response_length/max"]) == (2.5, 3)
    percentiles = [metrics[f"response_length/p{percent}"] for percent in (10, 50, 90)]
    assert percentiles == pytest.approx([2.1, 2.5, 2.9])
    assert metrics["response_length/clip_ratio"] == 0.0
    assert metrics["response/finished_fraction"] == pytest.approx(2 / 3)
    assert metrics["policy_lag/mean"] == pytest.approx((1 + 0 + 0 + 2 + 2 + 0) / 6)
    assert (metrics["policy_lag/max"], metrics["tokens/window"], metrics["tokens/value_mask"]) == (2, 6, 5)
    assert 1 / 5 < metrics["actor/top_percent_weight"] < 1  # of five tokens, the one with the largest advantage
    assert metrics["tokens/policy_mask_fraction"] == pytest.approx(5 / 6)
    assert metrics["tokens/value_mask_fraction"] == 5 / 10  # of all windows' tokens


def test_responses_that_reach_the_limit_are_a_share_of_those_that_finish() -> None:
    rows = [
        a_row([9] * 18, window_start=12, score=0.0),  # of max_response_length
        *(a_row([9, 4, 1], score=1.0) for _ in range(3)),
        a_row([9] * 6),  # cut, not finished
    ]

    assert step(TinyTrainer(a_step_config()), rows)["response_length/clip_ratio"] == 0.25


def test_whitening_by_scale_divides_the_unfinished_responses_mean_advantage_by_the_deviation_of_all() -> None:
    # lambda 0: the advantages are V differences, for a cut window with a 0 at its end.
    rows = [a_row([9, 4, 7, 1], score=1.0), a_row([8, 2, 3, 11])]
    finished, cut = (of_row.tolist() for of_row in padded_values(a_network("value"), rows))
    of_cut = [cut[1] - cut[0], cut[2] - cut[1], cut[3] - cut[2], 0.0]
    of_finished = [finished[1] - finished[0], finished[2] - finished[1], finished[3] - finished[2], 1.0 - finished[3]]
    mean = sum(of_cut) / 4

    metrics = step(TinyTrainer(a_step_config(algorithm={"lam": 0.0, "advantage_whitening": "scale_only"})), rows)

    assert metrics["critic/advantages/unfinished_mean"] == pytest.approx(mean, abs=1e-5)
    scaled = mean / statistics.stdev(of_finished + of_cut)
    assert metrics["critic/advantages/unfinished_mean_whitened"] == pytest.approx(scaled, abs=1e-4)


def test_a_solution_that_is_longer_than_a_response_may_be_has_no_chance() -> None:
    trainer = TinyTrainer(a_step_config(run={"max_response_length": 18}))
    solutions = [[9, 4, 1], [9] * 18 + [1], [8, 2, 3, 1]]
    prompts = [replace(a_prompt(), solution=tokens(solution)) for solution in solutions]

    first, too_long, last = trainer.solution_probabilities(prompts, temperature=0.5)

    with torch.no_grad():
        logprobs = padded_logprobs(a_network("policy"), [a_row(row) for row in solutions], temperature=0.5)
    expected = [math.exp(float(of_row.sum())) for of_row in logprobs]
    assert [first, last] == pytest.approx([expected[0], expected[2]], rel=1e-4)
    assert too_long == 0.0
    assert trainer.policy.temperature == 1.0

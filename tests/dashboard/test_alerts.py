"""Which numbers become which sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services.dashboard.history.columns import Columns
from services.dashboard.live.alerts import alerts_of_metrics, alerts_of_moment, worst_first
from services.dashboard.live.situation import Situation


def columns_of(values: Mapping[str, Sequence[float | None]], first_step: int = 1) -> Columns:
    """A line per value, steps counted from the first."""
    columns = Columns()
    for row in range(max(map(len, values.values()), default=0)):
        columns.add({"step": first_step + row, **{name: column[row] for name, column in values.items()}})
    return columns


def texts(steps: Mapping[str, Sequence[float | None]] | None = None, **situation: Any) -> list[str]:
    evaluations = columns_of(situation.pop("evaluations", {}))
    known = Situation(steps=columns_of(steps or {}), evaluations=evaluations, **situation)
    return [one.text for one in worst_first([*alerts_of_moment(known), *alerts_of_metrics(known)])]


def test_where_nothing_is_wrong_nothing_is_said() -> None:
    healthy: dict[str, list[float | None]] = {
        "critic/vf_explained_var": [0.5] * 20,
        "actor/entropy": [1.0] * 20,
        "tokens/too_old": [0] * 20,
        "tokens/window": [100] * 20,
        "reward/mean": [0.1 * step for step in range(20)],
        "actor/pg_clipfrac": [0.1] * 20,
        "response/finished_fraction": [0.5] * 20,
    }

    assert texts(healthy, is_running=True, seconds_since_step=3.0) == []


def test_an_explained_variance_below_zero_is_an_alert_with_its_first_step() -> None:
    # Two good steps, then a streak of eleven without the step that has no number.
    explained = [0.5, 0.5, *[-0.1] * 5, None, *[-0.2] * 6]

    assert texts({"critic/vf_explained_var": explained}) == [
        "Explained variance below 0 since step 3: the value model predicts worse than a constant."
    ]


def test_a_generator_that_disagrees_is_an_alert_with_what_is_done_about_it() -> None:
    apart = "with the weights of version 7 the engine differs from the learner by up to 2.5 nats"
    disproved = {"generation-0": (True, apart), "generation-1": (False, apart)}

    assert texts(disproved=disproved) == [
        f"generation-0 serves nothing, and is sent the weights again: {apart}.",
        f"generation-1 is out of the run: {apart}.",
    ]


def test_one_good_step_ends_the_streak() -> None:
    assert texts({"critic/vf_explained_var": [*[-0.1] * 12, 0.1, *[-0.1] * 9]}) == []


def test_a_policy_that_explores_nothing_and_earns_little_has_collapsed() -> None:
    steps = {"actor/entropy": [*[1.0] * 10, *[0.01] * 10], "reward/mean": [*[0.8] * 10, *[0.7] * 10]}

    assert "The policy's entropy has collapsed since step 11: it explores nothing." in texts(steps)


def test_a_policy_that_is_sure_and_earns_its_best_has_learned() -> None:
    assert texts({"actor/entropy": [0.01] * 20, "reward/mean": [*[0.5] * 10, *[0.9] * 10]}) == []


def test_tokens_that_are_too_old_are_counted_over_the_last_steps() -> None:
    # 10 steps of 100 tokens, 50 of them masked in the last step: 5 %.
    steps = {"tokens/too_old": [*[0] * 9, 50], "tokens/window": [100] * 10}

    assert texts(steps) == ["5 % of the tokens were masked as too old in the last 10 steps."]


def test_a_falling_reward_is_an_alert_with_its_range() -> None:
    # Blocks of ten: 0.2, 0.8, 0.5. The range is 0.6, and 0.3 of it is lost.
    steps = {"reward/mean": [*[0.2] * 10, *[0.8] * 10, *[0.5] * 10]}

    assert texts(steps) == ["The reward falls since step 20: from 0.8 to 0.5."]


def test_a_reward_that_falls_below_where_it_began_is_an_alert() -> None:
    steps = {"reward/mean": [*[0.4] * 10, *[0.9] * 10, *[0.2] * 10]}

    assert texts(steps) == ["The reward falls since step 20: from 0.9 to 0.2."]


def test_a_noisy_plateau_does_not_fall() -> None:
    assert texts({"reward/mean": [*[0.52] * 10, *[0.50, 0.46] * 5]}) == []


def test_a_reward_that_loses_less_than_its_noise_does_not_fall() -> None:
    # Blocks 0.0, 0.1, 0.07; the last block swings by 0.2 either way, two standard errors of its mean are 0.13.
    assert texts({"reward/mean": [*[0.0] * 10, *[0.1] * 10, *[0.27, -0.13] * 5]}) == []


def test_an_accuracy_below_its_best_by_more_than_chance() -> None:
    # The standard error of the difference is 0.014 = sqrt(2) * 0.01; three of them are 0.042.
    fallen = {"eval/accuracy": [0.3, 0.9, 0.85], "eval/accuracy_stderr": [0.01] * 3}
    wavering = {"eval/accuracy": [0.3, 0.9, 0.87], "eval/accuracy_stderr": [0.01] * 3}

    assert texts(evaluations=fallen) == ["The accuracy fell from 90.0% at step 2 to 85.0%."]
    assert texts(evaluations=wavering) == []


def test_an_exact_accuracy_decides_where_there_is_one() -> None:
    # It has no sampling noise: a fall by more than 0.02 counts, however the sampled one wavers.
    sampled = {"eval/accuracy": [0.3, 0.9, 0.7], "eval/accuracy_stderr": [0.01] * 3}
    fallen, wavering = {"eval/accuracy_exact": [0.3, 0.9, 0.87]}, {"eval/accuracy_exact": [0.3, 0.9, 0.89]}

    assert texts(evaluations=sampled | fallen) == ["The exact accuracy fell from 90.0% at step 2 to 87.0%."]
    assert texts(evaluations=sampled | wavering) == []


def test_no_step_within_the_watchdogs_time_is_an_alert() -> None:
    waiting: dict[str, Any] = {"is_running": True, "watchdog_seconds": 60.0, "waiting_for": "3 windows"}

    assert texts(seconds_since_step=59.0, **waiting) == []
    assert texts(seconds_since_step=90.0, **waiting) == ["No training step for 90 s; waiting for 3 windows."]
    assert texts(seconds_since_step=180.0, **waiting) == ["No training step for 3 min; waiting for 3 windows."]


def test_where_steps_are_long_the_deadline_is_longer() -> None:
    steps = {"timing_s/step": [100.0] * 10}

    assert texts(steps, is_running=True, seconds_since_step=499.0) == []
    assert texts(steps, is_running=True, seconds_since_step=501.0) == ["No training step for 8 min."]


def test_a_paused_run_raises_no_alert_about_its_steps() -> None:
    assert texts(is_running=True, is_paused=True, seconds_since_step=999.0) == ["Paused by operator."]


@pytest.mark.parametrize(
    ("situation", "text"),
    [
        ({"redis_error": "refused"}, "Redis does not answer: refused."),
        ({"learner_gone_seconds": 7200.0}, "No heartbeat from learner for 2 h."),
        ({"num_parked": 1}, "1 rollout is parked."),
        (
            {"num_dead_letters": 1, "dead_letter": "window_requests: 10 bytes are no tppo.v1.WindowRequest"},
            "1 request or record was rejected; the newest of window_requests: 10 bytes are no tppo.v1.WindowRequest.",
        ),
        ({"num_parked": 3, "parked_cause": "out of memory"}, "3 rollouts are parked; most often: out of memory."),
        (
            {"ledger_holds": False},
            "Windows are unaccounted for: issued is not trained + in flight + parked + dropped.",
        ),
        ({"errors": {"reward-0": "boom", "reward-1": ""}}, "reward-0: boom"),
        (
            {"digests": {"a": (3, "x"), "b": (3, "y"), "c": (4, "z")}},
            "a, b serve version 3 with different weights (their digests differ).",
        ),
    ],
)
def test_alerts_about_the_services(situation: dict[str, Any], text: str) -> None:
    assert texts(**situation) == [text]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (
            {"actor/pg_clipfrac": [0.1, *[0.3] * 10]},
            "More than a fifth of the tokens are clipped since step 2: actor.lr is high.",
        ),
        (
            {"response/finished_fraction": [0.01] * 10},
            "Hardly any response finishes since step 1: the value model starves; try longer windows.",
        ),
        (
            {"critic/num_skipped_updates": [0, 0, 2]},
            "critic: 2 updates were skipped lately, their gradients were not finite.",
        ),
        (
            {"training/rollout_probs_diff_mean": [0.02] * 10, "policy_lag/max": [0] * 10},
            "Engine and learner disagree: the same tokens' probabilities differ by 0.02 on average.",
        ),
        (
            {
                "training/engine_kl/mean/generator-1": [0.02, None, 0.02, *[None] * 10, 0.02, None],
                "training/engine_kl/mean/generator-0": [0.02, 1e-4, 0.02, *[None] * 10, 0.02, None],
            },
            "generator-1 disagrees with the learner under the same weights: KL 0.02 nats, where "
            "rounding makes less than 0.005. Restart it; where that does not help, compute in float32, or, with a "
            "number as algorithm.importance_cap, mask what disagrees most: algorithm.importance_mode = 'mask'.",
        ),
        (
            {"tokens/held": [0, 50], "tokens/window": [200, 200]},
            "25% of the last step's tokens train nothing: their generator's KL to the learner is above "
            "algorithm.max_engine_kl.",
        ),
        (
            {"actor/weights_changed_fraction": [0.01, *[5e-5] * 10], "actor/lr": [1e-9] * 11},
            "actor: a step changes less than 0.01% of the weights since step 2, at a learning rate of 1e-09: hardly "
            "anything is learned. Raise actor.lr, unless actor/grad_norm is 0.",
        ),
    ],
)
def test_alerts_about_numbers_that_stay_bad(steps: dict[str, list[float | None]], text: str) -> None:
    assert texts(steps) == [text]


@pytest.mark.parametrize(
    "steps",
    [
        {"critic/weights_changed_fraction": [0.0] * 20, "critic/lr": [0.0] * 20},  # the rate has decayed to 0
        {"training/engine_kl/mean/generator-0": [*[0.02] * 9, *[None] * 50]},  # that generator is gone
    ],
)
def test_what_is_no_fault_of_the_precision_is_no_alert(steps: dict[str, list[float | None]]) -> None:
    assert texts(steps) == []


def test_probabilities_may_differ_where_there_is_lag() -> None:
    assert texts({"training/rollout_probs_diff_mean": [0.02] * 10, "policy_lag/max": [*[0] * 9, 1]}) == []


# Blocks of ten steps: the reward rises from .2 to .9 and falls by .1, more than a tenth of what it had risen by.
RUNAWAY = {
    "reward/mean": [*[0.2] * 10, *[0.9] * 10, *[0.8] * 10],
    "response_length/mean": [*[60.0] * 10, *[80.0] * 10, *[200.0] * 10],
}


def test_responses_that_grow_while_the_reward_falls_are_an_alert_that_names_the_way_back() -> None:
    assert texts(RUNAWAY, run="mine", best_step=20) == [
        "Responses grow while the reward falls since step 20: from 80 to 200 tokens, from 0.9 to 0.8. "
        "Lower actor.lr; the best checkpoint is version 20: tppo rollback mine --to 20."
    ]


def test_without_a_best_checkpoint_the_alert_says_so() -> None:
    (text,) = texts(RUNAWAY)

    assert text.endswith("no best checkpoint is known; tppo rollback RUN --to VERSION takes any that is kept.")


@pytest.mark.parametrize(
    "changes",
    [
        {"response_length/mean": [80.0] * 30},  # the reward alone
        {"reward/mean": [*[0.2] * 10, *[0.8] * 10, *[0.9] * 10]},  # the length alone
        {"reward/mean": [*[0.2] * 10, *[0.9] * 10, *[0.85] * 10]},  # by less than .07
        {"reward/mean": [*[0.9] * 10, *[0.8] * 20]},  # from the first steps, in which short responses alone finish
    ],
)
def test_lengths_may_grow_and_rewards_may_waver_by_themselves(changes: dict[str, list[float]]) -> None:
    assert texts(RUNAWAY | changes) == []


def test_values_above_what_is_earned_are_an_alert() -> None:
    # By .23, of a deviation of .5: 0.46 of it.
    steps = {"critic/values/mean": [0.88] * 10, "reward/mean": [0.65] * 10, "reward/std": [0.5] * 10}

    assert texts(steps, best_step=40) == [
        "The value model expects 0.88 where the reward is 0.65, over the last 10 steps: it does not see what fails. "
        "Lower actor.lr; the best checkpoint is version 40: tppo rollback RUN --to 40."
    ]
    assert texts(steps | {"critic/values/mean": [0.84] * 10}) == []
    assert texts(steps | {"reward/std": [None, *[0.5] * 9]}) == []


def test_a_gradient_of_few_tokens_is_an_alert() -> None:
    assert texts({"actor/top_percent_weight": [0.1, *[0.4] * 10]}, best_step=1) == [
        "One percent of the tokens carries more than 30% of the gradient since step 2: the value model is far off "
        "there. Lower actor.lr; if the reward falls, the best checkpoint is version 1: tppo rollback RUN --to 1."
    ]
    assert texts({"actor/top_percent_weight": [0.4] * 9}) == []


def test_updates_that_the_bound_on_the_kl_skipped_are_a_notice() -> None:
    assert texts({"actor/num_skipped_kl": [2, 2, 5]}) == [
        "3 updates exceeded actor.max_kl in the last 10 steps; lower actor.lr."
    ]
    assert texts({"actor/num_skipped_kl": [2] * 10}) == []


def test_the_worst_comes_first() -> None:
    assert texts({"actor/pg_clipfrac": [0.3] * 10}, is_paused=True, redis_error="refused")[0].startswith("Redis")


def test_an_alert_keeps_its_key_while_its_numbers_change() -> None:
    situations = [
        Situation(
            steps=columns_of({}), evaluations=columns_of({}), is_running=True, seconds_since_step=seconds, errors=errors
        )
        for seconds, errors in ((70.0, {"generation-0": "out of memory"}), (90.0, {"generation-0": "no space left"}))
    ]

    keys = [[one.key for one in alerts_of_moment(situation)] for situation in situations]

    assert keys == [["no_step:", "errors:generation-0"]] * 2


def test_a_function_that_responses_wait_for_and_nobody_offers_is_an_alert() -> None:
    assert texts(offered_by_nobody={"mine": "127.0.0.1:50052"}) == [
        "Responses wait for grpc:mine, which no process offers; one may attach at 127.0.0.1:50052."
    ]

"""Each engine is held against the learner under the weights that sampled, whichever version that was."""

import math
from array import array
from collections.abc import Mapping

import pytest

from learner.rollouts.rollout import Rollout
from learner.step.measurements.engine_check import FREQUENCY, MAX_ROWS
from tests.learner.builders import a_row
from tests.learner.tiny_models import TinyTrainer, a_network, a_step_config, padded_logprobs, some_rows, step

STREAMING = {"mode": "streaming", "window_length": 6, "max_response_length": 18}


def kl_of(ratio: float) -> float:
    """By k3, of a token that the learner finds so many times as likely as its engine does."""
    return ratio - math.log(ratio) - 1


def sampled_by(generator: str, response: list[int], *, versions: list[int], off_by: float) -> Rollout:
    """By the first policy; to its engine each token was so many times less likely than it is."""
    row = a_row(response, score=1.0, versions=versions)
    (logprobs,) = padded_logprobs(a_network("policy"), [row])
    row.rollout_logprobs = array("f", (logprobs - math.log(off_by)).tolist())
    row.generator = generator
    return row


def test_each_engine_is_compared_on_the_windows_that_the_present_version_sampled_whole() -> None:
    rows = [
        sampled_by("generation-0", [9, 4], versions=[1, 1], off_by=8.0),
        sampled_by("generation-1", [8, 2, 3, 11], versions=[1] * 4, off_by=2.0),
        sampled_by("generation-1", [5, 5, 5], versions=[0, 1, 1], off_by=100.0),  # its cache may be of older weights
    ]

    metrics = step(TinyTrainer(a_step_config()), rows, policy_version=1)

    assert metrics["training/engine_kl/mean"] == pytest.approx((2 * kl_of(8.0) + 4 * kl_of(2.0)) / 6, rel=1e-4)
    assert metrics["training/engine_kl/max"] == pytest.approx(kl_of(8.0), rel=1e-4)
    for name, ratio in (("generation-0", 8.0), ("generation-1", 2.0)):
        assert metrics[f"training/engine_kl/mean/{name}"] == pytest.approx(kl_of(ratio), rel=1e-4)
        assert metrics[f"training/engine_kl/max/{name}"] == pytest.approx(kl_of(ratio), rel=1e-4)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_where_a_step_trains_older_windows_a_copy_of_their_weights_scores_some_of_them(compute_dtype: str) -> None:
    trainer = TinyTrainer(a_step_config(run=STREAMING, learner={"compute_dtype": compute_dtype}, actor={"lr": 1e-2}))
    rows = [sampled_by("generation-0", [8, 2, 3, 11], versions=[0] * 4, off_by=8.0)]
    tolerance = {"float32": 1e-3, "bfloat16": 0.1}[compute_dtype]  # the engine of this test computes in float32

    first = step(trainer, some_rows(), policy_version=0)
    second, third = (step(trainer, rows, policy_version=version) for version in (1, 2))

    assert first["training/engine_kl/mean"] is not None
    assert second["training/engine_kl/mean/generation-0"] == pytest.approx(kl_of(8.0), rel=tolerance)
    assert third["training/engine_kl/mean"] is None, f"the next copy is taken after {FREQUENCY} steps"


def test_a_resumed_learner_compares_the_engine_in_its_second_step() -> None:
    trainer = TinyTrainer(a_step_config(run=STREAMING))
    resumed_at = FREQUENCY + 3
    rows = [sampled_by("generation-0", [8, 2, 3, 11], versions=[resumed_at] * 4, off_by=8.0)]

    step(trainer, some_rows(), policy_version=resumed_at)
    second, third = (step(trainer, rows, policy_version=resumed_at + passed) for passed in (1, 2))

    assert second["training/engine_kl/mean"] == pytest.approx(kl_of(8.0), rel=1e-3)
    assert third["training/engine_kl/mean"] is None


def test_the_windows_that_a_copy_scores_are_of_each_generator() -> None:
    trainer = TinyTrainer(a_step_config(run=STREAMING))
    of_one = [sampled_by("generation-0", [8, 2], versions=[0, 0], off_by=8.0) for _ in range(MAX_ROWS + 1)]
    of_other = [sampled_by("generation-1", [9, 4], versions=[0, 0], off_by=2.0) for _ in range(2)]

    step(trainer, some_rows(), policy_version=0)
    metrics = step(trainer, of_one + of_other, policy_version=1)

    assert metrics["training/engine_kl/mean/generation-1"] == pytest.approx(kl_of(2.0), rel=1e-3)
    assert metrics["training/engine_kl/mean"] == pytest.approx((6 * kl_of(8.0) + 2 * kl_of(2.0)) / MAX_ROWS, rel=1e-3)


def test_a_generator_beyond_the_bound_trains_no_policy_until_it_is_found_within() -> None:
    """By hand: 2 tokens of one generator, 3 of the other; a ratio of 2 is a KL of 0.307 nats, of 1.1 one of 0.0047."""
    trainer = TinyTrainer(a_step_config(algorithm={"max_engine_kl": 0.05}, actor={"lr": 1e-12}))

    def trained(version: int, *, off_by: float) -> Mapping[str, float | None]:
        rows = [
            sampled_by("generation-0", [9, 4], versions=[version] * 2, off_by=off_by),
            sampled_by("generation-1", [8, 2, 3], versions=[version] * 3, off_by=1.1),
        ]
        return step(trainer, rows, policy_version=version)

    steps = [trained(version, off_by=off_by) for version, off_by in enumerate((2.0, 2.0, 1.1, 1.1))]

    assert [one["tokens/held"] for one in steps] == [0, 2, 2, 0]
    assert [one["tokens/policy_mask"] for one in steps] == [5, 3, 3, 5]
    found = [one["training/engine_kl/mean/generation-0"] for one in steps]
    assert found == [pytest.approx(kl_of(off_by), rel=1e-3) for off_by in (2.0, 2.0, 1.1, 1.1)]


def test_a_resumed_learner_holds_the_generators_that_were_held_unless_it_is_to_hold_none() -> None:
    trainer = TinyTrainer(a_step_config(algorithm={"max_engine_kl": 0.05}, actor={"lr": 1e-12}))
    rows = [sampled_by("generation-0", [9, 4], versions=[0, 0], off_by=2.0), *some_rows()]
    step(trainer, rows, policy_version=0)
    resumed, unbound = (
        TinyTrainer(a_step_config(algorithm={"max_engine_kl": bound}, actor={"lr": 1e-12})) for bound in (0.05, "none")
    )
    for other in (resumed, unbound):
        other.load_state_dict(trainer.state_dict())

    assert step(resumed, rows, policy_version=0)["tokens/held"] == 2
    assert step(unbound, rows, policy_version=0)["tokens/held"] == 0

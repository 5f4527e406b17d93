"""What the policy's loss is divided by, against sums worked by hand: three rows of 1, 2 and 5 tokens."""

import pytest

from learner.step.updates.loss_normalizer import MEMORY, LossNormalizer, Normalizer

LENGTHS = [1, 2, 5]
PER_TOKEN = [6.0, 3.0, 1.0]  # each token's loss, by row


def loss(normalizer: LossNormalizer) -> float:
    """The mean over the mini-batch's tokens, with the factors."""
    factors = normalizer.factors(LENGTHS)
    return sum(
        factor * length * of_token for factor, length, of_token in zip(factors, LENGTHS, PER_TOKEN, strict=True)
    ) / sum(LENGTHS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("tokens", (6 + 6 + 5) / 8), ("rows", (6 + 3 + 1) / 3), ("constant", (6 + 6 + 5) / (3 * 4))],
)
def test_a_mini_batch_is_divided_as_configured(name: Normalizer, expected: float) -> None:
    assert loss(LossNormalizer(name, window_length=4)) == pytest.approx(expected)


def test_the_running_mean_follows_the_steps() -> None:
    normalizer = LossNormalizer("running", window_length=4)

    normalizer.observe([10, 20])
    normalizer.observe([0])
    assert loss(normalizer) == pytest.approx(17 / (3 * 15))
    normalizer.observe([40])

    assert loss(normalizer) == pytest.approx(17 / (3 * (15 * MEMORY + 40 * (1 - MEMORY))))


@pytest.mark.parametrize("name", ["tokens", "rows", "constant", "running"])
def test_a_row_without_tokens_counts_nowhere(name: Normalizer) -> None:
    normalizer, other = LossNormalizer(name, window_length=4), LossNormalizer(name, window_length=4)
    normalizer.observe([0, 2, 6])
    other.observe([2, 6])

    assert normalizer.factors([0, 2, 6])[1:] == other.factors([2, 6])
    assert normalizer.factors([0]) == [1.0 if name == "tokens" else 0.0]

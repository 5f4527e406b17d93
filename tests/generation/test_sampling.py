"""Random numbers of their own for every token, and what is drawn with them."""

import math

import numpy as np
import torch

from services.generation.transformers_engine.sampling import BLOCK, Sampler, drawn, mixed

CPU = torch.device("cpu")


def sampler(
    *, seeds: list[int], positions: list[int] | None = None, temperatures: list[float] | None = None
) -> Sampler:
    num_rows = len(seeds)
    return Sampler(
        seeds=seeds, positions=positions or [0] * num_rows, temperatures=temperatures or [1.0] * num_rows, device=CPU
    )


def test_the_hash_is_splitmix64() -> None:
    """The reference generator, seeded with 1234567, begins with these numbers: its state grows by the golden gamma."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * gamma) % 2**64 for step in (1, 2, 3)], dtype=np.uint64)

    assert mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_seeds_fill_all_64_bits() -> None:
    tokens, _ = sampler(seeds=[0, 2**64 - 1]).sample(torch.zeros(2, 7))

    assert all(0 <= token < 7 for token in tokens.tolist())


def test_a_row_draws_the_same_numbers_wherever_it_begins() -> None:
    """Positions 10 to 30 in one go, and position 30 after a new start."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    running = sampler(seeds=[3], positions=[10])

    in_one_go = [running.sample(logits)[0].item() for _ in range(21)]
    restarted = sampler(seeds=[3], positions=[30]).sample(logits)[0].item()

    assert restarted == in_one_go[20]


def test_logprobs_are_those_of_the_tempered_distribution() -> None:
    """Two tokens, logits 0 and 2 ln 3: probabilities 1:9 at temperature 1 and 1:3 at temperature 2."""
    logits = torch.tensor([[0.0, 2 * math.log(3)]] * 2)

    tokens, logprobs = sampler(seeds=[1, 1], temperatures=[1.0, 2.0]).sample(logits)

    expected = [math.log([0.1, 0.9][tokens[0]]), math.log([0.25, 0.75][tokens[1]])]
    torch.testing.assert_close(logprobs, torch.tensor(expected))


def test_temperature_zero_takes_the_likeliest_token_with_its_untempered_logprob() -> None:
    logits = torch.tensor([[0.0, 2 * math.log(3)]] * 100)

    tokens, logprobs = sampler(seeds=list(range(100)), temperatures=[0.0] * 100).sample(logits)

    assert tokens.tolist() == [1] * 100
    torch.testing.assert_close(logprobs, torch.full((100,), math.log(0.9)))


def test_an_impossible_token_is_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]] * 1000)

    tokens, _ = sampler(seeds=list(range(1000))).sample(logits)

    assert set(tokens.tolist()) == {1, 3}


def test_the_largest_number_below_one_draws_the_last_token_that_is_possible() -> None:
    """Totals at a power of two and between two of them, where the product with the number is rounded."""
    weights = torch.tensor(
        [[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.5, 0.0], [0.1, 0.2, 0.7, 0.0], [1.0, 1.9999999, 1e-9, 0.0]]
    )
    uniforms = torch.full((4, 1), 1 - 2**-53, dtype=torch.float64)

    tokens, _ = drawn(weights, uniforms)

    assert tokens[:, 0].tolist() == [2] * 4


def test_neighbouring_seeds_and_positions_are_uncorrelated() -> None:
    """Two equally likely tokens, 40000 draws: each frequency within 5 standard errors (0.0025) of its expectation."""
    seeds, positions = np.meshgrid(np.arange(200), np.arange(200))
    draws = sampler(seeds=seeds.ravel().tolist(), positions=positions.ravel().tolist())

    tokens = draws.sample(torch.zeros(40000, 2))[0].reshape(200, 200).double()

    assert abs(tokens.mean() - 0.5) < 0.0125
    assert abs((tokens[1:] == tokens[:-1]).double().mean() - 0.5) < 0.0125
    assert abs((tokens[:, 1:] == tokens[:, :-1]).double().mean() - 0.5) < 0.0125


def test_a_large_vocabulary_is_drawn_as_by_one_cumulative_sum() -> None:
    """Three blocks and a part of one; the tokens are those that the whole sum in double precision leads to."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2000, 3 * BLOCK + 77, generator=generator).mul_(3).exp_()
    uniforms = torch.rand(2000, 1, generator=generator, dtype=torch.float64)

    tokens, totals = drawn(weights, uniforms)

    cumulative = weights.double().cumsum(dim=-1)
    expected = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    torch.testing.assert_close(totals, cumulative[:, -1:], rtol=1e-6, atol=0)
    assert (tokens == expected).float().mean() > 0.999  # the others lie within rounding of the border of two tokens


def test_the_end_of_a_large_vocabulary_is_drawn_and_impossible_tokens_are_not() -> None:
    """One possible token in the first block, and one in front of the impossible last one."""
    weights = torch.zeros(4, 2 * BLOCK + 9)
    weights[:, 5], weights[:, -2] = 1.0, 3.0
    uniforms = torch.tensor([[0.0], [0.2499], [0.25], [1 - 2**-53]], dtype=torch.float64)

    tokens, totals = drawn(weights, uniforms)

    assert tokens[:, 0].tolist() == [5, 5, 2 * BLOCK + 7, 2 * BLOCK + 7]
    assert totals[:, 0].tolist() == [4.0] * 4


def test_a_row_of_a_large_vocabulary_draws_the_same_alone_and_beside_others() -> None:
    logits = torch.randn(33, 50_257, generator=torch.Generator().manual_seed(2)).mul_(4)
    seeds = list(range(33))

    together = sampler(seeds=seeds, positions=seeds).sample(logits)
    alone = [sampler(seeds=[seed], positions=[seed]).sample(logits[seed : seed + 1]) for seed in seeds]

    assert together[0].tolist() == [int(tokens) for tokens, _ in alone]
    assert together[1].tolist() == [float(logprobs) for _, logprobs in alone]


def test_logprobs_of_a_large_vocabulary_are_those_of_the_log_softmax() -> None:
    logits = torch.randn(64, 50_257, generator=torch.Generator().manual_seed(3)).mul_(4)

    tokens, logprobs = sampler(seeds=list(range(64))).sample(logits)

    expected = torch.log_softmax(logits.double(), dim=-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-5)


def test_logits_that_are_not_numbers_give_logprobs_that_are_none() -> None:
    for size in (7, 3 * BLOCK + 1):
        tokens, logprobs = sampler(seeds=[0]).sample(torch.full((1, size), math.nan))

        assert 0 <= int(tokens) < size
        assert math.isnan(float(logprobs))

"""Standard errors against formulas, by hand and by brute force."""

from __future__ import annotations

import math

import pytest
import torch

from core.errorbars import common_prefix, mean_error, perplexity, perplexity_gap, quantiles, remaining


def test_a_mean_takes_its_error_from_the_rows() -> None:
    rows = torch.tensor([[1.0, 3.0], [5.0, 7.0], [3.0, 5.0]])            # means 2, 6, 4: variance 4
    assert mean_error(rows) == pytest.approx((4, 2 / math.sqrt(3)))
    assert mean_error(torch.tensor([True, True, False, False])) == pytest.approx((0.5, math.sqrt(1 / 3 / 4)))
    value, error = mean_error(torch.tensor([[1.0, 2.0]]))
    assert value == 1.5
    assert math.isnan(error)


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    losses = torch.tensor([[0.0, 2.0], [2.0, 4.0]])                      # means 1, 3: error 1
    assert perplexity(losses) == pytest.approx((math.e**2, math.e**2))


def test_a_gap_is_paired_by_sequence() -> None:
    losses = torch.tensor([[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]])
    assert perplexity_gap(losses, losses) == (0, 0)
    harder = losses + math.log(2)                                        # each sequence alike: gap = ppl, spread as ppl's own
    assert perplexity_gap(harder, losses) == pytest.approx((math.e**2, math.e**2 / math.sqrt(3)))
    other = torch.tensor([[1.0], [2.0]])
    reference = torch.tensor([[2.0], [1.0]])                             # means alike; rows d = e^1.5 * (a - b) = -+e^1.5
    assert perplexity_gap(other, reference) == pytest.approx((0, math.exp(1.5)))


def test_what_remains_of_a_loss_is_paired_too() -> None:
    base = torch.tensor([[1.0, 3.0], [4.0, 8.0], [3.0, 5.0]])            # means 2, 6, 4
    value, error = remaining(base / 10, base)
    assert value == pytest.approx(0.9)
    assert error == pytest.approx(0, abs=1e-7)                           # the same share of each sequence
    part = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])            # (1 - m / 4) / 4 for m = 2, 6, 4: 1/8, -1/8, 0
    assert remaining(part, base) == pytest.approx((0.75, 0.125 / math.sqrt(3)))
    assert remaining(torch.zeros(2, 2), torch.zeros(2, 2)) == (1, 0)


def test_quantiles_are_those_of_all_tokens() -> None:
    rows = torch.rand(7, 13, generator=torch.Generator().manual_seed(0))
    for level, (value, error) in zip((0.5, 0.99), quantiles(rows, (0.5, 0.99)), strict=True):
        assert value == pytest.approx(float(torch.quantile(rows.double(), level)))
        assert error > 0
    assert quantiles(torch.arange(101.0)[None], (0.5, 0.99, 1.0))[2][0] == 100
    assert math.isnan(quantiles(torch.arange(101.0)[None], (0.5,))[0][1])


def test_a_quantiles_error_is_the_spread_over_resampled_sequences() -> None:
    rows = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)).double() + torch.arange(6.0)[:, None]
    generator = torch.Generator().manual_seed(3)
    samples = torch.stack([rows[torch.randint(6, (6,), generator=generator)].flatten().sort().values for _ in range(50)])
    for level in (0.5, 0.9):
        found = quantiles(rows, (level,), draws=50, seed=3)[0][1]
        assert found == pytest.approx(float(samples[:, math.floor(29 * level)].std()))


def test_the_median_of_two_sequences_by_hand() -> None:
    """The lower of two draws from 0 and 1 is 1 in a quarter of all cases: deviation sqrt(3) / 4."""
    assert quantiles(torch.tensor([[0.0], [1.0]]), (0.5,), draws=4000)[0] == pytest.approx((0.5, math.sqrt(3) / 4), rel=0.03)


def test_first_differences_are_counted_from_the_beginning() -> None:
    one = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    other = torch.tensor([[1, 2, 3], [0, 2, 3], [1, 0, 3], [1, 2, 0]])
    assert common_prefix(one, other).tolist() == [3, 0, 1, 2]

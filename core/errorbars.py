"""Standard errors of what is measured over token sequences: means, differences, ratios, quantiles, shares.

Tokens of one sequence depend on each other, so a sequence, not a token, is what is drawn at random: rows of a tensor are
sequences, and errors come from how rows differ. Means use the sample variance of the rows' means; functions of several means
(a perplexity gap, a recovery) are linearised, with each row's terms paired; quantiles are bootstrapped over rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DRAWS = 200
"""Bootstrap samples: enough for a standard error to within 5 %."""

Estimate = tuple[float, float]
"""A figure and its standard error (nan where one row is all there is)."""


def mean_error(rows: Tensor) -> Estimate:
    """Mean of rows (n, ...) that weigh alike, and its standard error s / sqrt(n) from the rows' means."""
    means = rows.double().reshape(len(rows), -1).mean(1)                # (n,)
    return float(means.mean()), _spread(means)


def perplexity(losses: Tensor) -> Estimate:
    """exp of the mean loss per token (n, tokens) in nats; its error is that of the mean times the perplexity itself."""
    loss, error = mean_error(losses)
    value = math.exp(min(loss, 700))
    return value, value * error


def perplexity_gap(losses: Tensor, reference: Tensor) -> Estimate:
    """exp(mean of `losses`) - exp(mean of `reference`), both (n, tokens) on the same text.

    Paired: what makes a sequence hard for both models cancels, so the error is far below that of either perplexity.
    """
    a, b = (part.double().mean(1) for part in (losses, reference))      # (n,)
    high, low = (math.exp(min(float(part.mean()), 700)) for part in (a, b))
    return high - low, _spread(high * a - low * b)


def remaining(part: Tensor, whole: Tensor) -> Estimate:
    """1 - mean(part) / mean(whole) over rows (n, tokens) of two losses; 1 where `whole` is 0. Paired, linearised."""
    a, b = (x.double().mean(1) for x in (part, whole))                  # (n,)
    total = float(b.mean())
    if total <= 0:
        return 1.0, 0.0
    share = float(a.mean()) / total
    return 1 - share, _spread((a - share * b) / total)


def quantiles(rows: Tensor, levels: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> list[Estimate]:
    """Quantiles over all entries of rows (n, tokens), linear between neighbours, and their standard errors.

    The error is the deviation between `draws` bootstrap samples, each of n whole rows drawn with replacement by a generator
    of that seed. Maxima have no error of this kind: their bootstrap does not converge.
    """
    values, order = rows.double().flatten().sort()
    position = (len(values) - 1) * torch.tensor(levels, dtype=torch.float64)
    low = position.floor().long()
    high = (low + 1).clamp_max(len(values) - 1)
    found = values[low] + (position - low) * (values[high] - values[low])
    if len(rows) < 2:
        return [(float(v), math.nan) for v in found]
    row_of = order // rows.shape[1]
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(draws):
        chosen = torch.randint(len(rows), (len(rows),), generator=generator)
        times = torch.bincount(chosen, minlength=len(rows))
        reached = times[row_of].cumsum(0)                               # how many entries of this sample lie up to here
        samples.append(values[torch.searchsorted(reached, (position.floor() + 1).long())])
    errors = torch.stack(samples).std(0)
    return [(float(v), float(e)) for v, e in zip(found, errors, strict=True)]


def common_prefix(one: Tensor, other: Tensor) -> Tensor:
    """How many entries at the beginning of each row (n, tokens) agree, (n,) int64."""
    return (one == other).long().cumprod(1).sum(1)


def _spread(rows: Tensor) -> float:
    return float(rows.std() / math.sqrt(len(rows))) if len(rows) > 1 else math.nan

"""Quantisation with error feedback: entries are rounded column by column, each column's error passed on to later ones.

Source: GPTQ (arXiv 2210.17323, section 3), on any grid. For a target T (rows, n) and a metric H (n, n) it minimises
tr((T - Q) H (T - Q)^T) greedily over Q on the grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 128
"""Columns whose errors are gathered before they are passed on to all that follow."""

Grid = Callable[[Tensor, int], Tensor]
"""Nearest grid values of a column (rows,), given its position in the order of the metric."""


def inverse_factor(metric: Tensor, damp: float = 0.01) -> tuple[Tensor, Tensor]:
    """(order (n,), U (n, n)) of a metric H (n, n): columns by falling diagonal, and the upper factor of H's inverse in it.

    U^T U = (H + damp * mean(diag H) * I)^-1. The damping grows until the factor exists; an H of zeros acts as identity.
    """
    n = len(metric)
    mean = float(metric.diagonal().mean())
    if not mean > 0:
        return torch.arange(n, device=metric.device), torch.eye(n, dtype=metric.dtype, device=metric.device)
    order = metric.diagonal().argsort(descending=True, stable=True)
    backwards = order.flip(0)
    while True:
        # With columns and rows from last to first, L L^T is H; turned back, the inverse of L is the factor of H's inverse.
        # One factorisation, and the inverse itself is never formed. No more than three matrices at a time: they are large.
        damped = metric[backwards][:, backwards].div_(mean)
        damped.diagonal().add_(damp)
        lower, failed = torch.linalg.cholesky_ex(damped)
        del damped
        if not int(failed):
            inverse = inverse_lower(lower)
            del lower
            upper = inverse.flip(0, 1).contiguous()
            del inverse
            if bool(upper.isfinite().all()):
                return order, upper
        damp = max(damp * 10, 1e-4)


def inverse_lower(lower: Tensor) -> Tensor:
    """The inverse of a lower triangular matrix (n, n): halves first, so that nearly all of it is matrix products."""
    n = len(lower)
    if n <= 2 * BLOCK:
        found: Tensor = torch.linalg.solve_triangular(lower, torch.eye(n, dtype=lower.dtype, device=lower.device), upper=False)
        return found
    half = n // 2
    result = torch.zeros_like(lower)
    result[:half, :half] = inverse_lower(lower[:half, :half])
    result[half:, half:] = inverse_lower(lower[half:, half:])
    result[half:, :half] = -result[half:, half:] @ (lower[half:, :half] @ result[:half, :half])
    return result


def sweep(target: Tensor, factor: tuple[Tensor, Tensor], grid: Grid) -> Tensor:
    """Q (rows, n) on the grid for a target (rows, n), columns in their own order; `factor` is of `inverse_factor`."""
    order, upper = factor
    left = target[:, order].clone()
    result = torch.empty_like(left)
    n = left.shape[1]
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        errors = torch.empty_like(left[:, start:stop])
        for j in range(start, stop):
            column = left[:, j]
            chosen = grid(column, int(order[j]))
            result[:, j] = chosen
            error = (column - chosen) / upper[j, j]
            errors[:, j - start] = error
            if j + 1 < stop:
                left[:, j + 1:stop].addr_(error, upper[j, j + 1:stop], alpha=-1)
        if stop < n:
            left[:, stop:].addmm_(errors, upper[start:stop, stop:], alpha=-1)
    restored = torch.empty_like(result)
    restored[:, order] = result
    return restored

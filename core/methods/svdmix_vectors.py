"""Singular vectors of a change, and their rounding to whole numbers under the moments of the inputs.

Sources: GPTQ (arXiv 2210.17323) rounds each vector; Delta-CoMe (arXiv 2406.08903) applies it to both sides of a singular
value decomposition; DeltaMix (arXiv 2506.11087) moves the target of the second side to what suits the rounded first.

With D (out, in) = U V, U (out, pairs) and V (pairs, in) that holds the singular values, and H (in, in):
the loss of a rounded Vq with the best U is least for U~ = D H Vq^T (Vq H Vq^T + l I)^-1, and rounding U~ to Uq adds
tr((U~ - Uq) G (U~ - Uq)^T) with G = Vq H Vq^T, so that U~ is rounded under G as V is under H. Given Uq, the best V is
(Uq^T Uq)^-1 Uq^T D whatever H is, and is rounded under H again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.gptq import inverse_factor

DAMP = 0.03
"""Of the mean of diag H: .03 loses 1 % less on held-out tokens than .01, .003 as much more."""

RIDGE = 1e-4
"""Of each pair's own energy, in the systems that give U~ and V~."""

STEPS = {2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 8: 0.0308, 16: 0.000243}
"""Step of least error of a uniform grid of so many bits for a normal variable of variance 1; the value is twice the scale."""

NOISE = {2: 0.1188, 3: 0.03744, 4: 0.01154, 5: 0.00349, 6: 0.00104, 8: 0.0000885, 16: 5e-9}
"""That error."""

STRETCHES = (0.7, 0.85, 1.0, 1.2, 1.45)
"""Multiples of such a step that are tried: entries of singular vectors are not quite normal."""

BLOCK = 64
"""Columns whose errors are gathered before they are passed on to all that follow."""


@dataclass(frozen=True)
class Rounded:
    """Vectors (rows, n) on grids: odd whole numbers (rows, n) in FP32 times a scale (rows,) each."""

    numbers: Tensor
    scale: Tensor

    @property
    def values(self) -> Tensor:
        """(rows, n)"""
        return self.numbers * self.scale[:, None]


def wide(matrix: Tensor) -> Tensor:
    """FP64, where the device knows it."""
    return matrix.cpu().double() if matrix.device.type == "mps" else matrix.double()


def decompose(change: Tensor, metric: Tensor | None, pairs: int) -> tuple[Tensor, Tensor]:
    """U (out, pairs), orthonormal, and V (pairs, in) = U^T D of the best approximation U V of D (out, in) in its rank.

    Best in tr((D - UV) H (D - UV)^T) for a metric H (in, in), in the Frobenius norm without one. Pairs fall by importance.
    """
    if metric is None:
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        return u[:, :pairs], (s[:, None] * v)[:pairs]
    d, h = wide(change), wide(metric)
    if d.shape[0] <= d.shape[1]:                       # the left vectors of D H^1/2, without the root
        left = torch.linalg.eigh(d @ h @ d.T)[1].flip(1)[:, :pairs]
    else:
        # Those of D L with H = L L^T; a trace of the identity makes H definite, and hardly moves them.
        h = h + (1e-6 * float(h.diagonal().mean()) + 1e-300) * torch.eye(len(h), dtype=h.dtype, device=h.device)
        weighed = d @ torch.linalg.cholesky(h)
        right = torch.linalg.eigh(weighed.T @ weighed)[1].flip(1)[:, :pairs]
        left = torch.linalg.qr(weighed @ right)[0]
    return left.to(change.device, torch.float32), (left.T @ d).to(change.device, torch.float32)


def scales(vectors: Tensor, width: int) -> Tensor:
    """The scale (rows,) of each vector (rows, n) for odd numbers of `width` bits: least squared error of those tried."""
    rms = vectors.square().mean(1).sqrt().clamp_min(1e-30)
    whole = vectors.abs().amax(1).clamp_min(1e-30) / (2**width - 1)            # nothing is cut off
    tried = [rms * (STEPS[width] / 2 * stretch) for stretch in STRETCHES]
    tried += [whole, (whole * tried[-1]).sqrt()]
    top = 2.0**(width - 1)
    best = torch.full_like(rms, torch.inf)
    chosen = rms
    for scale in tried:
        numbers = (vectors * (0.5 / scale)[:, None]).floor_().clamp_(-top, top - 1).mul_(2).add_(1)
        error = torch.addcmul(vectors, numbers, scale[:, None], value=-1).square_().sum(1)
        chosen = torch.where(error < best, scale, chosen)
        best = torch.minimum(error, best)
    return chosen


def grid_scales(vectors: Tensor, widths: Tensor) -> Tensor:
    """`scales` for vectors (rows, n) of different widths (rows,)."""
    result = vectors.new_empty(len(vectors))
    for width in widths.unique().tolist():
        rows = widths == width
        result[rows] = scales(vectors[rows], width)
    return result


def round_rows(vectors: Tensor, widths: Tensor, factor: tuple[Tensor, Tensor]) -> Rounded:
    """Vectors (rows, n) rounded to `widths` (rows,) under the metric of `factor`, entry by entry with error feedback.

    As `core.gptq.sweep`, with a column's entries side by side in memory: all vectors at all widths go in one sweep.
    """
    scale = grid_scales(vectors, widths)
    return Rounded(_sweep(vectors.T, factor, scale[None], 2.0**(widths - 1)[None]).T, scale)


def round_columns(target: Tensor, widths: Tensor, metric: Tensor) -> Rounded:
    """Columns of U~ (out, pairs) rounded to `widths` (pairs,) under G (pairs, pairs); the result's rows are the columns."""
    scale = grid_scales(target.T, widths)
    factor = inverse_factor(metric)
    order = factor[0]
    return Rounded(_sweep(target.T, factor, scale[order, None], 2.0**(widths[order] - 1)[:, None]), scale)


def _sweep(target: Tensor, factor: tuple[Tensor, Tensor], scale: Tensor, top: Tensor) -> Tensor:
    """Odd numbers (n, rows) for a target (n, rows); scales and bounds are (1, rows), or (n, 1) in the order of `factor`.

    In units of a step, half a step down: there the grid is the whole numbers, and few passes over a column do all.
    """
    order, upper = factor
    spread_by = upper / upper.diagonal()[:, None]
    if len(scale) > 1:
        spread_by = spread_by * scale / scale.T
    left = (target[order] / (2 * scale)).sub_(0.5)
    chosen = torch.empty_like(left)
    low, high, last = -top, top - 1, len(scale) - 1
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = torch.empty_like(left[start:stop])
        for j in range(start, stop):
            i = min(j, last)
            torch.round(left[j], out=chosen[j]).clamp_(low[i], high[i])
            error = torch.sub(left[j], chosen[j], out=errors[j - start])
            if j + 1 < stop:
                left[j + 1:stop].addr_(spread_by[j, j + 1:stop], error, alpha=-1)
        if stop < len(left):
            left[stop:].addmm_(spread_by[start:stop, stop:].T, errors, alpha=-1)
    restored = torch.empty_like(chosen)
    restored[order] = chosen.mul_(2).add_(1)
    return restored


def energies(vectors: Tensor, metric: Tensor) -> Tensor:
    """v H v^T (rows,) of vectors (rows, n)."""
    return ((vectors @ metric) * vectors).sum(1)


def input_errors(vectors: Tensor, metric: Tensor, factor: tuple[Tensor, Tensor], widths: tuple[int, ...]) -> Tensor:
    """E (pairs, widths) = dv H dv^T for V (pairs, in), dv = v - Q_b(v), Q_b by error feedback at every width b.

    At 16 bits, whose rounding is below that of FP32 sums: by the ratio of the grids' own errors to that at 8 bits.
    """
    swept = [w for w in widths if w < 16]
    repeated = torch.tensor(swept, device=vectors.device).repeat_interleave(len(vectors))
    many = vectors.repeat(len(swept), 1)
    found = energies(many - round_rows(many, repeated, factor).values, metric).view(len(swept), -1)
    return torch.stack([found[swept.index(w)] if w < 16 else found[swept.index(8)] * (NOISE[16] / NOISE[8]) for w in widths], 1)


def best_outputs(change: Tensor, metric: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(U~ (out, pairs), G (pairs, pairs)) for V (pairs, in), in units in which every pair has energy 1: U~ * sqrt(diag),
    G = Vq H Vq^T / sqrt(diag diag^T)."""
    weighed = metric @ inputs.T                        # (in, pairs)
    gram = inputs @ weighed
    size = gram.diagonal().clamp_min(1e-30).sqrt()
    gram = gram / size / size[:, None]
    return solve_damped(gram, (change @ weighed / size).T).T, gram


def best_inputs(change: Tensor, outputs: Tensor) -> Tensor:
    """V~ (pairs, in) of least error for U (out, pairs)."""
    size = outputs.square().sum(0).clamp_min(1e-30).sqrt()
    unit = outputs / size
    return solve_damped(unit.T @ unit, unit.T @ change) / size[:, None]


def solve_damped(gram: Tensor, wanted: Tensor) -> Tensor:
    """(G + l I)^-1 B for G (k, k) of diagonal 1 and B (k, n); l grows from RIDGE until the factor exists."""
    ridge = RIDGE
    while ridge < 1e3:
        lower, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        if not int(failed):
            return torch.cholesky_solve(wanted, lower)
        ridge *= 10
    return wanted                                      # G is no Gram matrix at all: as if pairs did not meet

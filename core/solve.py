"""The exact solver: best scales for given signs, one closed form or linear system per axis.

For signs S (out, in) and a target (H, C, |R|^2), all per design: minimise |R - X (v o S)^T|^2 over v.

    scalar    v   = <S, C^T> / tr(S H S^T)
    row       v_i = S_i C_:i / (S_i H S_i^T)
    column    (H o S^T S) v = diag(C S)
    both      alternate: rows for S o c, then columns for S o r
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from core.moments import Target, add_gram, mirror

ITERATIONS = 60
"""Conjugate-gradient steps at most; held-out loss stops falling long before."""
PATIENCE = 6
"""Steps that held-out loss may fail to fall before the solver stops."""
ROUNDS = 3
"""Alternations of row x column."""

Report = Callable[[str, int, float, float], None]
"""Called with (axis, iteration, training loss, held-out loss), both relative to no delta."""


@dataclass(frozen=True)
class Fitted:
    """Scales of one slice on one axis, `values` laid out as they are stored, and relative losses."""

    axis: str
    values: Tensor
    training: float
    held_out: float
    guess: float
    """Held-out loss of the data-free first guess."""
    signs: Tensor | None = None
    """Chosen ones, +-1 (out, in) int8; None: the change's own."""
    plain: float | None = None
    """Held-out loss with the change's own signs, where chosen ones were tried too."""


def first_guess(change: Tensor, axis: str) -> Tensor:
    """Data-free scales: mean |change| over what each scale covers (BitDelta, section 3.1; per axis in 2512.19720).

    For row x column: the rank-one matrix with the same row and column means.
    """
    size = change.abs()
    if axis == "scalar":
        return size.mean().reshape(1)
    if axis == "row":
        return size.mean(1)
    if axis == "column":
        return size.mean(0)
    return torch.cat([size.mean(1), size.mean(0) / size.mean().clamp_min(1e-30)])


class Problem:
    """One slice: its change (out, in), its signs as +-1 in FP32, and the targets of both parts of the data."""

    def __init__(self, change: Tensor, training: Target, held_out: Target | None, report: Report | None = None,
                 signs: Tensor | None = None) -> None:
        self.change = change
        self.given = signs
        self.training, self.held_out = training, held_out if held_out is not None else training
        self.report = report or (lambda *_: None)

    @property
    def signs(self) -> Tensor:
        """+-1 (out, in) FP32: the given ones, or the change's own, made whenever they are asked for (they are large)."""
        return torch.where(self.change < 0, -1.0, 1.0) if self.given is None else self.given

    def losses(self, dense: Tensor) -> tuple[float, float]:
        """(training, held-out) of a dense change."""
        return self.training.loss(dense), self.held_out.loss(dense)

    @cached_property
    def rows(self) -> list[tuple[Tensor, Tensor]]:
        """(S_i H S_i^T, S_i C_:i) per row (out,) in FP64, for training and held-out: all that scalar and row depend on."""
        sums = []
        for target in (self.training, self.held_out) if self.held_out is not self.training else (self.training,):
            sums.append(row_sums(self.signs, target))
        return sums if len(sums) > 1 else sums * 2

    def row_losses(self, values: Tensor) -> tuple[float, float]:
        """(training, held-out) of scales that are equal along each row: (out,) or (1,)."""
        v = values.double()
        training, held_out = (float((v * v * below - 2 * v * top).sum()) for below, top in self.rows)
        return self.training.relative(training), self.held_out.relative(held_out)

    def solve(self, axis: str) -> Fitted:
        """Fit one axis; never worse on held-out data than the data-free guess."""
        start = first_guess(self.change, axis)
        if axis == "column":
            guess, (values, training, held_out) = self.columns(axis, self.signs, start)
        else:
            guess = self.row_losses(start) if axis in ("scalar", "row") else self.losses(expand(self.signs, axis, start))
            self.report(axis, 0, *guess)
            values, training, held_out = {"scalar": self._scalar, "row": self._row, "both": self._both}[axis](start)
        if not (held_out <= guess[1] and bool(values.isfinite().all())):
            values, (training, held_out) = start, guess
        return Fitted(axis, values, training, held_out, guess[1])

    def _scalar(self, start: Tensor) -> tuple[Tensor, float, float]:
        below, top = (x.sum() for x in self.rows[0])
        values = (top / below).float().reshape(1) if below > 0 else start
        return self._reported("scalar", 1, values, self.row_losses(values))

    def _row(self, start: Tensor) -> tuple[Tensor, float, float]:
        below, top = self.rows[0]
        values = row_factors(below, top, start)
        return self._reported("row", 1, values, self.row_losses(values))

    def _reported(self, axis: str, iteration: int, values: Tensor, losses: tuple[float, float]) -> tuple[Tensor, float, float]:
        self.report(axis, iteration, *losses)
        return values, *losses

    def _both(self, start: Tensor) -> tuple[Tensor, float, float]:
        outputs = self.change.shape[0]
        best: tuple[Tensor, float, float] | None = None
        row, column = start[:outputs], start[outputs:]
        for i in range(ROUNDS):
            row = row_step(self.signs * column, self.training, row)
            _, (column, _, _) = self.columns("", self.signs * row[:, None], column)
            values = torch.cat([row, column])
            found = self._reported("both", i + 1, values, self.losses(expand(self.signs, "both", values)))
            if best is None or found[2] < best[2]:
                best = found
        assert best is not None
        return best

    def columns(self, axis: str, scaled: Tensor,
                start: Tensor) -> tuple[tuple[float, float], tuple[Tensor, float, float]]:
        """Columns for `scaled` signs by Jacobi-preconditioned conjugate gradients from `start`: losses of that, and the best.

        Keeps the iterate of the lowest held-out loss: where tokens are few, stopping early is the regulariser.
        """
        overlap = torch.zeros_like(self.training.h)    # (in, in)
        add_gram(overlap, scaled)
        mirror(overlap)
        held = self.held_out.h * overlap
        a = overlap.mul_(self.training.h)              # in place: each of these may take gigabytes
        b = (self.training.c * scaled.T).sum(1)        # diag(C S)
        held_b = (self.held_out.c * scaled.T).sum(1)
        inverse = 1 / a.diagonal().clamp_min(float(a.diagonal().mean()) * 1e-8 + 1e-30)
        v = start.clone()
        product, held_product = a @ v, held @ v
        residual = b - product
        z = inverse * residual
        p, rz = z.clone(), float(residual @ z)
        first_rz = rz
        guess = self._quadratic(v, product, b, held_product, held_b)
        if axis:
            self.report(axis, 0, *guess)
        best, training, held_out, stale = v.clone(), *guess, 0
        for i in range(1, ITERATIONS + 1):
            ap = a @ p
            curvature = float(p @ ap)
            if not curvature > 0 or not rz > 1e-12 * first_rz:
                break
            alpha = rz / curvature
            v = v + alpha * p
            product, held_product = product + alpha * ap, held_product + alpha * (held @ p)
            residual = residual - alpha * ap
            now, now_held = self._quadratic(v, product, b, held_product, held_b)
            if axis:
                self.report(axis, i, now, now_held)
            if now_held < held_out:
                stale = 0 if now_held < held_out * 0.9995 else stale + 1
                best, training, held_out = v.clone(), now, now_held
            else:
                stale += 1
            if stale >= PATIENCE:
                break
            z = inverse * residual
            rz, before = float(residual @ z), rz
            p = z + (rz / before) * p
        return guess, (best, training, held_out)

    def _quadratic(self, v: Tensor, product: Tensor, b: Tensor, held_product: Tensor, held_b: Tensor) -> tuple[float, float]:
        return (self.training.relative(float(v @ product - 2 * (v @ b))),
                self.held_out.relative(float(v @ held_product - 2 * (v @ held_b))))


def row_sums(scaled: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """(S_i H S_i^T, S_i C_:i) of each row (out,) in FP64, for scaled signs S (out, in)."""
    return ((scaled @ target.h) * scaled).sum(1, dtype=torch.float64), (scaled * target.c.T).sum(1, dtype=torch.float64)


def row_step(scaled: Tensor, target: Target, start: Tensor) -> Tensor:
    """Best row factors (out,) for fixed scaled signs (out, in)."""
    return row_factors(((scaled @ target.h) * scaled).sum(1), (scaled * target.c.T).sum(1), start)


def row_factors(below: Tensor, top: Tensor, start: Tensor) -> Tensor:
    """top / below (out,); rows whose inputs never fire keep `start`."""
    return torch.where(below > below.mean() * 1e-8, (top / below.clamp_min(1e-30)).float(), start)


def expand(signs: Tensor, axis: str, values: Tensor) -> Tensor:
    """The dense change (out, in) that signs and the stored scales of one slice make."""
    if axis == "scalar":
        return signs * values[0]
    if axis == "row":
        return signs * values[:, None]
    if axis == "column":
        return signs * values
    return signs * values[:signs.shape[0], None] * values[signs.shape[0]:]

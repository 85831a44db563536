"""Signs that need not be the change's own: chosen under the moments of a matrix's inputs, with error feedback.

Half of a light fine-tune's entries do not move at all, and a sign pushes all of them alike. Here signs are chosen one input
column at a time, each column's error passed on to those that follow (GPTQ's recursion, arXiv 2210.17323, section 3, on the
grid {-v, +v}), then scales are fitted anew by the solver's equations, and both once more while held-out loss falls. What is
stored, and how it is used, stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.chosen_kernels import choose_signs
from core.gptq import inverse_factor
from core.moments import Target
from core.solve import Fitted, Problem, expand, row_factors, row_step, row_sums

RIDGE = 0.2
"""Added to H's diagonal, in mean diagonals, both where signs are chosen and where their scales are fitted.

Error feedback moves error to where H has little: with few tokens (4,096 for 1,536 inputs), to where H was merely seen
little. Measured on two real fine-tunes, 16 x 256 tokens, held-out loss of a down-projection in the middle of the model
relative to its plain signs': without a ridge on the scales 1.05 after the second round (training .60, and falling), with one
of .1 or .5 .90. From .1 to .5 little changes; at 2 it is worse again."""
ROUNDS = 2
"""Choices of signs at most; a round that held-out loss does not gain by is the last."""


@dataclass(frozen=True)
class Metric:
    """What matrices that read the same input share: the factor of their H with the ridge, and how drift moves targets."""

    h: Tensor
    """With the ridge."""
    factor: tuple[Tensor, Tensor]
    correction: Tensor | None
    """(in, outputs of all) = (H + ridge)^-1 CK; None without drift."""

    @classmethod
    def of(cls, h: Tensor, ck: Tensor) -> Metric:
        """From finished moments of the training part: H (in, in) and CK (in, outputs)."""
        mean = float(h.diagonal().mean())
        order, upper = inverse_factor(h, RIDGE)
        correction = None
        if mean > 0 and bool(ck.any()):
            correction = torch.empty_like(ck)
            correction[order] = (upper.T @ (upper @ ck[order])).div_(mean)
        ridged = h.clone()
        ridged.diagonal().add_(RIDGE * max(mean, 1e-30))
        return cls(ridged, (order, upper), correction)

    def outputs(self, rows: slice) -> Metric:
        """The same for some of the outputs."""
        return self if self.correction is None else replace(self, correction=self.correction[:, rows])

    def aim(self, change: Tensor, held_out: tuple[Tensor, Tensor, Tensor], rows: slice) -> Aim:
        """What outputs `rows` aim at: their change (out, in), and as much of the correction as helps on held-out data.

        Least squares puts all of the drift's correction on top (design, "The signs need not be the change's own"). Deep in a
        model most of it is noise of the tokens seen: of it as much is taken, 0 to 1, as lowers held-out loss most.
        """
        if self.correction is None:
            return Aim(change, self.factor, Target(self.h, self.h @ change.T, 1.0, 1.0))
        h, ck, _ = held_out
        correction = self.correction[:, rows]
        top = float((ck[:, rows] * correction).sum(dtype=torch.float64))
        below = float(((h @ correction) * correction).sum(dtype=torch.float64))
        share = min(1.0, max(0.0, top / below)) if below > 0 else 0.0
        dense = change + share * correction.T
        return Aim(dense, self.factor, Target(self.h, self.h @ dense.T, 1.0, 1.0))


@dataclass(frozen=True)
class Aim:
    """What one slice approximates: a dense change (out, in), the metric's factor, and the same as a target for scales.

    The target's `zero` is 1: only differences of its losses mean anything.
    """

    dense: Tensor
    factor: tuple[Tensor, Tensor]
    target: Target


def with_chosen(problem: Problem, aim: Aim, axes: set[str], tick: Callable[[], None]) -> Callable[[str], Fitted]:
    """A solver of one axis that tries chosen signs too on `axes`; `tick` is called after each solve."""
    def solve(axis: str) -> Fitted:
        points: list[int] = []
        report = problem.report

        def counted(axis: str, iteration: int, training: float, held_out: float) -> None:
            points.append(iteration)
            report(axis, iteration, training, held_out)
        problem.report = counted
        try:
            fitted = problem.solve(axis)
        finally:
            problem.report = report
        if axis in axes:
            fitted = solve_chosen(problem, fitted, aim, max(points, default=0) + 1)
        tick()
        return fitted
    return solve


def solve_chosen(problem: Problem, plain: Fitted, aim: Aim, iteration: int) -> Fitted:
    """The better of `plain` and of chosen signs on its axis, by held-out loss; `signs` tell which.

    Reports a point of the problem's own losses for each choice, from `iteration` on.
    """
    best, values = replace(plain, plain=plain.held_out), plain.values
    for i in range(ROUNDS):
        row, column = split(plain.axis, values, problem.change.shape)
        signs = choose_signs(aim.dense, aim.factor, row[None], column)[0]
        values = refit(Problem(problem.change, aim.target, problem.held_out, signs=signs), plain.axis, values)
        training, held_out = problem.losses(expand(signs, plain.axis, values))
        problem.report(plain.axis, iteration + i, training, held_out)
        if not (held_out < best.held_out and bool(values.isfinite().all())):
            break
        best = Fitted(plain.axis, values, training, held_out, plain.guess, signs.to(torch.int8), plain.held_out)
    return best


def split(axis: str, values: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Stored scales of an axis as row (out,) x column (in,) for a matrix of `shape` (out, in)."""
    outputs, inputs = shape
    if axis == "both":
        return values[:outputs], values[outputs:]
    one = values.new_ones(1)
    return (one.expand(outputs), values) if axis == "column" else (values.expand(outputs), one.expand(inputs))


def refit(problem: Problem, axis: str, values: Tensor) -> Tensor:
    """Best scales of an axis for the problem's signs, from `values` on; columns stop early by held-out loss."""
    if axis == "column":
        return problem.columns("", problem.signs, values)[1][0]
    if axis == "both":
        row, column = split(axis, values, problem.change.shape)
        row = row_step(problem.signs * column, problem.training, row)
        return torch.cat([row, problem.columns("", problem.signs * row[:, None], column)[1][0]])
    below, top = row_sums(problem.signs, problem.training)
    return row_factors(below, top, values) if axis == "row" else row_factors(below.sum()[None], top.sum()[None], values)

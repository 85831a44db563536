"""Moments and solver against brute force: every loss and every optimum computed once more from the tokens themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from core.moments import Moments, Target, add_gram, mirrored
from core.record import AXES
from core.solve import Problem, expand, first_guess


@dataclass(frozen=True)
class Case:
    """Inputs x (n, in) of the student and t (n, in) of the fine-tune, weights base and tuned (out, in)."""

    x: Tensor
    t: Tensor
    base: Tensor
    tuned: Tensor

    @property
    def change(self) -> Tensor:
        return self.tuned - self.base

    @property
    def residual(self) -> Tensor:
        """R (n, out) in FP64: what the fine-tune outputs and base and student's inputs do not."""
        return self.t.double() @ self.tuned.double().T - self.x.double() @ self.base.double().T

    def target(self) -> Target:
        moments = Moments.empty(self.x.shape[1], len(self.tuned), self.x.device, drift=True)
        for part in range(0, len(self.x), 5):          # in uneven portions
            moments.add(self.x[part:part + 5], self.t[part:part + 5], self.tuned)
        assert moments.tokens == len(self.x)
        return Target.of(self.change, *moments.finish(self.tuned))


def make(n: int, inputs: int, outputs: int, seed: int = 0, drift: float = 0.05) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)
    base = normal(outputs, inputs)
    change = 0.02 * normal(outputs, inputs) * torch.exp(normal(outputs, 1)) * torch.exp(normal(inputs))
    x = normal(n, inputs) @ (torch.eye(inputs) + 0.3 * normal(inputs, inputs) / inputs**0.5)
    return Case(x, x + drift * normal(n, inputs), base, base + change)


@pytest.mark.parametrize("width", [1, 191, 192, 500, 1300])
def test_symmetric_sums_are_made_by_half(width: int) -> None:
    total = torch.zeros(width, width)
    parts = [torch.randn(n, width, generator=torch.Generator().manual_seed(n)) for n in (3, 9)]
    for part in parts:
        add_gram(total, part)
    whole = torch.cat(parts)
    found = mirrored(total)
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found, whole.T @ whole, rtol=1e-5, atol=1e-5)
    assert (float(total[0, -1]) == 0) == (width > 192)


SHAPES = [(40, 7, 12), (40, 12, 7), (23, 9, 9), (11, 6, 17)]
"""(tokens, inputs, outputs): wide products and narrow ones."""


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_equal_direct_products(shape: tuple[int, int, int]) -> None:
    case = make(*shape)
    moments = Moments.empty(shape[1], shape[2], case.x.device, drift=True)
    assert moments.wide == (shape[2] >= shape[1])
    moments.add(case.x, case.t, case.tuned)
    h, ck, e2 = moments.finish(case.tuned)
    outputs = (case.t - case.x) @ case.tuned.T
    torch.testing.assert_close(h, case.x.T @ case.x / shape[0])
    torch.testing.assert_close(ck, case.x.T @ outputs / shape[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(e2, outputs.square().sum(0) / shape[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_a_target_is_the_regression_on_the_residual(shape: tuple[int, int, int], drift: float) -> None:
    case = make(*shape, drift=drift)
    target, n = case.target(), shape[0]
    torch.testing.assert_close(target.c.double(), case.x.double().T @ case.residual / n, rtol=1e-4, atol=1e-5)
    assert target.zero == pytest.approx(float(case.residual.square().sum() / n), rel=1e-4)
    dense = case.change * 0.7
    direct = (case.residual - case.x.double() @ dense.double().T).square().sum() / case.residual.square().sum()
    assert target.loss(dense) == pytest.approx(float(direct), rel=1e-3, abs=1e-5)
    assert target.loss(torch.zeros_like(dense)) == 1.0


def test_without_drift_the_own_change_loses_nothing() -> None:
    case = make(40, 7, 12, drift=0.0)
    assert case.target().loss(case.change) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_without_a_target_take_the_students_inputs_for_the_fine_tunes(shape: tuple[int, int, int]) -> None:
    case = make(*shape)
    moments = Moments.empty(shape[1], shape[2], case.x.device, drift=False)
    moments.add(case.x, None, None)
    target = Target.of(case.change, *moments.finish(case.tuned))
    wanted = case.x @ case.change.T
    torch.testing.assert_close(target.c, case.x.T @ wanted / shape[0], rtol=1e-4, atol=1e-5)
    assert target.zero == pytest.approx(float(wanted.square().sum() / shape[0]), rel=1e-4)


def regression(case: Case, axis: str) -> tuple[Tensor, float]:
    """The best scales by least squares on the explicit design matrix (tokens x outputs, scales), and their relative loss."""
    signs = torch.where(case.change < 0, -1.0, 1.0).double()
    x, residual = case.x.double(), case.residual
    if axis == "row":
        products = x @ signs.T                         # (n, out): each output is a regression on one column
        columns = [torch.linalg.lstsq(products[:, i:i + 1], residual[:, i:i + 1]).solution.flatten() for i in range(len(signs))]
        values = torch.cat(columns)
    else:
        design = (x[:, None, :] * signs[None]).reshape(-1, x.shape[1])          # (n * out, in)
        if axis == "scalar":
            design = design.sum(1, keepdim=True)
        values = torch.linalg.lstsq(design, residual.reshape(-1, 1)).solution.flatten()
    left = residual - x @ expand(signs, axis, values).T
    return values, float(left.square().sum() / residual.square().sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", ["scalar", "row", "column"])
def test_each_axis_reaches_the_least_squares_optimum(shape: tuple[int, int, int], axis: str) -> None:
    case = make(*shape)
    values, loss = regression(case, axis)
    fitted = Problem(case.change, case.target(), None).solve(axis)
    assert fitted.training == pytest.approx(loss, rel=2e-3, abs=1e-5)
    torch.testing.assert_close(fitted.values.double(), values, rtol=0.05, atol=0.02 * float(values.abs().max()))
    assert fitted.values.numel() == {"scalar": 1, "row": shape[2], "column": shape[1]}[axis]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_row_times_column_is_no_worse_than_either(shape: tuple[int, int, int], seed: int) -> None:
    case = make(*shape, seed=seed)
    problem = Problem(case.change, case.target(), None)
    losses = {axis: problem.solve(axis).training for axis in AXES}
    assert losses["both"] <= min(losses["row"], losses["column"]) + 1e-6
    assert max(losses["row"], losses["column"]) <= losses["scalar"] + 1e-6


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("seed", range(4))
def test_held_out_loss_is_never_above_the_first_guess(axis: str, seed: int) -> None:
    training, other = make(9, 24, 20, seed), make(40, 24, 20, 100 + seed)
    held_out = Case(other.x, other.t, training.base, training.tuned).target()      # fewer tokens than inputs: H is singular
    problem = Problem(training.change, training.target(), held_out)
    guess = held_out.loss(expand(problem.signs, axis, first_guess(training.change, axis)))
    fitted = problem.solve(axis)
    assert fitted.guess == pytest.approx(guess, rel=1e-5)
    assert fitted.held_out <= fitted.guess
    assert fitted.held_out == pytest.approx(held_out.loss(expand(problem.signs, axis, fitted.values)), rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("axis", AXES)
def test_rank_one_magnitudes_are_found_exactly(axis: str) -> None:
    generator = torch.Generator().manual_seed(2)
    signs = torch.randn(10, 8, generator=generator).sign()
    row, column = (torch.exp(torch.randn(n, generator=generator)) * 0.01 for n in (10, 8))
    size = {"scalar": torch.full((10, 8), 0.01), "row": row[:, None].expand(10, 8), "column": column.expand(10, 8),
            "both": row[:, None] * column * 100}[axis]
    case = make(64, 8, 10, drift=0.0)
    case = Case(case.x, case.t, case.base, case.base + signs * size)
    fitted = Problem(case.change, case.target(), None).solve(axis)
    assert fitted.held_out < 1e-4
    torch.testing.assert_close(expand(signs, axis, fitted.values), case.change, rtol=0.03, atol=1e-4)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("trouble", ["dead inputs", "no inputs at all", "no change"])
def test_troubled_problems_give_finite_scales(axis: str, trouble: str) -> None:
    case = make(30, 8, 10)
    if trouble == "dead inputs":
        case.x[:, :3] = 0
        case.t[:, :3] = 0
    elif trouble == "no inputs at all":
        case.x.zero_()
        case.t.zero_()
    else:
        case = Case(case.x, case.x.clone(), case.base, case.base.clone())
    fitted = Problem(case.change, case.target(), None).solve(axis)
    assert bool(fitted.values.isfinite().all())
    assert 0 <= fitted.held_out <= 1


def test_curves_are_reported_as_they_are_solved() -> None:
    case = make(40, 12, 16)
    points: list[tuple[str, int, float, float]] = []
    problem = Problem(case.change, case.target(), None, lambda *point: points.append(point))
    final = problem.solve("column")
    own = [p for p in points if p[0] == "column"]
    assert [p[1] for p in own] == list(range(len(own))) and len(own) > 2
    assert own[0][2] == pytest.approx(final.guess) and min(p[3] for p in own) == pytest.approx(final.held_out, rel=1e-4, abs=1e-6)

"""Chosen signs: the compiled choice against plain torch, and what choosing gains on small matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core import chosen_kernels
from core.checkpoint import open_checkpoint
from core.chosen import ROUNDS, Metric, solve_chosen, split, with_chosen
from core.chosen_kernels import choose_signs
from core.demo import tiny_trio
from core.embeddings import choose_rows, code_rows
from core.fit import stored_signs
from core.gptq import inverse_factor, inverse_lower, sweep
from core.job import Job
from core.moments import Evidence, Moments
from core.plan import PlanOptions, make_plan
from core.record import AXES, Slice, TensorRecord
from core.request import Request
from core.signs import unpack_signs
from core.solve import Fitted, Problem, expand


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def metric_of(n: int, seed: int = 0) -> Tensor:
    x = normal(4 * n, n, seed=seed) @ normal(n, n, seed=seed + 1) * torch.exp(normal(n, seed=seed + 2))
    return x.T @ x / len(x)


@pytest.mark.parametrize("n", [1, 2, 64, 300])
def test_the_factor_is_of_the_inverse(n: int) -> None:
    metric = metric_of(n)
    order, upper = inverse_factor(metric, 0.05)
    assert torch.equal(upper, upper.triu()) and bool((upper.diagonal() > 0).all())
    assert order.tolist() == metric.diagonal().argsort(descending=True, stable=True).tolist()
    damped = metric[order][:, order] / metric.diagonal().mean() + 0.05 * torch.eye(n)
    torch.testing.assert_close((upper.T @ upper).double(), damped.double().inverse(), rtol=1e-3, atol=1e-4)


def test_a_triangle_is_inverted_by_halves() -> None:
    lower = torch.linalg.cholesky(metric_of(301).double() + torch.eye(301))
    torch.testing.assert_close(inverse_lower(lower) @ lower, torch.eye(301).double())


SHAPES = [(1, 1, 1), (5, 7, 1), (130, 64, 1), (37, 130, 1), (600, 200, 2), (9, 65, 3)]
"""(rows, columns, planes): within and across blocks of columns, strips of rows, and threads."""


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_chooses_as_plain_torch_does(shape: tuple[int, int, int]) -> None:
    rows, n, planes = shape
    target, factor = normal(rows, n, seed=3), inverse_factor(metric_of(n))
    row = torch.exp(normal(planes, rows, seed=4)).sort(0, descending=True).values
    column = torch.exp(0.3 * normal(n, seed=5))
    signs = choose_signs(target, factor, -row, column)     # a scale's size counts
    plain = chosen_kernels._with_torch(target, factor, row, column)
    assert signs.shape == (planes, rows, n) and bool((signs.abs() == 1).all())
    assert float((signs == plain).float().mean()) > 0.999      # sums are taken in another order: a tie may fall otherwise
    dense = sweep(target, factor, lambda left, j: torch.where(left < 0, -1.0, 1.0) * row[0] * column[j])
    if planes == 1:
        assert float((signs[0] * row[0][:, None] * column == dense).float().mean()) > 0.999


def test_more_threads_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    target, factor = normal(700, 60, seed=6), inverse_factor(metric_of(60))
    row = target.abs().mean(1)[None]
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(choose_signs(target, factor, row))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_without_a_metric_signs_are_the_targets_own() -> None:
    target = normal(20, 90)
    target[3, 4] = 0
    signs = choose_signs(target, inverse_factor(torch.zeros(90, 90)), torch.ones(1, 20))
    assert torch.equal(signs[0], torch.where(target < 0, -1.0, 1.0))


def case(n: int = 400, inputs: int = 48, outputs: int = 40, seed: int = 0, still: float = 0.5) -> tuple[Evidence, Tensor]:
    """(what a matrix is learnt from, W_ft), correlated inputs with drift, `still` of the entries without any change."""
    mixed = normal(inputs, inputs, seed=seed + 1) / inputs**0.5
    tuned = normal(outputs, inputs, seed=seed + 2)
    change = 0.02 * normal(outputs, inputs, seed=seed + 3) * (torch.rand(outputs, inputs, generator=torch.Generator().manual_seed(
        seed)) >= still)
    parts = []
    for part in range(2):
        moments = Moments.empty(inputs, outputs, tuned.device, drift=True)
        x = normal(n, inputs, seed=seed + 10 + part) @ mixed
        moments.add(x, x + 0.01 * normal(n, inputs, seed=seed + 20 + part), tuned)
        parts.append(moments.finish(tuned))
    return Evidence(change, tuple(parts)), tuned


def test_all_of_the_correction_is_the_least_squares_optimum() -> None:
    evidence, _ = case()
    h, ck, _ = evidence.parts[0]
    metric = Metric.of(h, ck)
    assert metric.correction is not None
    ridge = float(metric.h.diagonal().mean() / h.diagonal().mean()) - 1
    wanted = torch.linalg.solve(h.double() + ridge * h.diagonal().mean() * torch.eye(len(h)), ck.double())
    torch.testing.assert_close(metric.correction.double(), wanted, rtol=1e-3, atol=1e-6)
    part = metric.outputs(slice(5, 9)).correction
    assert part is not None and torch.equal(part, metric.correction[:, 5:9])


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_the_correction_is_the_best_on_held_out_data(seed: int) -> None:
    evidence, _ = case(n=60, seed=100 * seed)
    metric = Metric.of(*evidence.parts[0][:2])
    assert metric.correction is not None
    target, everything = evidence.target(1), slice(None)
    least = target.loss(metric.aim(evidence.change, evidence.parts[1], everything).dense)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert least <= target.loss(evidence.change + share * metric.correction.T) + 1e-6


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("seed", range(3))
def test_chosen_signs_lose_less_than_plain_ones(axis: str, seed: int) -> None:
    evidence, _ = case(seed=50 * seed)
    points: list[tuple[str, int, float, float]] = []
    problem = Problem(evidence.change, evidence.target(0), evidence.target(1), lambda *point: points.append(point))
    aim = Metric.of(*evidence.parts[0][:2]).aim(evidence.change, evidence.parts[1], slice(None))
    plain = problem.solve(axis)
    at = max(p[1] for p in points) + 1
    fitted = solve_chosen(problem, plain, aim, at)
    assert fitted.signs is not None and fitted.plain == plain.held_out and fitted.guess == plain.guess
    assert fitted.held_out < 0.9 * plain.held_out
    assert fitted.held_out == pytest.approx(evidence.target(1).loss(expand(fitted.signs, axis, fitted.values)), rel=1e-4)
    own = points[-1][1] - at + 1
    assert 1 <= own <= ROUNDS and [p[1] for p in points[-own:]] == list(range(at, at + own))
    assert min(p[3] for p in points if p[0] == axis) == pytest.approx(fitted.held_out)


def test_plain_signs_stay_where_chosen_ones_lose_more() -> None:
    evidence, _ = case(still=0.0)
    problem = Problem(evidence.change, evidence.target(0), evidence.target(1))
    plain = Fitted("row", evidence.change.abs().mean(1), 0.0, 0.0, 1.0)        # nothing is below a loss of 0
    aim = Metric.of(*evidence.parts[0][:2]).aim(evidence.change, evidence.parts[1], slice(None))
    fitted = solve_chosen(problem, plain, aim, 2)
    assert fitted.signs is None and fitted.values is plain.values and fitted.plain == 0.0


def test_few_tokens_do_not_fool_the_choice() -> None:
    """Fewer tokens than inputs: what training data alone would have, held-out data must not pay for."""
    evidence, _ = case(n=30, inputs=64)
    problem = Problem(evidence.change, evidence.target(0), evidence.target(1))
    aim = Metric.of(*evidence.parts[0][:2]).aim(evidence.change, evidence.parts[1], slice(None))
    plain = problem.solve("row")
    assert solve_chosen(problem, plain, aim, 2).held_out <= plain.held_out


def test_a_solver_tries_chosen_signs_on_open_axes_only() -> None:
    evidence, _ = case()
    ticks: list[int] = []
    problem = Problem(evidence.change, evidence.target(0), evidence.target(1))
    aim = Metric.of(*evidence.parts[0][:2]).aim(evidence.change, evidence.parts[1], slice(None))
    solve = with_chosen(problem, aim, {"row"}, lambda: ticks.append(1))
    assert solve("column").plain is None and solve("row").plain is not None and len(ticks) == 2


@pytest.mark.parametrize("axis", AXES)
def test_scales_split_into_row_and_column(axis: str) -> None:
    values = torch.arange(1.0, 1 + {"scalar": 1, "row": 3, "column": 4, "both": 7}[axis])
    row, column = split(axis, values, torch.Size((3, 4)))
    torch.testing.assert_close(row[:, None] * column, expand(torch.ones(3, 4), axis, values))


@pytest.mark.parametrize("conv1d", [False, True])
def test_signs_are_stored_as_the_tensor_lies(conv1d: bool) -> None:
    evidence, _ = case(inputs=11, outputs=6)
    problems = [Problem(evidence.change[part], evidence.target(0, part), None) for part in (slice(0, 2), slice(2, 6))]
    record = TensorRecord(name="w", codec="sign", shape=(11, 6) if conv1d else (6, 11), dtype="F32", base="w",
                          output_dimension=int(conv1d), slices=(Slice(0, 2, "row", 2), Slice(2, 6, "row", 4)))
    plain = [p.solve("row") for p in problems]
    assert stored_signs(record, problems, plain) is None
    chosen = Fitted("row", plain[1].values, 0, 0, 0, -problems[1].signs)
    packed = stored_signs(record, problems, [plain[0], chosen])
    assert packed is not None
    found = unpack_signs(packed[0], record.shape[1], dtype=torch.float32)
    wanted = torch.cat([problems[0].signs, -problems[1].signs])
    assert torch.equal(found.T if conv1d else found, wanted)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("metric", [None, metric_of(24)], ids=["identity", "correlated"])
def test_rows_of_an_embedding_never_lose_more(planes: int, metric: Tensor | None) -> None:
    change = 0.01 * normal(50, 24, seed=8)
    change[7] = 0
    under = torch.eye(24) if metric is None else metric
    signs, scales = code_rows(change, planes, metric)
    chosen, values = choose_rows(change, signs, scales, metric, inverse_factor(under))

    def losses(planes: list[Tensor], scales: Tensor) -> Tensor:
        left = change - sum((v[:, None] * p for v, p in zip(scales, planes, strict=True)), torch.zeros_like(change))
        return ((left @ under) * left).sum(1)
    before, after = losses(signs, scales), losses(chosen, values)
    assert bool((after <= before * (1 + 1e-4) + 1e-12).all())
    if metric is not None or planes == 2:
        assert float(after.sum()) < 0.97 * float(before.sum())


def test_a_job_chooses_signs_within_the_same_bytes(tmp_path: Path) -> None:
    trio, folder = tiny_trio(), tmp_path / "delta"
    result = Job(Request(base=str(trio.base), fine_tuned=str(trio.pirate), output=str(folder), calibration="default",
                         recipe="chosen", samples=5, tune_samples=0, sequence_length=32), lambda event: None).run()
    with open_checkpoint(str(trio.base)) as base, open_checkpoint(str(trio.pirate)) as tuned:
        assert result.delta.weights_bytes == make_plan(base, tuned, PlanOptions(recipe="exact")).weights_bytes
        fitted = [r for r in result.delta.config.tensors if r.codec == "sign" and r.block is not None]
        own, other = 0, 0
        for record in fitted:
            assert record.base is not None
            change = result.delta.variant(base, record.name).float() - base.view(record.base).float()
            wanted = tuned.view(record.name).float() - base.view(record.base).float()
            other += int((change.sign() * wanted.sign() < 0).sum())
            own += wanted.numel()
            for piece, losses in zip(record.slices, record.losses, strict=True):
                assert piece.axis == min(("row", "column"), key=lambda a: losses.axis[a])
                assert all(losses.axis[a] <= losses.axis[f"plain {a}"] for a in ("row", "column"))
        assert fitted and 0.02 < other / own < 0.5     # many signs are not the change's own
    chosen, plain = (sum(x.axis[key] for r in fitted for x in r.losses) for key in ("row", "plain row"))
    assert chosen < 0.9 * plain

"""What a change is measured to be, and which are recognised as low rank."""

from __future__ import annotations

import math

import pytest
import torch

from core.changes import Change, low_rank, measure_change, range_svd, rounding_energy
from core.codecs.exact import changed_rows


def gauss(*shape: int, seed: int = 0, std: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def test_counts_and_norms_of_a_matrix() -> None:
    base = gauss(300, 70).bfloat16()
    tuned = base.clone()
    tuned[5, 3] += 1
    tuned[5, 4] += 1
    tuned[299, 69] -= 2
    change = measure_change(base, tuned)
    difference = (tuned.double() - base.double()).norm().item()
    assert (change.entries, change.changed, change.changed_rows, change.new_rows) == (21000, 3, 2, 0)
    assert change.finite and change.unchanged == 1 - 3 / 21000
    assert change.norm == pytest.approx(difference, rel=1e-6)
    assert change.relative == pytest.approx(difference / base.double().norm().item(), rel=1e-6)


def test_in_many_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = gauss(37, 11), gauss(37, 11, seed=1)
    tuned[20:] = base[20:]
    whole = measure_change(base, tuned)
    monkeypatch.setattr("core.changes.CHUNK", 25)
    parts = measure_change(base, tuned)
    assert (parts.changed, parts.changed_rows) == (whole.changed, whole.changed_rows) == (220, 20)
    assert parts.norm == pytest.approx(whole.norm, rel=1e-6)


def test_grown_shrunk_and_small_tensors() -> None:
    base = gauss(6, 4)
    assert measure_change(base, torch.cat([base, gauss(3, 4)])).new_rows == 3
    assert measure_change(base, base[:4]).new_rows == 0
    assert measure_change(base, base[:4]).changed == 0
    assert measure_change(torch.tensor(1.0), torch.tensor(2.0)) == Change(True, 1.0, 1.0, 1, 1, 1, 0)
    vector = measure_change(torch.zeros(5), torch.eye(5)[2])
    assert (vector.changed, vector.changed_rows, vector.entries) == (1, 1, 5)
    assert measure_change(torch.empty(0, 3), torch.empty(0, 3)).unchanged == 1.0


def test_a_base_of_zeros_gives_a_number_that_json_holds() -> None:
    assert measure_change(torch.zeros(4), torch.ones(4)).relative == 1.0
    assert measure_change(torch.zeros(4), torch.zeros(4)).relative == 0.0


def test_types_may_differ() -> None:
    base = gauss(9, 9)
    assert measure_change(base.bfloat16(), base.bfloat16().float()).changed == 0
    assert measure_change(base, base.bfloat16()).changed == 81


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["base", "tuned", "new rows", "lost rows"])
def test_what_is_not_finite_is_seen(value: float, where: str) -> None:
    base, tuned = gauss(8, 5), gauss(8, 5)
    (base if where in ("base", "lost rows") else tuned)[7, 2] = value
    if where == "new rows":
        base = base[:6]
    if where == "lost rows":
        tuned = tuned[:6]
    assert not measure_change(base, tuned).finite


def test_huge_weights_are_finite() -> None:
    huge = torch.full((3, 3), 3e38)
    change = measure_change(huge, -huge)
    assert change.finite and math.isfinite(change.relative)


def test_changed_rows() -> None:
    base = gauss(6, 4)
    tuned = torch.cat([base, gauss(2, 4)])
    tuned[1] += 1
    assert changed_rows(base, tuned).tolist() == [1, 6, 7]
    assert changed_rows(base, base[:3]).tolist() == []
    assert changed_rows(base, tuned).dtype == torch.int32


def test_rounding_energy_is_what_rounding_costs() -> None:
    values = gauss(400, 400, std=0.03)
    for dtype in (torch.bfloat16, torch.float16):
        errors = (values.to(dtype).float() - values).square().sum().item()
        assert rounding_energy(values, dtype) == pytest.approx(errors, rel=0.05)


def test_range_svd_finds_the_leading_triplets() -> None:
    change = gauss(90, 5) @ gauss(5, 60, seed=1) + gauss(90, 60, seed=2, std=1e-4)
    u, s, v = range_svd(change, 5)
    assert torch.allclose(s, torch.linalg.svdvals(change)[:5], rtol=1e-4)
    assert torch.allclose(u * s @ v, change, atol=1e-3)
    again = range_svd(change, 5)
    assert all(torch.equal(a, b) for a, b in zip((u, s, v), again, strict=True))


# ---------------------------------------------------------------------------------------------------- low rank
def merged(shape: tuple[int, int], rank: int, dtype: torch.dtype, strength: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """A base of spread 0.03 and a LoRA merged into it whose change has `strength` of the base's norm."""
    base = gauss(*shape, std=0.03).to(dtype)
    change = gauss(shape[0], rank, seed=1) @ gauss(rank, shape[1], seed=2)
    change *= strength * base.float().norm() / change.norm()
    return base, (base.float() + change).to(dtype)


@pytest.mark.parametrize("rank", [1, 4, 16, 32])
@pytest.mark.parametrize(("shape", "dtype"), [((320, 256), torch.bfloat16), ((256, 700), torch.float16),
                                              ((200, 300), torch.float32)])
def test_a_merged_lora_is_recognised_with_its_rank(shape: tuple[int, int], dtype: torch.dtype, rank: int) -> None:
    assert low_rank(*merged(shape, rank, dtype)) == rank


@pytest.mark.parametrize("rank", [8, 64])
def test_a_lora_larger_than_the_corner_that_is_tried_first(rank: int) -> None:
    assert low_rank(*merged((600, 520), rank, torch.bfloat16, 0.2)) == rank


def adamw_like(shape: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Most entries moved by about the same, a learning rate's worth, as the first steps of AdamW leave them."""
    base = gauss(*shape, std=0.03).to(dtype)
    common = gauss(shape[0], 2, seed=1) @ gauss(2, shape[1], seed=2)
    return base, (base.float() + 3e-4 * (common + gauss(*shape, seed=3)).sign()).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_ordinary_change_is_not_low_rank(dtype: torch.dtype) -> None:
    base = gauss(300, 260, std=0.03).to(dtype)
    assert low_rank(base, (base.float() + gauss(300, 260, seed=4, std=1e-3)).to(dtype)) is None
    assert low_rank(*adamw_like((300, 260), dtype)) is None
    assert low_rank(base, base) is None


def test_low_rank_with_an_ordinary_change_on_top_is_not() -> None:
    base, tuned = merged((280, 280), 8, torch.bfloat16)
    assert low_rank(base, (tuned.float() + gauss(280, 280, seed=5, std=1e-3)).bfloat16()) is None


def test_a_corner_of_low_rank_does_not_make_the_whole_so() -> None:
    base, tuned = merged((600, 300), 4, torch.bfloat16)
    tuned[300:] = (base[300:].float() + gauss(300, 300, seed=6, std=3e-3)).bfloat16()
    assert low_rank(base, tuned) is None


def test_what_is_no_pair_of_matrices() -> None:
    base, tuned = merged((60, 60), 2, torch.float32)
    assert low_rank(base, tuned) == 2
    assert low_rank(base[:50], tuned) is None
    assert low_rank(base[0], tuned[0]) is None
    assert low_rank(base[:20], tuned[:20]) is None

"""The kernels of a merged switch: the same bits as the signs' own sum, whatever the shape, and exact copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core import deck_kernels as kernels
from core.signs import add_signs, add_signs_float32, pack_signs
from core.signs_kernels import handles

SHAPES = ((7, 576), (5, 1536), (3, 545), (1, 1), (9, 32), (4, 64), (2, 830), (300, 576))
"""Full tiles, narrow last tiles of whole and of broken bytes, and one matrix that gets a kernel for its own width."""


def planes_of(rows: int, columns: int, planes: int, columnwise: bool,
              dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(base, signs, scales by row, scales by column)."""
    draw = torch.Generator().manual_seed(rows * columns + planes)
    base = torch.randn(rows, columns, generator=draw).to(dtype)
    if columns > 2:
        base[0, 0], base[0, 1], base[0, 2] = float("inf"), 1e-40, -0.0
    signs = torch.stack([pack_signs(torch.rand(rows, columns, generator=draw) < 0.5) for _ in range(planes)])
    by_row = torch.rand(planes, rows, generator=draw) * 0.1
    return base, signs, by_row, torch.rand(planes, columns, generator=draw) if columnwise else None


@pytest.mark.parametrize("columnwise", [False, True], ids=["row", "row-column"])
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_sums_are_those_of_the_signs(dtype: torch.dtype, planes: int, columnwise: bool) -> None:
    for rows, columns in SHAPES:
        base, signs, by_row, by_column = planes_of(rows, columns, planes, columnwise, dtype)
        total = base.to(torch.float32, copy=True)
        for p in range(planes):
            add_signs_float32(total, signs[p], by_row[p], None if by_column is None else by_column[p])
        room = torch.full((rows * columns + 8,), 7.0, dtype=dtype)
        target = room[:rows * columns].view(rows, columns)
        kernels.run([kernels.sum_jobs(base, target, list(signs), by_row, by_column)])
        assert torch.equal(target, total.to(dtype)), (rows, columns)
        assert bool((room[rows * columns:] == 7).all()), "wrote past the end"
        if planes == 1:
            assert torch.equal(target, add_signs(base, signs[0], by_row[0], None if by_column is None else by_column[0]))


def test_half_precision_too() -> None:
    base, signs, by_row, _ = planes_of(3, 545, 1, False, torch.float16)
    if not handles(base):
        pytest.skip("this processor has no instruction for it")
    target = torch.empty_like(base)
    kernels.run([kernels.sum_jobs(base, target, list(signs), by_row, None)])
    assert torch.equal(target, add_signs(base, signs[0], by_row[0]))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 64, 511, 512, 513, 3_000_001])
def test_copies_are_exact_at_any_address(size: int) -> None:
    for offset in (0, 3):
        source = torch.randint(0, 256, (size + offset,), dtype=torch.uint8)[offset:]
        room = torch.full((size + 130,), 7, dtype=torch.uint8)
        target = room[64 - room.data_ptr() % 64 + offset:][:size]
        kernels.run([kernels.copy_jobs(source, target)])
        assert torch.equal(target, source)
        assert int((room != 7).sum()) == int((source != 7).sum()), "wrote past the ends"


def test_many_lists_on_several_threads_leave_nothing_out() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        sources = [torch.randint(0, 256, (n,), dtype=torch.uint8) for n in (9_000_000, 77, 4_000_001)]
        targets = [torch.zeros_like(s) for s in sources]
        kernels.run([kernels.copy_jobs(s, t) for s, t in zip(sources, targets, strict=True)])
        assert all(torch.equal(s, t) for s, t in zip(sources, targets, strict=True))
    finally:
        torch.set_num_threads(before)

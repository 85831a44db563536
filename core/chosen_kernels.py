"""Choosing signs with error feedback, compiled: the recursion of `core.gptq.sweep` where values are sums of signs x scales.

Each row's recursion is independent of the others', so rows are the lanes: columns of the target lie one after the other
in memory, and a step works on a strip of rows that stays in a near cache. Within a block of columns errors are passed on
here; to all columns after the block they go as one matrix product, which takes nearly all of the arithmetic.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from core.gptq import sweep

BLOCK = 64
"""Columns of a block."""
STRIP = 128
"""Rows that are worked on together: with a block's columns 32 KiB."""


def _strips(left: Any, errors: Any, signs: Any, upper: Any, row: Any, column: Any, first: int, last: int) -> None:
    """Rows `first` to `last` of one block: from left (columns, rows) signs (planes, columns, rows) and errors (columns, rows).

    upper (columns, columns): the block's own part of the factor; row (planes, rows), column (columns,): sizes of scales.
    """
    columns, planes = left.shape[0], signs.shape[0]
    # A copy: in the whole, columns may lie a power of two apart, and all fall into the same few lines of a cache.
    work = np.empty((columns, STRIP), np.float32)
    for at in range(first, last, STRIP):
        count = min(STRIP, last - at)
        for j in range(columns):
            for r in range(count):
                work[j, r] = left[j, at + r]
        for j in range(columns):
            own, inverse = column[j], 1 / upper[j, j]
            for p in range(planes):
                for r in range(count):
                    value = work[j, r]
                    sign = np.float32(-1) if value < 0 else np.float32(1)
                    signs[p, j, at + r] = sign
                    work[j, r] = value - sign * (row[p, at + r] * own)
            for r in range(count):
                work[j, r] *= inverse
                errors[j, at + r] = work[j, r]
            for k in range(j + 1, columns):
                share = upper[j, k]
                for r in range(count):
                    work[k, r] -= share * work[j, r]


@cache
def _kernel() -> Any:
    # Of all that "fast" arithmetic allows, only a * b + c in one step: no sum changes its order.
    try:
        return njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")(_strips)
    except RuntimeError:                               # neither this folder nor the user's cache folder can be written
        return njit(nogil=True, fastmath={"contract"}, error_model="numpy")(_strips)


def choose_signs(target: Tensor, factor: tuple[Tensor, Tensor], row: Tensor, column: Tensor | None = None) -> Tensor:
    """Signs +-1 (planes, rows, n) FP32 for a target (rows, n) under the metric that `factor` is of.

    The approximation is sum_p signs[p] * row[p] x column, row (planes, rows), column (n,) or ones; scales count by their
    size. Planes are chosen one after the other within each column: the nearest value, where the first plane is the
    largest. `factor` is of `core.gptq.inverse_factor`. Deterministic for a given number of threads.
    """
    n = target.shape[1]
    row = row.abs().float().contiguous()
    column = torch.ones(n, dtype=torch.float32, device=target.device) if column is None else column.abs().float()
    if target.device.type != "cpu":
        return _with_torch(target, factor, row, column)
    order, upper = factor
    left = target.T[order].float().contiguous()        # (n, rows)
    column = column[order].contiguous()
    found = torch.empty(len(row), n, len(target), dtype=torch.int8)
    errors = torch.empty(min(BLOCK, n), len(target), dtype=torch.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        own = errors[:stop - start]
        _run(left[start:stop], own, found[:, start:stop], upper[start:stop, start:stop].contiguous(), row, column[start:stop])
        if stop < n:
            left[stop:].addmm_(upper[start:stop, stop:].T, own, alpha=-1)
    signs = torch.empty_like(found)
    signs[:, order] = found
    return signs.transpose(1, 2).float().contiguous()


def _run(*tensors: Tensor) -> None:
    """One block, its rows shared out among threads."""
    rows = tensors[0].shape[1]
    kernel = _kernel()
    arrays: list[Any] = [t.numpy() for t in tensors]
    threads = max(1, min(torch.get_num_threads(), rows // (2 * STRIP)))
    if threads == 1:
        kernel(*arrays, 0, rows)
        return
    step = -(-rows // (threads * STRIP)) * STRIP
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda at: kernel(*arrays, at, min(at + step, rows)), range(0, rows, step)))


def _with_torch(target: Tensor, factor: tuple[Tensor, Tensor], row: Tensor, column: Tensor) -> Tensor:
    """The same by `core.gptq.sweep`, on any device."""
    signs = torch.empty(len(row), *target.shape, dtype=torch.float32, device=target.device)

    def grid(left: Tensor, j: int) -> Tensor:
        rest = left
        for plane, sizes in zip(signs, row, strict=True):
            plane[:, j] = torch.where(rest < 0, -1.0, 1.0)
            rest = rest - plane[:, j] * (sizes * column[j])
        return left - rest
    sweep(target, factor, grid)
    return signs

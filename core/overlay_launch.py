"""Running the overlay's CPU kernels: tables for a layer, and threads to work on them.

Numba's parallel loops bring a thread pool of their own, which fights with torch's for the cores (and one of its layers
aborts when two threads launch at once). So a kernel is handed to the OpenMP library that torch has loaded, and runs on
torch's own threads. Where torch uses another library, the caller's thread does the work alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import overlay_kernels as kernels
from core.signs_kernels import handles
from core.vector_ir import FLOATS, TILE

FEW = 16
"""Tokens that a launch takes at most. More are better served by making blocks of weights for torch."""

Table = np.ndarray[Any, np.dtype[np.int64]]

_WORTH_A_CHUNK = 1 << 16
_CHUNKS = 8
"""Weights that make a chunk worth its while, and chunks at most: a few per thread, so that none waits long for another."""


@dataclass(frozen=True)
class Segment:
    """Outputs `start` to `stop` of a layer for one variant: base weights and their scaled signs, in the stored layout.

    weight: (m, n) contiguous; signs: uint8 (planes, m, bytes) or None for the base itself; by_row: FP32 (planes, m);
    by_column: FP32 (planes, n) or None; bias: (outputs,) of the weight's type or None.
    """

    start: int
    stop: int
    weight: Tensor
    bias: Tensor | None
    signs: Tensor | None = None
    by_row: Tensor | None = None
    by_column: Tensor | None = None


@cache
def _openmp() -> Any:
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP library that torch has loaded, or None."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        try:
            start = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return start
    return None


def usable(weight: Tensor) -> bool:
    """Whether the kernels take weights (and activations) like this one."""
    return weight.dtype in FLOATS and handles(weight) and weight.dim() == 2 and weight.is_contiguous()


def launcher(weight: Tensor, by_input: bool) -> Callable[[Table], None]:
    """What runs tables for layers of this shape and type; `by_input` for weights stored (inputs, outputs)."""
    tail = weight.shape[1] % TILE
    left = tail // 8 if tail and tail % 64 == 0 else 8
    kernel = (kernels.by_input if by_input else kernels.by_output)(FLOATS[weight.dtype], left)
    address, alone, start, threads = kernel.address, kernel.ctypes, _openmp(), torch.get_num_threads

    def launch(table: Table) -> None:
        count = min(threads(), table.item(kernels.CHUNKS))
        if count == 1 or start is None:
            alone(table.ctypes.data)
        else:
            start(address, table.ctypes.data, count, 0)

    return launch


def make_table(segments: Sequence[tuple[Segment, Tensor]], outputs: int, inputs: int, width: int, tokens: int,
               by_input: bool) -> Table:
    """The launch of a layer for `tokens` tokens, all but the addresses of x and y.

    segments: with the indices (k,) I64 of the tokens that each is for; width: elements from one token's outputs to the
    next's. Whoever keeps the table must keep the segments and indices too.
    """
    chunks, span = _cut(outputs, inputs, by_input)
    table = np.zeros(kernels.HEADER + kernels.SEGMENT * len(segments), np.int64)
    table[kernels.CHUNKS], table[kernels.SPAN], table[kernels.OUTPUTS], table[kernels.INPUTS] = chunks, span, outputs, inputs
    table[kernels.TOKENS], table[kernels.WIDTH], table[kernels.SEGMENTS] = tokens, width, len(segments)
    for (segment, rows), at in zip(segments, range(kernels.HEADER, len(table), kernels.SEGMENT), strict=True):
        table[at + kernels.START], table[at + kernels.STOP] = segment.start, segment.stop
        table[at + kernels.ROWS], table[at + kernels.COUNT] = rows.data_ptr(), len(rows)
        table[at + kernels.WEIGHT] = segment.weight.data_ptr()
        table[at + kernels.BIAS] = 0 if segment.bias is None else segment.bias.data_ptr()
        if segment.signs is None or segment.by_row is None:
            continue
        table[at + kernels.PLANES], table[at + kernels.BITS] = len(segment.signs), segment.signs.data_ptr()
        table[at + kernels.BITS_STEP] = segment.signs.stride(0)
        table[at + kernels.BY_ROW], table[at + kernels.BY_ROW_STEP] = segment.by_row.data_ptr(), segment.by_row.stride(0) * 4
        if segment.by_column is not None:
            table[at + kernels.BY_COLUMN] = segment.by_column.data_ptr()
            table[at + kernels.BY_COLUMN_STEP] = segment.by_column.stride(0) * 4
    return table


def _cut(outputs: int, inputs: int, by_input: bool) -> tuple[int, int]:
    """(chunks, outputs per chunk)."""
    if by_input:
        return -(-outputs // TILE), TILE
    chunks = max(1, min(_CHUNKS, outputs * inputs // _WORTH_A_CHUNK, outputs // 8))
    span = -(-outputs // chunks)
    return -(-outputs // span), span

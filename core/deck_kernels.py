"""CPU kernels of a merged switch: many parameters written from base, signs and scales in one go.

A switch is a few lists of jobs, each a table of 64-bit integers with `FIELDS` entries a job, and one compiled kernel per
list. Threads take one job after the other from a counter until none is left, without the interpreter and without waiting
for each other. Addresses in the tables are not checked; whoever keeps a table keeps what it points to.

What is written is past the caches where alignment permits: a model is larger than they are, and a plain store first reads
the line that it overwrites. Sums are those of `core.signs.add_signs`, bit for bit: base plus plane after plane in FP32,
rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from core.vector_ir import (
    BF16,
    F32,
    FLOATS,
    I8,
    INT8,
    RUN,
    SIZES,
    STREAM_ALIGNMENT,
    TILE,
    compiled,
    fence,
    further,
    index,
    load,
    load_floats,
    prefetch,
    procedure,
    signed_single,
    splat,
    store,
    store_floats,
    take,
    tile_signs,
    version,
)

FIELDS = 10
A, B, ROWS, COLUMNS, BITS, BITS_STEP, BY_ROW, BY_ROW_STEP, BY_COLUMN, BY_COLUMN_STEP = range(FIELDS)
"""A job: addresses of base and parameter, rows, columns (of a copy: one row, and bytes), address of the signs of plane 0, of
its FP32 scales by stored row and by stored column (0: none), each with the bytes from one plane to the next."""

_JOB_BYTES = 1 << 20
"""Bytes written by a job: small enough that no thread waits long for another's last one."""
_NO_MORE = 1 << 62
_QUICK_FROM = 1 << 17
"""Bytes written from which a matrix gets a kernel made for its width."""
_BYTES_PER_THREAD = 4 << 20
"""Below this a thread costs more than it saves."""

Table = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Spec:
    """Which kernel a job needs. `planes` 0 is a copy of bytes; `left`: bytes of signs in a row's last, narrower tile."""

    kind: int
    planes: int = 0
    columnwise: bool = False
    left: int = 0
    streaming: bool = False


# ------------------------------------------------------------------------------------------------- steps
def _type_sum(_: Any, a: Any, b: Any, bits: Any, bits_step: Any, row: Any, row_step: Any, column: Any, column_step: Any,
              kind: Any, planes: Any, columnwise: Any, stride: Any, streaming: Any) -> Any:
    """A tile of `stride` bytes of signs: b = round(a + sum over planes of sign * row scale * column scale)."""
    def emit(builder: Any, a: Any, b: Any, bits: Any, bits_step: Any, row: Any, row_step: Any, column: Any, column_step: Any,
             kind: int, planes: int, columnwise: int, stride: int, streaming: int) -> None:
        scales, columns, flips = [], [], []
        for _ in range(planes):
            scales.append(splat(builder, builder.extract_element(load(builder, row, F32, 1), INT8(0)), RUN))
            columns.append(column)
            flips.append([flip for _, flip in tile_signs(load(builder, bits, I8, stride), stride)])
            row, column, bits = (builder.add(at, step) for at, step in
                                 ((row, row_step), (column, column_step), (bits, bits_step)))
        for k in range(8 * stride // RUN):
            at = k * RUN * SIZES[kind]
            prefetch(builder, further(builder, a, at), RUN * SIZES[kind])
            value = load_floats(builder, further(builder, a, at), kind, RUN)
            for p in range(planes):
                change = scales[p]
                if columnwise:
                    by_column = load(builder, further(builder, columns[p], k * RUN * 4), F32, RUN)
                    change = builder.fmul(change, by_column)
                value = builder.fadd(value, flips[p][k](builder, change))
            # A bf16 NaN ends in 16 zero bits, so rounding can't carry it over into something else.
            exact = kind == BF16 and planes == 1
            store_floats(builder, value, further(builder, b, at), kind, RUN, bool(streaming), check_nan=not exact)
    return procedure(emit, 8, (kind, planes, columnwise, stride, streaming))


def _type_sum_one(_: Any, a: Any, b: Any, bits: Any, bits_step: Any, row: Any, row_step: Any, column: Any, column_step: Any,
                  plane: Any, kind: Any, planes: Any, columnwise: Any) -> Any:
    """The same of one element, whose sign is bit `plane` of the byte at `bits`."""
    def emit(builder: Any, a: Any, b: Any, bits: Any, bits_step: Any, row: Any, row_step: Any, column: Any, column_step: Any,
             plane: Any, kind: int, planes: int, columnwise: int) -> None:
        value = load_floats(builder, a, kind, 1)
        for _ in range(planes):
            change = load(builder, row, F32, 1)
            if columnwise:
                change = builder.fmul(change, load(builder, column, F32, 1))
            byte = builder.load(builder.inttoptr(bits, INT8.as_pointer()))
            value = builder.fadd(value, signed_single(builder, change, byte, plane))
            row, column, bits = (builder.add(at, step) for at, step in
                                 ((row, row_step), (column, column_step), (bits, bits_step)))
        store_floats(builder, value, b, kind, 1, check_nan=kind != BF16 or planes > 1)
    return procedure(emit, 9, (kind, planes, columnwise))


def _type_copy(_: Any, a: Any, b: Any, size: Any, streaming: Any) -> Any:
    """`size` bytes from a to b, as they are."""
    def emit(builder: Any, a: Any, b: Any, size: int, streaming: int) -> None:
        if size == TILE:
            prefetch(builder, a, size)
        store(builder, load(builder, a, I8, size), b, bool(streaming))
    return procedure(emit, 2, (size, streaming))


_sum: Any = intrinsic(prefer_literal=True)(_type_sum)
_sum_one: Any = intrinsic(prefer_literal=True)(_type_sum_one)
_copy: Any = intrinsic(prefer_literal=True)(_type_copy)


# ----------------------------------------------------------------------------------------------- kernels
def _sums(kind: int, planes: int, columnwise: int, left: int, streaming: int) -> Callable[..., None]:
    size, narrow = SIZES[kind], left or 8              # 8: of a branch that is not taken

    def jobs(table: int, counter: int, count: int) -> None:
        while True:
            i = take(counter)
            if i >= count:
                break
            at = table + i * FIELDS * 8
            rows, columns = index(at, ROWS), index(at, COLUMNS)
            bits_step, row_step, column_step = index(at, BITS_STEP), index(at, BY_ROW_STEP), index(at, BY_COLUMN_STEP)
            tiles = columns // TILE
            done = tiles * TILE
            stride = (columns - done + 7) // 8
            for r in range(rows):
                a, b = index(at, A) + r * columns * size, index(at, B) + r * columns * size
                bits, row = index(at, BITS) + r * (tiles * RUN + stride), index(at, BY_ROW) + r * 4
                column = index(at, BY_COLUMN)
                for _ in range(tiles):
                    _sum(a, b, bits, bits_step, row, row_step, column, column_step, kind, planes, columnwise, RUN, streaming)
                    a += TILE * size
                    b += TILE * size
                    bits += RUN
                    column += TILE * 4
                if left:
                    _sum(a, b, bits, bits_step, row, row_step, column, column_step, kind, planes, columnwise, narrow, streaming)
                    continue
                for c in range(columns - done):
                    _sum_one(a + c * size, b + c * size, bits + c % stride, bits_step, row, row_step, column + c * 4,
                             column_step, c // stride, kind, planes, columnwise)
        if streaming:
            fence()

    return jobs


def _copies(streaming: int) -> Callable[..., None]:
    def jobs(table: int, counter: int, count: int) -> None:
        while True:
            i = take(counter)
            if i >= count:
                break
            at = table + i * FIELDS * 8
            a, b, left = index(at, A), index(at, B), index(at, COLUMNS)
            while left >= TILE:
                _copy(a, b, TILE, streaming)
                a += TILE
                b += TILE
                left -= TILE
            while left >= 8:
                _copy(a, b, 8, 0)
                a += 8
                b += 8
                left -= 8
            while left:
                _copy(a, b, 1, 0)
                a += 1
                b += 1
                left -= 1
        if streaming:
            fence()

    return jobs


@cache
def kernel(spec: Spec) -> Any:
    """Compiled for a spec: (address of a table, address of its counter, number of jobs); waits for no one."""
    how = (int(spec.columnwise), spec.left, int(spec.streaming))
    jobs = _sums(spec.kind, spec.planes, *how) if spec.planes else _copies(how[2])
    name = f"jobs_{spec.kind}_{spec.planes}_{how[0]}_{how[1]}_{how[2]}_{version()}"
    return compiled(njit, jobs, name, types.void(types.int64, types.int64, types.int64), nogil=True)


# -------------------------------------------------------------------------------------------------- jobs
def _streams(*numbers: int) -> bool:
    return all(n % STREAM_ALIGNMENT == 0 for n in numbers)


def _cut(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of each job."""
    step = max(1, _JOB_BYTES // max(1, row_bytes))
    for first in range(0, rows, step):
        yield first, min(step, rows - first)


def copy_jobs(source: Tensor, target: Tensor) -> tuple[Spec, Table]:
    """Jobs that make `target` a copy of `source`: both contiguous, of one type and size, in this machine's memory."""
    a, b, size = source.data_ptr(), target.data_ptr(), target.nbytes
    streaming = _streams(b) and size >= TILE
    table = np.zeros((-(-size // _JOB_BYTES), FIELDS), np.int64)
    for job, (first, count) in zip(table, _cut(size, 1), strict=True):
        job[[A, B, ROWS, COLUMNS]] = a + first, b + first, 1, count
    return Spec(I8, streaming=streaming), table


def sum_jobs(base: Tensor, target: Tensor, signs: Sequence[Tensor], by_row: Tensor,
             by_column: Tensor | None) -> tuple[Spec, Table]:
    """Jobs that make `target` (m, n) the sum of `base` and its planes.

    base, target: contiguous, of one type out of BF16, F16, F32; signs: contiguous uint8 (m, ceil(n / 8)) per plane, equally
    far apart; by_row: FP32 (planes, m); by_column: FP32 (planes, n) or None. Scales must stay where they are.
    """
    (m, n), width, kind = target.shape, signs[0].shape[1], FLOATS[target.dtype]
    bits_step = signs[1].data_ptr() - signs[0].data_ptr() if len(signs) > 1 else 0
    row_bytes = n * SIZES[kind]
    tail = n % TILE
    streaming = tail % RUN == 0 and target.nbytes >= _QUICK_FROM and _streams(target.data_ptr(), row_bytes)
    left = tail // 8 if streaming else 0
    pieces = list(_cut(m, row_bytes))
    table = np.zeros((len(pieces), FIELDS), np.int64)
    for job, (first, count) in zip(table, pieces, strict=True):
        job[:] = (base.data_ptr() + first * row_bytes, target.data_ptr() + first * row_bytes, count, n,
                  signs[0].data_ptr() + first * width, bits_step, by_row.data_ptr() + first * 4, by_row.stride(0) * 4,
                  0 if by_column is None else by_column.data_ptr(), 0 if by_column is None else by_column.stride(0) * 4)
    return Spec(kind, len(signs), by_column is not None, left, streaming), table


def run(lists: Sequence[tuple[Spec, Table]]) -> None:
    """Do all jobs, on at most as many threads as torch uses. Kernels that are not compiled yet are first."""
    counters = np.zeros(len(lists), np.int64)
    ready = [(kernel(spec), table.ctypes.data, counters.ctypes.data + 8 * i, len(table))
             for i, (spec, table) in enumerate(lists)]
    written = sum(int((t[:, ROWS] * t[:, COLUMNS]).sum()) * SIZES[spec.kind] for spec, t in lists)

    def work() -> None:
        for jobs, table, counter, count in ready:
            jobs(table, counter, count)

    threads = max(1, min(torch.get_num_threads(), written // _BYTES_PER_THREAD))
    if threads == 1:
        work()
        return
    # Plain threads: OpenMP's would spin beside another busy process, and Numba's own don't stand two launches at once.
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        try:
            work()
        except BaseException:                          # an interruption: the others are to stop too
            counters[:] = _NO_MORE
            raise
    for other in others:
        other.result()

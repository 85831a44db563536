"""The CPU kernels under `core.signs`: one loop nest over the sign layout, four things to do at each step.

A step handles one bit plane of one run: `lanes` consecutive columns, whose signs are bit `plane` of as many
consecutive bytes. Steps are written as LLVM vector IR (see core.vector_ir). Among them are stores that bypass the
caches: a weight matrix that is written once and not read soon gains nothing from the caches, but a plain store
first reads the line it overwrites.

Rows are shared out among short-lived threads, not Numba's parallel loops: its default layer kills the process
when two threads launch at once, and OpenMP threads wait for each other by spinning, which is slow beside
another busy process. Kernels release the interpreter lock, so plain threads do as well and need no lock.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

from core.vector_ir import (
    BF16,
    F32,
    FLOAT,
    FLOATS,
    I8,
    INT8,
    INT32,
    NOTHING,
    RUN,
    SIZES,
    STREAM_ALIGNMENT,
    TILE,
    compiled,
    constant,
    fence,
    load,
    load_floats,
    place,
    prefetch,
    splat,
    store_floats,
    version,
)

# What a step does. `a` is read; `b` is read by COMPARE and written by ADD and UNPACK.
ADD = 1  # b = a + sign * row_scale * column_scale
COMPARE = 2  # sign bit = b < a
COLLECT = 3  # sign bit = a (one byte per truth value)
UNPACK = 4  # b = sign

# How the elements of `a` and `b` are stored; truth values are a byte each.
KINDS = {**FLOATS, torch.int8: I8, torch.bool: I8}

_STREAM_FROM = 4 << 20  # bytes written; less than that may well be read again while still in the cache
_BYTES_PER_THREAD = 4 << 20  # below this a thread costs more than it saves
_PARTS_PER_THREAD = 4  # smaller parts let a free thread take over from one that lost its core


def _apply_signs(builder: Any, value: Any, packed: Any, plane: Any, lanes: int) -> Any:
    """Flip the sign of those lanes of `value` whose bit `plane` is set."""
    integers = ir.VectorType(INT32, lanes)
    bits = builder.zext(load(builder, packed, I8, lanes), integers)
    up = builder.sub(ir.Constant(INT32, 31), builder.trunc(plane, INT32))  # from bit `plane` to the sign bit
    signs = builder.and_(builder.shl(bits, splat(builder, up, lanes)), constant(INT32, lanes, 1 << 31))
    flipped = builder.xor(builder.bitcast(value, integers), signs)
    return builder.bitcast(flipped, ir.VectorType(FLOAT, lanes))


def _set_plane(builder: Any, truth: Any, packed: Any, plane: Any, lanes: int) -> None:
    """Set bit `plane` where `truth` holds, in bytes that start as zero."""
    bits = builder.zext(truth, ir.VectorType(INT8, lanes))
    bits = builder.shl(bits, splat(builder, builder.trunc(plane, INT8), lanes))
    bits = builder.or_(bits, load(builder, packed, I8, lanes))
    builder.store(bits, place(builder, packed, INT8, lanes), align=1)


def _emit_step(
    builder: Any,
    arguments: Sequence[Any],
    step: int,
    a_kind: int,
    b_kind: int,
    columnwise: bool,
    streaming: bool,
    lanes: int,
) -> None:
    a, b, packed, plane, row_scale, column_scale = arguments
    if step == COMPARE:
        base, tuned = load_floats(builder, a, a_kind, lanes), load_floats(builder, b, b_kind, lanes)
        _set_plane(builder, builder.fcmp_ordered("<", tuned, base), packed, plane, lanes)
    elif step == COLLECT:
        truth = builder.icmp_unsigned("!=", load(builder, a, I8, lanes), constant(INT8, lanes, 0))
        _set_plane(builder, truth, packed, plane, lanes)
    elif step == UNPACK:
        ones = ir.Constant(ir.VectorType(FLOAT, lanes), [1.0] * lanes)
        signs = _apply_signs(builder, ones, packed, plane, lanes)
        store_floats(builder, signs, b, b_kind, lanes, streaming)
    else:
        if lanes == RUN:
            prefetch(builder, a, lanes * SIZES[a_kind])
        row = builder.load(builder.inttoptr(row_scale, FLOAT.as_pointer()), align=1)
        change = splat(builder, row, lanes)
        if columnwise:
            change = builder.fmul(change, load(builder, column_scale, F32, lanes))
        change = _apply_signs(builder, change, packed, plane, lanes)
        total = builder.fadd(load_floats(builder, a, a_kind, lanes), change)
        # A bf16 NaN ends in 16 zero bits, so rounding can't carry it over into something else.
        store_floats(builder, total, b, b_kind, lanes, streaming, check_nan=a_kind != BF16)


def _type_step(
    typing_context: Any,
    a: Any,
    b: Any,
    packed: Any,
    plane: Any,
    row_scale: Any,
    column_scale: Any,
    step: Any,
    a_kind: Any,
    b_kind: Any,
    columnwise: Any,
    streaming: Any,
    lanes: Any,
) -> Any:
    """For Numba: the types of one step's arguments, and the function that emits its code.

    The first six are addresses and a bit number, known at run time; the others are literals.
    """
    literals = (step, a_kind, b_kind, columnwise, streaming, lanes)
    values = [literal.literal_value for literal in literals]

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        _emit_step(builder, arguments[:6], *values)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, *literals), emit


_step: Any = intrinsic(prefer_literal=True)(_type_step)

# -------------------------------------------------------------------------------------------- kernels
@cache
def _kernel(step: int, a_kind: int, b_kind: int, columnwise: int, streaming: int) -> Callable[..., None]:
    """The loop nest for one step and pair of kinds; compiled at its first call, then found in the cache."""
    a_size, b_size = SIZES[a_kind], SIZES[b_kind]
    # Column scales of a wide row don't stay in the first-level cache; two rows at a time halve their traffic.
    together = 2 if columnwise else 1

    def rows(a: int, b: int, packed: int, row_scale: int, column_scale: int, first: int, last: int, columns: int) -> None:
        tiles = columns // TILE
        stride = (columns - tiles * TILE + 7) // 8
        width = tiles * RUN + stride
        for top in range(first, last, together):
            bottom = min(top + together, last)
            for tile in range(tiles):
                for row in range(top, bottom):
                    r = row_scale + row * 4
                    bits = packed + row * width + tile * RUN
                    for plane in range(8):
                        column = tile * TILE + plane * RUN
                        c = column_scale + column * 4
                        x = a + (row * columns + column) * a_size
                        y = b + (row * columns + column) * b_size
                        _step(x, y, bits, plane, r, c, step, a_kind, b_kind, columnwise, streaming, RUN)
            for row in range(top, bottom):
                r = row_scale + row * 4
                for plane in range(8):
                    bits = packed + row * width + tiles * RUN
                    column = tiles * TILE + plane * stride
                    end = min(column + stride, columns)
                    while column < end:
                        c = column_scale + column * 4
                        x = a + (row * columns + column) * a_size
                        y = b + (row * columns + column) * b_size
                        if column + 8 <= end:
                            _step(x, y, bits, plane, r, c, step, a_kind, b_kind, columnwise, 0, 8)
                            bits += 8
                            column += 8
                        else:
                            _step(x, y, bits, plane, r, c, step, a_kind, b_kind, columnwise, 0, 1)
                            bits += 1
                            column += 1
        if streaming:
            fence()

    name = f"rows_{step}{a_kind}{b_kind}{columnwise}{streaming}_{version()}"
    kernel: Callable[..., None] = compiled(njit, rows, name, nogil=True)
    return kernel


@cache
def _converts_f16() -> bool:
    """Whether f16 conversion is an instruction here; if not, LLVM calls a routine that may be missing."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(binding.get_host_cpu_features().get("f16c", False))
    return platform.machine().lower() in ("aarch64", "arm64")


def handles(*tensors: torch.Tensor) -> bool:
    """Whether the kernels can work on all of these tensors (device and element type)."""
    return all(t.device.type == "cpu" and t.dtype in KINDS and (t.dtype != torch.float16 or _converts_f16()) for t in tensors)


def run(
    step: int,
    packed: torch.Tensor,
    columns: int,
    a: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    row_scale: torch.Tensor | None = None,
    column_scale: torch.Tensor | None = None,
) -> None:
    """Do `step` over all rows.

    Not checked here: every tensor is contiguous and of fitting shape, and `handles` holds for `a` and `b`.
    a, b: (rows, columns); packed: uint8 (rows, ceil(columns / 8)); row_scale: f32 (rows,), needed by ADD;
    column_scale: f32 (columns,) or None for ones. Uses at most `torch.get_num_threads()` threads.
    """
    rows = packed.shape[0]
    kinds = [NOTHING if t is None else KINDS[t.dtype] for t in (a, b)]
    addresses = [0 if t is None else t.data_ptr() for t in (a, b, packed, row_scale, column_scale)]
    written = rows * columns * SIZES[kinds[1]] if step in (ADD, UNPACK) else 0
    aligned = (addresses[1] | columns * SIZES[kinds[1]]) % STREAM_ALIGNMENT == 0
    streaming = written >= _STREAM_FROM and aligned
    kernel = _kernel(step, *kinds, int(column_scale is not None), int(streaming))

    moved = rows * columns * sum(SIZES[kind] for kind in kinds)
    threads = max(1, min(torch.get_num_threads(), moved // _BYTES_PER_THREAD, rows))
    if threads == 1:
        kernel(*addresses, 0, rows, columns)
        return
    count = min(rows, threads * _PARTS_PER_THREAD)
    parts = itertools.pairwise([rows * part // count for part in range(count + 1)])

    def work() -> None:
        for first, last in parts:  # one iterator for all: whoever is free takes the next part
            kernel(*addresses, first, last, columns)

    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        work()
    for other in others:
        other.result()

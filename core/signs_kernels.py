"""The CPU kernels under `core.signs`: one loop nest over the sign layout, four things to do at each step.

A step handles one bit plane of one run: `lanes` consecutive columns, whose signs are bit `plane` of as many
consecutive bytes. Steps are written as LLVM vector IR, for two reasons that plain Numba does not cover: bf16
and f16 arithmetic, and stores that bypass the caches. A weight matrix that is written once and not read soon
gains nothing from the caches, but a plain store first reads the line it overwrites. The vector types are
wider than any machine's: LLVM splits them for whatever the processor has (AVX-512, AVX2, SSE, NEON).

Intrinsics and kernels share this file on purpose: Numba's on-disk cache looks only at the kernel's own file
to see whether it is stale.

Rows are shared out among short-lived threads, not Numba's parallel loops: its default layer kills the process
when two threads launch at once, and OpenMP threads wait for each other by spinning, which is slow beside
another busy process. Kernels release the interpreter lock, so plain threads do as well and need no lock.
"""

from __future__ import annotations

import itertools
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

TILE = 512  # columns per tile
RUN = TILE // 8  # columns that share a bit plane within a full tile = bytes per tile

# What a step does. `a` is read; `b` is read by COMPARE and written by ADD and UNPACK.
ADD = 1  # b = a + sign * row_scale * column_scale
COMPARE = 2  # sign bit = b < a
COLLECT = 3  # sign bit = a (one byte per truth value)
UNPACK = 4  # b = sign

# How the elements of `a` and `b` are stored. Plain integers, because Numba compiles them in as literals.
NOTHING, BF16, F16, F32, I8 = 0, 1, 2, 3, 4
KINDS = {torch.bfloat16: BF16, torch.float16: F16, torch.float32: F32, torch.int8: I8, torch.bool: I8}

_INT8, _INT16, _INT32, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()
_STORED = {BF16: _INT16, F16: ir.HalfType(), F32: _FLOAT, I8: _INT8}
_SIZE = {NOTHING: 0, BF16: 2, F16: 2, F32: 4, I8: 1}

_STREAM_FROM = 4 << 20  # bytes written; less than that may well be read again while still in the cache
_STREAM_ALIGNMENT = 64
_AHEAD = 2048  # bytes between what is worked on and what is fetched: measured, 1 to 4 KiB do nearly as well
_BYTES_PER_THREAD = 4 << 20  # below this a thread costs more than it saves
_PARTS_PER_THREAD = 4  # smaller parts let a free thread take over from one that lost its core


# ------------------------------------------------------------------------------------------ vector IR
def _constant(element: Any, lanes: int, value: int) -> Any:
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, undefined, _constant(_INT32, lanes, 0))


def _pointer(builder: Any, address: Any, element: Any, lanes: int) -> Any:
    return builder.inttoptr(address, ir.VectorType(element, lanes).as_pointer())


def _load(builder: Any, address: Any, kind: int, lanes: int) -> Any:
    """`lanes` elements at any address, as they are stored. Mapped files promise no alignment."""
    return builder.load(_pointer(builder, address, _STORED[kind], lanes), align=1)


def _load_floats(builder: Any, address: Any, kind: int, lanes: int) -> Any:
    stored = _load(builder, address, kind, lanes)
    floats = ir.VectorType(_FLOAT, lanes)
    if kind == F32:
        return stored
    if kind == F16:
        return builder.fpext(stored, floats)
    wide = builder.zext(stored, ir.VectorType(_INT32, lanes))
    return builder.bitcast(builder.shl(wide, _constant(_INT32, lanes, 16)), floats)


def _round_to_bf16(builder: Any, value: Any, lanes: int, check_nan: bool) -> Any:
    """FP32 to bf16 bits, to nearest even. In integers: the processor's own instruction flushes subnormals."""
    bits = builder.bitcast(value, ir.VectorType(_INT32, lanes))
    odd = builder.and_(builder.lshr(bits, _constant(_INT32, lanes, 16)), _constant(_INT32, lanes, 1))
    rounded = builder.add(builder.add(bits, _constant(_INT32, lanes, 0x7FFF)), odd)
    if check_nan:
        is_nan = builder.fcmp_unordered("uno", value, value)
        rounded = builder.select(is_nan, _constant(_INT32, lanes, 0x7FC00000), rounded)
    # The upper halves, taken as a shuffle: one instruction for two vectors where shift and truncate are four.
    halves = builder.bitcast(rounded, ir.VectorType(_INT16, 2 * lanes))
    undefined = ir.Constant(halves.type, ir.Undefined)
    upper = [2 * lane + (sys.byteorder == "little") for lane in range(lanes)]
    return builder.shuffle_vector(halves, undefined, ir.Constant(ir.VectorType(_INT32, lanes), upper))


def _store_floats(builder: Any, value: Any, address: Any, kind: int, lanes: int, streaming: bool, check_nan: bool = True) -> None:
    element = _STORED[kind]
    if kind == BF16:
        value = _round_to_bf16(builder, value, lanes, check_nan)
    elif kind == F16:
        value = builder.fptrunc(value, ir.VectorType(element, lanes))
    elif kind == I8:
        value = builder.fptosi(value, ir.VectorType(element, lanes))
    pointer = _pointer(builder, address, element, lanes)
    if streaming:
        store = builder.store(value, pointer, align=_STREAM_ALIGNMENT)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_INT32, 1)]))
    else:
        builder.store(value, pointer, align=1)


def _prefetch(builder: Any, address: Any, size: int) -> None:
    """Ask for the `size` bytes that lie some runs further on. Past the end of a tensor this does nothing."""
    pointer = _INT8.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], signature)
    options = [ir.Constant(_INT32, option) for option in (0, 3, 1)]  # to read, keep in every cache, data
    for offset in range(_AHEAD, _AHEAD + size, 64):
        ahead = builder.add(address, ir.Constant(ir.IntType(64), offset))
        builder.call(fetch, [builder.inttoptr(ahead, pointer), *options])


def _apply_signs(builder: Any, value: Any, packed: Any, plane: Any, lanes: int) -> Any:
    """Flip the sign of those lanes of `value` whose bit `plane` is set."""
    integers = ir.VectorType(_INT32, lanes)
    bits = builder.zext(_load(builder, packed, I8, lanes), integers)
    up = builder.sub(ir.Constant(_INT32, 31), builder.trunc(plane, _INT32))  # from bit `plane` to the sign bit
    signs = builder.and_(builder.shl(bits, _splat(builder, up, lanes)), _constant(_INT32, lanes, 1 << 31))
    flipped = builder.xor(builder.bitcast(value, integers), signs)
    return builder.bitcast(flipped, ir.VectorType(_FLOAT, lanes))


def _set_plane(builder: Any, truth: Any, packed: Any, plane: Any, lanes: int) -> None:
    """Set bit `plane` where `truth` holds, in bytes that start as zero."""
    bits = builder.zext(truth, ir.VectorType(_INT8, lanes))
    bits = builder.shl(bits, _splat(builder, builder.trunc(plane, _INT8), lanes))
    bits = builder.or_(bits, _load(builder, packed, I8, lanes))
    builder.store(bits, _pointer(builder, packed, _INT8, lanes), align=1)


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
        base, tuned = _load_floats(builder, a, a_kind, lanes), _load_floats(builder, b, b_kind, lanes)
        _set_plane(builder, builder.fcmp_ordered("<", tuned, base), packed, plane, lanes)
    elif step == COLLECT:
        truth = builder.icmp_unsigned("!=", _load(builder, a, I8, lanes), _constant(_INT8, lanes, 0))
        _set_plane(builder, truth, packed, plane, lanes)
    elif step == UNPACK:
        ones = ir.Constant(ir.VectorType(_FLOAT, lanes), [1.0] * lanes)
        signs = _apply_signs(builder, ones, packed, plane, lanes)
        _store_floats(builder, signs, b, b_kind, lanes, streaming)
    else:
        if lanes == RUN:
            _prefetch(builder, a, lanes * _SIZE[a_kind])
        row = builder.load(builder.inttoptr(row_scale, _FLOAT.as_pointer()), align=1)
        change = _splat(builder, row, lanes)
        if columnwise:
            change = builder.fmul(change, _load(builder, column_scale, F32, lanes))
        change = _apply_signs(builder, change, packed, plane, lanes)
        total = builder.fadd(_load_floats(builder, a, a_kind, lanes), change)
        # A bf16 NaN ends in 16 zero bits, so rounding can't carry it over into something else.
        _store_floats(builder, total, b, b_kind, lanes, streaming, check_nan=a_kind != BF16)


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


def _type_fence(typing_context: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


_step: Any = intrinsic(prefer_literal=True)(_type_step)
# Stores that bypass the caches are not ordered with others. _fence() makes them so, before anyone reads them.
_fence: Any = intrinsic(_type_fence)


# -------------------------------------------------------------------------------------------- kernels
@cache
def _kernel(step: int, a_kind: int, b_kind: int, columnwise: int, streaming: int) -> Callable[..., None]:
    """The loop nest for one step and pair of kinds; compiled at its first call, then found in the cache."""
    a_size, b_size = _SIZE[a_kind], _SIZE[b_kind]
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
            _fence()

    # A name, and so a cache index, of its own for each: where kernels share one, two processes that compile at the
    # same time can leave the one's code under the other's key, and these differ in nothing that a load checks.
    rows.__qualname__ = f"rows_{step}{a_kind}{b_kind}{columnwise}{streaming}"
    try:
        compiled: Callable[..., None] = njit(nogil=True, cache=True)(rows)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        compiled = njit(nogil=True)(rows)
    return compiled


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
    written = rows * columns * _SIZE[kinds[1]] if step in (ADD, UNPACK) else 0
    aligned = (addresses[1] | columns * _SIZE[kinds[1]]) % _STREAM_ALIGNMENT == 0
    streaming = written >= _STREAM_FROM and aligned
    kernel = _kernel(step, *kinds, int(column_scale is not None), int(streaming))

    moved = rows * columns * sum(_SIZE[kind] for kind in kinds)
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

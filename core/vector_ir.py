"""LLVM vector IR that the CPU kernels share: what plain Numba does not cover (bf16 and f16, stores past the caches).

Vector types are wider than any machine's; LLVM splits them for whatever the processor has (AVX-512, AVX2, SSE, NEON).
Addresses are plain integers. Numba's cache on disk looks at a kernel's own file only, so whoever emits code with this names
his kernels by `version`.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

TILE = 512
RUN = TILE // 8
"""The sign layout: columns of a tile, and columns that share a bit plane = bytes of a tile (see core.signs)."""

# How elements are stored. Plain integers, because Numba compiles them in as literals.
NOTHING, BF16, F16, F32, I8 = 0, 1, 2, 3, 4
FLOATS = {torch.bfloat16: BF16, torch.float16: F16, torch.float32: F32}
SIZES = {NOTHING: 0, BF16: 2, F16: 2, F32: 4, I8: 1}

STREAM_ALIGNMENT = 64
"""Bytes to whose multiples addresses of streaming stores must be aligned."""
_AHEAD = 2048  # bytes between what is worked on and what is fetched: measured, 1 to 4 KiB do nearly as well

INT8, INT16, INT32, INT64, FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
STORED = {BF16: INT16, F16: ir.HalfType(), F32: FLOAT, I8: INT8}


@cache
def version(*files: str) -> int:
    """Of the text of this file and of others that emit or hold code: changes when any of them does."""
    found = 0
    for file in (__file__, *files):
        found = zlib.crc32(Path(file).read_bytes(), found)
    return found


# ------------------------------------------------------------------------------------------- single values
def constant(element: Any, lanes: int, value: float) -> Any:
    """A vector of one value."""
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """A vector of one value that is known at run time."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    return builder.shuffle_vector(first, undefined, constant(INT32, lanes, 0))


def further(builder: Any, address: Any, count: int) -> Any:
    """The address `count` bytes on."""
    return builder.add(address, ir.Constant(INT64, count))


def place(builder: Any, address: Any, element: Any, lanes: int) -> Any:
    """A pointer to a vector at an address."""
    return builder.inttoptr(address, ir.VectorType(element, lanes).as_pointer())


# ----------------------------------------------------------------------------------------- load and store
def load(builder: Any, address: Any, kind: int, lanes: int) -> Any:
    """`lanes` elements at any address, as they are stored. Mapped files promise no alignment."""
    return builder.load(place(builder, address, STORED[kind], lanes), align=1)


def load_floats(builder: Any, address: Any, kind: int, lanes: int) -> Any:
    """`lanes` elements at any address as FP32."""
    stored = load(builder, address, kind, lanes)
    if kind == F32:
        return stored
    if kind == F16:
        return builder.fpext(stored, ir.VectorType(FLOAT, lanes))
    wide = builder.zext(stored, ir.VectorType(INT32, lanes))
    return builder.bitcast(builder.shl(wide, constant(INT32, lanes, 16)), ir.VectorType(FLOAT, lanes))


def bf16_bits(builder: Any, value: Any, lanes: int) -> Any:
    """FP32 bits whose upper halves are the values rounded to bf16, to nearest even; of a NaN they can be anything.

    In integers: the processor's own instruction flushes subnormals.
    """
    bits = builder.bitcast(value, ir.VectorType(INT32, lanes))
    odd = builder.and_(builder.lshr(bits, constant(INT32, lanes, 16)), constant(INT32, lanes, 1))
    return builder.add(builder.add(bits, constant(INT32, lanes, 0x7FFF)), odd)


def _to_bf16(builder: Any, value: Any, lanes: int, check_nan: bool) -> Any:
    rounded = bf16_bits(builder, value, lanes)
    if check_nan:
        is_nan = builder.fcmp_unordered("uno", value, value)
        rounded = builder.select(is_nan, constant(INT32, lanes, 0x7FC00000), rounded)
    # The upper halves, taken as a shuffle: one instruction for two vectors where shift and truncate are four.
    halves = builder.bitcast(rounded, ir.VectorType(INT16, 2 * lanes))
    undefined = ir.Constant(halves.type, ir.Undefined)
    upper = [2 * lane + (sys.byteorder == "little") for lane in range(lanes)]
    return builder.shuffle_vector(halves, undefined, ir.Constant(ir.VectorType(INT32, lanes), upper))


def store(builder: Any, value: Any, address: Any, streaming: bool = False) -> None:
    """Store a vector as it is; `streaming` past the caches, at an aligned address."""
    pointer = builder.inttoptr(address, value.type.as_pointer())
    if streaming:
        stored = builder.store(value, pointer, align=STREAM_ALIGNMENT)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(INT32, 1)]))
    else:
        builder.store(value, pointer, align=1)


def store_floats(builder: Any, value: Any, address: Any, kind: int, lanes: int, streaming: bool = False,
                 check_nan: bool = True) -> None:
    """Store FP32 values rounded to `kind`, to nearest even. Unless `check_nan` is set, NaNs must end in 16 zero bits."""
    if kind == BF16:
        value = _to_bf16(builder, value, lanes, check_nan)
    elif kind == F16:
        value = builder.fptrunc(value, ir.VectorType(STORED[kind], lanes))
    elif kind == I8:
        value = builder.fptosi(value, ir.VectorType(STORED[kind], lanes))
    store(builder, value, address, streaming)


def prefetch(builder: Any, address: Any, size: int) -> None:
    """Ask for the `size` bytes that lie some runs further on. Past the end of a tensor this does nothing."""
    pointer = INT8.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], signature)
    options = [ir.Constant(INT32, option) for option in (0, 3, 1)]  # to read, keep in every cache, data
    for offset in range(_AHEAD, _AHEAD + size, 64):
        builder.call(fetch, [builder.inttoptr(further(builder, address, offset), pointer), *options])


# ------------------------------------------------------------------------------------------------- signs
def signed(builder: Any, value: Any, packed: Any, ones: Sequence[int], lanes: int) -> Any:
    """`value` with its sign flipped in those lanes whose byte of `packed` has the lane's bit of `ones` set."""
    bits = ir.Constant(ir.VectorType(INT8, lanes), [one - 256 if one > 127 else one for one in ones])
    negative = builder.icmp_signed("!=", builder.and_(packed, bits), constant(INT8, lanes, 0))
    return builder.select(negative, builder.fneg(value), value)


def tile_signs(packed: Any, stride: int) -> Iterator[tuple[int, Callable[[Any, Any], Any]]]:
    """The 64-column parts of a tile of `stride` bytes `packed` (64 is a full tile; a multiple of 8 in any case).

    Yields (part, function of a builder and a vector of 64 that flips signs where the part's bits are set).
    """
    for k in range(8 * stride // RUN):
        columns = range(k * RUN, k * RUN + RUN)

        def flip(builder: Any, value: Any, columns: range = columns) -> Any:
            each = packed
            if stride < RUN:                           # column c is bit c // stride of byte c % stride
                spread = ir.Constant(ir.VectorType(INT32, RUN), [c % stride for c in columns])
                each = builder.shuffle_vector(packed, ir.Constant(packed.type, ir.Undefined), spread)
            return signed(builder, value, each, [1 << c // stride for c in columns], RUN)
        yield k, flip


def signed_single(builder: Any, value: Any, byte: Any, plane: Any) -> Any:
    """One value with its sign flipped where bit `plane` (known at run time) of a byte is set."""
    bit = builder.and_(builder.lshr(byte, builder.trunc(plane, INT8)), ir.Constant(INT8, 1))
    return builder.select(builder.icmp_signed("!=", bit, ir.Constant(INT8, 0)), builder.fneg(value), value)


# -------------------------------------------------------------------------------------------- intrinsics
def procedure(emit: Callable[..., None], numbers: int, literals: Sequence[Any], floats: int = 0) -> Any:
    """For Numba: a procedure of `numbers` integers, `floats` FP32 values and literals, and its code."""
    values = [literal.literal_value for literal in literals]

    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        emit(builder, *arguments[:numbers + floats], *values)
        return context.get_dummy_value()

    return types.void(*[types.int64] * numbers, *[types.float32] * floats, *literals), code


def _type_take(_: Any, counter: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], INT64.as_pointer()), ir.Constant(INT64, 1), "monotonic")

    return types.int64(types.int64), code


def _type_index(_: Any, list_: Any, i: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.load(builder.gep(builder.inttoptr(arguments[0], INT64.as_pointer()), [arguments[1]]))

    return types.int64(types.int64, types.int64), code


def _type_fence(_: Any) -> Any:
    return procedure(lambda builder: builder.fence("seq_cst"), 0, ())


take: Any = intrinsic(_type_take)
"""take(counter): the 64-bit value at an address, and one more left there, as one step."""
index: Any = intrinsic(_type_index)
"""index(list, i): entry i of a list of 64-bit integers at an address."""
fence: Any = intrinsic(_type_fence)
"""Streaming stores are not ordered with others. fence() makes them so, before anyone reads them."""


def compiled(how: Any, function: Callable[..., Any], name: str, *signature: Any, **options: Any) -> Any:
    """Compile (`how` is njit or cfunc) with a name, and so a place in the cache, of its own.

    Where kernels share one, two processes that compile at the same time can leave the one's code under the other's key.
    """
    function.__qualname__ = name
    try:
        return how(*signature, cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return how(*signature, **options)(function)

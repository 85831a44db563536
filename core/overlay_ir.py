"""The overlay's steps in LLVM vector IR: what plain Numba does not cover (bf16 and f16, sign bits as lane masks).

Vector types are wider than any machine's; LLVM splits them for whatever the processor has. Addresses are plain integers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

TILE = 512
RUN = TILE // 8
"""The sign layout: columns of a tile, and columns that share a bit plane (see core.signs)."""

BF16, F16, F32 = 1, 2, 3
KINDS = {torch.bfloat16: BF16, torch.float16: F16, torch.float32: F32}
SIZES = {BF16: 2, F16: 2, F32: 4}

VERSION = zlib.crc32(Path(__file__).read_bytes())
"""Of this file's text. Numba's cache on disk looks at the kernels' own file only, so they carry this in their names."""

_I8, _I16, _I32, _I64, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_STORED = {BF16: _I16, F16: ir.HalfType(), F32: _FLOAT}


def _vector(element: Any, lanes: int, value: int) -> Any:
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _vector(_I32, lanes, 0))


def _place(builder: Any, address: Any, element: Any, lanes: int) -> Any:
    return builder.inttoptr(address, ir.VectorType(element, lanes).as_pointer())


def _floats(builder: Any, address: Any, kind: int, lanes: int) -> Any:
    """`lanes` elements at any address as FP32."""
    stored = builder.load(_place(builder, address, _STORED[kind], lanes), align=1)
    if kind == F32:
        return stored
    if kind == F16:
        return builder.fpext(stored, ir.VectorType(_FLOAT, lanes))
    wide = builder.shl(builder.zext(stored, ir.VectorType(_I32, lanes)), _vector(_I32, lanes, 16))
    return builder.bitcast(wide, ir.VectorType(_FLOAT, lanes))


def _rounded(builder: Any, value: Any, kind: int, lanes: int) -> Any:
    """FP32 values rounded to `kind`, to nearest even, as FP32. Weights are finite, so no NaN can turn into another value."""
    if kind == F32:
        return value
    if kind == F16:
        return builder.fpext(builder.fptrunc(value, ir.VectorType(_STORED[F16], lanes)), ir.VectorType(_FLOAT, lanes))
    bits = builder.bitcast(value, ir.VectorType(_I32, lanes))
    odd = builder.and_(builder.lshr(bits, _vector(_I32, lanes, 16)), _vector(_I32, lanes, 1))
    bits = builder.add(builder.add(bits, _vector(_I32, lanes, 0x7FFF)), odd)
    bits = builder.and_(bits, _vector(_I32, lanes, -65536))
    return builder.bitcast(bits, ir.VectorType(_FLOAT, lanes))


def _store(builder: Any, value: Any, address: Any, kind: int, lanes: int) -> None:
    if kind == BF16:
        not_a_number = builder.fcmp_unordered("uno", value, value)
        bits = builder.bitcast(_rounded(builder, value, BF16, lanes), ir.VectorType(_I32, lanes))
        value = builder.trunc(builder.lshr(bits, _vector(_I32, lanes, 16)), ir.VectorType(_I16, lanes))
        value = builder.select(not_a_number, _vector(_I16, lanes, 0x7FC0), value)
    elif kind == F16:
        value = builder.fptrunc(value, ir.VectorType(_STORED[F16], lanes))
    builder.store(value, _place(builder, address, _STORED[kind], lanes), align=1)


def _void(emit: Callable[..., None], numbers: int, literals: Sequence[Any], floats: int = 0) -> Any:
    """For Numba: a procedure of `numbers` integers, `floats` FP32 values and literals, and its code."""
    values = [literal.literal_value for literal in literals]

    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        emit(builder, *arguments[:numbers + floats], *values)
        return context.get_dummy_value()

    return types.void(*[types.int64] * numbers, *[types.float32] * floats, *literals), code


def _signed(builder: Any, value: Any, packed: Any, ones: Sequence[int], lanes: int) -> Any:
    """`value` with its sign flipped in those lanes whose byte of `packed` has the lane's bit of `ones` set."""
    bits = ir.Constant(ir.VectorType(_I8, lanes), [one - 256 if one > 127 else one for one in ones])
    negative = builder.icmp_signed("!=", builder.and_(packed, bits), _vector(_I8, lanes, 0))
    return builder.select(negative, builder.fneg(value), value)


def _tile(builder: Any, source: Any, bits: Any, column: Any, by_row: Any, kind: int, signed: int, columnwise: int, last: int,
          stride: int) -> Iterator[tuple[int, Any]]:
    """The weights of a tile of `stride` bytes of signs (64 is a full tile; a multiple of 8 in any case), 64 lanes at a time.

    Each is round(source + sign * by_row * column scale). `signed` 0 leaves the sum away, `columnwise` 0 the column scale,
    `last` is the kind to round to (0: FP32 stays).
    """
    scale = _splat(builder, by_row, RUN)
    packed: Any = None
    if signed:
        packed = builder.load(_place(builder, bits, _I8, stride), align=1)
    for k in range(8 * stride // RUN):
        value = _floats(builder, _further(builder, source, k * RUN * SIZES[kind]), kind, RUN)
        if signed:
            change = scale
            if columnwise:
                change = builder.fmul(scale, _floats(builder, _further(builder, column, k * RUN * 4), F32, RUN))
            columns = range(k * RUN, k * RUN + RUN)
            bytes_of = packed
            if stride < RUN:                           # column c is bit c // stride of byte c % stride
                spread = ir.Constant(ir.VectorType(_I32, RUN), [c % stride for c in columns])
                bytes_of = builder.shuffle_vector(packed, ir.Constant(packed.type, ir.Undefined), spread)
            value = builder.fadd(value, _signed(builder, change, bytes_of, [1 << c // stride for c in columns], RUN))
        yield k, _rounded(builder, value, last, RUN) if last else value


def _further(builder: Any, address: Any, count: int) -> Any:
    return builder.add(address, ir.Constant(_I64, count))


def _type_make(_: Any, source: Any, bits: Any, column: Any, target: Any, by_row: Any, kind: Any, signed: Any, columnwise: Any,
               last: Any, stride: Any) -> Any:
    """Store a tile of weights (see `_tile`) at `target`, in FP32."""
    def emit(builder: Any, source: Any, bits: Any, column: Any, target: Any, by_row: Any, *how: int) -> None:
        for k, value in _tile(builder, source, bits, column, by_row, *how):
            _store(builder, value, _further(builder, target, k * RUN * 4), F32, RUN)
    return _void(emit, 4, (kind, signed, columnwise, last, stride), 1)


def _type_dot(_: Any, source: Any, bits: Any, column: Any, x: Any, total: Any, by_row: Any, kind: Any, signed: Any,
              columnwise: Any, last: Any, stride: Any) -> Any:
    """total (64 lanes) += x * a tile of weights (see `_tile`)."""
    def emit(builder: Any, source: Any, bits: Any, column: Any, x: Any, total: Any, by_row: Any, *how: int) -> None:
        sums = _floats(builder, total, F32, RUN)
        for k, value in _tile(builder, source, bits, column, by_row, *how):
            values = _floats(builder, _further(builder, x, k * RUN * 4), F32, RUN)
            sums = builder.fadd(sums, builder.fmul(value, values, flags=("contract",)), flags=("contract",))
        _store(builder, sums, total, F32, RUN)
    return _void(emit, 5, (kind, signed, columnwise, last, stride), 1)


def _type_single(_: Any, source: Any, bits: Any, plane: Any, target: Any, change: Any) -> Any:
    """One FP32 weight: source + change, subtracted where bit `plane` of the byte at `bits` is set."""
    def emit(builder: Any, source: Any, bits: Any, plane: Any, target: Any, change: Any) -> None:
        byte = builder.load(builder.inttoptr(bits, _I8.as_pointer()))
        bit = builder.and_(builder.lshr(byte, builder.trunc(plane, _I8)), ir.Constant(_I8, 1))
        chosen = builder.select(builder.icmp_signed("!=", bit, ir.Constant(_I8, 0)), builder.fneg(change), change)
        _store(builder, builder.fadd(_floats(builder, source, F32, 1), _splat(builder, chosen, 1)), target, F32, 1)
    return _void(emit, 4, (), 1)


def _type_multiply(_: Any, weights: Any, x: Any, total: Any, lanes: Any) -> Any:
    """total += weights * x, lane by lane."""
    def emit(builder: Any, weights: Any, x: Any, total: Any, lanes: int) -> None:
        product = builder.fmul(_floats(builder, weights, F32, lanes), _floats(builder, x, F32, lanes), flags=("contract",))
        value = builder.fadd(_floats(builder, total, F32, lanes), product, flags=("contract",))
        _store(builder, value, total, F32, lanes)
    return _void(emit, 3, (lanes,))


def _type_multiply_by(_: Any, weights: Any, total: Any, x: Any, lanes: Any) -> Any:
    """total += weights * x for one value x."""
    def emit(builder: Any, weights: Any, total: Any, x: Any, lanes: int) -> None:
        product = builder.fmul(_floats(builder, weights, F32, lanes), _splat(builder, x, lanes), flags=("contract",))
        value = builder.fadd(_floats(builder, total, F32, lanes), product, flags=("contract",))
        _store(builder, value, total, F32, lanes)
    return _void(emit, 2, (lanes,), 1)


def _type_widen(_: Any, source: Any, target: Any, kind: Any) -> Any:
    """One element as FP32."""
    def emit(builder: Any, source: Any, target: Any, kind: int) -> None:
        _store(builder, _floats(builder, source, kind, 1), target, F32, 1)
    return _void(emit, 2, (kind,))


def _type_put(_: Any, target: Any, value: Any, kind: Any) -> Any:
    """Store one FP32 value as `kind`."""
    def emit(builder: Any, target: Any, value: Any, kind: int) -> None:
        _store(builder, _splat(builder, value, 1), target, kind, 1)
    return _void(emit, 1, (kind,), 1)


def _type_get(_: Any, source: Any, kind: Any) -> Any:
    """One element as FP32."""
    value = kind.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.extract_element(_floats(builder, arguments[0], value, 1), ir.Constant(_I32, 0))

    return types.float32(types.int64, kind), code


def _type_take(_: Any, counter: Any) -> Any:
    """The 64-bit value at an address, and one more left there, as one step."""
    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], _I64.as_pointer()), ir.Constant(_I64, 1), "monotonic")

    return types.int64(types.int64), code


def _type_index(_: Any, list_: Any, i: Any) -> Any:
    """Entry i of a list of 64-bit integers at an address."""
    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.load(builder.gep(builder.inttoptr(arguments[0], _I64.as_pointer()), [arguments[1]]))

    return types.int64(types.int64, types.int64), code


make: Any = intrinsic(prefer_literal=True)(_type_make)
single: Any = intrinsic(_type_single)
multiply: Any = intrinsic(prefer_literal=True)(_type_multiply)
multiply_by: Any = intrinsic(prefer_literal=True)(_type_multiply_by)
dot: Any = intrinsic(prefer_literal=True)(_type_dot)
widen: Any = intrinsic(prefer_literal=True)(_type_widen)
put: Any = intrinsic(prefer_literal=True)(_type_put)
get: Any = intrinsic(prefer_literal=True)(_type_get)
take: Any = intrinsic(_type_take)
index: Any = intrinsic(_type_index)

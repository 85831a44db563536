"""The overlay's steps in vector IR: tiles of weights made from base and signs, multiplied, stored. Addresses are integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from core.vector_ir import (
    BF16,
    F16,
    F32,
    FLOAT,
    I8,
    INT8,
    INT32,
    RUN,
    SIZES,
    STORED,
    bf16_bits,
    constant,
    further,
    load,
    load_floats,
    procedure,
    signed_single,
    splat,
    store_floats,
    tile_signs,
)


def _rounded(builder: Any, value: Any, kind: int, lanes: int) -> Any:
    """FP32 values rounded to `kind`, to nearest even, as FP32. Weights are finite, so no NaN can turn into another value."""
    if kind == F32:
        return value
    if kind == F16:
        return builder.fpext(builder.fptrunc(value, ir.VectorType(STORED[F16], lanes)), ir.VectorType(FLOAT, lanes))
    assert kind == BF16
    bits = builder.and_(bf16_bits(builder, value, lanes), constant(INT32, lanes, -65536))
    return builder.bitcast(bits, ir.VectorType(FLOAT, lanes))


def _tile(builder: Any, source: Any, bits: Any, column: Any, by_row: Any, kind: int, signed: int, columnwise: int, last: int,
          stride: int) -> Iterator[tuple[int, Any]]:
    """The weights of a tile of `stride` bytes of signs (64 is a full tile; a multiple of 8 in any case), 64 lanes at a time.

    Each is round(source + sign * by_row * column scale). `signed` 0 leaves the sum away, `columnwise` 0 the column scale,
    `last` is the kind to round to (0: FP32 stays).
    """
    scale = splat(builder, by_row, RUN)
    packed = load(builder, bits, I8, stride) if signed else None
    for k, flip in tile_signs(packed, stride):
        value = load_floats(builder, further(builder, source, k * RUN * SIZES[kind]), kind, RUN)
        if signed:
            change = scale
            if columnwise:
                change = builder.fmul(scale, load_floats(builder, further(builder, column, k * RUN * 4), F32, RUN))
            value = builder.fadd(value, flip(builder, change))
        yield k, _rounded(builder, value, last, RUN) if last else value


def _type_make(_: Any, source: Any, bits: Any, column: Any, target: Any, by_row: Any, kind: Any, signed: Any, columnwise: Any,
               last: Any, stride: Any) -> Any:
    """Store a tile of weights (see `_tile`) at `target`, in FP32."""
    def emit(builder: Any, source: Any, bits: Any, column: Any, target: Any, by_row: Any, *how: int) -> None:
        for k, value in _tile(builder, source, bits, column, by_row, *how):
            store_floats(builder, value, further(builder, target, k * RUN * 4), F32, RUN)
    return procedure(emit, 4, (kind, signed, columnwise, last, stride), 1)


def _type_dot(_: Any, source: Any, bits: Any, column: Any, x: Any, total: Any, by_row: Any, kind: Any, signed: Any,
              columnwise: Any, last: Any, stride: Any) -> Any:
    """total (64 lanes) += x * a tile of weights (see `_tile`)."""
    def emit(builder: Any, source: Any, bits: Any, column: Any, x: Any, total: Any, by_row: Any, *how: int) -> None:
        sums = load_floats(builder, total, F32, RUN)
        for k, value in _tile(builder, source, bits, column, by_row, *how):
            values = load_floats(builder, further(builder, x, k * RUN * 4), F32, RUN)
            sums = builder.fadd(sums, builder.fmul(value, values, flags=("contract",)), flags=("contract",))
        store_floats(builder, sums, total, F32, RUN)
    return procedure(emit, 5, (kind, signed, columnwise, last, stride), 1)


def _type_single(_: Any, source: Any, bits: Any, plane: Any, target: Any, change: Any) -> Any:
    """One FP32 weight: source + change, subtracted where bit `plane` of the byte at `bits` is set."""
    def emit(builder: Any, source: Any, bits: Any, plane: Any, target: Any, change: Any) -> None:
        chosen = signed_single(builder, change, builder.load(builder.inttoptr(bits, INT8.as_pointer())), plane)
        store_floats(builder, builder.fadd(load_floats(builder, source, F32, 1), splat(builder, chosen, 1)), target, F32, 1)
    return procedure(emit, 4, (), 1)


def _type_multiply(_: Any, weights: Any, x: Any, total: Any, lanes: Any) -> Any:
    """total += weights * x, lane by lane."""
    def emit(builder: Any, weights: Any, x: Any, total: Any, lanes: int) -> None:
        values = load_floats(builder, x, F32, lanes)
        product = builder.fmul(load_floats(builder, weights, F32, lanes), values, flags=("contract",))
        value = builder.fadd(load_floats(builder, total, F32, lanes), product, flags=("contract",))
        store_floats(builder, value, total, F32, lanes)
    return procedure(emit, 3, (lanes,))


def _type_multiply_by(_: Any, weights: Any, total: Any, x: Any, lanes: Any) -> Any:
    """total += weights * x for one value x."""
    def emit(builder: Any, weights: Any, total: Any, x: Any, lanes: int) -> None:
        product = builder.fmul(load_floats(builder, weights, F32, lanes), splat(builder, x, lanes), flags=("contract",))
        value = builder.fadd(load_floats(builder, total, F32, lanes), product, flags=("contract",))
        store_floats(builder, value, total, F32, lanes)
    return procedure(emit, 2, (lanes,), 1)


def _type_widen(_: Any, source: Any, target: Any, kind: Any) -> Any:
    """One element as FP32."""
    def emit(builder: Any, source: Any, target: Any, kind: int) -> None:
        store_floats(builder, load_floats(builder, source, kind, 1), target, F32, 1)
    return procedure(emit, 2, (kind,))


def _type_put(_: Any, target: Any, value: Any, kind: Any) -> Any:
    """Store one FP32 value as `kind`."""
    def emit(builder: Any, target: Any, value: Any, kind: int) -> None:
        store_floats(builder, splat(builder, value, 1), target, kind, 1)
    return procedure(emit, 1, (kind,), 1)


def _type_get(_: Any, source: Any, kind: Any) -> Any:
    """One element as FP32."""
    value = kind.literal_value

    def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.extract_element(load_floats(builder, arguments[0], value, 1), ir.Constant(INT32, 0))

    return types.float32(types.int64, kind), code


make: Any = intrinsic(prefer_literal=True)(_type_make)
single: Any = intrinsic(_type_single)
multiply: Any = intrinsic(prefer_literal=True)(_type_multiply)
multiply_by: Any = intrinsic(prefer_literal=True)(_type_multiply_by)
dot: Any = intrinsic(prefer_literal=True)(_type_dot)
widen: Any = intrinsic(prefer_literal=True)(_type_widen)
put: Any = intrinsic(prefer_literal=True)(_type_put)
get: Any = intrinsic(prefer_literal=True)(_type_get)

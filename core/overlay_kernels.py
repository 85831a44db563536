"""CPU kernels of the overlay: few tokens times the weights of several variants, made from base and sign bits on the fly.

One launch takes a linear layer and all variants that sit on it. Output by output it makes the variant's weights in a
small scratch: base plus scaled signs in FP32, rounded to the model's type. These are the very weights that a merge
writes, bit for bit. It multiplies them with that variant's tokens, summing in FP32, before the base's weights have left
the cache, so they are read from memory once for all variants.

A launch is described by a table of 64-bit integers: a header of `HEADER` fields and a segment of `SEGMENT` fields per
range of outputs that share scales and tokens (see below). Addresses in it are not checked.

Threads that run the same launch take chunks of outputs from a counter in it; see overlay_launch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]
from numba.extending import typeof_impl

from core import overlay_ir
from core.overlay_ir import dot, get, make, multiply, multiply_by, put, single, widen
from core.vector_ir import F32, RUN, SIZES, TILE, compiled, index, take, version

VERSION = version(overlay_ir.__file__)
"""Part of the kernels' names, since Numba's cache would not see what changed in the files that emit their code."""

HEADER, SEGMENT = 16, 16
NEXT, CHUNKS, SPAN, OUTPUTS, INPUTS, X, Y, TOKENS, WIDTH, SEGMENTS = range(10)
"""Header: next chunk, chunks, outputs per chunk, outputs, inputs, x (tokens, inputs), y (tokens, width), tokens, width of
y, segments."""
START, STOP, ROWS, COUNT, WEIGHT, PLANES, BITS, BITS_STEP, BY_ROW, BY_ROW_STEP, BY_COLUMN, BY_COLUMN_STEP, BIAS = range(13)
"""Segment: outputs from and to, which tokens (address of 64-bit indices, count), weight, sign planes, bits of plane 0, bytes
from plane to plane, FP32 scales of the stored matrix's rows, of its columns (0: none), each with its own step, bias."""


# -------------------------------------------------------------------------------------------- kernels
def _compiled(how: Any, function: Callable[..., Any], name: str, *signature: Any, **options: Any) -> Any:
    """Compile with a name that tells of the code's version."""
    return compiled(how, function, f"{name}_{VERSION}", *signature, **options)


class _Part:
    """A kernel that others call, known by its name.

    Numba's cache tells kernels apart by the pickled values that they close over, and a pickled kernel of its own is another
    one in every process: what calls it would never be found again.
    """

    def __init__(self, kernel: Any, name: str) -> None:
        self.kernel, self.name = kernel, name

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return str, (self.name,)


@typeof_impl.register(_Part)
def _type_part(part: _Part, context: Any) -> Any:
    return typeof_impl(part.kernel, context)


def _part(function: Callable[..., Any], name: str) -> Any:
    return _Part(_compiled(njit, function, name, nogil=True), f"{name}_{VERSION}")


@cache
def _fill(kind: int, left: int) -> Any:
    """One tile of one stored row into the scratch, in FP32: the weights of one segment as its variant has them.

    `left`: bytes of a row's last tile if it is to be done in vectors too.
    """
    size, narrow = SIZES[kind], 8 * left

    def fill(table: Any, at: int, row: int, tile: int, columns: int, scratch: int) -> int:
        """Returns how many columns the tile has."""
        begin = tile * TILE
        width = min(TILE, columns - begin)
        stride = (width + 7) // 8
        source = table[at + WEIGHT] + (row * columns + begin) * size
        one = np.float32(1.0)
        if width == TILE:
            make(source, 0, 0, scratch, one, kind, 0, 0, 0, RUN)
        elif width == narrow:
            make(source, 0, 0, scratch, one, kind, 0, 0, 0, left)
        else:
            for j in range(width):
                widen(source + j * size, scratch + j * 4, kind)
        for p in range(table[at + PLANES]):
            bits = table[at + BITS] + p * table[at + BITS_STEP] + row * ((columns + 7) // 8) + tile * RUN
            by_row = get(table[at + BY_ROW] + p * table[at + BY_ROW_STEP] + row * 4, F32)
            by_column = table[at + BY_COLUMN]
            if by_column:
                by_column += p * table[at + BY_COLUMN_STEP] + begin * 4
            if width == TILE and by_column:
                make(scratch, bits, by_column, scratch, by_row, F32, 1, 1, 0, RUN)
            elif width == TILE:
                make(scratch, bits, 0, scratch, by_row, F32, 1, 0, 0, RUN)
            elif width == narrow and by_column:
                make(scratch, bits, by_column, scratch, by_row, F32, 1, 1, 0, left)
            elif width == narrow:
                make(scratch, bits, 0, scratch, by_row, F32, 1, 0, 0, left)
            else:
                for j in range(width):
                    change = by_row * get(by_column + j * 4, F32) if by_column else by_row
                    single(scratch + j * 4, bits + j % stride, j // stride, scratch + j * 4, change)
        if table[at + PLANES] and width == TILE:
            make(scratch, 0, 0, scratch, one, F32, 0, 0, kind, RUN)
        elif table[at + PLANES] and width == narrow:
            make(scratch, 0, 0, scratch, one, F32, 0, 0, kind, left)
        elif table[at + PLANES]:
            for j in range(width):
                put(scratch + j * 4, get(scratch + j * 4, F32), kind)
                widen(scratch + j * 4, scratch + j * 4, kind)
        return width

    return _part(fill, f"fill_{kind}_{left}")


@cache
def _quick(kind: int, left: int) -> Any:
    """One output for one token with at most one plane, without the scratch: as many tiles as vectors take."""
    size, narrow = SIZES[kind], 8 * left

    def quick(table: Any, at: int, row: int, columns: int, x: int, total: int) -> int:
        """Returns how many tiles were added to the total."""
        tiles = columns // TILE
        more = columns - tiles * TILE == narrow
        source, w = table[at + WEIGHT] + row * columns * size, TILE * size
        bits = table[at + BITS] + row * ((columns + 7) // 8)
        c, by_row = table[at + BY_COLUMN], np.float32(1.0)
        if table[at + PLANES] == 0:
            for t in range(tiles):
                dot(source + t * w, 0, 0, x + t * TILE * 4, total, by_row, kind, 0, 0, 0, RUN)
            if more:
                dot(source + tiles * w, 0, 0, x + tiles * TILE * 4, total, by_row, kind, 0, 0, 0, left)
            return tiles + more
        by_row = get(table[at + BY_ROW] + row * 4, F32)
        if c:
            for t in range(tiles):
                dot(source + t * w, bits + t * RUN, c + t * TILE * 4, x + t * TILE * 4, total, by_row, kind, 1, 1, kind, RUN)
            if more:
                t = tiles
                dot(source + t * w, bits + t * RUN, c + t * TILE * 4, x + t * TILE * 4, total, by_row, kind, 1, 1, kind, left)
            return tiles + more
        for t in range(tiles):
            dot(source + t * w, bits + t * RUN, 0, x + t * TILE * 4, total, by_row, kind, 1, 0, kind, RUN)
        if more:
            dot(source + tiles * w, bits + tiles * RUN, 0, x + tiles * TILE * 4, total, by_row, kind, 1, 0, kind, left)
        return tiles + more

    return _part(quick, f"quick_{kind}_{left}")


@cache
def by_output(kind: int, left: int) -> Any:
    """Weights stored (outputs, inputs): each output is a sum along a stored row."""
    size, fill, quick = SIZES[kind], _fill(kind, left), _quick(kind, left)

    def outputs_of(launch: Any) -> None:
        head = carray(launch, (HEADER,), np.int64)
        count = head[SEGMENTS]
        table = carray(launch, (HEADER + SEGMENT * count,), np.int64)
        inputs, tokens = head[INPUTS], head[TOKENS]
        tiles = (inputs + TILE - 1) // TILE
        x = np.empty(tokens * inputs, np.float32)
        for j in range(tokens * inputs):
            widen(head[X] + j * size, x.ctypes.data + j * 4, kind)
        weights = np.empty(TILE, np.float32)
        totals = np.empty((tokens, RUN), np.float32)
        while True:
            chunk = take(head.ctypes.data + NEXT * 8)
            if chunk >= head[CHUNKS]:
                break
            for s in range(count):
                at = HEADER + s * SEGMENT
                rows = table[at + COUNT]
                for i in range(max(chunk * head[SPAN], table[at + START]), min((chunk + 1) * head[SPAN], table[at + STOP])):
                    totals[:rows] = 0.0
                    done = 0
                    if rows == 1 and table[at + PLANES] <= 1:
                        source = x.ctypes.data + index(table[at + ROWS], 0) * inputs * 4
                        done = quick(table, at, i, inputs, source, totals.ctypes.data)
                    for tile in range(done, tiles):
                        width = fill(table, at, i, tile, inputs, weights.ctypes.data)
                        for r in range(rows):
                            source = x.ctypes.data + (index(table[at + ROWS], r) * inputs + tile * TILE) * 4
                            total = totals.ctypes.data + r * RUN * 4
                            j = 0
                            while j + RUN <= width:
                                multiply(weights.ctypes.data + j * 4, source + j * 4, total, RUN)
                                j += RUN
                            while j < width:
                                multiply(weights.ctypes.data + j * 4, source + j * 4, total, 1)
                                j += 1
                    for r in range(rows):
                        result = np.float32(0.0)
                        for j in range(RUN):
                            result += totals[r, j]
                        if table[at + BIAS]:
                            result += get(table[at + BIAS] + i * size, kind)
                        put(head[Y] + (index(table[at + ROWS], r) * head[WIDTH] + i) * size, result, kind)

    return _compiled(cfunc, outputs_of, f"by_output_{kind}_{left}", types.void(types.voidptr), nopython=True)


@cache
def by_input(kind: int, left: int) -> Any:
    """Weights stored (inputs, outputs), as GPT-2's: a chunk is one tile of outputs, summed down the stored rows."""
    size, fill = SIZES[kind], _fill(kind, left)

    def outputs_of(launch: Any) -> None:
        head = carray(launch, (HEADER,), np.int64)
        count = head[SEGMENTS]
        table = carray(launch, (HEADER + SEGMENT * count,), np.int64)
        inputs, outputs, tokens = head[INPUTS], head[OUTPUTS], head[TOKENS]
        weights = np.empty(TILE, np.float32)
        totals = np.empty((tokens, TILE), np.float32)
        while True:
            tile = take(head.ctypes.data + NEXT * 8)
            if tile >= head[CHUNKS]:
                break
            for s in range(count):
                at = HEADER + s * SEGMENT
                rows = table[at + COUNT]
                totals[:rows] = 0.0
                width = 0
                for i in range(inputs):
                    width = fill(table, at, i, tile, outputs, weights.ctypes.data)
                    for r in range(rows):
                        value = get(head[X] + (index(table[at + ROWS], r) * inputs + i) * size, kind)
                        target = totals.ctypes.data + r * TILE * 4
                        j = 0
                        while j + RUN <= width:
                            multiply_by(weights.ctypes.data + j * 4, target + j * 4, value, RUN)
                            j += RUN
                        while j < width:
                            multiply_by(weights.ctypes.data + j * 4, target + j * 4, value, 1)
                            j += 1
                for r in range(rows):
                    token = index(table[at + ROWS], r)
                    for j in range(width):
                        total = totals[r, j]
                        if table[at + BIAS]:
                            total += get(table[at + BIAS] + (tile * TILE + j) * size, kind)
                        put(head[Y] + (token * head[WIDTH] + tile * TILE + j) * size, total, kind)

    return _compiled(cfunc, outputs_of, f"by_input_{kind}_{left}", types.void(types.voidptr), nopython=True)

"""Entropy coding of small whole numbers: an interleaved asymmetric numeral system with a table per class of columns.

Source: Duda, arXiv 1311.2540, section 3.3 (range variant); the interleaving is Giesen's, arXiv 1402.3392. Four states take turns,
so that a processor works on four symbols at a time. The format's text (core/FORMAT.md, `coded`) fixes every step; all
arithmetic is on whole numbers, so that each reader finds the same levels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

BITS = 12
"""Frequencies of a class add up to 2**BITS."""
TOTAL = 1 << BITS
LOW = 1 << 16
"""States stay within [LOW, LOW * 2**16) between symbols."""
LANES = 4
HEADER = 4 * LANES
"""Bytes of the states that a stream begins with."""
CLASSES = 16

Ints = NDArray[Any]


def symbols(tables: Ints) -> tuple[Ints, Ints]:
    """Frequencies and their running sums (classes, 2 Q + 1) of the levels 0, +1, -1, +2, -2 ..., from those of the
    magnitudes (classes, Q + 1)."""
    frequencies = np.concatenate([tables[:, :1], np.repeat(tables[:, 1:], 2, axis=1)], axis=1).astype(np.int64)
    starts = np.cumsum(frequencies, axis=1) - frequencies
    return frequencies, starts


def frequencies_of(counts: Ints) -> Ints:
    """Frequencies int64 (classes, Q + 1) of magnitudes that occur as `counts` (classes, Q + 1) say: f_0 + 2 sum(f_m) = TOTAL.

    What occurs gets at least 1. A class in which nothing occurs is all zeros.
    """
    result = np.zeros_like(counts, dtype=np.int64)
    for k, row in enumerate(counts):
        n = int(row.sum())
        if not n:
            continue
        share = row[1:] * (TOTAL / (2 * n))
        found = np.where(row[1:] > 0, np.maximum(1, np.rint(share)), 0).astype(np.int64)
        while TOTAL - 2 * int(found.sum()) < 2:        # zero keeps a share of its own
            found[int(found.argmax())] -= 1
        result[k, 1:] = found
        result[k, 0] = TOTAL - 2 * int(found.sum())
    return result


def cost(frequencies: Ints) -> NDArray[np.float32]:
    """Bits per magnitude (classes, Q + 1), the sign's included; dear where it has no frequency."""
    bits = np.where(frequencies > 0, BITS - np.log2(np.maximum(frequencies, 1)), BITS + 4.0)
    return bits.astype(np.float32)


@cache
def compiled(function: Callable[..., Any]) -> Any:
    """A kernel, kept on disk where there is a folder for it."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:                               # neither this folder nor the user's cache folder can be written
        return njit(nogil=True, error_model="numpy")(function)


def _encode(levels: Ints, classes: Ints, frequencies: Ints, starts: Ints, words: Ints, states: Ints) -> int:
    """Number of words, written in the order in which they arise: last symbol first."""
    rows, columns = levels.shape
    used = 0
    for t in range(rows * columns - 1, -1, -1):
        j = t % columns
        q = np.int64(levels[t // columns, j])
        symbol = 2 * q - 1 if q > 0 else -2 * q
        f, start = frequencies[classes[j], symbol], starts[classes[j], symbol]
        lane = t & 3
        x = states[lane]
        if x >= f << 20:
            words[used] = x & 0xFFFF
            used += 1
            x >>= 16
        states[lane] = (x // f << 12) + x % f + start
    return used


def encode(levels: Ints, classes: Ints, tables: Ints) -> NDArray[np.uint8]:
    """The stream of int8 levels (rows, columns), row after row; classes (columns,), magnitudes' frequencies `tables`."""
    frequencies, starts = symbols(tables)
    words, states = np.zeros(levels.size + LANES, np.uint16), np.full(LANES, LOW, np.int64)
    used = compiled(_encode)(levels, classes.astype(np.int64), frequencies, starts, words, states)
    return np.concatenate([states.astype("<u4").view(np.uint8), words[:used][::-1].astype("<u2").view(np.uint8)])


def _decode(words: Ints, states: Ints, classes: Ints, slots: Ints, packed: Ints, levels: Ints) -> None:
    rows, columns = levels.shape
    at, end, t = 0, len(words), 0
    for i in range(rows):
        for j in range(columns):
            x = states[t & 3]
            k = classes[j]
            slot = x & 0xFFF
            symbol = slots[k, slot]
            entry = packed[k, symbol]                  # frequency and start in one load
            x = (entry >> 16) * (x >> 12) + slot - (entry & 0xFFFF)
            if x < 65536:
                word = np.int64(words[at]) if at < end else 0
                x = x << 16 | word
                at += 1
            states[t & 3] = x
            levels[i, j] = (symbol + 1) >> 1 if symbol & 1 else -(symbol >> 1)
            t += 1


def decode(stream: Ints, shape: tuple[int, int], classes: Ints, tables: Ints) -> NDArray[np.int8]:
    """int8 levels of `shape`; words that a stream lacks count as 0, so that any bytes give some levels.

    Every class in `classes` must have frequencies that add up to TOTAL.
    """
    frequencies, starts = symbols(tables)
    slots = np.zeros((len(tables), TOTAL), np.uint8)
    for k in range(len(tables)):
        if tables[k].any():
            slots[k] = np.repeat(np.arange(frequencies.shape[1], dtype=np.uint8), frequencies[k])
    states = np.ascontiguousarray(stream[:HEADER]).view("<u4").astype(np.int64)
    body = np.ascontiguousarray(stream[HEADER:HEADER + (len(stream) - HEADER) // 2 * 2])
    levels = np.empty(shape, np.int8)
    compiled(_decode)(body.view("<u2"), states, classes.astype(np.int64), slots, frequencies << 16 | starts, levels)
    return levels

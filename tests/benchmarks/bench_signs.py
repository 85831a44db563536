"""What adding a delta of sign bits costs, as a multiple of a plain copy of the same weights.

Both write a preallocated output with two threads. They take turns, so that whatever else the machine does
meets both alike, and each figure is the median of the ratios of neighbours.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from core.signs import add_signs, row_bytes

_SHAPE = (4096, 14336)  # the MLP of an 8B Llama
_PAIRS = 41
_WARM_UPS = 4
_THREADS = 2
_PAUSE = 0.03  # seconds; torch's OpenMP threads spin for some 10 ms after their work, on the cores that come next
_GOAL = 1.1


def _seconds(work: Callable[[], object]) -> float:
    time.sleep(_PAUSE)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(reference: Callable[[], object], work: Callable[[], object]) -> tuple[float, float]:
    """Median of `work / reference` over neighbouring runs, and the reference's median in seconds."""
    for _ in range(_WARM_UPS):
        reference()
        work()
    pairs = [(_seconds(reference), _seconds(work)) for _ in range(_PAIRS)]
    ratio = statistics.median(ours / theirs for theirs, ours in pairs)
    return ratio, statistics.median(theirs for theirs, _ in pairs)


def run() -> list[dict[str, Any]]:
    """The figures for a row scale, a column scale, and both."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = _SHAPE
    base = torch.randn(_SHAPE, generator=generator).mul_(0.02).to(torch.bfloat16)
    packed = torch.randint(0, 256, (rows, row_bytes(columns)), generator=generator, dtype=torch.uint8)
    row, column = (torch.rand(length, generator=generator) * 1e-3 for length in _SHAPE)
    copied, added = torch.empty_like(base), torch.empty_like(base)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    results = []
    try:
        for name, by_row, by_column in (
            ("row", row, None),
            ("column", None, column),
            ("row x column", row, column),
        ):
            add = partial(add_signs, base, packed, by_row, by_column, added)
            ratio, copy = compare(partial(copied.copy_, base), add)
            results.append(
                {
                    "name": f"add {name} delta to bf16 {rows}x{columns} / plain copy",
                    "value": round(ratio, 3),
                    "unit": "x",
                    "reference": f"torch copy_ {copy * 1e3:.1f} ms, {_THREADS} threads",
                    "goal": _GOAL,
                    "better": "lower",
                }
            )
    finally:
        torch.set_num_threads(threads_before)
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")

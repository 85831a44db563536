"""Round ticks for plots, and how what stands at them is written. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST = 5
"""Ticks on an axis."""
_MANTISSAS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))


def plain_ticks(low: float, high: float, most: int = MOST, *, whole: bool = False) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at most `most`; `whole` allows integers only."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * m for m in (1, 2, 5, 10, 20, 50)):
        if whole and step < 1:
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [round(i * step, 12) for i in range(first, last + 1)]
    return []


def log_ticks(low: float, high: float, most: int = MOST) -> list[float]:
    """Round values within [low, high] (both positive) for a logarithmic axis: as many as fit, at most `most`."""
    if not (0 < low < high < math.inf):
        return []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    best: list[float] = []
    for steps in _MANTISSAS:
        found = [m * 10.0 ** e for e in range(first, last + 1) for m in steps]
        found = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(found) > most:
            if not best:                               # too many decades even so: every second, third...
                best = found[::math.ceil(len(found) / most)]
            break
        best = found
    if len(best) < 3:                                  # less than half a decade: evenly spaced values read better
        plain = [v for v in plain_ticks(low, high, most) if v > 0]
        best = max(best, plain, key=len)
    return best


def tick_text(value: float, others: Sequence[float] = ()) -> str:
    """`0.004`, `150`, `1e-5`; values of one axis have as many decimals as the finest of them."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if others and all(v == 0 or 1e-4 <= abs(v) < 1e6 for v in others) and max(map(abs, others)) < 100 * _least(others):
        return f"{value:,.{max(_decimals(v) for v in others)}f}"
    return f"{value:,.{_decimals(value)}f}"


def loss_text(value: float) -> str:
    """A loss at a curve's end: `0.219`, `0.0044`, `3.1e-5`."""
    if not math.isfinite(value):
        return "–"
    if value >= 0.095:
        return f"{value:.3f}"
    return f"{value:.4f}" if value >= 0.00095 else tick_text(float(f"{value:.2g}"))


def _least(values: Sequence[float]) -> float:
    return min((abs(v) for v in values if v), default=1.0)


def _decimals(value: float) -> int:
    text = f"{value:.6g}"
    return len(text.partition(".")[2]) if "e" not in text else 0

"""Axes of painted charts: round ticks on plain and logarithmic scales, and short words for what stands at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def digits(value: float, most: int = 3) -> str:
    """A positive number with `most` significant digits, none of them idle: `0.13`, `19.3`, `269`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    places = max(0, most - 1 - math.floor(math.log10(abs(value))))
    shown = f"{value:,.{places}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def time_text(seconds: float) -> str:
    """Seconds as `41 ms`, `0.13 s`, `1.92 s`, `12.4 s`: what a load takes."""
    if seconds < 0.0995:
        return f"{digits(1000 * seconds, 2)} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"


def size_tick(count: float) -> str:
    """Bytes at a tick: `20 MB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{digits(count / factor)} {unit}"
    return f"{digits(count)} B"


def linear_ticks(top: float, most: int = 5) -> list[float]:
    """Round values from 0 to at most `top`, no more than `most`."""
    if top <= 0 or not math.isfinite(top):
        return [0.0]
    power = 10.0 ** math.floor(math.log10(top / most))
    for step in (power * m for m in (1, 2, 2.5, 5, 10, 20, 25, 50)):
        if math.floor(top / step * (1 + 1e-9)) + 1 <= most:
            return [i * step for i in range(math.floor(top / step * (1 + 1e-9)) + 1)]
    return [0.0]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from `low` to `high` on a logarithmic scale: 1, 2, 5 or 1, 3 a decade, or whole decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    tried: list[list[float]] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), tuple(range(1, 10)), tuple(m / 10 for m in range(10, 100))):
        values = [m * 10.0 ** e for e in range(first, last + 1) for m in steps]
        tried.append([v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)])
        if len(tried[-1]) > most:
            break
    # Two ticks closer than half of an even share would have their words on top of each other.
    apart = math.log(high / low) / (2 * most)
    roomy = [t for t in tried if len(t) <= most and all(math.log(b / a) >= apart for a, b in pairwise(t))]
    found = max(roomy, key=len, default=tried[0])
    # A coarser step of few ticks is better than a finer one that is uneven, unless it leaves the scale all but bare.
    plain = [t for t in tried[:3] if 3 <= len(t) <= most]
    found = max(plain, key=len) if plain else found
    return found if found and len(found) <= most else tried[0][::math.ceil(len(tried[0]) / most)]


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels: `low` lies at `start`, `high` at `stop`. A logarithmic one takes positive values only."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (self.stop - self.start) * self._share(value)

    def value(self, pixel: float) -> float:
        """The value at a pixel."""
        share = (pixel - self.start) / (self.stop - self.start)
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)

    def _share(self, value: float) -> float:
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def log_range(values: Sequence[float], room: float = 0.12, least: float = 4.0) -> tuple[float, float]:
    """A range for a logarithmic scale: the values with `room` (share of the range) to each side, `least` times wide at least."""
    low, high = min(values), max(values)
    spread = max(math.log(high / low), math.log(least))
    middle = (math.log(low) + math.log(high)) / 2
    half = spread * (0.5 + room)
    return math.exp(middle - half), math.exp(middle + half)

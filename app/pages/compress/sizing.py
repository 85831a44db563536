"""A size or a fidelity as it is asked for: what a text says, what it comes to in bytes, and where a slider stands for it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from app.forecasting import Curve
from app.words import percent, size

CLOSEST = "0.999"
"""The recovery that `as close as possible` asks for: beyond it, bytes buy next to nothing."""
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(x|%|[kmg]?i?b)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What a job is asked for: one of the two, as a request writes it."""

    budget: str = ""
    quality: str = ""

    @property
    def text(self) -> str:
        """As one types it."""
        return self.budget or self.quality


@dataclass(frozen=True)
class Span:
    """Sizes there are for a pair, in bytes of weight files."""

    smallest: int
    largest: int
    signs: int
    full: int

    @property
    def start(self) -> int:
        """Where the slider begins: a sixteenth of what signs take. Smaller ones, next to nothing of the change, can be typed."""
        return max(self.smallest, self.signs // 16)


def read_asked(text: str) -> tuple[Asked, str]:
    """(what a text asks for, why it can't be understood)."""
    found = _TEXT.fullmatch(text)
    number, unit = (float(found[1]), (found[2] or "").lower()) if found is not None else (0.0, "")
    plain = text.strip().replace(" ", "")
    if number > 0 and unit in ("x", *_UNITS):
        return Asked(plain), ""
    if unit == "%" and 0 < number < 100:
        return Asked(quality=f"{number / 100:.6g}"), ""
    if not unit and 0 < number < 1:
        return Asked(quality=plain), ""
    return Asked(), "Write a size like 12x or 900MB, or a recovery like 0.98."


def bytes_of(asked: Asked, span: Span, curve: Curve | None) -> int | None:
    """The bytes that it comes to; None for a fidelity while the curve is not known."""
    if asked.quality:
        return curve.size_for(float(asked.quality)) if curve is not None else None
    found = _TEXT.fullmatch(asked.budget)
    if found is None:
        return None
    unit = (found[2] or "b").lower()
    return int(span.full / float(found[1])) if unit == "x" else int(float(found[1]) * _UNITS[unit])


def problem_of(nbytes: int | None, span: Span) -> str:
    """Why no delta of that size can be made; empty where one can."""
    if nbytes is None or nbytes >= span.smallest:
        return ""
    return f"The smallest delta of this pair takes {size(span.smallest)}."


def times(nbytes: float, full: int, *, up: bool = False) -> str:
    """A size as `12.3x`, in three digits, never below it (`up`: never above it)."""
    ratio = full / max(1.0, nbytes)
    step = 10.0 ** (math.floor(math.log10(ratio)) - 2)
    return f"{(math.ceil if up else math.floor)(ratio / step * (1 - 1e-12 if up else 1 + 1e-12)) * step:.10g}x"


def share_of(nbytes: float, span: Span) -> float:
    """Where a size stands between the ends, 0 to 1, logarithmic."""
    low, high = math.log(max(1, span.start)), math.log(max(2, span.largest))
    return min(1.0, max(0.0, (math.log(max(1.0, nbytes)) - low) / (high - low))) if high > low else 0.0


def size_at(share: float, span: Span) -> float:
    """The size at a place of the slider."""
    low, high = math.log(max(1, span.start)), math.log(max(2, span.largest))
    return math.exp(low + share * (high - low))


def size_words(nbytes: int | None, full: int) -> str:
    """`153 kB, 12.0 x smaller`."""
    return "Size known once predicted" if nbytes is None else f"{size(nbytes)}, {full / max(1, nbytes):,.1f} x smaller"


def fidelity_words(nbytes: int | None, curve: Curve | None) -> str:
    """`Expected recovery 98.2 %, KL 0.0041`."""
    if curve is None or nbytes is None:
        return "Expected fidelity: not predicted yet"
    return f"Expected recovery {percent(curve.recovery(nbytes))}, KL {curve.at(nbytes):.2g}"

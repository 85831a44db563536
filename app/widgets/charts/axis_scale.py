"""What the cells of the axis map are coloured by, and how numbers become colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from PySide6.QtGui import QColor

from app.codings import bits_text, coding_role, strength
from app.theme import Theme
from app.widgets.charts.axis_data import AXES, Cell
from app.widgets.painting import FULL_MARGIN, axis_colour
from app.words import percent, size

UNKNOWN_MARGIN = 0.4 * FULL_MARGIN
"""The strength of an axis that had no rival (a method with one axis only)."""
STEPS = 10
"""Steps of a colour bar."""


@dataclass(frozen=True)
class Mode:
    """One thing to colour by: its name in the menu, what the colour bar says, the value and how it is written."""

    key: str
    name: str
    caption: str
    value: Callable[[Cell], float | None]
    write: Callable[[float], str]


MODES = (
    Mode("margin", "Axis and margin", "How clearly the axis won", lambda c: c.margin, lambda x: percent(x, 0)),
    Mode("codec", "Codec and bits", "Stored bits per weight", lambda c: c.bits, bits_text),
    Mode("recovery", "Recovery", "Recovery, 1 = the fine-tune", lambda c: c.mean("recovery"), lambda x: f"{x:.3g}"),
    Mode("loss", "Lost change", "Lost change, share lost as stored", lambda c: c.mean("held_out"), lambda x: f"{x:.3g}"),
    Mode("change", "Change", "Change, relative to the base", lambda c: c.mean("change"), lambda x: f"{100 * x:.3g} %"),
    Mode("bytes", "Stored size", "Stored size", lambda c: float(c.bytes) if c.bytes else None,
         lambda x: size(x).replace(".00 ", " ") if x else "0"),
)
BY_KEY = {mode.key: mode for mode in MODES}


@dataclass(frozen=True)
class Scale:
    """A linear scale from `low` to `high`; both 0 where there is nothing to show yet."""

    low: float = 0.0
    high: float = 0.0
    has_below: bool = False
    """Whether some values lie below `low`: few and far from the others."""
    has_above: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1; values outside are drawn as the nearer end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low))) if self.high > self.low else 0.5


def scale_of(values: Iterable[float]) -> Scale:
    """A scale with round ends around values. Where all are equal, its ends are too.

    A few values far from the others would leave one colour for all the rest: where the middle 96 % span less than two
    thirds of the whole, they set the ends, and what lies outside is drawn as the nearer end.
    """
    known = sorted(v for v in values if math.isfinite(v))
    if not known:
        return Scale()
    low, high = least, most = known[0], known[-1]
    beyond = math.ceil(0.02 * len(known)) if len(known) >= 25 else 0
    inner_low, inner_high = known[beyond], known[-1 - beyond]
    if inner_high > inner_low and high - low > 1.5 * (inner_high - inner_low):
        low, high = inner_low, inner_high
    if high - low <= 1e-9 * max(abs(high), 1e-12):
        return Scale(low, low)
    step = nice((high - low) / 5)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Scale(low, high, least < low - 1e-9 * step, most > high + 1e-9 * step)


def nice(value: float) -> float:
    """The next of 1, 2, 2.5 or 5 times a power of ten that is not below `value` (> 0)."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((f * power for f in (1, 2, 2.5, 5) if f * power >= value * (1 - 1e-9)), 10 * power)


class Inks:
    """Colours of cells and of the letters on them, mixed once per theme."""

    def __init__(self, theme: Theme) -> None:
        self._theme = theme
        self.axis = lru_cache(maxsize=None)(self._axis)
        self.tint = lru_cache(maxsize=None)(self._tint)
        self.coding = lru_cache(maxsize=None)(self._coding)

    def forget(self) -> None:
        """The theme is another one."""
        self.axis.cache_clear()
        self.tint.cache_clear()
        self.coding.cache_clear()

    def _axis(self, winner: str, hundredths: int) -> tuple[QColor, QColor]:
        if winner in ("row", "column", "both", "scalar"):
            ground = axis_colour(self._theme, winner, hundredths / 100 * FULL_MARGIN)
        else:
            ground = self._theme.mixed("text-faded", 0.10 if winner == "same" else 0.24)
        return ground, self._theme.ink_on(ground)

    def _tint(self, hundredths: int) -> tuple[QColor, QColor]:
        ground = self._theme.mixed("accent", 0.10 + 0.90 * hundredths / 100)
        return ground, self._theme.ink_on(ground)

    def _coding(self, key: str, hundredths: int) -> tuple[QColor, QColor]:
        share = 0.18 + 0.82 * hundredths / 100
        ground = self._theme.mixed(coding_role(key), share if coding_role(key) != "text-faded" else 0.6 * share)
        return ground, self._theme.ink_on(ground)

    def swatch(self, key: str) -> tuple[QColor, QColor]:
        """Ground and letter of a legend's cell: of an axis, or of a way to store."""
        return self.axis(key, 100) if key in AXES else self.coding(key, 0 if key in ("same", "left-out") else 70)

    def of(self, cell: Cell, mode: Mode, scale: Scale) -> tuple[QColor, QColor]:
        """Ground and letter of a finished cell."""
        if mode.key == "margin":
            margin = UNKNOWN_MARGIN if cell.margin is None else cell.margin
            return self.axis(cell.winner, round(100 * min(1.0, max(0.0, margin) / FULL_MARGIN)))
        value = mode.value(cell)
        if mode.key == "codec":
            return self.coding(cell.coding, round(100 * strength(value or 0.0)))
        return self.axis("same", 0) if value is None else self.tint(round(100 * scale.share(value)))

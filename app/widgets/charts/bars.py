"""Bars of sizes and of load times: from 0 on, never logarithmic, the full checkpoint first as the yardstick."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen
from PySide6.QtWidgets import QWidget

from app import words
from app.theme import Theme
from app.widgets.charts.painted import CENTRE, LEFT, RIGHT, Facts, PaintedChart, Rows
from app.widgets.charts.scales import Scale, digits, linear_ticks, size_tick, time_text

_NAMES = 0.36
"""The largest share of the width that the names take."""


@dataclass(frozen=True)
class SizeBar:
    """A name and its bytes. `full` is what it is measured against; 0 makes the bar a yardstick itself."""

    name: str
    bytes: int
    full: int = 0
    key: str = ""
    accent: bool = False

    @property
    def comparison(self) -> str:
        """`19.3 times smaller`; empty for a yardstick."""
        if self.full <= 0 or self.bytes <= 0:
            return ""
        times = self.full / self.bytes
        if 0.995 < times < 1.005:
            return "as large"
        return f"{times:,.1f} times smaller" if times >= 1 else f"{1 / times:,.1f} times larger"


@dataclass(frozen=True)
class Spread:
    """Seconds of repeated runs: the median, and what the whiskers reach from and to."""

    median: float
    low: float
    high: float
    runs: int
    inner: bool = False
    """Whether the whiskers leave out the outer tenths (from 5 runs on)."""


def spread(found: Mapping[str, Any] | None) -> Spread | None:
    """From a timing as the library keeps it ("median", "lowest", "highest", "runs"); None where there is none.

    From 5 runs on the whiskers reach from the 10th to the 90th percentile, else from the lowest run to the highest.
    """
    if not found:
        return None
    runs = [float(r) for r in found.get("runs") or ()]
    if len(runs) >= 5:
        tenths = statistics.quantiles(runs, n=10, method="inclusive")
        return Spread(float(found["median"]), tenths[0], tenths[-1], len(runs), True)
    return Spread(float(found["median"]), float(found["lowest"]), float(found["highest"]), len(runs))


@dataclass(frozen=True)
class LoadBar:
    """A name with its cold and warm times; `reason` says why there are none."""

    name: str
    cold: Spread | None = None
    warm: Spread | None = None
    reason: str = ""
    key: str = ""
    accent: bool = False


class _Bars(PaintedChart):
    """Names at the left, bars beside them, a plain axis below."""

    row_height = 40
    axis_height = 30

    def sizeHint(self) -> QSize:
        """All rows at their usual height, and the axis."""
        return QSize(self.theme.px(440), self._height(self.row_height * 0.85))

    def minimumSizeHint(self) -> QSize:
        """Rows may shrink to three quarters."""
        return QSize(self.theme.px(220), self._height(self.row_height * 0.75))

    def _height(self, row: float) -> int:
        return self.theme.px(max(1, len(self.keys())) * row + self.axis_height)

    def _layout(self, rect: QRectF, names: Sequence[str], right: float) -> tuple[float, float, float, float]:
        """The width of the names, where bars begin and end (`right` is kept free for words), and the height of a row."""
        metrics = QFontMetricsF(self.theme.font())
        width = min(max((metrics.horizontalAdvance(n) for n in names), default=0) + 2, rect.width() * _NAMES)
        begin = rect.left() + width + self.theme.px(10)
        end = max(begin + 40, rect.right() - right)
        room = rect.height() - self.theme.px(self.axis_height)
        return width, begin, end, min(room / max(1, len(names)), self.theme.px(self.row_height * 1.5))

    def _axis(self, painter: QPainter, scale: Scale, top: float, bottom: float, ticks: Sequence[tuple[float, str]],
              end: float) -> None:
        """Hairlines at the ticks, and their labels under the axis."""
        t = self.theme
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(QPen(t.color("line"), 1))
        for value, _ in ticks:
            painter.drawLine(QPointF(scale.at(value), top), QPointF(scale.at(value), bottom))
        painter.drawLine(QPointF(scale.at(0), bottom), QPointF(end, bottom))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        for value, words_there in ticks:
            self.text(painter, QRectF(scale.at(value) - 50, bottom + t.px(4), 100, t.px(16)), words_there, t.font("tick"),
                      t.color("text-faded"), CENTRE)

    def _name(self, painter: QPainter, rect: QRectF, name: str, accent: bool) -> None:
        t = self.theme
        self.text(painter, rect, name, t.font(weight=600 if accent else 400), t.color("text" if accent else "text-faded"), RIGHT)

    def _ground(self, index: int) -> QColor:
        return self.theme.mixed("text-faded", 0.07) if self.is_over(index) else self.theme.color("surface-raised")

    def _tint(self, painter: QPainter, rect: QRectF, index: int) -> None:
        if self.is_over(index):
            painter.fillRect(rect, self._ground(index))


class SizeBars(_Bars):
    """Bytes on disk, from 0: the value at each bar, and beside it how many times smaller than the full checkpoint."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, "Size bars", parent)
        self._bars: tuple[SizeBar, ...] = ()

    def set_bars(self, bars: Sequence[SizeBar]) -> None:
        """Show these, the yardstick first."""
        self._bars = tuple(bars)
        self.tell()

    def keys(self) -> Sequence[str]:
        """Of the rows."""
        return [b.key for b in self._bars]

    def table(self) -> tuple[tuple[str, ...], Rows]:
        """Name, bytes, comparison."""
        rows: Rows = [(b.name, str(b.bytes), words.size(b.bytes), b.comparison) for b in self._bars]
        return ("Name", "Bytes", "Size", "Against full"), rows

    def facts(self, index: int) -> Facts | None:
        """Exact bytes."""
        bar = self._bars[index]
        rows = [("Size", words.size(bar.bytes)), ("Exactly", f"{bar.bytes:,} bytes")]
        if bar.comparison:
            rows.append(("Full checkpoint", words.size(bar.full)))
            rows.append(("Share of it", words.percent(bar.bytes / bar.full)))
        return Facts(bar.name, tuple(rows))

    def paint(self, painter: QPainter, rect: QRectF) -> None:
        """Draw the bars."""
        if not self._bars:
            return
        t = self.theme
        top_value = max(b.bytes for b in self._bars) or 1
        value_font, note_font = t.font(weight=600), t.font("small")
        value_metrics, note_metrics = QFontMetricsF(value_font), QFontMetricsF(note_font)
        width, begin, end, height = self._layout(rect, [b.name for b in self._bars], t.px(8))
        # The axis may be cut short by what stands beside the longest bar that is not the full checkpoint's.
        scale = Scale(0, top_value, begin, end - t.px(16))
        bottom = rect.top() + height * len(self._bars)
        ticks = linear_ticks(top_value, 4 if end - begin > t.px(200) else 3)
        self._axis(painter, scale, rect.top(), bottom, [(v, size_tick(v) if v else "0") for v in ticks], end)
        for i, bar in enumerate(self._bars):
            y = rect.top() + i * height
            whole = QRectF(rect.left(), y, rect.width(), height)
            self._tint(painter, whole, self.area(whole))
            self._name(painter, QRectF(rect.left(), y, width, height), bar.name, bar.accent)
            thick = min(t.px(24), height * 0.62)
            body = QRectF(begin, y + (height - thick) / 2, max(1.5, scale.at(bar.bytes) - begin), thick)
            colour = t.color("accent") if bar.accent else t.mixed("text-faded", 0.42)
            painter.fillRect(body, colour)
            value, note = words.size(bar.bytes), bar.comparison
            value_width = value_metrics.horizontalAdvance(value)
            free = rect.right() - body.right() - t.px(10)
            if free < value_width and body.width() > value_width + t.px(16):
                self.text(painter, body.adjusted(0, 0, -t.px(8), 0), value, value_font, t.ink_on(colour), RIGHT)
                continue
            at = body.right() + t.px(10)
            self._over_grid(painter, QRectF(at - 4, y, value_width + 8, height), i)
            self.text(painter, QRectF(at, y, value_width + 2, height), value, value_font, t.color("text"), LEFT)
            at += value_width + t.px(14)
            if note and at + note_metrics.horizontalAdvance(note) <= rect.right():
                self._over_grid(painter, QRectF(at - 4, y, note_metrics.horizontalAdvance(note) + 8, height), i)
                self.text(painter, QRectF(at, y, rect.right() - at, height), note, note_font, t.color("text-faded"), LEFT)

    def _over_grid(self, painter: QPainter, rect: QRectF, index: int) -> None:
        """Keep grid lines off words."""
        painter.fillRect(rect, self._ground(index))


class LoadBars(_Bars):
    """Seconds until ready, from 0: cold (lighter, upper bar) and warm, whiskers over the repeated runs."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, "Load time bars", parent)
        self._bars: tuple[LoadBar, ...] = ()

    def set_bars(self, bars: Sequence[LoadBar]) -> None:
        """Show these, the yardstick first."""
        self._bars = tuple(bars)
        self.tell()

    def keys(self) -> Sequence[str]:
        """Of the rows."""
        return [b.key for b in self._bars]

    def table(self) -> tuple[tuple[str, ...], Rows]:
        """Name, then median, low, high and runs, cold and warm, in seconds."""
        parts = ("median s", "low s", "high s", "runs")
        titles = ("Name", *(f"{kind} {what}" for kind in ("Cold", "Warm") for what in parts), "Note")
        return titles, [(b.name, *_cells(b.cold), *_cells(b.warm), b.reason) for b in self._bars]

    def facts(self, index: int) -> Facts | None:
        """Medians and whiskers."""
        bar = self._bars[index]
        rows = []
        for kind, found in (("Cold", bar.cold), ("Warm", bar.warm)):
            if found is not None:
                rows.append((f"{kind}, median of {found.runs}", time_text(found.median)))
                rows.append((f"{kind}, {'10 to 90 %' if found.inner else 'lowest to highest'}",
                             f"{time_text(found.low)} to {time_text(found.high)}"))
        return Facts(bar.name, tuple(rows) or (("Load time", bar.reason or "not measured"),))

    def paint(self, painter: QPainter, rect: QRectF) -> None:
        """Draw the bars."""
        if not self._bars:
            return
        t = self.theme
        found = [s for b in self._bars for s in (b.cold, b.warm) if s is not None]
        top_value = max((max(s.median, s.high) for s in found), default=1.0)
        width, begin, end, height = self._layout(rect, [b.name for b in self._bars], t.px(62))
        scale = Scale(0, top_value, begin, end)
        bottom = rect.top() + height * len(self._bars)
        ticks = linear_ticks(top_value, 5 if end - begin > t.px(240) else 3) if found else [0.0]
        unit, factor = ("ms", 1000.0) if top_value < 0.4 else ("s", 1.0)
        labels = [(v, f"{digits(v * factor)} {unit}" if v else "0") for v in ticks]
        self._axis(painter, scale, rect.top(), bottom, labels, rect.right())
        for i, bar in enumerate(self._bars):
            y = rect.top() + i * height
            whole = QRectF(rect.left(), y, rect.width(), height)
            self._tint(painter, whole, self.area(whole))
            self._name(painter, QRectF(rect.left(), y, width, height), bar.name, bar.accent)
            thick = min(t.px(12), height * 0.34)
            if bar.cold is None and bar.warm is None:
                place = QRectF(begin + t.px(8), y, rect.right() - begin - t.px(8), height)
                self._reason(painter, place, bar.reason or "not measured", i)
                continue
            lines = [s for s in ((bar.cold, "cold"), (bar.warm, "warm")) if s[0] is not None]
            at = y + (height - (thick * len(lines) + t.px(3) * (len(lines) - 1))) / 2
            for one, kind in lines:
                assert one is not None
                self._bar(painter, scale, QRectF(begin, at, 0, thick), one, self._colour(bar.accent, kind == "cold"), i)
                at += thick + t.px(3)

    def _reason(self, painter: QPainter, place: QRectF, words_there: str, index: int) -> None:
        """Why there is no bar, on two lines where one is too narrow."""
        font = self.theme.font("small")
        flags = int(LEFT) | int(Qt.TextFlag.TextWordWrap)
        needed = QFontMetricsF(font).boundingRect(place, flags, words_there)
        painter.fillRect(needed.adjusted(-4, 0, 4, 0).intersected(place), self._ground(index))
        if needed.height() > place.height() + 2:
            self.text(painter, place, words_there, font, self.theme.color("text-faded"), LEFT)
            return
        painter.setFont(font)
        painter.setPen(self.theme.color("text-faded"))
        painter.drawText(place, flags, words_there)

    def _colour(self, accent: bool, cold: bool) -> QColor:
        if accent:
            return self.theme.mixed("accent", 0.46) if cold else self.theme.color("accent")
        return self.theme.mixed("text-faded", 0.42) if cold else self.theme.mixed("text-faded", 0.85)

    def colours(self) -> tuple[QColor, QColor]:
        """Of cold and warm bars that are not in accent: for a legend."""
        return self._colour(False, True), self._colour(False, False)

    def _bar(self, painter: QPainter, scale: Scale, place: QRectF, found: Spread, colour: QColor, index: int) -> None:
        t = self.theme
        body = QRectF(place.left(), place.top(), max(1.5, scale.at(found.median) - place.left()), place.height())
        painter.fillRect(body, colour)
        low, high, middle = scale.at(found.low), scale.at(found.high), body.center().y()
        words_at = max(body.right(), high) + t.px(8)
        font = t.font("small", 500)
        shown = time_text(found.median)
        covered = QRectF(words_at - 3, body.top(), QFontMetricsF(font).horizontalAdvance(shown) + 6, body.height())
        painter.fillRect(covered, self._ground(index))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(QPen(t.color("text"), 1))
        painter.drawLine(QPointF(low, middle), QPointF(high, middle))
        cap = max(2.0, place.height() * 0.3)
        for x in (low, high):
            painter.drawLine(QPointF(x, middle - cap), QPointF(x, middle + cap))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        self.text(painter, QRectF(words_at, middle - t.px(9), t.px(80), t.px(18)), shown, font, t.color("text"), LEFT)


def _cells(found: Spread | None) -> tuple[str, ...]:
    if found is None:
        return ("", "", "", "")
    return (f"{found.median:.4f}", f"{found.low:.4f}", f"{found.high:.4f}", str(found.runs))

"""The legend of the scatter's lines: a piece of line with its mark, and the method's name, in as many rows as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF
from PySide6.QtGui import QFontMetricsF, QPainter, QPen

from app.theme import Theme
from app.widgets.charts.marks import draw_mark
from app.widgets.charts.painted import LEFT, PaintedChart

_LINE, _GAP, _AFTER, _ROW = 26, 6, 16, 20
"""Lengths at zoom 1: the piece of line, the gap to its name, the gap to the next entry, the height of a row."""


@dataclass(frozen=True)
class Entry:
    """A line: name, mark (none where its marks differ), colour role, dashes."""

    name: str
    shape: str
    role: str
    dashes: list[float]


def lay_out_legend(entries: Sequence[Entry], width: float, theme: Theme) -> tuple[list[tuple[Entry, QRectF]], float]:
    """(entries with their places from (0, 0) on, the height of all)."""
    metrics = QFontMetricsF(theme.font("small"))
    placed: list[tuple[Entry, QRectF]] = []
    x = y = 0.0
    for entry in entries:
        wide = theme.px(_LINE + _GAP) + metrics.horizontalAdvance(entry.name) + 2
        if x and x + wide > width:
            x, y = 0.0, y + theme.px(_ROW)
        placed.append((entry, QRectF(x, y, min(wide, width), theme.px(_ROW))))
        x += wide + theme.px(_AFTER)
    return placed, y + theme.px(_ROW) if placed else 0.0


def draw_legend(painter: QPainter, chart: PaintedChart, placed: Sequence[tuple[Entry, QRectF]], at: QPointF) -> None:
    """Draw entries where they were laid out, from a corner on."""
    t = chart.theme
    for entry, rect in placed:
        place = rect.translated(at)
        pen = QPen(t.mixed(entry.role, 0.8), 1.5)
        if entry.dashes:
            pen.setDashPattern(entry.dashes)
        painter.setPen(pen)
        y = place.center().y()
        painter.drawLine(QPointF(place.left(), y), QPointF(place.left() + t.px(_LINE), y))
        middle = QPointF(place.left() + t.px(_LINE) / 2, y)
        if entry.shape:
            draw_mark(painter, entry.shape, middle, t.px(8), t.color(entry.role), t.color("surface-raised"))
        chart.text(painter, place.adjusted(t.px(_LINE + _GAP), 0, 0, 0), entry.name, t.font("small"), t.color("text"), LEFT)

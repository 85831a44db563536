"""What stands around the marks of the scatter: axes below them, the cross-hair and the rectangle of a zoom above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPen

from app import words
from app.theme import Theme
from app.widgets.charts.painted import CENTRE, RIGHT, PaintedChart
from app.widgets.charts.scales import Scale, digits, size_tick

CAPTION = "size on disk, both scales logarithmic, lower left is better"


@dataclass(frozen=True)
class Frame:
    """Where the plot lies, its two scales, and how far to the left its ticks may reach."""

    plot: QRectF
    x: Scale
    y: Scale
    left: float


def draw_axes(painter: QPainter, chart: PaintedChart, frame: Frame, y_ticks: Sequence[float], x_ticks: Sequence[float],
              said: str = CAPTION) -> None:
    """Hairlines across, two axis lines, ticks, and what the scales are."""
    t, plot = chart.theme, frame.plot
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
    painter.setPen(QPen(t.color("line"), 1))
    for value in y_ticks:
        painter.drawLine(QPointF(plot.left(), frame.y.at(value)), QPointF(plot.right(), frame.y.at(value)))
    painter.drawLine(plot.bottomLeft(), plot.bottomRight())
    painter.drawLine(plot.topLeft(), plot.bottomLeft())
    painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
    font, faded = t.font("tick"), t.color("text-faded")
    for value in y_ticks:
        place = QRectF(frame.left, frame.y.at(value) - t.px(8), plot.left() - frame.left - t.px(6), t.px(16))
        chart.text(painter, place, digits(value), font, faded, RIGHT)
    half = t.px(34)
    for value in x_ticks:
        x = min(max(frame.x.at(value), plot.left() + half * 0.6), plot.right() - half * 0.6)
        place = QRectF(x - half, plot.bottom() + t.px(4), 2 * half, t.px(16))
        chart.text(painter, place, size_tick(value), font, faded, CENTRE)
    below = QRectF(plot.left(), plot.bottom() + t.px(23), plot.width(), t.px(16))
    chart.text(painter, below, said, font, faded, CENTRE)


def draw_rubber_band(painter: QPainter, theme: Theme, box: QRectF) -> None:
    """The part that will be shown."""
    painter.setPen(QPen(theme.color("accent"), 1))
    tint = theme.color("accent")
    tint.setAlphaF(0.1)
    painter.setBrush(tint)
    painter.drawRect(box)


def draw_crosshair(painter: QPainter, chart: PaintedChart, frame: Frame, at: QPointF, hint: str) -> None:
    """Dotted lines through a place with its values at both axes, and what the mouse can do."""
    t, plot = chart.theme, frame.plot
    painter.setPen(QPen(t.color("line-strong"), 1, Qt.PenStyle.DotLine))
    painter.drawLine(QPointF(at.x(), plot.top()), QPointF(at.x(), plot.bottom()))
    painter.drawLine(QPointF(plot.left(), at.y()), QPointF(plot.right(), at.y()))
    font = t.font("tick", 500)
    metrics, height = QFontMetricsF(font), t.px(17)
    loss, size = digits(frame.y.value(at.y()), 2), words.size(frame.x.value(at.x()))
    wide = [metrics.horizontalAdvance(said) + t.px(10) for said in (loss, size)]
    x = min(max(at.x() - wide[1] / 2, plot.left()), plot.right() - wide[1])
    for said, place in ((loss, QRectF(max(frame.left, plot.left() - wide[0] - 1), at.y() - height / 2, wide[0], height)),
                        (size, QRectF(x, plot.bottom() + t.px(3), wide[1], height))):
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(t.color("text"))
        painter.drawRoundedRect(place, 3, 3)
        chart.text(painter, place, said, font, t.color("surface-raised"), CENTRE)
    below = QRectF(plot.left(), plot.bottom() + t.px(23), plot.width(), t.px(16))
    chart.text(painter, below, hint, t.font("tick"), t.color("text-faded"), RIGHT)

"""The predicted curve: expected KL over bytes, both logarithmic, with a marker at the size that is asked for."""

from __future__ import annotations

import math
from itertools import pairwise

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPainterPath, QPen

from app.forecasting import Curve
from app.theme import Theme
from app.widgets.charts.marks import draw_mark
from app.widgets.charts.painted import LEFT, RIGHT, Facts, PaintedChart, Rows
from app.widgets.charts.scales import Scale, digits, log_range, log_ticks
from app.widgets.charts.scatter_paint import Frame, draw_axes
from app.words import percent, size

STOPS = 48
"""Places on the curve that can be pointed at."""


class CurveChart(PaintedChart):
    """`picked` tells the bytes (as a text) of a place on the curve that was clicked."""

    def __init__(self, theme: Theme) -> None:
        super().__init__(theme, "Predicted curve: expected KL over size")
        self._curve: Curve | None = None
        self._stops: list[tuple[int, float]] = []
        self._asked: float | None = None

    @property
    def curve(self) -> Curve | None:
        """What is shown."""
        return self._curve

    def set_curve(self, curve: Curve | None) -> None:
        """Show a curve, or none."""
        self._curve = curve
        points = list(curve.points) if curve is not None else []
        number = min(STOPS, len(points))
        kept = sorted({round(i * (len(points) - 1) / max(1, number - 1)) for i in range(number)})
        self._stops = [points[i] for i in kept]
        self.tell()

    def set_marker(self, nbytes: float | None) -> None:
        """Mark a size on it."""
        if nbytes != self._asked:
            self._asked = nbytes
            self.update()

    def sizeHint(self) -> QSize:
        """Flat."""
        return QSize(self.theme.px(320), self.theme.px(160))

    def minimumSizeHint(self) -> QSize:
        """Ticks and a curve."""
        return QSize(self.theme.px(220), self.theme.px(160))

    def table(self) -> tuple[tuple[str, ...], Rows]:
        """Bytes, expected KL and recovery along the curve."""
        curve = self._curve
        rows: Rows = [] if curve is None else [(str(b), f"{kl:.6g}", f"{curve.recovery(b):.6g}") for b, kl in self._stops]
        return ("Bytes", "Expected KL", "Expected recovery"), rows

    def facts(self, index: int) -> Facts | None:
        """A place on the curve."""
        curve, (nbytes, kl) = self._curve, self._stops[index]
        if curve is None:
            return None
        return Facts(size(nbytes), (("Smaller than full", f"{curve.full_bytes / max(1, nbytes):,.1f} times"),
                                    ("Expected KL", digits(kl)), ("Expected recovery", percent(curve.recovery(nbytes), 2))))

    def keys(self) -> list[str]:
        """Bytes of each place."""
        return [str(b) for b, _ in self._stops]

    def paint(self, painter: QPainter, rect: QRectF) -> None:
        """Axes, the base, the curve, the marker."""
        curve, t = self._curve, self.theme
        if curve is None or not self._stops:
            return
        x0, x1 = log_range([b for b, _ in curve.points], 0.03)
        y0, y1 = log_range([*(kl for _, kl in curve.points), max(curve.base_kl, 1e-12)], 0.07)
        y_ticks = log_ticks(y0, y1, 5)
        gutter = max(QFontMetricsF(t.font("tick")).horizontalAdvance(digits(v)) for v in y_ticks) + t.px(10)
        plot = QRectF(rect.left() + gutter, rect.top() + t.px(4), rect.width() - gutter - 2, rect.height() - t.px(4 + 40))
        x, y = Scale(x0, x1, plot.left(), plot.right(), log=True), Scale(y0, y1, plot.bottom(), plot.top(), log=True)
        draw_axes(painter, self, Frame(plot, x, y, rect.left()), y_ticks, log_ticks(x0, x1, 4), "size; expected KL, logarithmic")
        self._base(painter, plot, y, curve.base_kl)
        places = [QPointF(x.at(b), y.at(kl)) for b, kl in curve.points]
        path = QPainterPath(places[0])
        for before, place in pairwise(places):         # a size in between buys no more than the one below it
            path.lineTo(QPointF(place.x(), before.y()))
            path.lineTo(place)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(t.color("accent"), 2, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin))
        painter.drawPath(path)
        self._marker(painter, plot, x, y, curve)
        self._areas = []
        stops = [x.at(b) for b, _ in self._stops]
        for i, at in enumerate(stops):
            left = (stops[i - 1] + at) / 2 if i else plot.left()
            right = (stops[i + 1] + at) / 2 if i + 1 < len(stops) else plot.right()
            number = self.area(QRectF(left, plot.top(), right - left, plot.height()))
            if self.is_over(number):
                painter.setPen(QPen(t.color("line-strong"), 1, Qt.PenStyle.DotLine))
                painter.drawLine(QPointF(at, plot.top()), QPointF(at, plot.bottom()))

    def _base(self, painter: QPainter, plot: QRectF, y: Scale, kl: float) -> None:
        if kl <= 0:
            return
        t, font = self.theme, self.theme.font("tick")
        pen = QPen(t.color("text-faded"), 1.2)
        pen.setDashPattern([4, 3])
        painter.setPen(pen)
        at = y.at(kl)
        painter.drawLine(QPointF(plot.left(), at), QPointF(plot.right(), at))
        self.text(painter, QRectF(plot.right() - t.px(160), at + 1, t.px(156), t.px(16)), f"base alone, {digits(kl)}", font,
                  t.color("text-faded"), RIGHT)

    def _marker(self, painter: QPainter, plot: QRectF, x: Scale, y: Scale, curve: Curve) -> None:
        if self._asked is None or not math.isfinite(self._asked) or self._asked <= 0:
            return
        t = self.theme
        at = QPointF(min(max(x.at(self._asked), plot.left()), plot.right()), y.at(max(curve.at(self._asked), 1e-12)))
        painter.setPen(QPen(t.color("text"), 1))
        painter.drawLine(QPointF(at.x(), plot.top()), QPointF(at.x(), plot.bottom()))
        draw_mark(painter, "circle", at, t.px(11), t.color("accent"), t.color("surface-raised"))
        if self._asked < curve.points[0][0]:
            self.text(painter, plot.adjusted(t.px(6), 0, 0, 0), "too small", t.font("tick"), t.color("danger"), LEFT)

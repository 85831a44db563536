"""What a `PlainPlot` paints itself: grid and ticks below the curves; labels, the line of now and the cross-hair over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import Theme
from app.widgets.charts.plot_ticks import loss_text, tick_text

if TYPE_CHECKING:
    from app.widgets.charts.plot_base import PlainPlot

_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_CENTRE = Qt.AlignmentFlag.AlignCenter
_PATTERNS = {"dash": [3.5, 2.5], "dot": [1.5, 2.5]}


def line_pen(colour: QColor, width: float, dash: str) -> QPen:
    """A pen; `dash` is solid, dash or dot."""
    pen = QPen(colour, width)
    if dash != "solid":
        pen.setDashPattern(_PATTERNS[dash])
        pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    return pen


def draw_axes(painter: QPainter, plot: PlainPlot) -> None:
    """Hairlines across at the y ticks, the two axis lines, and what stands at the ticks."""
    theme, rect = plot.theme, plot.plot_rect()
    painter.setFont(theme.font("tick"))
    line, words, height = QPen(theme.color("line"), 1), theme.color("text-faded"), theme.px(16)
    ticks = plot.y_ticks()
    for value in ticks:
        y = round(plot.pixel(0, value).y()) + 0.5
        painter.setPen(line)
        painter.drawLine(QPointF(rect.left(), y), QPointF(rect.right(), y))
        painter.setPen(words)
        painter.drawText(QRectF(0, y - height / 2, rect.left() - 7, height), _RIGHT, tick_text(value, ticks))
    painter.setPen(QPen(theme.mixed("text-faded", 0.42), 1))
    left, bottom = round(rect.left()) + 0.5, round(rect.bottom()) + 0.5
    painter.drawLine(QPointF(left, rect.top()), QPointF(left, bottom))
    painter.drawLine(QPointF(left, bottom), QPointF(rect.right(), bottom))
    painter.setPen(words)
    for value in plot.x_ticks():
        x = plot.pixel(value, 1.0).x()
        if rect.left() <= x <= rect.right():
            painter.drawText(QRectF(x - 40, bottom + theme.px(4), 80, height), _CENTRE, f"{value:,.0f}")
    if plot.x_name:
        painter.setFont(theme.font("small"))
        painter.drawText(QRectF(rect.left(), bottom + theme.px(20), rect.width(), theme.px(18)), _CENTRE, plot.x_name)


def draw_marks(painter: QPainter, plot: PlainPlot) -> None:
    """Rings and dots on some points of the curves, within the plot."""
    theme, rect = plot.theme, plot.plot_rect()
    painter.save()
    painter.setClipRect(rect.adjusted(-5, -5, 5, 5))
    for one in sorted((s for s in plot.series if s.line.marks and len(s.marked)), key=lambda s: s.line.z):
        colour = theme.color(one.line.role)
        ring = one.line.marks == "ring"
        painter.setPen(QPen(colour, 1.4) if ring else Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("surface-raised") if ring else colour)
        radius = theme.zoom * (2.6 if ring else 2.2)
        for place in plot.pixels(one.x[one.marked], one.y[one.marked]):
            painter.drawEllipse(place, radius, radius)
    painter.restore()


def draw_now(painter: QPainter, plot: PlainPlot) -> None:
    """A line down where the work stands."""
    rect = plot.plot_rect()
    if plot.now is None or not rect.left() <= (x := plot.pixel(plot.now, 1.0).x()) <= rect.right():
        return
    painter.setPen(QPen(plot.theme.mixed("text-faded", 0.7), 1))
    x = round(x) + 0.5
    painter.drawLine(QPointF(x, rect.top()), QPointF(x, rect.bottom()))
    painter.setFont(plot.theme.font("small"))
    painter.setPen(plot.theme.color("text-faded"))
    painter.drawText(QRectF(x + 9, rect.top(), 80, plot.theme.px(18)), _LEFT, "now")


def spread(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Heights moved apart to at least `gap`, in their order, within [low, high] as far as they fit."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = [places[i] for i in order]
    for _ in range(60):
        moved = False
        for i in range(len(found) - 1):
            if (short := gap - (found[i + 1] - found[i])) > 0.01:
                found[i] -= short / 2
                found[i + 1] += short / 2
                moved = True
        if not moved:
            break
    if found:
        shift = max(0.0, low - found[0]) - max(0.0, found[-1] - high)
        found = [y + shift for y in found]
    result = [0.0] * len(places)
    for place, i in zip(found, order, strict=True):
        result[i] = place
    return result


def draw_labels(painter: QPainter, plot: PlainPlot) -> None:
    """The last values at the right of the curves, apart from each other, each with its dotted guide."""
    if not plot.labels:
        return
    theme, rect = plot.theme, plot.plot_rect()
    ends = [float(s.x[-1]) for s in plot.listed if len(s.x)]
    end = min(rect.right() - plot.label_width() + 14, plot.pixel(max(ends, default=0.0), 1.0).x())
    heights = [plot.pixel(0, one.y).y() for one in plot.labels]
    if plot.is_zoomed and not all(rect.top() <= y <= rect.bottom() for y in heights):
        return
    gap = QFontMetricsF(theme.font("text", 600)).height() + 1
    caption = gap if plot.label_caption else 0.0
    top = rect.top() + gap * (1.6 if plot.now is not None else 0.6) + caption
    placed = spread(heights, gap, top, rect.bottom() - gap / 2)
    for one, real in zip(plot.labels, heights, strict=True):
        start = plot.pixel(one.guide_from, 1.0).x() if one.guide_from is not None else end
        if end - start > 4:
            painter.setPen(line_pen(theme.color(one.role), 1.2, "dot"))
            painter.drawLine(QPointF(max(start, rect.left()), real), QPointF(end, real))
    for one, y in zip(plot.labels, placed, strict=True):
        painter.setFont(theme.font("text", one.weight))
        painter.setPen(theme.color("text" if one.weight >= 600 else "text-faded"))
        painter.drawText(QRectF(end + 12, y - gap / 2, 200, gap), _LEFT, one.text)
    if plot.label_caption:
        painter.setFont(theme.font("small"))
        painter.setPen(theme.color("text-faded"))
        painter.drawText(QRectF(end + 12, min(placed) - gap * 1.5, 200, gap), _LEFT, plot.label_caption)


def draw_message(painter: QPainter, plot: PlainPlot) -> None:
    """In the middle of an empty plot: why it is empty."""
    if plot.message:
        flags = _CENTRE | Qt.TextFlag.TextWordWrap
        painter.setFont(plot.theme.font("text", 500))
        room = plot.plot_rect().adjusted(12, 0, -12, 0)
        if plot.has_points:                            # under a ghost, which falls towards the right
            room.setTop(room.top() + 0.5 * room.height())
            room.setWidth(0.6 * room.width())
        ground = plot.theme.color("surface-raised")
        ground.setAlphaF(0.88)
        painter.fillRect(painter.boundingRect(room, int(flags), plot.message).adjusted(-6, -2, 6, 2), ground)
        painter.setPen(plot.theme.color("text"))
        painter.drawText(room, flags, plot.message)


def draw_cross(painter: QPainter, plot: PlainPlot) -> None:
    """A line at the point that is read, rings on the curves, and a box with the values."""
    found = plot.readings()
    if plot.cross is None or not found:
        return
    theme, rect = plot.theme, plot.plot_rect()
    x = plot.pixel(plot.cross, 1.0).x()
    if not rect.left() <= x <= rect.right():
        return
    painter.setPen(line_pen(theme.color("line-strong"), 1, "dash"))
    painter.drawLine(QPointF(round(x) + 0.5, rect.top()), QPointF(round(x) + 0.5, rect.bottom()))
    for one, value in found:
        painter.setPen(QPen(theme.color(one.line.role), 2))
        painter.setBrush(theme.color("surface-raised"))
        if rect.contains(place := plot.pixel(plot.cross, value)):
            painter.drawEllipse(place, 4, 4)
    _draw_box(painter, plot, x, [(one.line.role, one.line.dash, one.name, loss_text(value)) for one, value in found])


def _draw_box(painter: QPainter, plot: PlainPlot, x: float, rows: list[tuple[str, str, str, str]]) -> None:
    theme, rect = plot.theme, plot.plot_rect()
    assert plot.cross is not None
    title = f"{plot.x_name or 'x'} {plot.cross:,.0f}".strip()
    bold, small = theme.font("small", 600), theme.font("small")
    wide = QFontMetricsF(bold)
    names = max(QFontMetricsF(small).horizontalAdvance(r[2]) for r in rows)
    values = max(wide.horizontalAdvance(r[3]) for r in rows)
    step, key = theme.px(18), theme.px(20)
    width = max(10 + key + 6 + names + 14 + values + 10, wide.horizontalAdvance(title) + 20)
    height = step * (len(rows) + 1) + 12
    left = x + 14 if x + 14 + width <= rect.right() else x - 14 - width
    box = QRectF(max(rect.left() + 2, left), rect.top() + 4, width, height)
    painter.setPen(QPen(theme.color("line-strong"), 1))
    painter.setBrush(theme.color("surface-raised"))
    painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
    painter.setFont(bold)
    painter.setPen(theme.color("text"))
    y = box.top() + 6
    painter.drawText(QRectF(box.left() + 10, y, width, step), _LEFT, title)
    for role, dash, name, value in rows:
        y += step
        painter.setPen(line_pen(theme.color(role), 2, dash))
        painter.drawLine(QPointF(box.left() + 10, y + step / 2), QPointF(box.left() + 10 + key, y + step / 2))
        painter.setFont(small)
        painter.setPen(theme.color("text-faded"))
        painter.drawText(QRectF(box.left() + 16 + key, y, names + 10, step), _LEFT, name)
        painter.setFont(bold)
        painter.setPen(theme.color("text"))
        painter.drawText(QRectF(box.right() - 10 - values, y, values, step), _RIGHT, value)


class LineKey(QWidget):
    """A short line for a legend: solid, dash or dot, in a role's colour."""

    def __init__(self, theme: Theme, dash: str = "solid", role: str = "text", width: float = 2.0,
                 parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._dash, self._role, self._width = theme, dash, role, width
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setFixedSize(theme.px(20), theme.px(14))
        theme.changed.connect(self.update)

    def paintEvent(self, event: object) -> None:
        """Draw it."""
        painter = QPainter(self)
        painter.setPen(line_pen(self._theme.color(self._role), self._width, self._dash))
        y = self.height() / 2
        painter.drawLine(QPointF(0, y), QPointF(self.width(), y))
        painter.end()

"""Fidelity against size: the KL to the fine-tune over bytes on disk, both logarithmic; zoom, crosshair, hover card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PySide6.QtCore import QEvent, QLineF, QPointF, QRectF, QSize, QSizeF, Qt, Signal
from PySide6.QtGui import QColor, QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPen, QWheelEvent
from PySide6.QtWidgets import QWidget

from app import words
from app.theme import Theme
from app.widgets.charts.label_layout import Placed, Wanted, place_labels
from app.widgets.charts.marks import draw_mark
from app.widgets.charts.painted import LEFT, Facts, PaintedChart, Rows
from app.widgets.charts.scales import Scale, digits, log_range, log_ticks
from app.widgets.charts.scatter_legend import Entry, draw_legend, lay_out_legend
from app.widgets.charts.scatter_paint import Frame, draw_axes, draw_crosshair, draw_rubber_band

_NEAR = 14.0
"""Pixels around a mark within which it is pointed at."""
_DASHES: tuple[list[float], ...] = ([], [4, 3], [1.5, 3], [7, 3, 1.5, 3])
ROLES = ("row", "column", "success", "warning", "danger", "line-strong")
"""Colours for lines, one after the other; dashes and marks tell apart those that share one."""
View = tuple[float, float, float, float]
"""Lowest and highest size, lowest and highest KL."""


@dataclass(frozen=True)
class Point:
    """A delta: bytes, KL in nats per token and its standard error, both above 0; a mark with a label of its own.

    Points of the same `line` are joined. `aside` ones are not chosen, but show where the same method leads at other sizes.
    """

    key: str
    name: str
    size: float
    kl: float
    error: float | None = None
    shape: str = "circle"
    accent: bool = False
    aside: bool = False
    line: str = ""
    label: str = ""
    """What stands at the mark, where that is not the name."""
    facts: tuple[tuple[str, str], ...] = ()
    role: str = ""
    """The theme's role of its colour and of its line's; the quiet one where empty."""
    legend: str = ""
    """What its line is called in the legend; lines without it have no entry."""
    method: str = ""
    is_unnamed: bool = False
    """Whether no label stands at it."""


@dataclass(frozen=True)
class Level:
    """A yardstick: the KL of a base alone."""

    name: str
    kl: float


class FidelityScatter(PaintedChart):
    """Marks at (size, KL); lower left is better. `zoomed` tells whether a part only is shown."""

    zoomed = Signal(bool)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, "Fidelity against size", parent)
        self._points: tuple[Point, ...] = ()
        self._levels: tuple[Level, ...] = ()
        self._view: View | None = None
        self._x = self._y = Scale(1, 10, 0, 1, log=True)
        self._plot = QRectF()
        self._frame = Frame(self._plot, self._x, self._y, 0.0)
        self._mouse: QPointF | None = None
        self._pressed: QPointF | None = None
        self._labels: list[Placed | None] = []

    # ---------------------------------------------------------------------------------------------------- data
    def set_points(self, points: Sequence[Point], levels: Sequence[Level] = ()) -> None:
        """Show these; those without a positive size and KL can't stand on logarithmic scales and raise ValueError."""
        if any(p.size <= 0 or p.kl <= 0 for p in points) or any(level.kl <= 0 for level in levels):
            raise ValueError("Logarithmic scales take values above 0 only.")
        places = {(p.key, p.size, p.kl) for p in points}
        if places != {(p.key, p.size, p.kl) for p in self._points}:
            self.reset()
        # Those in front are drawn last, and labelled first.
        self._points = tuple(sorted(points, key=lambda p: (not p.aside, p.accent, p.size)))
        self._levels = tuple(levels)
        self.tell()

    def keys(self) -> Sequence[str]:
        """Of the points."""
        return ["" if p.is_unnamed else p.key for p in self._points]

    def table(self) -> tuple[tuple[str, ...], Rows]:
        """Size and KL by name, yardsticks last."""
        inner = sorted(self._points, key=lambda p: (p.aside, p.size))
        rows: Rows = [(p.name, str(round(p.size)), f"{p.kl:.6g}", f"{p.error:.3g}" if p.error is not None else "",
                       "" if p.aside else "yes", p.legend or p.method) for p in inner]
        rows += [(level.name, "", f"{level.kl:.6g}", "", "", "") for level in self._levels]
        return ("Name", "Bytes", "KL to the fine-tune", "Standard error", "Chosen", "Method"), rows

    def facts(self, index: int) -> Facts | None:
        """Everything known of a delta."""
        p = self._points[index]
        kl = f"{digits(p.kl)} ± {digits(p.error, 2)}" if p.error is not None else digits(p.kl)
        return Facts(p.name, (("KL to the fine-tune", kl), ("Size", words.size(p.size)), *p.facts))

    def label_rects(self) -> list[QRectF]:
        """Where labels stood when it was last drawn."""
        return [placed.rect for placed in self._labels if placed is not None]

    def mark_at(self, key: str) -> QPointF:
        """Where a delta's mark was last drawn. Raises KeyError."""
        for p in self._points:
            if p.key == key:
                return QPointF(self._x.at(p.size), self._y.at(p.kl))
        raise KeyError(key)

    # ------------------------------------------------------------------------------------------------- the view
    def whole(self) -> View:
        """The view that shows everything."""
        sizes = [p.size for p in self._points] or [1e6]
        losses = [p.kl for p in self._points] + [level.kl for level in self._levels]
        losses += [p.kl + p.error for p in self._points if p.error]
        losses += [p.kl - p.error for p in self._points if p.error and p.error < p.kl]
        return *log_range(sizes, 0.14), *log_range(losses or [0.01], 0.09)

    @property
    def is_zoomed(self) -> bool:
        """Whether a part only is shown."""
        return self._view is not None

    def show_part(self, view: View) -> None:
        """Show a part; not so little or so much that ticks would end."""
        x0, x1, y0, y1 = view
        if not 1.02 < x1 / x0 < 1e6 or not 1.02 < y1 / y0 < 1e12:
            return
        self._view = view
        self.point_at(-1)
        self.update()
        self.zoomed.emit(True)

    def reset(self) -> None:
        """Show everything again."""
        if self._view is not None:
            self._view = None
            self.point_at(-1)
            self.update()
            self.zoomed.emit(False)

    def zoom(self, factor: float, at: QPointF | None = None) -> None:
        """Show `factor` times as much on both axes (in decades), keeping what lies at a place there."""
        place = at if at is not None and self._plot.contains(at) else self._plot.center()
        cx, cy = math.log(self._x.value(place.x())), math.log(self._y.value(place.y()))
        x0, x1, y0, y1 = (math.log(v) for v in self._view or self.whole())
        self.show_part((math.exp(cx + (x0 - cx) * factor), math.exp(cx + (x1 - cx) * factor),
                        math.exp(cy + (y0 - cy) * factor), math.exp(cy + (y1 - cy) * factor)))

    # ------------------------------------------------------------------------------------------------- drawing
    def sizeHint(self) -> QSize:
        """Wide rather than high."""
        return QSize(self.theme.px(600), self.theme.px(330))

    def minimumSizeHint(self) -> QSize:
        """Low enough for a small window."""
        return QSize(self.theme.px(280), self.theme.px(250))

    def paint(self, painter: QPainter, rect: QRectF) -> None:
        """Draw axes, yardsticks, lines, marks and labels."""
        if not self._points:
            return
        t = self.theme
        x0, x1, y0, y1 = self._view or self.whole()
        y_ticks = log_ticks(y0, y1)
        gutter = max(QFontMetricsF(t.font("tick")).horizontalAdvance(digits(v)) for v in [*y_ticks, 0.001]) + t.px(10)
        entries = self.legend()
        shown, high = lay_out_legend(entries, rect.width() - gutter - 2, t) if entries else ([], 0.0)
        above = t.px(6) + min(high, rect.height() * 0.4)
        self._plot = QRectF(rect.left() + gutter, rect.top() + above, rect.width() - gutter - 2, rect.height() - above - t.px(42))
        self._x = Scale(x0, x1, self._plot.left(), self._plot.right(), log=True)
        self._y = Scale(y0, y1, self._plot.bottom(), self._plot.top(), log=True)
        self._frame = Frame(self._plot, self._x, self._y, rect.left())
        draw_axes(painter, self, self._frame, y_ticks, log_ticks(x0, x1, 6 if self._plot.width() > t.px(360) else 4))
        draw_legend(painter, self, shown, QPointF(self._plot.left(), rect.top()))
        painter.save()
        painter.setClipRect(self._plot.adjusted(-1, -8, 2, 1))
        taken = self._yardsticks(painter)
        segments = self._lines(painter)
        self._errors(painter)
        painter.restore()
        self._areas = []
        visible = [i for i, p in enumerate(self._points) if self._plot.adjusted(-1, -1, 1, 1).contains(self._at(p))]
        for i, p in enumerate(self._points):
            box = QRectF(-9e6, -9e6, 0, 0)
            if i in visible:
                centre, size = self._at(p), self._mark_size(p)
                box = QRectF(centre.x() - size, centre.y() - size, 2 * size, 2 * size)
                colour = self._colour(p)
                if self.is_over(i):
                    painter.setPen(QPen(t.color("text"), 1.2))
                    painter.setBrush(t.color("surface-raised"))
                    painter.drawEllipse(centre, size * 0.95, size * 0.95)
                draw_mark(painter, p.shape, centre, size, colour, t.color("surface-raised"))
            self.area(box)
        self._write_labels(painter, visible, taken, segments)
        self._point_out(painter)

    def paint_still(self, painter: QPainter, rect: QRectF) -> None:
        """Draw for an export: without the cross-hair."""
        mouse, self._mouse = self._mouse, None
        super().paint_still(painter, rect)
        self._mouse = mouse

    def _at(self, p: Point) -> QPointF:
        return QPointF(self._x.at(p.size), self._y.at(p.kl))

    def _mark_size(self, p: Point) -> float:
        return self.theme.px(12 if p.accent else 7 if p.aside else 9)

    def _colour(self, p: Point) -> QColor:
        return self.theme.color("accent" if p.accent else p.role or "text-faded")

    def legend(self) -> list[Entry]:
        """One entry per line that has a name, in the order of its names."""
        found: dict[str, Entry] = {}
        for number, name in enumerate(sorted({p.line for p in self._points if p.line})):
            own = [p for p in self._points if p.line == name]
            shape = own[0].shape if len({p.shape for p in own}) == 1 else ""
            if own[0].legend:
                found[name] = Entry(own[0].legend, shape, own[0].role or "text-faded", _DASHES[number % len(_DASHES)])
        return sorted(found.values(), key=lambda e: e.name.lower())

    def _yardsticks(self, painter: QPainter) -> list[QRectF]:
        t, plot = self.theme, self._plot
        taken: list[QRectF] = []
        font = t.font("small", 500)
        shown = [(level, y) for level in sorted(self._levels, key=lambda one: -one.kl)
                 if plot.top() <= (y := self._y.at(level.kl)) <= plot.bottom()]
        pen = QPen(t.color("text"), 1.2, Qt.PenStyle.CustomDashLine)
        pen.setDashPattern([4, 2.5])
        painter.setPen(pen)
        for _, y in shown:
            painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y))
        high = t.px(18)
        for n, (level, y) in enumerate(shown):
            said = f"{level.name}, {digits(level.kl)}"
            width = QFontMetricsF(font).horizontalAdvance(said) + 2
            # Below its line, or above it where the next line is so near that the name would read as that one's.
            crowded = n + 1 < len(shown) and shown[n + 1][1] - y < high + t.px(4)
            above = crowded and (y - shown[n - 1][1] if n else y - plot.top()) > high + t.px(3)
            place = QRectF(plot.right() - t.px(10) - width, y - high - t.px(1) if above else y + t.px(3), width, high)
            while any(place.intersects(other) for other in taken):
                place.translate(-width - t.px(16), 0)
            if any(place.top() < other < place.bottom() for _, other in shown):
                painter.fillRect(place, t.color("surface-raised"))
            self.text(painter, place, said, font, t.color("text"), LEFT)
            taken.append(place)
        taken += [QRectF(plot.left(), y - 2, plot.width(), 4) for _, y in shown]
        return taken

    def _lines(self, painter: QPainter) -> list[QLineF]:
        found: list[QLineF] = []
        names = sorted({p.line for p in self._points if p.line})
        for number, name in enumerate(names):
            places = [self._at(p) for p in sorted((p for p in self._points if p.line == name), key=lambda p: p.size)]
            role = next((p.role for p in self._points if p.line == name and p.role), "")
            pen = QPen(self.theme.mixed(role or "text-faded", 0.8), 1.5 if role else 1.2)
            if dashes := _DASHES[number % len(_DASHES)]:
                pen.setDashPattern(dashes)
            painter.setPen(pen)
            segments = [QLineF(a, b) for a, b in pairwise(places)]
            for segment in segments:
                painter.drawLine(segment)
            found += segments
        return found

    def _errors(self, painter: QPainter) -> None:
        t = self.theme
        for p in self._points:
            if p.error:
                x = self._x.at(p.size)
                # An error as large as the value reaches down to the edge: 0 lies infinitely far below.
                low = self._y.at(p.kl - p.error) if p.error < p.kl else self._plot.bottom()
                high = self._y.at(p.kl + p.error)
                painter.setPen(QPen(self._colour(p), 1.2))
                painter.drawLine(QPointF(x, high), QPointF(x, low))
                cap = t.px(3)
                for y in (high, low):
                    painter.drawLine(QPointF(x - cap, y), QPointF(x + cap, y))

    def _write_labels(self, painter: QPainter, visible: Sequence[int], taken: Sequence[QRectF],
                      segments: Sequence[QLineF]) -> None:
        t = self.theme
        named = [i for i in visible if not self._points[i].is_unnamed]
        order = sorted(named, key=lambda i: (not self._points[i].accent, self._points[i].aside, self._points[i].size))
        wanted, fonts = [], []
        for i in order:
            p = self._points[i]
            font = t.font("tick") if p.aside else t.font("small", 600 if p.accent else 500)
            metrics = QFontMetricsF(font)
            fonts.append(font)
            width = min(metrics.horizontalAdvance(p.label or p.name) + 2, self._plot.width() * 0.4)
            wanted.append(Wanted(self._at(p), self._mark_size(p) / 2 + 1, QSizeF(width, metrics.height()), p.aside))
        self._labels = place_labels(wanted, self._plot, taken, segments)
        for i, font, placed in zip(order, fonts, self._labels, strict=True):
            if placed is None:
                continue
            p = self._points[i]
            if placed.leader is not None:
                painter.setPen(QPen(t.color("line-strong"), 0.8))
                painter.drawLine(placed.leader)
                draw_mark(painter, p.shape, self._at(p), self._mark_size(p), self._colour(p))
            ground = t.color("surface-raised")
            ground.setAlphaF(0.8)                       # where a line has to pass under a label, it recedes
            painter.fillRect(placed.rect.adjusted(-2, 2, 2, -2), ground)
            self.text(painter, placed.rect, p.label or p.name, font, t.color("text-faded" if p.aside else "text"), LEFT)

    def _point_out(self, painter: QPainter) -> None:
        """The cross-hair at the mouse, or the rectangle that is being drawn."""
        at = self._mouse
        if at is None or not self._plot.contains(at):
            return
        if self._pressed is not None and (at - self._pressed).manhattanLength() > 6:
            draw_rubber_band(painter, self.theme, QRectF(self._pressed, at).normalized().intersected(self._plot))
        else:
            draw_crosshair(painter, self, self._frame, at, "double-click for all" if self._view else "drag to zoom")

    # ------------------------------------------------------------------------------------------ mouse and keys
    def part_at(self, place: QPointF) -> int:
        """The nearest mark within reach, or -1; chosen ones before others at the same distance."""
        found = [((self._at(p) - place), i) for i, p in enumerate(self._points) if self._areas and self._areas[i].width() > 0]
        near = sorted((math.hypot(d.x(), d.y()), -i) for d, i in found)
        return -near[0][1] if near and near[0][0] <= _NEAR else -1

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Crosshair and card, or the rectangle to zoom to."""
        self._mouse = event.position()
        self.update()
        if self._pressed is None:
            super().mouseMoveEvent(event)
        else:
            self.hide_card()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin a rectangle, or a click."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._pressed = event.position()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Zoom to the rectangle, or pick the mark that was clicked."""
        begin, self._pressed = self._pressed, None
        if begin is None or event.button() != Qt.MouseButton.LeftButton:
            return
        box = QRectF(begin, event.position()).normalized().intersected(self._plot)
        if box.width() > 12 and box.height() > 12:
            x, y = self._x, self._y
            self.show_part((x.value(box.left()), x.value(box.right()), y.value(box.bottom()), y.value(box.top())))
        elif (event.position() - begin).manhattanLength() <= 6:
            self._pick(self.part_at(begin))
        self.update()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Show everything."""
        self._pressed = None
        self.reset()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Zoom with Ctrl held; without, the page scrolls."""
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.zoom(0.8 if event.angleDelta().y() > 0 else 1.25, event.position())
            event.accept()
        else:
            event.ignore()

    def leaveEvent(self, event: QEvent) -> None:
        """No crosshair without a mouse."""
        self._mouse = None
        self.update()
        super().leaveEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Plus and minus zoom, Home shows everything; arrows walk the marks."""
        if event.key() in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self.zoom(0.8)
        elif event.key() == Qt.Key.Key_Minus:
            self.zoom(1.25)
        elif event.key() == Qt.Key.Key_Home or (event.key() == Qt.Key.Key_Escape and self.is_zoomed and self._over < 0):
            self.reset()
        else:
            super().keyPressEvent(event)

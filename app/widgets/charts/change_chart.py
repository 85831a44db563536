"""How much each kind of layer changed: a bar to the median, a dot per block, and a table in line with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPoint, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QMouseEvent, QPainter, QPen

from app.planning import Dot, KindFacts
from app.theme import Theme
from app.widgets.charts.painted import CENTRE, LEFT, RIGHT, Facts, PaintedChart, Rows
from app.widgets.charts.scales import linear_ticks
from app.words import count, size

TITLE = "Change per layer kind"
OPEN = "not chosen yet"
"""What stands for how a matrix is stored until a job has chosen it."""
_GOLDEN = 0.618034
"""Steps of this share spread dots evenly without a pattern, the same each time."""
_REACH = 9
"""Pixels from a dot within which it counts as pointed at."""


@dataclass(frozen=True)
class _Columns:
    """Left edges and right edges of a row's parts, in pixels."""

    plot: tuple[float, float]
    median: float
    unchanged: float
    stored: tuple[float, float]
    bytes: float


class ChangeChart(PaintedChart):
    """Rows of kinds. Draws its own title line, since the table's heads stand in it."""

    def __init__(self, theme: Theme) -> None:
        super().__init__(theme, TITLE)
        self._kinds: tuple[KindFacts, ...] = ()
        self._is_open = False
        self._dot: tuple[int, Dot] | None = None
        self._dots: list[tuple[QPointF, int, Dot]] = []
        self.tell()

    def set_kinds(self, kinds: Sequence[KindFacts], *, is_open: bool = False) -> None:
        """Show other kinds. `is_open`: what would be signs is stored as a job will find best for the size that is asked for."""
        self._kinds, self._dot, self._is_open = tuple(kinds), None, is_open
        self.tell()

    def _stored(self, kind: KindFacts) -> tuple[str, str]:
        """How a kind is stored and in how many bytes, as words."""
        return (OPEN, "\N{EN DASH}") if self._is_open and "sign" in kind.stored else (kind.stored, size(kind.bytes))

    @property
    def kinds(self) -> tuple[KindFacts, ...]:
        """What is shown."""
        return self._kinds

    def sizeHint(self) -> QSize:
        """Roomy rows."""
        return QSize(self.theme.px(640), self._height(26))

    def minimumSizeHint(self) -> QSize:
        """Rows that can still be told apart."""
        return QSize(self.theme.px(370), self._height(24))

    def _height(self, row: float) -> int:
        return self.theme.px(24 + 44 + row * max(1, len(self._kinds)))

    # -------------------------------------------------------------------------------------------------- figures
    def decimals(self) -> int:
        """Places after the point that tell the smallest median's two first digits, from 1 to 4."""
        least = min((100 * k.median for k in self._kinds if k.median > 0), default=1.0)
        return min(4, max(1, 1 - math.floor(math.log10(least))))

    def shown(self, change: float) -> str:
        """A change in percent, with as many places as its neighbours."""
        return f"{100 * change:.{self.decimals()}f} %" if change else "0 %"

    def top(self) -> float:
        """The axis's end, in percent: the next round value beyond the largest change."""
        most = 100 * max((d.change for k in self._kinds for d in k.dots), default=0.0)
        if most <= 0:
            return 1.0
        power = 10.0 ** math.floor(math.log10(most))
        return next(step * power for step in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12.5) if step * power >= most * 1.02)

    def table(self) -> tuple[tuple[str, ...], Rows]:
        """Kind, median, unchanged share, how it is stored, bytes in the delta."""
        rows: Rows = [(k.kind, self.shown(k.median), unchanged_words(k.unchanged), *self._stored(k)) for k in self._kinds]
        return ("kind", "median change", "unchanged", "stored as", "delta"), rows

    def facts(self, index: int) -> Facts | None:
        """Of the dot that is pointed at, or of the whole kind."""
        if not 0 <= index < len(self._kinds):
            return None
        kind = self._kinds[index]
        if self._dot is not None and self._dot[0] == index:
            dot = self._dot[1]
            where = kind.kind if dot.block is None else f"Block {dot.block}, {kind.kind}"
            return Facts(where, (("Change", self.shown(dot.change)), ("Median of the kind", self.shown(kind.median))))
        changes = [d.change for d in kind.dots]
        span = f"{self.shown(min(changes))} to {self.shown(max(changes))}" if len(changes) > 1 else self.shown(kind.median)
        return Facts(f"{kind.kind}, {count(len(changes), 'tensor')}", (
            ("Change", span), ("Unchanged entries", unchanged_words(kind.unchanged)), ("Stored as", self._stored(kind)[0]),
            ("In the delta", self._stored(kind)[1]), ("In full", size(kind.full_bytes))))

    # -------------------------------------------------------------------------------------------------- drawing
    def _columns(self, width: float) -> _Columns:
        t = self.theme
        small, text = QFontMetricsF(t.font("small")), QFontMetricsF(t.font("text", 600))
        left = max([t.px(44.0), *(QFontMetricsF(t.font("small")).horizontalAdvance(k.kind) + t.px(12) for k in self._kinds)])
        _, rows = self.table()
        delta = max([small.horizontalAdvance("delta"), *(small.horizontalAdvance(r[4]) for r in rows)])
        wanted = max([small.horizontalAdvance("stored as"), *(small.horizontalAdvance(r[3]) for r in rows)]) + 2
        median = max([text.horizontalAdvance("0.62 %"), *(text.horizontalAdvance(r[1]) for r in rows)])
        share = small.horizontalAdvance("unchanged")
        gap = t.px(14)
        fixed = left + median + share + delta + 4 * gap
        stored = min(wanted, max(t.px(86.0), width - fixed - t.px(180.0)))
        right_of_plot = max(left + t.px(100.0), width - (median + share + stored + delta + 4 * gap))
        right_of_median = right_of_plot + gap + median
        right_of_share = right_of_median + gap + share
        return _Columns((left, right_of_plot), right_of_median, right_of_share,
                        (right_of_share + gap, right_of_share + gap + stored), width)

    def paint(self, painter: QPainter, rect: QRectF) -> None:
        """Title line, rows, axis."""
        t = self.theme
        head, foot = t.px(24.0), t.px(40.0)
        at = self._columns(rect.width())
        self._dots = []
        has_legend = self._paint_head(painter, at, head)
        if not self._kinds:
            return
        plot = QRectF(at.plot[0], head + 4, at.plot[1] - at.plot[0], rect.height() - head - foot - 4)
        top = self.top()
        self._paint_axis(painter, plot, top)
        if not has_legend:                             # long ways to store leave none: below the table, beside the axis's name
            wide, bottom = self._legend_width(), plot.top() + min(plot.height(), t.px(68.0) * len(self._kinds))
            self._paint_legend(painter, QRectF(rect.width() - wide, bottom + t.px(19), wide, t.px(18)))
        row = min(plot.height() / len(self._kinds), t.px(68.0))
        for i, kind in enumerate(self._kinds):
            self._paint_row(painter, QRectF(0, plot.top() + i * row, rect.width(), row), i, kind, at, plot, top)

    def _paint_head(self, painter: QPainter, at: _Columns, height: float) -> bool:
        """Whether the legend has room in it."""
        t, faded = self.theme, self.theme.color("text-faded")
        title, small = t.font("text", 600), t.font("small")
        width = QFontMetricsF(title).horizontalAdvance(TITLE)
        self.text(painter, QRectF(0, 0, width + 1, height), TITLE, title, t.color("text"))
        x = width + t.px(18)
        room = at.median - QFontMetricsF(small).horizontalAdvance("median") - t.px(8)
        if has_room := x + self._legend_width() < room:
            self._paint_legend(painter, QRectF(x, 0, self._legend_width(), height))
        if self._kinds:
            self.text(painter, QRectF(at.median - 80, 0, 80, height), "median", small, faded, RIGHT)
            self.text(painter, QRectF(at.unchanged - 80, 0, 80, height), "unchanged", small, faded, RIGHT)
            self.text(painter, QRectF(at.stored[0], 0, at.stored[1] - at.stored[0], height), "stored as", small, faded)
            self.text(painter, QRectF(at.bytes - 80, 0, 80, height), "delta", small, faded, RIGHT)
        return has_room

    def _legend_width(self) -> float:
        return QFontMetricsF(self.theme.font("small")).horizontalAdvance("one block median") + self.theme.px(48)

    def _paint_legend(self, painter: QPainter, rect: QRectF) -> None:
        t, small, faded = self.theme, self.theme.font("small"), self.theme.color("text-faded")
        x, middle = rect.left() + 3, rect.center().y()
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(t.mixed("text", 0.5))
        painter.drawEllipse(QPointF(x, middle), 2.5, 2.5)
        x += t.px(10)
        self.text(painter, QRectF(x, rect.top(), 200, rect.height()), "one block", small, faded)
        x += QFontMetricsF(small).horizontalAdvance("one block") + t.px(14)
        painter.fillRect(QRectF(x, middle - 5, 6, 10), t.mixed("accent", 0.25))
        painter.fillRect(QRectF(x + 6, middle - 6, 2.5, 12), t.color("accent"))
        self.text(painter, QRectF(x + t.px(14), rect.top(), 200, rect.height()), "median", small, faded)

    def _paint_axis(self, painter: QPainter, plot: QRectF, top: float) -> None:
        t = self.theme
        bottom = plot.top() + min(plot.height(), t.px(68.0) * len(self._kinds))
        ticks = linear_ticks(top)
        places = max(0, -math.floor(math.log10(ticks[1]) + 1e-9)) if len(ticks) > 1 else 0
        if len(ticks) > 1 and abs(round(ticks[1], places) - ticks[1]) > ticks[1] * 1e-6:
            places += 1
        for tick in ticks:
            x = round(plot.left() + plot.width() * tick / top) + 0.5
            painter.setPen(QPen(t.color("line"), 1))
            painter.drawLine(QPointF(x, plot.top()), QPointF(x, bottom))
            self.text(painter, QRectF(x - 40, bottom + 2, 80, t.px(17)), f"{tick:.{places}f}" if tick else "0", t.font("tick"),
                      t.color("text-faded"), CENTRE)
        painter.setPen(QPen(t.color("line"), 1))
        painter.drawLine(QPointF(plot.left(), bottom + 0.5), QPointF(plot.right(), bottom + 0.5))
        below = QRectF(plot.left() - t.px(60), bottom + t.px(19), plot.width() + t.px(120), t.px(18))
        self.text(painter, below, "relative change of the weights, %", t.font("tick"), t.color("text-faded"), CENTRE)

    def _paint_row(self, painter: QPainter, rect: QRectF, index: int, kind: KindFacts, at: _Columns, plot: QRectF,
                   top: float) -> None:
        t, text, faded = self.theme, self.theme.color("text"), self.theme.color("text-faded")
        self.area(rect)
        if self.is_over(index):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(t.mixed("text-faded", 0.07))
            painter.drawRoundedRect(rect.adjusted(-4, 1, 4, -1), 4, 4)
        thick = min(t.px(28.0), rect.height() * 0.54)
        middle = rect.center().y()
        small = t.font("small")

        def x_of(change: float) -> float:
            return plot.left() + plot.width() * 100 * change / top
        self.text(painter, QRectF(0, rect.top(), at.plot[0] - t.px(10), rect.height()), kind.kind, small, faded, RIGHT)
        end = x_of(kind.median)
        painter.fillRect(QRectF(plot.left(), middle - thick / 2, end - plot.left(), thick), t.mixed("accent", 0.25))
        if len(kind.dots) > 1 and any(d.change for d in kind.dots):
            # Fewer dots can be darker; many must show how they lie over each other.
            share = 0.5 if len(kind.dots) <= 64 else max(0.12, 32 / len(kind.dots))
            painter.setPen(Qt.PenStyle.NoPen)
            ink = t.color("text")
            ink.setAlphaF(share)
            painter.setBrush(ink)
            for n, dot in enumerate(kind.dots):
                y = middle + ((n * _GOLDEN) % 1 - 0.5) * thick * 0.86
                place = QPointF(x_of(dot.change), y)
                painter.drawEllipse(place, 2.3, 2.3)
                self._dots.append((place, index, dot))
        painter.fillRect(QRectF(end - 1.25, middle - thick / 2 - 3, 2.5, thick + 6), t.color("accent"))
        if self._dot is not None and self._dot[0] == index:
            painter.setPen(QPen(t.color("accent"), 2))
            painter.setBrush(t.color("surface-raised"))
            for place in (p for p, _, dot in self._dots if dot is self._dot[1]):
                painter.drawEllipse(place, 4, 4)
        stored, nbytes = self._stored(kind)
        self.text(painter, QRectF(at.median - 100, rect.top(), 100, rect.height()), self.shown(kind.median), t.font("small", 600),
                  text, RIGHT)
        self.text(painter, QRectF(at.unchanged - 80, rect.top(), 80, rect.height()), unchanged_words(kind.unchanged), small, text,
                  RIGHT)
        self.text(painter, QRectF(at.stored[0], rect.top(), at.stored[1] - at.stored[0], rect.height()), stored, small, text,
                  LEFT)
        self.text(painter, QRectF(at.bytes - 100, rect.top(), 100, rect.height()), nbytes, small, text, RIGHT)

    # ------------------------------------------------------------------------------------------------- pointing
    def dot_at(self, place: QPointF) -> tuple[int, Dot] | None:
        """The dot nearest to a place, within reach: the row's number and the dot."""
        near = min(self._dots, key=lambda d: (d[0] - place).manhattanLength(), default=None)
        if near is None or (near[0] - place).manhattanLength() > _REACH:
            return None
        return near[1], near[2]

    def point_at(self, index: int, place: QPoint | None = None) -> None:
        """Point at a row; at a dot of it where one is near."""
        found = self.dot_at(QPointF(place)) if place is not None and index >= 0 else None
        if found is not None and found[0] != index:
            found = None
        if found != self._dot:
            self._dot = found
            self.update()
        super().point_at(index, place)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Dots lie close: look again at each move."""
        place = event.position()
        self.point_at(self.part_at(place), place.toPoint())


def unchanged_words(share: float) -> str:
    """A share of equal entries: whole percents, with `100 %` and `0 %` kept for all and none."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(99, max(1, round(100 * share)))} %"

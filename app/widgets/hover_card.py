"""A small card with the facts of what is pointed at. It floats beside it, inside the window, and takes no clicks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from app.theme import Theme

GAP = 8
"""Pixels between the card and what it is about."""
_SHADOW = 8
_PAD = 12
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


@dataclass(frozen=True)
class HoverFacts:
    """What a hover card says. The swatch is a small cell: a colour with a letter on it, or an outline without a colour."""

    title: str
    verdict: str = ""
    rows: tuple[tuple[str, str], ...] = ()
    note: str = ""
    letter: str = ""
    colour: QColor | None = None

    def text(self) -> str:
        """All of it as one sentence after the other, for screen readers and the clipboard."""
        head = f"{self.title}: {self.verdict}" if self.verdict else self.title
        return ". ".join([head, *(f"{name} {value}" for name, value in self.rows), *([self.note] if self.note else [])])


def place_beside(anchor: QRect, size: QSize, area: QRect, avoid: Sequence[QRect] = (), gap: int = GAP) -> QPoint:
    """Where a card of `size` goes so that it lies in `area`, beside `anchor`, and covers neither it nor `avoid`.

    Right of it comes first, then left, below and above. Where nothing is free of `avoid`, that gives way; where the area
    is too small for a place beside the anchor, the card lies as far from it as the area lets it.
    """
    middle = anchor.center()
    right, left = anchor.right() + 1 + gap, anchor.left() - gap - size.width()
    below, above = anchor.bottom() + 1 + gap, anchor.top() - gap - size.height()
    last = QPoint(area.right() + 1 - size.width(), area.bottom() + 1 - size.height())
    # just past something that is to stay visible is better than over what lies on the other side
    past = [r.right() + 1 + gap for r in avoid if 0 <= r.right() - anchor.right() <= 2 * anchor.width() + gap]
    heights = [_within(y, area.top(), last.y()) for y in (middle.y() - size.height() // 3, anchor.top(), below,
                                                          anchor.bottom() + 1 - size.height(), above)]
    widths = [_within(x, area.left(), last.x()) for x in (middle.x() - size.width() // 2, right, left)]
    found = [QPoint(x, y) for x in (right, *past, left) for y in heights if area.left() <= x <= last.x()]
    found += [QPoint(x, y) for y in (below, above) for x in widths if area.top() <= y <= last.y()]
    for hidden in ([anchor, *avoid], [anchor]):
        for point in found:
            if not any(QRect(point, size).intersects(rect) for rect in hidden):
                return point
    corners = [QPoint(x, y) for x in (_within(right, area.left(), last.x()), _within(left, area.left(), last.x()))
               for y in (_within(below, area.top(), last.y()), _within(above, area.top(), last.y()))]
    return max(corners, key=lambda p: (QRect(p, size).center() - middle).manhattanLength())


def _within(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


class HoverCard(QWidget):
    """One card for a chart: `show_beside` moves it, `hide` puts it away. It is a child of the chart's window."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self.facts = HoverFacts("")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setObjectName("hover-card")
        self.hide()
        theme.changed.connect(self.hide)

    def show_beside(self, facts: HoverFacts, anchor: QRect, of: QWidget, avoid: Sequence[QRect] = ()) -> None:
        """Show facts beside a rectangle of a widget; `avoid` has further rectangles of it that stay visible if that can be."""
        window = of.window()
        if self.parentWidget() is not window:
            self.setParent(window)
        if facts != self.facts:
            self.facts = facts
            self.setAccessibleName(facts.text())
            self.update()
        size = self.sizeHint()

        def mapped(rect: QRect) -> QRect:
            return QRect(of.mapTo(window, rect.topLeft()), rect.size())
        inner = size - QSize(2 * _SHADOW, 2 * _SHADOW)
        at = place_beside(mapped(anchor), inner, window.rect().adjusted(4, 4, -4, -4), [mapped(r) for r in avoid])
        self.setGeometry(QRect(at - QPoint(_SHADOW, _SHADOW), size))
        self.raise_()
        self.show()

    def card_rect(self) -> QRect:
        """The card without its shadow, in the window."""
        return self.geometry().adjusted(_SHADOW, _SHADOW, -_SHADOW, -_SHADOW)

    def sizeHint(self) -> QSize:
        """Of the facts and the shadow around them."""
        theme, facts = self._theme, self.facts
        title, verdict, row = (QFontMetricsF(theme.font(*f)) for f in (("text", 600), ("small", 500), ("small", 600)))
        head = theme.px(14 + 8) + title.horizontalAdvance(facts.title)
        head += theme.px(20) + verdict.horizontalAdvance(facts.verdict) if facts.verdict else 0
        widest = max((row.horizontalAdvance(a) + theme.px(24) + row.horizontalAdvance(b) for a, b in facts.rows), default=0)
        wide = max(theme.px(200), min(theme.px(400), max(head, widest)))
        high = theme.px(22) + len(facts.rows) * theme.px(18) + (theme.px(4) if facts.rows else 0) + self._note_height(wide)
        edge = 2 * (_SHADOW + theme.px(_PAD))
        return QSize(round(wide + edge), round(high + edge - theme.px(6)))

    def _note_height(self, wide: float) -> float:
        if not self.facts.note:
            return 0
        metrics, room = QFontMetricsF(self._theme.font("small")), QRectF(0, 0, wide, 1000)
        return self._theme.px(8) + metrics.boundingRect(room, int(Qt.TextFlag.TextWordWrap), self.facts.note).height()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        theme, facts, pad = self._theme, self.facts, self._theme.px(_PAD)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        card = QRectF(self.rect()).adjusted(_SHADOW + 0.5, _SHADOW + 0.5, -_SHADOW - 0.5, -_SHADOW - 0.5)
        painter.setPen(Qt.PenStyle.NoPen)
        for i in range(_SHADOW, 0, -1):
            painter.setBrush(QColor(0, 0, 0, (14 if theme.dark else 5)))
            painter.drawRoundedRect(card.adjusted(-i + 1, -i + 3, i - 1, i - 1), 8 + i, 8 + i)
        painter.setPen(QPen(theme.color("line-strong"), 1))
        painter.setBrush(theme.mixed("text-faded", 0.06) if theme.dark else theme.color("surface-raised"))
        painter.drawRoundedRect(card, 8, 8)
        inside = card.adjusted(pad, pad - theme.px(2), -pad, -pad)
        line = QRectF(inside.left(), inside.top(), inside.width(), theme.px(22))
        self._paint_head(painter, line)
        y = line.bottom() + theme.px(4)
        for name, value in facts.rows:
            at = QRectF(inside.left(), y, inside.width(), theme.px(18))
            painter.setFont(theme.font("small"))
            painter.setPen(theme.color("text-faded"))
            painter.drawText(at, _LEFT, name)
            painter.setFont(theme.font("small", 600))
            painter.setPen(theme.color("text"))
            painter.drawText(at, _RIGHT, value)
            y += theme.px(18)
        if facts.note:
            painter.setFont(theme.font("small"))
            painter.setPen(theme.color("text-faded"))
            painter.drawText(QRectF(inside.left(), y + theme.px(6), inside.width(), 1000),
                             int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextWordWrap), facts.note)
        painter.end()

    def _paint_head(self, painter: QPainter, line: QRectF) -> None:
        theme, facts, side = self._theme, self.facts, self._theme.px(14)
        swatch = QRectF(line.left(), line.center().y() - side / 2, side, side)
        if facts.colour is None:
            painter.setPen(QPen(theme.color("line-strong"), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(swatch.adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)
        else:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(facts.colour)
            painter.drawRoundedRect(swatch, 3, 3)
            font = theme.font("tick", 600)
            font.setPixelSize(theme.px(10))
            painter.setFont(font)
            painter.setPen(theme.ink_on(facts.colour))
            painter.drawText(swatch, Qt.AlignmentFlag.AlignCenter, facts.letter)
        painter.setPen(theme.color("text"))
        painter.setFont(theme.font("small", 500))
        verdict = QFontMetricsF(painter.font()).horizontalAdvance(facts.verdict)
        painter.drawText(line, _RIGHT, facts.verdict)
        painter.setFont(theme.font("text", 600))
        room = line.width() - side - theme.px(8) - (verdict + theme.px(12) if verdict else 0)
        title = QFontMetricsF(painter.font()).elidedText(facts.title, Qt.TextElideMode.ElideRight, room)
        painter.drawText(line.adjusted(side + theme.px(8), 0, 0, 0), _LEFT, title)

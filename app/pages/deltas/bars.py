"""A few bars in a narrow pane: a name, a bar from 0 on, its value at the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import Theme

_LINE = 19
_BAR = 8
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


@dataclass(frozen=True)
class Bar:
    """One bar. `spread` is the lowest and highest of what was repeated."""

    name: str
    value: float
    text: str
    accent: bool = False
    spread: tuple[float, float] | None = None


class MiniBars(QWidget):
    """Bars on one linear scale that begins at 0."""

    def __init__(self, theme: Theme, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._name = theme, name
        self._bars: tuple[Bar, ...] = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._restyle)
        self.set_bars(())

    def _restyle(self) -> None:
        self.updateGeometry()
        self.update()

    def set_bars(self, bars: Sequence[Bar]) -> None:
        """Show these."""
        self._bars = tuple(bars)
        self.setAccessibleName(f"{self._name}: " + ", ".join(f"{b.name} {b.text}" for b in bars))
        self.setToolTip("")
        self._restyle()

    def bars(self) -> tuple[Bar, ...]:
        """What is shown."""
        return self._bars

    def sizeHint(self) -> QSize:
        """A line for each bar."""
        return QSize(self._theme.px(240), self._theme.px(_LINE) * max(1, len(self._bars)))

    def minimumSizeHint(self) -> QSize:
        """As high, and narrower."""
        return QSize(self._theme.px(160), self.sizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw them."""
        t = self._theme
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        names, values = t.font("small"), t.font("small", 600)
        name_wide = max((QFontMetricsF(names).horizontalAdvance(b.name) for b in self._bars), default=0) + t.px(14)
        text_wide = max((QFontMetricsF(values).horizontalAdvance(b.text) for b in self._bars), default=0) + t.px(12)
        begin, room = name_wide, max(20.0, self.width() - name_wide - text_wide)
        longest = max((max(b.value, b.spread[1] if b.spread else 0.0) for b in self._bars), default=0.0) or 1.0
        line, thick = t.px(_LINE), t.px(_BAR)
        for i, bar in enumerate(self._bars):
            top = i * line
            painter.setFont(names)
            painter.setPen(t.color("text-faded"))
            painter.drawText(QRectF(0, top, name_wide, line), _LEFT, bar.name)
            painter.setFont(values)
            painter.setPen(t.color("text"))
            painter.drawText(QRectF(0, top, self.width(), line), _RIGHT, bar.text)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(t.color("accent") if bar.accent else t.mixed("text-faded", 0.42))
            wide = max(2.0, room * bar.value / longest)
            painter.drawRoundedRect(QRectF(begin, top + (line - thick) / 2, wide, thick), min(2.0, wide / 2), 2)
            if bar.spread is not None:
                low, high = (begin + room * x / longest for x in bar.spread)
                self._whisker(painter, low, high, top + line / 2)
        painter.end()

    def _whisker(self, painter: QPainter, low: float, high: float, middle: float) -> None:
        painter.setPen(QPen(self._theme.color("text"), 1))
        painter.drawLine(QPointF(low, middle), QPointF(high, middle))
        for x in (low, high):
            painter.drawLine(QPointF(x, middle - 2.5), QPointF(x, middle + 2.5))

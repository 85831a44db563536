"""The scale of a codec map's shades: paler cells hold fewer bits per weight."""

from __future__ import annotations

from collections.abc import Collection

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.codings import strength
from app.theme import Theme
from app.widgets.charts.axis_paint import only_coding
from app.widgets.charts.axis_scale import Inks

_STEPS = ((0.0, "0"), (0.5, "0.5"), (1.0, "1"), (2.0, "2"), (4.0, "4+"))
_CAPTION = "Bits per weight"
_WIDE, _HIGH = 34, 8


class BitsScale(QWidget):
    """Steps in the one colour of a map's cells, or in grey where they have several; the number of bits below each."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._inks, self._key = theme, Inks(theme), ""
        self.setAccessibleName("Scale of shades: paler is fewer stored bits per weight, full colour from 4 on")
        self.setToolTip("How strong a cell's colour is tells how many bits each weight takes, scales included")
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._restyle)

    def set_codings(self, keys: Collection[str]) -> None:
        """The ways to store that the map has."""
        self._key = only_coding(keys)
        self.update()

    def _restyle(self) -> None:
        self._inks.forget()
        self.updateGeometry()
        self.update()

    def _caption_wide(self) -> float:
        return QFontMetricsF(self._theme.font("tick")).horizontalAdvance(_CAPTION) + self._theme.px(10)

    def sizeHint(self) -> QSize:
        """Caption, steps, numbers below."""
        return QSize(round(self._caption_wide()) + self._theme.px(_WIDE) * len(_STEPS) + 2, self._theme.px(_HIGH + 16))

    def minimumSizeHint(self) -> QSize:
        """Words are not cut."""
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        t = self._theme
        painter = QPainter(self)
        painter.setFont(t.font("tick"))
        painter.setPen(t.color("text-faded"))
        at, wide, high = self._caption_wide(), t.px(_WIDE), t.px(_HIGH)
        painter.drawText(QRectF(0, -2, at, high + 4), Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, _CAPTION)
        for i, (bits, said) in enumerate(_STEPS):
            place = QRectF(at + i * wide, 0, wide - 1, high)
            painter.fillRect(place, self._inks.coding(self._key, round(100 * strength(bits)))[0])
            painter.drawText(QRectF(place.left(), high + 1, place.width(), t.px(14)), Qt.AlignmentFlag.AlignCenter, said)
        painter.end()

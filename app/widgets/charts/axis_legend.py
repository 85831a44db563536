"""The axis map's legend for a title line: swatches with letters, and how many layers chose each axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from PySide6.QtCore import QRectF, QSize
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import Theme
from app.widgets.charts.axis_facts import summary
from app.widgets.charts.axis_paint import legend_items, legend_width, paint_legend
from app.widgets.charts.axis_scale import Inks


class AxisLegend(QWidget):
    """Row and column with their counts; row x column, scalar and to do where there are any. The tooltip has all counts."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._inks = theme, Inks(theme)
        self._items: list[tuple[str, str]] = []
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._restyle)
        self.set_counts({})

    def set_counts(self, counts: Mapping[str, int]) -> None:
        """Show how many layers chose what."""
        items = legend_items(Counter(counts))
        if items != self._items:
            grows = legend_width(self._theme, items) != legend_width(self._theme, self._items)
            self._items = items
            if grows:
                self.updateGeometry()
            self.update()
        text = summary(dict(counts))
        self.setToolTip(text)
        self.setAccessibleName(f"Layers by axis: {text}")

    def _restyle(self) -> None:
        self._inks.forget()
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """Of its words."""
        return QSize(round(legend_width(self._theme, self._items)) + 3, self._theme.px(20))

    def minimumSizeHint(self) -> QSize:
        """Words are not cut."""
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        painter = QPainter(self)
        paint_legend(painter, self._theme, self._inks, self._items, QRectF(self.rect()))
        painter.end()

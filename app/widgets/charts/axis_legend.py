"""The axis map's legend for a title line: swatches with letters, and how many layers chose each axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from PySide6.QtCore import QRectF, QSize
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.codings import coding_word, strength
from app.theme import Theme
from app.widgets.charts.axis_facts import summary
from app.widgets.charts.axis_paint import MOST, coding_items, legend_items, legend_width, paint_legend
from app.widgets.charts.axis_scale import Inks


class AxisLegend(QWidget):
    """Row and column with their counts; others where there are any; or the ways to store. The tooltip has all counts."""

    def __init__(self, theme: Theme, parent: QWidget | None = None, *, room: int = 0) -> None:
        """`room`: the width at zoom 1 that ways to store may take; fewer are named where it is narrow."""
        super().__init__(parent)
        self._theme, self._inks, self._room = theme, Inks(theme), room
        self._items: list[tuple[str, str]] = []
        self._all: list[tuple[str, str]] = []
        self._given: float | None = None
        self._shades: dict[str, int] = {}
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._restyle)
        self.set_counts({})

    def set_counts(self, counts: Mapping[str, int], *, by_codec: bool = False, bits: Mapping[str, float] | None = None) -> None:
        """Show how many layers chose which axis, or (`by_codec`) are stored how; `bits` per weight give swatches their cells'
        shade."""
        shades = {key: round(100 * strength(found)) for key, found in (bits or {}).items()}
        if shades != self._shades:
            self._shades = shades
            self.update()
        self._all = self._codings(Counter(counts)) if by_codec else legend_items(Counter(counts))
        self._choose()
        text = summary(counts, coding_word if by_codec else None)
        self.setToolTip(text)
        self.setAccessibleName(f"Layers by {'codec' if by_codec else 'axis'}: {text}")

    def fit(self, width: float) -> None:
        """Stay within a width (in pixels): what nobody chose goes first, then what is to do, which the map shows as well."""
        self._given = width
        self._choose()

    def _choose(self) -> None:
        items = self._all
        if self._given is not None:
            present = [item for item in items if not item[1].endswith(" 0")]
            shorter = items, present, [item for item in present if item[0] != "todo"]
            items = next((tried for tried in shorter if round(legend_width(self._theme, tried)) + 3 <= self._given),
                         shorter[-1])
        if items != self._items:
            grows = legend_width(self._theme, items) != legend_width(self._theme, self._items)
            self._items = items
            if grows:
                self.updateGeometry()
            self.update()

    def _codings(self, counts: Counter[str]) -> list[tuple[str, str]]:
        for most in range(MOST, 0, -1):
            items = coding_items(counts, most)
            if not self._room or legend_width(self._theme, items) <= self._theme.px(self._room):
                break
        return items

    def _restyle(self) -> None:
        self._inks.forget()
        self._choose()
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
        paint_legend(painter, self._theme, self._inks, self._items, QRectF(self.rect()), self._shades)
        painter.end()

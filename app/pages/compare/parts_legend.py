"""What the parts of the stacked bars are, in lines of swatches with counts: as many to a line as fit."""

from __future__ import annotations

from functools import partial

from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme import Theme
from app.widgets.basics import boxed, label, row
from app.widgets.charts.marks import ColourKey
from app.widgets.charts.stacked import StackedAxes
from app.widgets.flow import FlowLayout


class PartsLegend(QWidget):
    """Names, colours and counts of the ways to store; hidden where the bars tell of axes, which the title line names."""

    def __init__(self, theme: Theme, chart: StackedAxes, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._chart = theme, chart
        self._shown: list[tuple[str, str]] = []
        self.flow = FlowLayout(self, gap=14)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def refresh(self) -> None:
        """Show the parts as the chart has them now."""
        parts = self._chart.parts() if self._chart.by_codec else ()
        self.setVisible(bool(parts))
        wanted = [(part.key, f"{part.name} {part.count:,}") for part in parts]
        self.setAccessibleName(", ".join(["Ways to store", *(text for _, text in wanted)]))
        if wanted == self._shown:
            return
        self._shown = wanted
        while (item := self.flow.takeAt(0)) is not None:
            if (old := item.widget()) is not None:
                old.hide()
                old.deleteLater()
        for key, text in wanted:
            self.flow.addWidget(boxed(row(ColourKey(self._theme, partial(self._chart.colour_of, key)), label(text, weight=500),
                                          gap=6)))
        self.updateGeometry()

    def heightForWidth(self, width: int) -> int:
        """Of all lines."""
        return self.flow.heightForWidth(width)

    def hasHeightForWidth(self) -> bool:
        """Narrower means higher."""
        return True

"""What the painted charts of Compare and Deltas share: repainting with the theme, rows to point at, a hover card, a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QFrame, QGridLayout, QSizePolicy, QWidget
from shiboken6 import isValid

from app.theme import Theme
from app.widgets.basics import clear_layout, column, label

Rows = list[tuple[str, ...]]
LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
CENTRE = Qt.AlignmentFlag.AlignCenter


@dataclass(frozen=True)
class Facts:
    """What a hover card says: a title, and names with values."""

    title: str
    rows: tuple[tuple[str, str], ...]


class FactsCard(QFrame):
    """A small card of facts beside what is pointed at, over everything else in its window."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setProperty("look", "float")
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(3)
        self._title = label(weight=600)
        self.setLayout(column(self._title, self._grid, gap=6, margins=(12, 8, 12, 10)))
        self._facts: Facts | None = None

    def show_at(self, facts: Facts, place: QPoint) -> None:
        """Show facts beside a place of the window, within the window."""
        if facts != self._facts:
            self._facts = facts
            self._title.setText(facts.title)
            clear_layout(self._grid)
            for at, (name, value) in enumerate(facts.rows):
                self._grid.addWidget(label(name, size="small", tone="faded"), at, 0)
                self._grid.addWidget(label(value, size="small", weight=500), at, 1, RIGHT)
        self.adjustSize()
        room = self.window().rect()
        x, y = place.x() + 14, place.y() + 14
        if x + self.width() > room.right():
            x = place.x() - 14 - self.width()
        if y + self.height() > room.bottom():
            y = place.y() - 14 - self.height()
        self.move(max(room.left(), x), max(room.top(), y))
        self.raise_()
        self.show()


class PaintedChart(QWidget):
    """A chart that is drawn by `paint`, on the screen as in an export. `picked` tells the key of what was clicked."""

    picked = Signal(str)

    def __init__(self, theme: Theme, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.theme = theme
        self._card: FactsCard | None = None
        self._areas: list[QRectF] = []
        self._over = -1
        self.setAccessibleName(name)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        theme.changed.connect(self._restyle)

    # ------------------------------------------------------------------------------- what a chart has to answer
    def paint(self, painter: QPainter, rect: QRectF) -> None:
        """Draw everything into a rectangle."""
        raise NotImplementedError

    def table(self) -> tuple[tuple[str, ...], Rows]:
        """The chart's figures: column titles and rows, for CSV, the clipboard and screen readers."""
        raise NotImplementedError

    def facts(self, index: int) -> Facts | None:
        """What the hover card says of a part (its place in the data)."""
        return None

    def keys(self) -> Sequence[str]:
        """What `picked` tells for each part; empty where a part can't be picked."""
        return ()

    # ------------------------------------------------------------------------------------------------- drawing
    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the chart, and the focus ring."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._areas = []
        self.paint(painter, QRectF(self.rect()))
        if self.hasFocus():
            painter.setPen(QPen(self.theme.color("accent"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)
        painter.end()

    def paint_still(self, painter: QPainter, rect: QRectF) -> None:
        """Draw for an export or the clipboard: nothing is pointed at."""
        self.point_at(-1)
        self._areas = []
        self.paint(painter, rect)
        self.update()                               # places are those of the export until the next drawing

    def area(self, rect: QRectF) -> int:
        """Register the next part's area and give its number."""
        self._areas.append(rect)
        return len(self._areas) - 1

    def is_over(self, index: int) -> bool:
        """Whether a part is pointed at."""
        return index == self._over

    def text(self, painter: QPainter, rect: QRectF, words: str, font: QFont, colour: QColor,
             align: Qt.AlignmentFlag = LEFT) -> None:
        """Draw one line of text; it ends in dots where the rectangle is too narrow."""
        painter.setFont(font)
        painter.setPen(colour)
        metrics = QFontMetricsF(font)
        if metrics.horizontalAdvance(words) > rect.width() + 0.5:
            words = metrics.elidedText(words, Qt.TextElideMode.ElideRight, rect.width())
        painter.drawText(rect, align, words)

    def tell(self) -> None:
        """Repaint after new data, and say the data to screen readers."""
        _, rows = self.table()
        self.setAccessibleDescription("; ".join(", ".join(c for c in cells if c) for cells in rows) or "Nothing to show")
        self._over = -1
        self.hide_card()
        self.updateGeometry()
        self.update()

    def _restyle(self) -> None:
        self.updateGeometry()
        self.update()

    # ------------------------------------------------------------------------------------------ mouse and keys
    def part_at(self, place: QPointF) -> int:
        """The number of the part at a place, or -1."""
        return next((i for i, rect in enumerate(self._areas) if rect.contains(place)), -1)

    def point_at(self, index: int, place: QPoint | None = None) -> None:
        """Point at a part: it is marked, and the card says its figures, beside a place of this widget."""
        if index != self._over:
            self._over = index
            self.update()
        facts = self.facts(index) if index >= 0 else None
        if facts is None:
            self.hide_card()
            return
        window = self.window()
        if self._card is None or not isValid(self._card) or self._card.parentWidget() is not window:
            self.drop_card()
            self._card = FactsCard(window)
            self.destroyed.connect(self._card.deleteLater)
        if place is None:
            place = self._areas[index].center().toPoint() if index < len(self._areas) else QPoint()
        self._card.show_at(facts, self.mapTo(window, place))

    def hide_card(self) -> None:
        """Take the card away."""
        if self._card is not None and isValid(self._card):
            self._card.hide()

    def drop_card(self) -> None:
        """Let go of the card: the chart is in another window now."""
        if self._card is not None and isValid(self._card):
            self._card.deleteLater()
        self._card = None

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Point with the mouse."""
        index = self.part_at(event.position())
        keys = self.keys()
        is_pickable = 0 <= index < len(keys) and bool(keys[index])
        self.setCursor(Qt.CursorShape.PointingHandCursor if is_pickable else Qt.CursorShape.ArrowCursor)
        self.point_at(index, event.position().toPoint())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Pick what is clicked."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._pick(self.part_at(event.position()))

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is pointed at any more."""
        self.point_at(-1)

    def focusOutEvent(self, event: QEvent) -> None:
        """Nothing is pointed at any more."""
        self.point_at(-1)
        self.update()

    def hideEvent(self, event: QEvent) -> None:
        """A card does not outlive its chart on the screen."""
        self.hide_card()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows walk the parts, Enter picks, Escape lets go."""
        count = len(self._areas)
        step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Right: 1, Qt.Key.Key_Up: -1, Qt.Key.Key_Left: -1}.get(Qt.Key(event.key()))
        if step is not None and count:
            self.point_at((self._over + step) % count if self._over >= 0 else (0 if step > 0 else count - 1))
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space) and self._over >= 0:
            self._pick(self._over)
        elif event.key() == Qt.Key.Key_Escape and self._over >= 0:
            self.point_at(-1)
        else:
            super().keyPressEvent(event)

    def _pick(self, index: int) -> None:
        keys = self.keys()
        if 0 <= index < len(keys) and keys[index]:
            self.picked.emit(keys[index])

    def minimumSizeHint(self) -> QSize:
        """Small enough for a pane."""
        return QSize(self.theme.px(200), self.theme.px(80))

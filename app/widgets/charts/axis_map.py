"""The axis map: which axis each layer chose, how clearly, and other figures of the layers, blocks across and kinds down."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPointF, QRect, Qt, Signal
from PySide6.QtGui import (
    QAccessible,
    QAccessibleValueChangeEvent,
    QFocusEvent,
    QHideEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPen,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QWidget

from app.models.layers import LayerRow
from app.theme import Theme
from app.widgets.charts.axis_data import Key
from app.widgets.charts.axis_facts import describe, hover_facts
from app.widgets.charts.axis_paint import Picture, outline
from app.widgets.charts.axis_view import AxisView
from app.widgets.hover_card import HoverCard

_STEPS = {Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}
_BY_KEYS = (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason, Qt.FocusReason.ShortcutFocusReason)
"""Reasons for which the focus is shown."""


class AxisMap(AxisView):
    """The map that is pointed at and walked over.

    `compact` has no letters and no colour bar, for narrow panes; counts and hover cards tell the axes apart there.
    """

    chosen = Signal(object)
    """A layer was clicked, or Enter was pressed on it: its `LayerRow`."""
    pointed = Signal(object)
    """The mouse or the arrow keys are on a layer: its `LayerRow`, or None."""

    def __init__(self, theme: Theme, *, compact: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(theme, compact=compact, parent=parent)
        self._pointed: Key | None = None
        self._cursor: Key | None = None
        self._selected: Key | None = None
        self._selected_tensor = ""
        self._shows_focus = False
        self._card: HoverCard | None = None
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Axis map")
        self._describe()

    def _rows_changed(self, touched: set[Key] | None) -> None:
        if touched is None:
            self._pointed = self._cursor = None
            self._selected = self._grid.key_of(self._selected_tensor)
            self._hide_card()
            self._describe()
            return
        at = self._pointed or self._cursor
        if at in touched and at is not None and self._card is not None and self._card.isVisible():
            self._show_card(at)
        if self._cursor in touched:
            self._describe()

    def select(self, tensor: str) -> None:
        """Mark a layer as the selected one, without telling; an empty or unknown name marks none."""
        self._selected_tensor = tensor
        key = self._grid.key_of(tensor)
        if key != self._selected:
            self._selected = key
            if key is not None:
                self._cursor = key
                self._reveal(key)
                self._describe()
            self.update()

    def selected(self) -> LayerRow | None:
        """The selected layer."""
        found = () if self._selected is None else self._grid.cells[self._selected].rows
        return next((row for row in found if row.tensor == self._selected_tensor), None)

    def current(self) -> LayerRow | None:
        """The layer that the arrow keys are on."""
        return None if self._cursor is None else self._grid.cells[self._cursor].lead

    def _reveal(self, key: Key) -> None:
        picture = self.picture()
        geometry, rect = picture.geometry, picture.rect(key)
        if geometry.scroll_top <= 0 or key[0] is None:
            return
        over = rect.right() - (geometry.left + geometry.view), geometry.left - rect.left()
        if max(over) > 0:
            way = over[0] + geometry.pitch_x if over[0] > 0 else -over[1] - geometry.pitch_x
            self._bar.setValue(round(self._bar.value() + way))

    def _scrolled(self) -> None:
        self._hide_card()
        super()._scrolled()

    def _paint_over(self, painter: QPainter, picture: Picture) -> None:
        geometry, theme = picture.geometry, self._theme
        text, ground = theme.color("text"), theme.color("surface-raised")
        walked = self._cursor if self._shows_focus and self.hasFocus() else None
        for key, width in ((self._selected, 2.0), (self._pointed if self._pointed != self._selected else None, 1.6)):
            if key is not None and self._is_shown(picture, key):
                outline(painter, picture.rect(key), text, ground, width)
        if walked is not None and self._is_shown(picture, walked):
            painter.setPen(QPen(theme.color("accent"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            grown = 2.5 if geometry.pitch_x > 12 else 1.5
            painter.drawRoundedRect(picture.rect(walked).adjusted(-grown, -grown, grown, grown), 5, 5)

    @staticmethod
    def _is_shown(picture: Picture, key: Key) -> bool:
        geometry = picture.geometry
        return key[0] is None or geometry.left <= picture.rect(key).center().x() <= geometry.left + geometry.view

    # ------------------------------------------------------------------------------------------- pointing
    def key_at(self, point: QPointF) -> Key | None:
        """The cell at a point of the widget."""
        hit = self.picture().geometry.hit(point - QPointF(1, 1))
        if hit is None:
            return None
        return (None, self._grid.outer[hit[1]]) if hit[0] < 0 else self._grid.at(*hit)

    def rect_of(self, tensor: str) -> QRect:
        """Where a layer's cell lies in the widget; empty where it has none."""
        key = self._grid.key_of(tensor)
        return QRect() if key is None else self._rect(key)

    def _rect(self, key: Key) -> QRect:
        return self.picture().rect(key).translated(1, 1).toAlignedRect()

    def _point_at(self, key: Key | None) -> None:
        if key == self._pointed:
            return
        self._pointed = key
        self.update()
        if key is None:
            self._hide_card()
            self.unsetCursor()
            self.pointed.emit(None)
        else:
            self.setCursor(Qt.CursorShape.PointingHandCursor)
            self._show_card(key)
            self.pointed.emit(self._grid.cells[key].lead)

    def _show_card(self, key: Key) -> None:
        cell = self._grid.cells[key]
        colour = self._inks.of(cell, self._mode, self.picture().scale)[0] if cell.state == "done" else None
        if self._card is None:
            self._card = HoverCard(self._theme, self.window())
        now = [self._rect(k) for k, c in self._grid.cells.items() if c.state == "now" and k != key]
        self._card.show_beside(hover_facts(cell, colour, self.mode), self._rect(key), self, now)

    def _hide_card(self) -> None:
        if self._card is not None:
            self._card.hide()

    def card(self) -> HoverCard | None:
        """The hover card, once it has been shown."""
        return self._card

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow the pointer."""
        self._shows_focus = False
        self._point_at(self.key_at(event.position()))

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is pointed at any more."""
        self._point_at(None)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the layer that is clicked."""
        key = self.key_at(event.position())
        if event.button() == Qt.MouseButton.LeftButton and key is not None:
            self._shows_focus = False
            self._cursor = key
            self._choose(key)
        else:
            super().mousePressEvent(event)

    def _choose(self, key: Key) -> None:
        row = self._grid.cells[key].lead
        self._selected, self._selected_tensor = key, row.tensor
        self._describe()
        self.update()
        self.chosen.emit(row)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Scroll sideways where the map is wider than its place; else the page scrolls."""
        delta = event.angleDelta()
        if self._bar.isVisible() and (delta.x() or event.modifiers() & Qt.KeyboardModifier.ShiftModifier):
            self._bar.setValue(self._bar.value() - (delta.x() or delta.y()) // 2)
        else:
            event.ignore()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows walk, Home and End go to the ends of a line, Enter chooses, Escape puts the card away."""
        key = event.key()
        if key == Qt.Key.Key_Escape and self._card is not None and self._card.isVisible():
            self._hide_card()
        elif not self._grid.cells or (key not in _STEPS and key not in (Qt.Key.Key_Home, Qt.Key.Key_End, Qt.Key.Key_Return,
                                                                        Qt.Key.Key_Enter, Qt.Key.Key_Space)):
            super().keyPressEvent(event)
        elif self._cursor is None:
            self._walk_to(self._grid.first())
        elif key in _STEPS:
            self._walk_to(self._grid.step(self._cursor, *_STEPS[Qt.Key(key)]))
        elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            self._walk_to(self._grid.end_of_line(self._cursor, key == Qt.Key.Key_End))
        else:
            self._choose(self._cursor)

    def _walk_to(self, key: Key | None) -> None:
        if key is None:
            return
        self._cursor, self._pointed, self._shows_focus = key, None, True
        self._reveal(key)
        self.picture()
        self._show_card(key)
        self._describe()
        self.update()
        self.pointed.emit(self._grid.cells[key].lead)

    def _describe(self) -> None:
        at = self._cursor if self._cursor is not None else self._selected
        text = describe(self._grid.cells[at]) if at is not None else "Arrow keys walk over the layers, Enter shows one."
        if text != self.accessibleDescription():
            self.setAccessibleDescription(text)
            if QAccessible.isActive():
                QAccessible.updateAccessibility(QAccessibleValueChangeEvent(self, text))

    # ------------------------------------------------------------------------------------------- other events
    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show where the keys are, if they brought the focus."""
        if event.reason() in _BY_KEYS:
            self._shows_focus = True
            self._cursor = self._cursor or self._selected or self._grid.first()
            self._describe()
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """The card of the keys goes."""
        self._shows_focus = False
        if self._pointed is None:
            self._hide_card()
        super().focusOutEvent(event)
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The card was beside a cell that is elsewhere now."""
        self._hide_card()
        super().resizeEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:
        """A hidden map has no card."""
        self._pointed = None
        self._hide_card()
        super().hideEvent(event)

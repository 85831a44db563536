"""A chip: something chosen, on one line of parts. Arrows go to its neighbours, Enter clicks it, Delete takes it out."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QPushButton, QSizePolicy, QToolButton, QWidget


class Chip(QPushButton):
    """Stands for `what`. A chip that is not `removable` ignores Delete. Lines break between chips, never inside."""

    removed = Signal(object)
    """What it stands for is to be taken out."""
    moved = Signal(int)
    """-1 or 1: the neighbour at that side is wanted."""

    def __init__(self, what: object, *, removable: bool = True, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.what, self._removable = what, removable
        self.setProperty("look", "chip")
        self.setCheckable(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def remove(self) -> None:
        """Ask for it to be taken out, where it may be."""
        if self._removable:
            self.removed.emit(self.what)

    def sizeHint(self) -> QSize:
        """As its parts need."""
        layout = self.layout()
        width = layout.sizeHint().width() if layout is not None else 0
        tallest = max((b.sizeHint().height() + 4 for b in self.findChildren(QToolButton)), default=0)
        return QSize(width, max(super().sizeHint().height(), tallest))

    def minimumSizeHint(self) -> QSize:
        """As it is: lines break between chips."""
        return self.sizeHint()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go to a neighbour, Delete takes out."""
        key = event.key()
        if key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            self.moved.emit(-1 if key == Qt.Key.Key_Left else 1)
        elif key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and self._removable:
            self.remove()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.click()
        else:
            super().keyPressEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        """Other fonts need another width."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self.updateGeometry()

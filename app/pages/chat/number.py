"""A field for a number: arrows and the wheel step, anything typed is brought into range when it is done."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent, QWheelEvent
from PySide6.QtWidgets import QLineEdit, QWidget


class NumberField(QLineEdit):
    """`valueChanged` comes after the user gave another number."""

    valueChanged = Signal()

    def __init__(self, name: str, low: float, high: float, step: float, decimals: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._low, self._high, self.step, self._decimals = low, high, step, decimals
        self._value = low
        self.setProperty("look", "field")
        self.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.setAccessibleName(name)
        self.editingFinished.connect(self._typed)
        self.set_value(low)

    def value(self) -> float:
        """The number."""
        return self._value

    def set_value(self, value: float) -> bool:
        """Show a number without telling; whether it is another one."""
        found = round(min(self._high, max(self._low, value)), self._decimals)
        changed, self._value = found != self._value, found
        self.setText(f"{found:.{self._decimals}f}")
        return changed

    def _typed(self) -> None:
        try:
            found = float(self.text().replace(",", "." if self._decimals else ""))
        except ValueError:
            found = self._value
        if found != found:                             # not a number, literally
            found = self._value
        if self.set_value(found):
            self.valueChanged.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up and down step."""
        steps = {Qt.Key.Key_Up: 1, Qt.Key.Key_Down: -1, Qt.Key.Key_PageUp: 10, Qt.Key.Key_PageDown: -10}
        if (way := steps.get(Qt.Key(event.key()))) is not None:
            if self.set_value(self._value + way * self.step):
                self.valueChanged.emit()
        else:
            super().keyPressEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """For the drawer, which scrolls."""
        event.ignore()

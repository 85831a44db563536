"""A short message that floats over the page for some seconds, with an optional choice (Undo)."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, Qt, QTimer
from PySide6.QtGui import QAccessible, QAccessibleEvent, QMouseEvent
from PySide6.QtWidgets import QFrame, QGraphicsDropShadowEffect, QWidget

from app.icons import Icons
from app.widgets.basics import IconLabel, button, label, row
from app.words import plain_tip

SECONDS = 6.0
_ICONS = {"success": "done", "warning": "warning", "danger": "error", "faded": "info"}


class Toast(QFrame):
    """One message at a time, at the lower right of its parent."""

    def __init__(self, icons: Icons, parent: QWidget) -> None:
        super().__init__(parent)
        self._home = parent
        self.setProperty("look", "float")
        self._icons = icons
        self._icon = IconLabel(icons, "info")
        self._text = label(wrap=False)
        self._choice = button("Undo", dense=True)
        self._choice.clicked.connect(self._chosen)
        self._call: Callable[[], object] | None = None
        self.setLayout(row(self._icon, self._text, self._choice, gap=10, margins=(14, 10, 14, 10)))
        shadow = QGraphicsDropShadowEffect(self)
        shadow.setBlurRadius(18)
        shadow.setOffset(0, 3)
        self.setGraphicsEffect(shadow)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.hide)
        parent.installEventFilter(self)
        self.hide()

    def say(self, text: str, tone: str = "faded", choice: str = "", call: Callable[[], object] | None = None,
            seconds: float = SECONDS) -> None:
        """Show a message; with `choice`, a button that calls `call`."""
        tone = tone if tone in _ICONS else "faded"
        self._icon.set_icon(_ICONS[tone], "text-faded" if tone == "faded" else tone)
        limit = max(200, self._home.width() - 420)
        metrics = self._text.fontMetrics()
        self._text.setText(metrics.elidedText(text, Qt.TextElideMode.ElideRight, limit))
        self._text.setToolTip(plain_tip(text))
        self.setAccessibleName(text)
        self._choice.setText(choice or "Undo")
        self._choice.setVisible(call is not None)
        self._call = call
        self.show()
        self.raise_()
        self._place()
        self._timer.start(round(seconds * 1000))
        QAccessible.updateAccessibility(QAccessibleEvent(self, QAccessible.Event.Alert))

    def text(self) -> str:
        """What it says."""
        return self.accessibleName()

    def _chosen(self) -> None:
        call, self._call = self._call, None
        self.hide()
        if call is not None:
            call()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """It goes at a click: what it covers may be wanted."""
        event.accept()
        self.hide()

    def _place(self) -> None:
        self.adjustSize()
        self.move(self._home.width() - self.width() - 24, self._home.height() - self.height() - 44)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Stay in the corner when the window changes its size."""
        if event.type() == QEvent.Type.Resize and self.isVisible():
            self._place()
        return False

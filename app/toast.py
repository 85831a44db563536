"""A short message at the foot of the rail for some seconds, with an optional choice (Undo): it covers no page."""

from __future__ import annotations

import re
from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QPoint, Qt, QTimer
from PySide6.QtGui import QAccessible, QAccessibleEvent, QMouseEvent
from PySide6.QtWidgets import QFrame, QGraphicsDropShadowEffect, QSizePolicy, QWidget

from app.icons import Icons
from app.widgets.basics import IconLabel, button, column, label, row
from app.words import plain_tip

SECONDS = 6.0
_READ = 12.0
"""Characters that are read in a second."""
_MARGIN, _PADDING, _GAP, _EDGE = 8, 10, 8, 1
_LONG = re.compile(r"\S{15,}")
_ICONS = {"success": "done", "warning": "warning", "danger": "error", "faded": "info"}


class Toast(QFrame):
    """One message at a time, in the free room of the rail between its pages and its last entry."""

    def __init__(self, icons: Icons, parent: QWidget, under: QWidget, above: QWidget) -> None:
        """`under` and `above`: entries of the rail that the message may come as near as its margin."""
        super().__init__(parent)
        self._home, self._under, self._above = parent, under, above
        self.setProperty("look", "float")
        self._icons = icons
        self._icon = IconLabel(icons, "info")
        self._text = label(size="small", wrap=True)
        policy = self._text.sizePolicy()
        policy.setVerticalPolicy(QSizePolicy.Policy.Minimum)       # in a place this narrow its hint is too low
        self._text.setSizePolicy(policy)
        self._choice = button("Undo", dense=True)
        self._choice.clicked.connect(self._chosen)
        self._call: Callable[[], object] | None = None
        line = row(self._icon, self._text, gap=_GAP)
        line.setAlignment(self._icon, Qt.AlignmentFlag.AlignTop)
        line.setStretch(1, 1)
        self.setLayout(column(line, row(None, self._choice), gap=_GAP, margins=(_PADDING, _PADDING, _PADDING, _PADDING)))
        shadow = QGraphicsDropShadowEffect(self)
        shadow.setBlurRadius(18)
        shadow.setOffset(0, 3)
        self.setGraphicsEffect(shadow)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.hide)
        self._whole = ""
        parent.installEventFilter(self)
        self.hide()

    def say(self, text: str, tone: str = "faded", choice: str = "", call: Callable[[], object] | None = None,
            seconds: float = SECONDS) -> None:
        """Show a message, for longer where it takes longer to read; with `choice`, a button that calls `call`."""
        tone = tone if tone in _ICONS else "faded"
        self._icon.set_icon(_ICONS[tone], "text-faded" if tone == "faded" else tone)
        self._whole = text
        self._text.setToolTip(plain_tip(text))
        self.setAccessibleName(text)
        self._choice.setText(choice or "Undo")
        self._choice.setVisible(call is not None)
        self._call = call
        self.show()
        self.raise_()
        self._place()
        self._timer.start(round(max(seconds, len(text) / _READ) * 1000))
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
        """It goes at a click."""
        event.accept()
        self.hide()

    def _place(self) -> None:
        over, under = (w.mapTo(self._home, QPoint(0, 0)) for w in (self._above, self._under))
        left, bottom = over.x(), over.y() - _MARGIN
        wide, room = self._above.width(), bottom - under.y() - self._under.height() - _MARGIN
        words = wide - 2 * (_PADDING + _EDGE) - self._icon.sizeHint().width() - _GAP
        more = 2 * (_PADDING + _EDGE) + (self._choice.sizeHint().height() + _GAP if self._call is not None else 0)
        shown = self._whole
        while True:
            # Paths and long names break anywhere; what is longer than the rail has room for is whole in the tooltip.
            self._text.setText(_LONG.sub(lambda found: "\u200b".join(found[0]), shown))
            high = self._text.heightForWidth(words) + more
            if high <= room or len(shown) < 40:
                break
            shown = shown[:len(shown) * 9 // 10].rstrip(" .") + "..."
        self.setGeometry(left, bottom - high, wide, high)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Stay in its place when the window changes its size."""
        if event.type() == QEvent.Type.Resize and self.isVisible():
            self._place()
        return False

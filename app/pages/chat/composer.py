"""Where the next prompt is written, who it goes to, and how much of the context is used."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QFrame, QPlainTextEdit, QSizePolicy, QWidget

from app.icons import Icons
from app.widgets.basics import button, column, key_cap, label, row, set_look

_COUNT_AFTER = 400
"""Milliseconds of quiet before the prompt's tokens are counted."""


class Composer(QFrame):
    """`send_asked`, `stop_asked`; `count_asked(text)` once the text has rested for a moment."""

    send_asked = Signal()
    stop_asked = Signal()
    count_asked = Signal(str)

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = icons.theme
        self.setProperty("look", "composer")
        self.edit = QPlainTextEdit()
        self.edit.setProperty("look", "plain")
        self.edit.setAccessibleName("Prompt")
        self.edit.setTabChangesFocus(True)
        self.edit.installEventFilter(self)
        self.edit.document().setDocumentMargin(0)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self._to = label(size="small", weight=600, elide=True)
        self._context = label(size="small", tone="faded", elide=True)
        self._hint = label(size="small", tone="faded", elide=True)
        self._writing = label(size="small", tone="faded")
        self._esc = key_cap("Esc")
        self.stop = button("Stop", icons=icons, icon="stop", clicked=self.stop_asked.emit)
        self.send = button("Send", "primary", icons=icons, icon="up", clicked=self.send_asked.emit)
        set_look(self.send, dense="composer")
        line = row(self._to, self._context, self._hint, self._writing, self._esc, self.stop, self.send, gap=10)
        line.setStretch(2, 1)
        self.setLayout(column(self.edit, line, gap=6, margins=(14, 12, 10, 10)))
        self._timer = QTimer(self, singleShot=True, interval=_COUNT_AFTER)
        self._timer.timeout.connect(self._count)
        self.edit.textChanged.connect(self._changed)
        self._reason, self._answering, self._many = "", False, 1
        icons.theme.changed.connect(self._fit)
        self._fit()
        self.show_state([], "", "", "", stopping=False, answering=False)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """The whole frame looks like the field: a click beside the text goes to it."""
        event.accept()
        self.edit.setFocus(Qt.FocusReason.MouseFocusReason)

    # ------------------------------------------------------------------------------------------------ showing
    def show_sides(self, names: Sequence[str], keys: int, selected: str, *, completion: bool) -> None:
        """Who the prompt goes to. `keys`: how many variants have a key."""
        self._many = len(names)
        who = ", ".join(names)
        self._to.setText(f"To {who}" if len(names) == 1 else f"To both: {who}" if len(names) == 2 else
                         f"To all {len(names)}: {who}")
        what = f"side {selected}" if len(names) > 1 else "the variant"
        last = f"Ctrl+1 to Ctrl+{min(9, keys)} switch {what}." if keys > 1 else ""
        ask = f"Ask {'both variants' if len(names) == 2 else 'all variants' if len(names) > 2 else who}."
        if completion:
            ask = f"Begin a text that {who if len(names) == 1 else 'they'} will go on with."
        if (said := f"{ask} {last}".strip()) != self.edit.placeholderText():
            self.edit.setPlaceholderText(said)
            self.edit.viewport().update()              # Qt paints another placeholder at its next chance only

    def show_context(self, used: int, whole: int) -> None:
        """Tokens of the prompt so far, of how many."""
        self._context.setText(f"context {used:,} of {whole:,} tokens" if used and whole else f"{used:,} tokens" if used else
                              f"context of {whole:,} tokens" if whole else "")
        over = bool(whole and used > whole)
        set_look(self._context, tone="warning" if over else "faded")
        self._context.setToolTip("The oldest turns are left out" if over else "")

    def show_state(self, writing: Sequence[str], reason: str, hint: str, doing: str, *, stopping: bool, answering: bool) -> None:
        """Columns that are being written, why nothing can be sent, what else is to be said."""
        self._reason, self._answering = reason, answering
        names = " and ".join(filter(None, (", ".join(writing[:-1]), *writing[-1:])))
        who = f"{names} {'is' if len(writing) < 2 else 'are'} writing" if writing else "Writing"
        said = "Stopping..." if stopping else who if answering else doing
        self._writing.setText(said)
        self._writing.setVisible(bool(said))
        self._hint.setText(hint)
        self._esc.setVisible(answering and not stopping)
        self.stop.setVisible(answering)
        self.stop.setEnabled(not stopping)
        self.stop.setToolTip("It ends after the current token" if stopping else "End after the current token (Esc)")
        self._usable()

    def text(self) -> str:
        """What is written."""
        return self.edit.toPlainText()

    def clear(self) -> None:
        """It was sent."""
        self.edit.clear()

    def why_not(self) -> str:
        """Why it can't be sent now; empty when it can."""
        return self._reason or ("" if self.text().strip() else "Write something first.")

    # ---------------------------------------------------------------------------------------------- behaviour
    def _usable(self) -> None:
        reason = self.why_not()
        if self.send.isEnabled() == bool(reason):
            self.send.setEnabled(not reason)
        self.send.setToolTip(reason or "Send (Enter)")

    def _changed(self) -> None:
        self._usable()
        self._fit()
        self._timer.start()

    def _count(self) -> None:
        self.count_asked.emit(self.text())

    def _fit(self) -> None:
        metrics = self.edit.fontMetrics()
        lines = min(7, max(2, round(self.edit.document().size().height())))
        height = metrics.lineSpacing() * lines + self._theme.px(6)
        if self.edit.height() != height:
            self.edit.setFixedHeight(height)

    def resizeEvent(self, event: object) -> None:
        """Other line breaks, another height."""
        super().resizeEvent(event)  # type: ignore[arg-type]
        QTimer.singleShot(0, self, self._fit)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Enter sends, Shift+Enter breaks the line; the frame shows the focus."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
            if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
                if not self.why_not():
                    self.send_asked.emit()
                return True
        elif event.type() in (QEvent.Type.FocusIn, QEvent.Type.FocusOut):
            set_look(self, focused="true" if event.type() == QEvent.Type.FocusIn else "")
        return False

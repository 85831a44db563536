"""What happens when something fails that nobody foresaw: a dialog with details to copy; the window stays usable."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any

from PySide6.QtCore import QEvent, QObject, QtMsgType, Signal, qInstallMessageHandler
from PySide6.QtWidgets import QDialog, QWidget

from app import logs
from app.icons import Icons
from app.tasks import Failure
from app.widgets.basics import button, column, row
from app.widgets.states import ErrorView

log = logging.getLogger("deltadeck")
_REPEATS = 3
"""Dialogs about the same error, after which it is only logged: a failing timer must not bury the screen."""


class ErrorDialog(QDialog):
    """A failure in sentences, with details to copy."""

    def __init__(self, icons: Icons, failure: Failure, title: str = "Something went wrong",
                 parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        close = button("Close", clicked=self.accept)
        close.setDefault(True)
        view = ErrorView(icons, failure)
        layout = column(view, None, row(None, close), gap=12, margins=(20, 16, 20, 16))
        self.setLayout(layout)
        self._words = layout
        self.resize(icons.theme.px(560), 0)
        self._fit()

    def event(self, event: QEvent) -> bool:
        """Details were opened or closed: another height."""
        found = super().event(event)
        if event.type() == QEvent.Type.LayoutRequest:
            self._fit()
        return found

    def _fit(self) -> None:
        # The layout's own hints are made for narrower words: they would leave gaps between the sentences.
        high = self._words.totalHeightForWidth(self.width())
        self.setMinimumSize(self.fontMetrics().averageCharWidth() * 40, high)
        self.resize(self.width(), high)


class CrashGuard(QObject):
    """Catches exceptions that reach the top on any thread, and shows them on the main one."""

    happened = Signal(object)

    def __init__(self, icons: Icons, window: QWidget) -> None:
        super().__init__(window)
        self._icons, self._window = icons, window
        self._seen: dict[str, int] = {}
        self._before: tuple[Any, Any] | None = None
        self.happened.connect(self._show)

    def install(self) -> None:
        """Become the process's exception hooks."""
        self._before = (sys.excepthook, threading.excepthook)
        sys.excepthook = self._caught
        threading.excepthook = self._in_thread
        qInstallMessageHandler(_qt_message)

    def remove(self) -> None:
        """Give the former hooks back."""
        if self._before is not None:
            sys.excepthook, threading.excepthook = self._before
            self._before = None
            qInstallMessageHandler(None)

    def _caught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._window.close()
            return
        logs.note(error, "unexpected")
        self.happened.emit(Failure.of(error))

    def _in_thread(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            logs.note(args.exc_value, "unexpected")
            self.happened.emit(Failure.of(args.exc_value))

    def _show(self, failure: Failure) -> None:
        key = failure.why or failure.what
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= _REPEATS:
            dialog = ErrorDialog(self._icons, failure, parent=self._window)
            dialog.finished.connect(dialog.deleteLater)
            dialog.open()


def _qt_message(kind: QtMsgType, context: Any, text: str) -> None:
    levels = {QtMsgType.QtDebugMsg: logging.DEBUG, QtMsgType.QtInfoMsg: logging.INFO, QtMsgType.QtWarningMsg: logging.WARNING}
    log.log(levels.get(kind, logging.ERROR), "Qt: %s", text)

"""An exception nobody foresaw shows a dialog with details to copy, and the window stays usable."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app.crash import CrashGuard, ErrorDialog
from app.icons import Icons
from app.tasks import Failure
from app.theme import Theme


@pytest.fixture
def window(qtbot: QtBot) -> QWidget:
    made = QWidget()
    qtbot.addWidget(made)
    return made


@pytest.fixture
def guard(window: QWidget) -> Iterator[CrashGuard]:
    made = CrashGuard(Icons(Theme("light")), window)
    made.install()
    yield made
    made.remove()


def raise_into_hook(guard: CrashGuard, text: str) -> None:
    try:
        raise RuntimeError(text)
    except RuntimeError as e:
        sys.excepthook(type(e), e, e.__traceback__)


def test_a_dialog_comes_with_the_traceback(qtbot: QtBot, guard: CrashGuard, window: QWidget) -> None:
    raise_into_hook(guard, "the cat sat on the keys")
    dialog = window.findChild(ErrorDialog)
    assert dialog is not None
    copy = next(b for b in dialog.findChildren(QPushButton) if b.text() == "Copy details")
    copy.click()
    assert "the cat sat on the keys" in QGuiApplication.clipboard().text()
    assert "Traceback" in QGuiApplication.clipboard().text() and "PySide6" in QGuiApplication.clipboard().text()
    dialog.close()


def test_the_same_error_over_and_over_does_not_bury_the_screen(qtbot: QtBot, guard: CrashGuard, window: QWidget) -> None:
    for _ in range(20):
        raise_into_hook(guard, "again")
    assert len(window.findChildren(ErrorDialog)) == 3
    for dialog in window.findChildren(ErrorDialog):
        dialog.close()


def test_errors_of_other_threads_are_shown_on_the_main_one(qtbot: QtBot, guard: CrashGuard, window: QWidget,
                                                           caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    def fail() -> None:
        raise RuntimeError("in a thread")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    qtbot.waitUntil(lambda: window.findChild(ErrorDialog) is not None)
    for dialog in window.findChildren(ErrorDialog):
        dialog.close()


def test_the_hooks_are_given_back(window: QWidget) -> None:
    before = sys.excepthook, threading.excepthook
    guard = CrashGuard(Icons(Theme("light")), window)
    guard.install()
    assert sys.excepthook != before[0]
    guard.remove()
    assert (sys.excepthook, threading.excepthook) == before


def test_details_fold(qtbot: QtBot, window: QWidget) -> None:
    dialog = ErrorDialog(Icons(Theme("dark")), Failure("It failed.", "Because.", "Try again.", "trace"), parent=window)
    dialog.show()
    fold = next(b for b in dialog.findChildren(QPushButton) if b.text() == "Show details")
    fold.click()
    assert fold.text() == "Hide details"
    dialog.close()


def test_a_dialog_is_as_high_as_its_words(qtbot: QtBot, window: QWidget) -> None:
    dialog = ErrorDialog(Icons(Theme("light")), Failure("word " * 40, "Because.", "Try again.", "trace"), parent=window)
    dialog.show()
    layout = dialog.layout()
    assert layout is not None
    qtbot.waitUntil(lambda: dialog.height() == layout.totalHeightForWidth(dialog.width()))
    before = dialog.height()
    next(b for b in dialog.findChildren(QPushButton) if b.text() == "Show details").click()
    qtbot.waitUntil(lambda: dialog.height() >= before + 100)
    dialog.close()

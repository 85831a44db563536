"""Fixtures for the window: no screen, data in a temporary folder, and nothing may outlive its test."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QObject, QTimer
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from app.actions import Actions
from app.chat.session import ChatSession
from app.context import Context
from app.icons import Icons
from app.jobs.manager import JobManager
from app.library.store import Library
from app.settings import Settings
from app.tasks import Engine, Tasks
from app.theme import Theme

PATIENCE = 60_000
"""Milliseconds that a test waits for what has to come; only a failing test ever waits so long."""
for _wait in (QtBot.waitUntil, QtBot.waitSignal, QtBot.waitSignals):
    assert _wait.__kwdefaults__ is not None
    _wait.__kwdefaults__["timeout"] = PATIENCE

LASTING = ("pytest_timeout", "QThread", "Dummy", "ThreadPoolExecutor", "asyncio", "tqdm", "SAFE", "execnet")
"""Names of threads that libraries keep for the process, and of Qt's own as Python sees them."""


@pytest.fixture(scope="session", autouse=True)
def no_clipboard_left() -> Iterator[None]:
    """Offscreen, Qt frees what Python put on the clipboard after Python has ended, and crashes."""
    yield
    app = QCoreApplication.instance()
    if isinstance(app, QApplication):
        app.clipboard().setText("")


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a thread running or a timer ticking."""
    before = {t.ident for t in threading.enumerate()}
    gc.disable()                                       # in another thread it would destroy Qt objects, as `app.collector` says
    yield
    app = QCoreApplication.instance()
    if app is None:
        gc.enable()
        return
    for _ in range(3):
        app.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    gc.enable()
    left = [t.name for t in threading.enumerate() if t.ident not in before and t.is_alive() and not t.name.startswith(LASTING)]
    assert not left, f"threads that outlive the test: {left}"
    if isinstance(app, QApplication):
        ticking = [(w, t) for w in app.topLevelWidgets() for t in w.findChildren(QTimer) if t.isActive() and w.isVisible()]
        assert not ticking, f"timers that outlive the test: {ticking}"


class Said:
    """What a page told the shell."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.notes: list[tuple[str, str]] = []
        self.errors: list[Any] = []

    def go(self, page: str) -> None:
        """Instead of showing a page."""
        self.pages.append(page)

    def notify(self, text: str, tone: str = "faded") -> None:
        """Instead of a message."""
        self.notes.append((text, tone))

    def show_error(self, failure: object) -> None:
        """Instead of a dialog."""
        self.errors.append(failure)


@pytest.fixture
def said() -> Said:
    """Where the pages' words go."""
    return Said()


@pytest.fixture
def make_context(qapp: QApplication, tmp_path: Path, said: Said) -> Iterator[Callable[..., Context]]:
    """Makes contexts over real services in `tmp_path`; ends their threads after the test."""
    made: list[tuple[QWidget, JobManager, Tasks, Library, list[QObject]]] = []
    chats: list[ChatSession] = []

    def make(runner: Any = None, chat_engine: Any = None, **options: Any) -> Context:
        window = QWidget()
        settings = Settings(tmp_path / "data" / "settings.json")
        settings.set(library=str(tmp_path / "deltas"), **{"theme": "light", **options})
        theme = Theme(settings.options.theme, settings.options.zoom)
        icons, tasks = Icons(theme), Tasks()
        engine = Engine(tasks)
        jobs = JobManager(tmp_path / "data", runner)
        library = Library(settings, tasks, engine, jobs, tmp_path / "data")
        chat = ChatSession(chat_engine)
        made.append((window, jobs, tasks, library, [settings, theme, engine, chat]))
        chats.append(chat)
        return Context(settings, theme, icons, Actions(window, icons), tasks, engine, jobs, library, tmp_path / "data", said.go,
                       said.notify, said.show_error, chat)
    yield make
    for chat in chats:
        chat.close()
    for window, jobs, tasks, library, _ in made:
        jobs.shutdown()
        tasks.shutdown()
        library.close()
        window.close()
        window.deleteLater()

"""Background work comes back on the main thread, can be cancelled, and dies with whoever asked for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from app.tasks import Failure, Task, Tasks
from core.errors import NotADelta


@pytest.fixture
def tasks(qtbot: QtBot) -> Iterator[Tasks]:
    made = Tasks()
    yield made
    assert made.shutdown()


class Heard(QObject):
    """Keeps what came back, and on which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.news: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def done(self, value: Any) -> None:
        self._note("done", value)

    def failed(self, failure: Failure) -> None:
        self._note("failed", failure)

    def progress(self, value: Any) -> None:
        self._note("progress", value)

    def _note(self, kind: str, value: Any) -> None:
        self.news.append((kind, value))
        self.threads.add(threading.get_ident())


def test_a_result_comes_back_on_the_main_thread(qtbot: QtBot, tasks: Tasks) -> None:
    heard = Heard()

    def work(task: Task) -> int:
        task.progress("half", force=True)
        return threading.get_ident()
    tasks.run(heard, work, heard.done, heard.failed, heard.progress)
    qtbot.waitUntil(lambda: len(heard.news) == 2)
    assert heard.news[0] == ("progress", "half")
    assert heard.news[1][1] != threading.get_ident()
    assert heard.threads == {threading.get_ident()}
    assert tasks.busy == 0


def test_our_own_errors_keep_their_sentences(qtbot: QtBot, tasks: Tasks) -> None:
    heard = Heard()

    def work(task: Task) -> None:
        raise NotADelta("This is no delta.", "It has no delta_config.json.", "Choose another folder.")
    tasks.run(heard, work, heard.done, heard.failed)
    qtbot.waitUntil(lambda: bool(heard.news))
    kind, failure = heard.news[0]
    assert (kind, failure.what, failure.why) == ("failed", "This is no delta.", "It has no delta_config.json.")
    assert "NotADelta" in failure.details


def test_unexpected_errors_say_so_and_carry_a_traceback(qtbot: QtBot, tasks: Tasks) -> None:
    heard = Heard()
    tasks.run(heard, lambda task: 1 // 0, heard.done, heard.failed)
    qtbot.waitUntil(lambda: bool(heard.news))
    failure = heard.news[0][1]
    assert "unexpected" in failure.what
    assert "ZeroDivisionError" in failure.why and "Traceback" in failure.details


def test_a_cancelled_task_ends_at_its_next_word_and_is_silent(qtbot: QtBot, tasks: Tasks) -> None:
    heard, began, ended = Heard(), threading.Event(), threading.Event()

    def work(task: Task) -> None:
        began.set()
        try:
            while True:
                task.progress(1)
        finally:
            ended.set()
    task = tasks.run(heard, work, heard.done, heard.failed)
    assert began.wait(10)
    task.cancel()
    assert ended.wait(10)
    qtbot.waitUntil(lambda: tasks.busy == 0)
    assert [n for n in heard.news if n[0] != "progress"] == []


def test_nothing_is_called_once_the_owner_is_gone(qtbot: QtBot, tasks: Tasks) -> None:
    heard, owner, go = Heard(), QObject(), threading.Event()
    tasks.run(owner, lambda task: go.wait(10), heard.done, heard.failed)
    owner.deleteLater()
    del owner
    go.set()
    qtbot.waitUntil(lambda: tasks.busy == 0)
    assert heard.news == []


def test_system_errors_name_the_file() -> None:
    failure = Failure.of(PermissionError(13, "Permission denied", "/some/folder"))
    assert "Permission denied" in failure.what and "/some/folder" in failure.what

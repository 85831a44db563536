"""Some hundred random clicks, keys, texts and drops on every page while jobs run and fail: nothing may break."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from PySide6.QtCore import (
    QCoreApplication,
    QEvent,
    QMimeData,
    QPoint,
    QPointF,
    Qt,
    QTimer,
    QtMsgType,
    QUrl,
    qInstallMessageHandler,
)
from PySide6.QtGui import QDesktopServices, QDragEnterEvent, QDropEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QDialog,
    QFileDialog,
    QInputDialog,
    QLineEdit,
    QMenu,
    QMessageBox,
    QWidget,
)

from app.actions import Act
from app.jobs.worker import Outcome
from app.library import operations
from app.pages.compress import demo_bar
from app.pages.deltas import DeltasPage
from app.settings import Settings
from app.shell import Shell
from app.theme import Theme
from core.errors import BadOption, Cancelled, DeltadeckError
from tests.app.jobs.play import whole_job
from tests.app.library.deltas import make_delta

STEPS, LONGEST = 200, 8.0
PAGES = ("compress", "run", "deltas", "compare", "settings")
TEXTS = ("", "a", "~nobody-here/x", "x" * 3000, "\u202e\u05d0", "org/name", "../..", "<b>&", "file:///%00", "-1", "n.job",
         "\U0001f600" * 60)
KEYS = (Qt.Key.Key_Tab, Qt.Key.Key_Return, Qt.Key.Key_Escape, Qt.Key.Key_Space, Qt.Key.Key_Down, Qt.Key.Key_Up, Qt.Key.Key_Right,
        Qt.Key.Key_Home, Qt.Key.Key_End, Qt.Key.Key_Delete, Qt.Key.Key_F2, Qt.Key.Key_PageDown, Qt.Key.Key_Plus)
PLAIN = Qt.KeyboardModifier.NoModifier
LEFT = Qt.MouseButton.LeftButton


class Monkey:
    """Does one random thing after the other to a window, and closes what opens over it."""

    def __init__(self, window: Shell, dice: random.Random, folder: Path) -> None:
        self.window, self.dice, self.folder = window, dice, folder
        self.trace: list[str] = []
        self._jobs = 0
        self.is_over = False
        self._close_menus()

    def _close_menus(self) -> None:
        # The menu of a button holds the caller until it is closed, and no step comes before.
        if isinstance(menu := QApplication.activePopupWidget(), QMenu):
            actions = [a for a in menu.actions() if a.isEnabled() and not a.isSeparator() and a.menu() is None]
            chosen = self.dice.choice(actions) if actions and self.dice.random() < 0.5 else None
            menu.close()
            if chosen is not None:
                self.trace.append(f"menu {chosen.text()}")
                chosen.trigger()
        if not self.is_over:
            QTimer.singleShot(20, self._close_menus)

    def step(self) -> None:
        """One thing."""
        over = QApplication.activePopupWidget() or QApplication.activeModalWidget()
        if isinstance(over, QMenu) or (over is not None and self.dice.random() < 0.3):
            self.trace.append(f"close {type(over).__name__}")
            over.close()
            return
        top = over or self.window
        shown = [w for w in top.findChildren(QWidget) if w.isVisible() and w.width() > 0 and w.height() > 0]
        if not shown:
            top.close()
            return
        ways: tuple[tuple[Callable[[QWidget, list[QWidget]], object], int], ...] = (
            (self._press, 8), (self._click, 6), (self._key, 4), (self._type, 2), (self._drop, 1), (self._job, 3), (self._go, 2),
            (self._act, 2), (self._delta, 2), (self._look, 1))
        way = self.dice.choices([w for w, _ in ways], [n for _, n in ways])[0]
        found = self.dice.choice(shown)
        self.trace.append(f"{way.__name__} {type(found).__name__} {found.accessibleName()[:30]}")
        way(found, shown)

    def _at(self, widget: QWidget) -> QPoint:
        return QPoint(self.dice.randrange(widget.width()), self.dice.randrange(widget.height()))

    def _press(self, _: QWidget, shown: list[QWidget]) -> None:
        buttons = [w for w in shown if isinstance(w, QAbstractButton) and w.isEnabled()]
        if buttons:
            made = self.dice.choice(buttons)
            self.trace.append(f"press {made.accessibleName() or made.text()}")
            QTest.mouseClick(made, LEFT)

    def _click(self, widget: QWidget, shown: list[QWidget]) -> None:
        (QTest.mouseDClick if self.dice.random() < 0.1 else QTest.mouseClick)(widget, LEFT, PLAIN, self._at(widget))

    def _key(self, widget: QWidget, shown: list[QWidget]) -> None:
        held = self.dice.choice((PLAIN, PLAIN, PLAIN, Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier))
        QTest.keyClick(QApplication.focusWidget() or widget, self.dice.choice(KEYS), held)

    def _type(self, _: QWidget, shown: list[QWidget]) -> None:
        fields = [w for w in shown if isinstance(w, QLineEdit) and w.isEnabled() and not w.isReadOnly()]
        if fields:
            field, text = self.dice.choice(fields), self.dice.choice(TEXTS)
            field.setText(text)
            field.textEdited.emit(text)
            field.editingFinished.emit()

    def _drop(self, widget: QWidget, shown: list[QWidget]) -> None:
        data, at = QMimeData(), QPointF(self._at(widget))
        data.setUrls([QUrl.fromLocalFile(self.path() or "/")] * self.dice.choice((1, 20)) + [QUrl("http://x/y")])
        QApplication.sendEvent(widget, QDragEnterEvent(at.toPoint(), Qt.DropAction.CopyAction, data, LEFT, PLAIN))
        QApplication.sendEvent(widget, QDropEvent(at, Qt.DropAction.CopyAction, data, LEFT, PLAIN))

    def _job(self, _: QWidget, shown: list[QWidget]) -> None:
        jobs = self.window.ctx.jobs
        ids = [item.id for item in jobs.items()]
        calls = (jobs.pause, jobs.resume, jobs.cancel, jobs.retry, jobs.remove, lambda id: jobs.move(id, 1),
                 lambda id: jobs.hold(False))
        try:
            if not ids or self.dice.random() < 0.3:
                self._jobs += 1
                output = str(self.folder / "deltas" / f"j{self._jobs}")
                jobs.add(f"j{self._jobs} <i>", {"base": "b", "fine_tuned": "f", "output": output}, (), "b", "f", 9.0)
            else:
                self.dice.choice(calls)(self.dice.choice(ids))
        except DeltadeckError:
            pass                                       # refused in words, as it should be

    def _go(self, _: QWidget, shown: list[QWidget]) -> None:
        self.window.go(self.dice.choice(PAGES))

    def _act(self, _: QWidget, shown: list[QWidget]) -> None:
        act = self.dice.choice([a for a in Act if a is not Act.QUIT and "chat" not in a.value])
        if self.window.ctx.actions[act].isEnabled():
            self.window.ctx.actions[act].trigger()

    def _delta(self, _: QWidget, shown: list[QWidget]) -> None:
        library = self.window.ctx.library
        if not (entries := library.entries()):
            return
        page = self.window.page("deltas")
        assert isinstance(page, DeltasPage)
        entry, desk = self.dice.choice(entries), page.desk
        self.dice.choice((lambda: library.select(entry.path), lambda: library.compare([e.path for e in entries]), desk.undo,
                          lambda: desk.remove([entry]), lambda: desk.verify(entries), lambda: desk.export_folder(entry),
                          lambda: desk.report(entry), lambda: desk.rename(entry),
                          lambda: (entry.path / "delta_config.json").write_bytes(b"x")))()

    def _look(self, _: QWidget, shown: list[QWidget]) -> None:
        if self.dice.random() < 0.2:
            self.window.ctx.settings.set(zoom=self.dice.choice((0.8, 1.0, 1.5)), theme=self.dice.choice(("light", "dark")))
        self.window.resize(self.dice.choice((1024, 1280, 2400)), self.dice.choice((640, 900, 1400)))

    def path(self) -> str:
        """A folder, a file, nothing, or what does not exist."""
        return self.dice.choice(("", str(self.folder), str(self.folder / "deltas" / "d1"), str(self.folder / "none"), "/proc",
                                 str(self.folder / "deltas"), __file__))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What broke: exceptions that reached the top, and Qt's own complaints."""
    found: list[str] = []

    def caught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        found.append(f"{kind.__name__}: {error}")

    def said(kind: QtMsgType, context: Any, text: str) -> None:
        ours = text.startswith(("QPainter", "QObject", "QTimer", "QThread"))
        if ours or kind in (QtMsgType.QtCriticalMsg, QtMsgType.QtFatalMsg):
            found.append(text)
    monkeypatch.setattr(sys, "excepthook", caught)
    before = qInstallMessageHandler(said)
    yield found
    qInstallMessageHandler(before)


def _agree(box: QMessageBox) -> int:
    # The order of buttons() is not the order in which they were added.
    for button in box.buttons():
        if box.buttonRole(button) is QMessageBox.ButtonRole.DestructiveRole:
            button.click()
    return 0


def test_nothing_breaks_under_a_monkey(qapp: QApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       broken: list[str]) -> None:
    """Seeded, so that a failure can be had again; what it did last is told with what broke."""
    dice, worker = random.Random(7), random.Random(8)

    def run(request: dict[str, Any], tell: Callable[[Any], None], cancelled: Callable[[], bool]) -> Outcome:
        for event in whole_job(request["output"], layers=8):
            tell(event)
            time.sleep(0.002)
            if cancelled():
                raise Cancelled("Cancelled.")
        if worker.random() < 0.4:
            raise worker.choice((BadOption("<b>bad</b>", "why", "do"), OSError(28, "No space"), RuntimeError("x" * 3000)))
        return Outcome(request["output"], 5000)

    def no_pair(task: Any, folder: Path | None = None) -> tuple[str, str]:
        raise OSError(101, "Network is unreachable")

    def no_times(*given: object) -> dict[str, Any]:
        raise OSError(5, "Input/output error")
    library = tmp_path / "deltas"
    library.mkdir()
    for i in range(4):
        make_delta(library, f"d{i}", base_name=f"base <b>{i % 2}", age=i)
    settings = Settings(tmp_path / "data" / "settings.json")
    settings.set(library=str(library), offline=True, theme="light")
    window = Shell(settings, Theme("light"), tmp_path / "data", run)
    ape = Monkey(window, dice, tmp_path)
    saved = tmp_path / "out"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: ape.path())
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: ("", ""))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(saved) + dice.choice((".html", ".png", ".csv")), ""))
    monkeypatch.setattr(QInputDialog, "getText", lambda *a, **k: (dice.choice((" ", "A", "x" * 300, "<b>")), dice.random() < 0.5))
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: True)
    monkeypatch.setattr(QMessageBox, "exec", lambda box: dice.choice(box.buttons()).click() or 0)
    monkeypatch.setattr(QMenu, "exec", lambda menu, *a: None)
    monkeypatch.setattr("send2trash.send2trash", lambda path: None)
    monkeypatch.setattr(demo_bar, "make_pair", no_pair)
    monkeypatch.setattr(operations, "measure", no_times)
    monkeypatch.setattr(QDialog, "exec", lambda dialog: 0)
    window.ctx.engine.started = window.ctx.engine.is_ready = True
    window.resize(1280, 800)
    window.show()
    window.ctx.engine.ready.emit()
    ends = time.monotonic() + LONGEST
    try:
        for _ in range(STEPS):
            ape.step()
            qapp.processEvents()
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            assert not broken, (broken, ape.trace[-12:])
            if time.monotonic() > ends:
                break
    finally:
        ape.is_over = True
        while (over := QApplication.activePopupWidget() or QApplication.activeModalWidget()) is not None:
            over.close()
        window.close()                                 # asks where a job runs, and the dice may say no
        if window.isVisible():
            monkeypatch.setattr(QMessageBox, "exec", _agree)
            window.close()
        assert not window.isVisible()
        window.deleteLater()
        qapp.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert not broken, (broken, ape.trace[-12:])

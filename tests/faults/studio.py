"""A window on tiny models of its own, into which faults are brought, and what a user reads in it.

Everything is real but the fault itself: the window, the engine, the files. What the system would refuse is refused by
`inject`; files are damaged, moved away and cut short as they are; processes are killed.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PySide6.QtCore import QEvent, QPoint, Qt
from PySide6.QtGui import QColor, QPainter, QPixmap
from PySide6.QtWidgets import QAbstractButton, QApplication, QDialog, QLabel, QLineEdit, QPlainTextEdit, QTextEdit, QWidget

from app.jobs.worker import Batch, Outcome, Runner
from app.settings import Settings
from app.shell import Shell
from app.theme import Choice, Theme
from core.demo import tiny_trio
from core.events import AnyEvent, StageStarted
from core.job import Job
from core.request import Request
from tests.faults import inject

PATIENCE = 120.0
"""Seconds to wait for what has to come."""
FREE = 400_000
"""Bytes that a full disk says are free."""


def small(output: Path, base: Path, tuned: Path, **settings: Any) -> dict[str, Any]:
    """Fields of a request that takes some seconds on the tiny models."""
    return {"base": str(base), "fine_tuned": str(tuned), "output": str(output), "samples": 8, "tune_samples": 8,
            "sequence_length": 64, **settings}


def wait(until: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Let the window work until a condition holds. Raises `TimeoutError`."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not come")
        QApplication.processEvents()
        time.sleep(0.005)


def settle(seconds: float = 0.5) -> None:
    """Let late layouts and timers come to rest."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


class Studio:
    """Folders, checkpoints and a window for one scene."""

    def __init__(self, place: Path, made: Path, theme: Choice = "light", size: tuple[int, int] = (1280, 720)) -> None:
        """`made`: a finished delta, of which scenes get copies."""
        self.place, self.theme, self.size, self._made = place, theme, size, made
        self.data, self.library = place / "data", place / "deltas"
        for folder in (self.data, self.library):
            folder.mkdir(parents=True)
        trio = tiny_trio()
        self.base, self.tuned = (Path(shutil.copytree(source, place / "models" / name)) for source, name in
                                 ((trio.base, "base"), (trio.pirate, "pirate")))
        self.shell: Shell | None = None
        self._stack = ExitStack()

    @property
    def window(self) -> Shell:
        """The window, which is there."""
        assert self.shell is not None
        return self.shell

    def open(self, page: str, runner: Runner | None = None) -> Shell:
        """Open the window on a page, with the engine loaded."""
        settings = Settings(self.data / "settings.json")
        kept = settings.message                        # what is set here must not hide what was said of the file
        settings.set(theme=self.theme, library=str(self.library), page=page)
        settings.message = kept
        self.shell = Shell(settings, Theme(self.theme), self.data, runner)
        self.shell.resize(*self.size)
        self.shell.show()
        self.shell.ctx.engine.load()
        wait(lambda: self.window.ctx.engine.is_ready)
        settle(0.1)
        return self.shell

    def hold(self, manager: Any) -> Any:
        """Keep a fault in force until the scene is over."""
        return self._stack.enter_context(manager)

    def close(self) -> None:
        """Take everything away."""
        self._stack.close()
        if self.shell is not None:
            for dialog in self.dialogs():
                dialog.close()
            for job in self.shell.ctx.jobs.items():
                self.shell.ctx.jobs.cancel(job.id)
            wait(lambda: not self.window.ctx.jobs.is_busy)
            self.shell.close()
            self.shell.deleteLater()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            self.shell = None
        shutil.rmtree(self.place, ignore_errors=True)

    # ------------------------------------------------------------------------------------------ what goes on in it
    def delta(self, name: str = "pirate") -> Path:
        """Put a copy of the finished delta into the library."""
        return Path(shutil.copytree(self._made, self.library / name))

    def run_job(self, runner: Runner | None = None, **settings: Any) -> None:
        """Queue the job, show it, and wait until it ended."""
        window = self.open("run", runner)
        item = window.ctx.jobs.add("pirate", small(self.library / "pirate", self.base, self.tuned, **settings),
                                   base_name="base", fine_tuned_name="pirate")
        wait(lambda: (found := window.ctx.jobs.item(item.id)) is not None and found.is_ended)
        settle()

    def texts(self) -> str:
        """All that can be read in the window and its dialogs, a line per widget, from its top to its bottom."""
        found: list[tuple[int, int, str]] = []
        for top in (self.window, *self.dialogs()):
            for widget in top.findChildren(QWidget):
                text = _text_of(widget)
                if text and widget.isVisible():
                    at = widget.mapToGlobal(QPoint(0, 0))
                    found.append((at.y(), at.x(), text))
        return "\n".join(text for _, _, text in sorted(found))

    def cut(self) -> list[str]:
        """Texts of which a part is not on the screen: labels smaller than their words."""
        return [label.text() for top in (self.window, *self.dialogs()) for label in top.findChildren(QLabel)
                if label.isVisible() and label.text() and _is_cut(label)]

    def dialogs(self) -> list[QDialog]:
        """Dialogs that are open."""
        return [w for w in QApplication.topLevelWidgets() if isinstance(w, QDialog) and w.isVisible()]

    def picture(self) -> QPixmap:
        """What is on the screen: the window, and dialogs over it."""
        shown = self.window.grab()
        painter = QPainter(shown)
        for dialog in self.dialogs():
            painter.fillRect(shown.rect(), QColor(0, 0, 0, 60))
            over = dialog.grab()
            painter.drawPixmap((self.window.width() - dialog.width()) // 2, (self.window.height() - dialog.height()) // 2, over)
        painter.end()
        return shown


def _text_of(widget: QWidget) -> str:
    if isinstance(widget, QLabel | QAbstractButton | QLineEdit):
        return widget.text().replace("\u200b", "")
    if isinstance(widget, QPlainTextEdit | QTextEdit):
        return widget.toPlainText()
    return ""


def _is_cut(label: QLabel) -> bool:
    if label.textFormat() == Qt.TextFormat.RichText or label.text() == label.accessibleName() != "":
        return False
    if label.wordWrap():
        return label.height() < label.heightForWidth(label.width())
    return label.width() < label.fontMetrics().horizontalAdvance(label.text()) - 1


CHILD = "import sys; from tests.faults.studio import work; work(*sys.argv[1:])"


def work(data: str, library: str, base: str, tuned: str) -> None:
    """In a process of its own: a window at work, which says so."""
    from PySide6.QtWidgets import QApplication

    from app.jobs.manager import JobManager

    app = QApplication.instance() or QApplication(["deltadeck"])
    jobs = JobManager(Path(data))
    jobs.add("pirate", small(Path(library) / "pirate", Path(base), Path(tuned)), base_name="base", fine_tuned_name="pirate")
    jobs.item_changed.connect(lambda item: print(item.blocks_done, flush=True))
    app.exec()


# ----------------------------------------------------------------------------------------------------------- faults
def finished(place: Path) -> Path:
    """A delta of the tiny pair; its folder."""
    trio = tiny_trio()
    place.mkdir(parents=True)
    torch.set_num_threads(1)
    return Job(Request(**small(place / "pirate", trio.base, trio.pirate)), lambda event: None).run().folder


def at_stage(stage: str, begin: Callable[[ExitStack], object]) -> Runner:
    """The engine, with a fault that comes as a stage of the job begins and lasts as long as the job."""
    def run(request: dict[str, Any], tell: Callable[[AnyEvent], None], cancelled: Callable[[], bool]) -> Outcome:
        with ExitStack() as stack:
            def heard(event: AnyEvent) -> None:
                tell(event)
                if isinstance(event, StageStarted) and event.stage == stage:
                    begin(stack)
            if not stage:
                begin(stack)
            stack.callback((batch := Batch()).release)
            return batch.run(request, heard, cancelled)
    return run


def failing(kind: str, error: Callable[[], BaseException], *folders: Path, at: int = 0) -> Callable[[ExitStack], object]:
    """For `at_stage`: from the `at`-th call of a kind on, all fail."""
    return lambda stack: stack.enter_context(inject.failing(kind, at, error, *folders, lasts=True))


@contextmanager
def little_disk(free: int = FREE) -> Iterator[None]:
    """The disk says how little it has left, wherever it is asked beforehand."""
    usage = shutil.disk_usage("/")
    with patch("shutil.disk_usage", return_value=type(usage)(usage.total, usage.total - free, free)):
        yield


@contextmanager
def full_disk(*folders: Path, at: int = 0, free: int = FREE) -> Iterator[None]:
    """From the `at`-th write to these folders on there is no room, though there was when the work began."""
    with inject.failing("write", at, inject.full, *folders, lasts=True), patch("core.shortage._free_disk", return_value=free):
        yield


@contextmanager
def cuda_stand_in(free: int = 310 << 20) -> Iterator[None]:
    """Errors of memory are told as of a CUDA device with so much free: there is none in this machine."""
    from core import devices, shortage

    right = shortage.out_of_memory

    def told(error: BaseException, device: torch.device, *given: Any, **named: Any) -> Exception:
        return right(error, torch.device("cuda:0"), *given, **named)
    with (patch.object(shortage, "out_of_memory", told), patch.object(devices, "out_of_memory", told),
          patch.object(shortage, "free_memory", lambda device: free)):
        yield


def flip(path: Path, share: float = 0.6) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x40
    path.write_bytes(data)


def said(texts: str, *wanted: str) -> list[str]:
    """Which of the patterns are not among the texts."""
    return [pattern for pattern in wanted if not re.search(pattern, texts)]

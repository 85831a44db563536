"""Work off the main thread that is no compression job: reading checkpoints, planning, verifying, exporting, timing.

A task runs on a thread of a small pool. What it returns, raises or tells on the way comes back on the main thread, and
only while the object that asked for it lives.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QObject, QThreadPool, Signal, Slot
from shiboken6 import isValid

from app import logs
from core.errors import Cancelled, DeltadeckError

PROGRESS_EVERY = 0.05
"""Seconds between two progress messages of a task that reach the main thread."""


@dataclass(frozen=True)
class Failure:
    """How a task ended badly: in sentences, and with details to copy."""

    what: str
    why: str
    remedy: str
    details: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """From an exception, which is logged: our own say what, why and what to do; others are unexpected and say so."""
        logs.note(error)
        details = "".join(traceback.format_exception(error)).rstrip()
        if isinstance(error, DeltadeckError):
            return cls(error.what, error.why, error.remedy, f"{type(error).__name__}: {error}\n\n{details}")
        if isinstance(error, OSError) and error.strerror:
            place = f" ('{error.filename}')" if error.filename else ""
            return cls(f"The system reported: {error.strerror}{place}.", "", "Check the folder and the disk, then try again.",
                       details)
        return cls("Something unexpected went wrong.", f"{type(error).__name__}: {error}",
                   "Nothing that was finished is lost. Copy the details if you report this.", details)


class Task:
    """A piece of work under way."""

    def __init__(self, tasks: Tasks, number: int) -> None:
        self._tasks, self.number = tasks, number
        self._stop = threading.Event()
        self._told = 0.0

    def cancel(self) -> None:
        """Ask it to end; neither done nor failed is called any more."""
        self._stop.set()
        self._tasks.forget(self.number)

    @property
    def cancelled(self) -> bool:
        """Whether an end was asked for."""
        return self._stop.is_set()

    def progress(self, value: Any, *, force: bool = False) -> None:
        """Tell how far the work is; the place where a cancelled task ends."""
        if self._stop.is_set():
            raise Cancelled("Cancelled.")
        now = time.monotonic()
        if force or now - self._told >= PROGRESS_EVERY:
            self._told = now
            self._tasks.tell(self.number, "progress", value)


@dataclass(frozen=True)
class _Listener:
    owner: weakref.ref[QObject]
    done: Callable[[Any], object]
    failed: Callable[[Failure], object]
    progress: Callable[[Any], object] | None


class Tasks(QObject):
    """Runs tasks and brings their outcome to the main thread."""

    _news = Signal(int, str, object)

    def __init__(self, threads: int = 3, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._pool = QThreadPool(self)
        self._pool.setMaxThreadCount(threads)
        self._listeners: dict[int, _Listener] = {}
        self._running: dict[int, Task] = {}
        self._number = 0
        self._news.connect(self._deliver)

    def run(self, owner: QObject, work: Callable[[Task], Any], done: Callable[[Any], object],
            failed: Callable[[Failure], object], progress: Callable[[Any], object] | None = None) -> Task:
        """Start `work(task)`; the other three are called on the main thread, while `owner` lives."""
        self._number += 1
        number = self._number
        task = Task(self, number)
        self._listeners[number] = _Listener(weakref.ref(owner), done, failed, progress)
        self._running[number] = task

        def go() -> None:
            try:
                task.progress(None) if task.cancelled else None
                result = work(task)
            except BaseException as e:
                self.tell(number, "cancelled" if isinstance(e, Cancelled) else "failed", Failure.of(e))
                if not isinstance(e, Exception):
                    raise
            else:
                self.tell(number, "done", result)
        self._pool.start(go)
        return task

    def tell(self, number: int, kind: str, value: Any) -> None:
        """From any thread: bring news of a task to the main thread."""
        if isValid(self):
            self._news.emit(number, kind, value)

    def forget(self, number: int) -> None:
        """No more news of a task."""
        self._listeners.pop(number, None)

    @Slot(int, str, object)
    def _deliver(self, number: int, kind: str, value: Any) -> None:
        listener = self._listeners.get(number)
        if kind != "progress":
            self._running.pop(number, None)
            self._listeners.pop(number, None)
        if listener is None:
            return
        owner = listener.owner()
        if owner is None or not isValid(owner):
            return
        if kind == "progress":
            if listener.progress is not None:
                listener.progress(value)
        elif kind == "done":
            listener.done(value)
        elif kind == "failed":
            listener.failed(value)

    def is_running(self, task: Task) -> bool:
        """Whether a task is still at work; a cancelled one is until it notices."""
        return task.number in self._running

    @property
    def busy(self) -> int:
        """Tasks under way."""
        return len(self._running)

    def shutdown(self, milliseconds: int = 5000) -> bool:
        """Ask all tasks to end and wait for them; whether they did."""
        for task in list(self._running.values()):
            task.cancel()
        return self._pool.waitForDone(milliseconds)


class Engine(QObject):
    """Loads the engine (torch and all) in the background, once, and says when it is there."""

    ready = Signal()
    failed = Signal(object)

    def __init__(self, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._tasks = tasks
        self.is_ready = False
        self.started = False

    def load(self) -> None:
        """Begin, if nobody did yet."""
        if not self.started:
            self.started = True
            # A thread that holds the interpreter for long would make the window stutter.
            sys.setswitchinterval(0.0005)
            self._tasks.run(self, _load, self._loaded, self.failed.emit)

    def _loaded(self, _: Any) -> None:
        self.is_ready = True
        self.ready.emit()


def _load(task: Task) -> None:
    import core.job  # noqa: F401
    from app.console import quiet_transformers

    quiet_transformers()

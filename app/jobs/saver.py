"""Files are written on a thread of their own: a sync may take a second, and the window must not wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread

from app.jobs.files import write_atomic


class Saver:
    """Does one piece of work per key after the other; newer work takes the place of what still waits under its key.

    The thread exists only while there is something to do.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._thread: Thread | None = None
        self._problems: list[str] = []
        self._took: dict[str, float] = {}

    def save(self, path: Path, make: Callable[[], bytes]) -> None:
        """Write a file; `make` is called on the thread."""
        self.work(str(path), lambda: write_atomic(path, make()))

    def work(self, key: str, work: Callable[[], None]) -> None:
        """Do something else in the same line, under a key."""
        with self._changed:
            self._waiting[key] = work
            if self._thread is None:
                self._thread = Thread(target=self._run, name="deltadeck-saver")
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                key = next(iter(self._waiting))
                work = self._waiting.pop(key)
            began = time.monotonic()
            try:
                work()
            except Exception as e:
                why = e.strerror if isinstance(e, OSError) and e.strerror else f"{type(e).__name__}: {e}"
                with self._changed:
                    self._problems.append(f"'{key}' could not be brought up to date: {why}.")
            self._took[key] = time.monotonic() - began

    def took(self, path: Path) -> float:
        """Seconds that the last writing of a file took; 0 before the first."""
        return self._took.get(str(path), 0.0)

    def take_problems(self) -> list[str]:
        """What went wrong since the last call, as sentences."""
        with self._changed:
            found, self._problems = self._problems, []
            return found

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything is done; False if that takes longer. Don't call it while the window should move."""
        until = time.monotonic() + timeout
        with self._changed:
            thread = self._thread
            if not self._changed.wait_for(lambda: self._thread is None, max(0.0, until - time.monotonic())):
                return False
        if thread is not None:
            thread.join(max(0.0, until - time.monotonic()))
            return not thread.is_alive()
        return True

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        with self._changed:
            return self._thread is None

"""Python's cyclic collector on the main thread only.

Left to itself it runs in whatever thread makes an object too many. Among what it finds there may be Qt objects of the window,
and destroying these off the main thread corrupts the heap: notifiers and timers are taken from under the event loop.
"""

from __future__ import annotations

import gc
import threading
import time

from PySide6.QtCore import QObject, QTimer, Signal

from core import garbage

EVERY = 300
"""Milliseconds between two looks at how much has gathered."""
WHOLE = 60.0
"""Seconds between two collections of everything, which take longer than a frame."""
PATIENCE = 1.0
"""Seconds that another thread waits for the main one to collect: it may be waiting for that thread."""


class Collector(QObject):
    """Takes the collector over until `close`. Made on the main thread."""

    _asked = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._waiting: list[threading.Event] = []
        self._whole = time.monotonic()
        self._asked.connect(self._answer)
        self._timer = QTimer(self, interval=EVERY)
        self._timer.timeout.connect(self.look)
        self._timer.start()
        gc.disable()
        garbage.collect_by(self.collect)

    def look(self) -> None:
        """Collect the generations that are due, as Python would."""
        due = [count > limit for count, limit in zip(gc.get_count(), gc.get_threshold(), strict=True)]
        if due[2] and time.monotonic() - self._whole > WHOLE:
            gc.collect()
            self._whole = time.monotonic()
        elif due[1]:
            gc.collect(1)
        elif due[0]:
            gc.collect(0)

    def collect(self) -> None:
        """Collect everything; from any thread, which waits for it a little."""
        if threading.current_thread() is threading.main_thread():
            gc.collect()
            return
        done = threading.Event()
        self._waiting.append(done)
        self._asked.emit()
        done.wait(PATIENCE)

    def _answer(self) -> None:
        if self._waiting:                              # one collection answers all that asked before it
            asked, self._waiting = self._waiting, []
            gc.collect()
            for done in asked:
                done.set()

    def close(self) -> None:
        """Leave it to Python again."""
        self._timer.stop()
        garbage.collect_by()
        gc.enable()

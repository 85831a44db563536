"""Load times of several deltas, measured one after another; each is kept by the library as soon as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal

from app.context import Context
from app.library.entry import DeltaEntry
from app.tasks import Failure, Task

REPEATS = (3, 5, 7, 11)
_POLL = 100


@dataclass(frozen=True)
class Progress:
    """How far a measurement is: a share from 0 to 1, the delta that is timed, and what is done with it."""

    share: float
    name: str
    words: str


class Measuring(QObject):
    """Runs a measurement after the other. `ended` comes when all are done, and after a cancelled run really ended."""

    progressed = Signal(object)
    """A Progress."""
    ended = Signal()

    def __init__(self, ctx: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self._waiting: list[DeltaEntry] = []
        self._now: DeltaEntry | None = None
        self._task: Task | None = None
        self._done = self._total = 0
        self._repeats = REPEATS[0]
        self.failures: list[tuple[str, Failure]] = []
        """Names of deltas that could not be timed the last time, and why."""
        self.stopping = False
        """Whether it was cancelled, but a run is still under way."""
        self._poll = QTimer(self, interval=_POLL)
        self._poll.timeout.connect(self._look)

    @property
    def is_busy(self) -> bool:
        """Whether something is being timed, or still ending."""
        return self._task is not None

    def start(self, entries: Sequence[DeltaEntry], repeats: int) -> None:
        """Time these, `repeats` runs of each way."""
        if self.is_busy or not entries:
            return
        self._waiting, self._repeats, self.failures = list(entries), repeats, []
        self._done, self._total = 0, len(entries)
        self._next()

    def cancel(self) -> None:
        """Stop after the run that is under way: timing another beside it would measure both."""
        if self._task is not None and not self.stopping:
            self._task.cancel()
            self._waiting, self.stopping = [], True
            self._poll.start()

    def _next(self) -> None:
        self._now = self._waiting.pop(0)
        self._tell(0.0, "Preparing the first run")
        self._task = self._ctx.library.measure(self, self._now, self._repeats, self._measured, self._failed, self._told)

    def _tell(self, share: float, words: str) -> None:
        name = self._now.name if self._now is not None else ""
        self.progressed.emit(Progress((self._done + share) / max(1, self._total), name, words))

    def _told(self, step: Any) -> None:
        self._tell(step.done / step.total if step.total else 0.0, step.text)

    def _measured(self, times: Any) -> None:
        self._finish_one()

    def _failed(self, failure: Failure) -> None:
        if self._now is not None:
            self.failures.append((self._now.name, failure))
        self._finish_one()

    def _finish_one(self) -> None:
        self._done += 1
        if self._waiting:
            self._next()
        else:
            self._end()

    def _look(self) -> None:
        if self._task is None or not self._ctx.tasks.is_running(self._task):
            self._end()

    def _end(self) -> None:
        self._poll.stop()
        self._task, self._now, self.stopping = None, None, False
        self.ended.emit()

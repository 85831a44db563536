"""Removing deltas with a way back: first out of sight beside the library, some seconds later into the system's trash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal

from app.library import files
from app.tasks import Failure, Task, Tasks
from app.words import count

UNDO_FOR = 10_000
"""Milliseconds for which a removal can be taken back."""


class Trash(QObject):
    """What was removed lately. `changed` comes when that is more or less than before."""

    changed = Signal()
    message = Signal(str, str)
    """A sentence and its tone."""

    def __init__(self, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._tasks = tasks
        self._pending: list[Path] = []
        self._leaving: set[Path] = set()
        self._seen: set[Path] = set()
        self._timer = QTimer(self, singleShot=True, interval=UNDO_FOR)
        self._timer.timeout.connect(self.commit)

    def pending(self) -> tuple[Path, ...]:
        """What can still be brought back: where each lies now."""
        return tuple(self._pending)

    def is_leaving(self, folder: Path) -> bool:
        """Whether a folder is on its way to the system's trash, where it may be seen in the library for a moment."""
        return folder in self._leaving

    def put(self, folders: Sequence[Path]) -> tuple[str, ...]:
        """Take deltas out of the library; returns why some could not be, as sentences."""
        problems = []
        for folder in folders:
            try:
                self._pending.append(files.put_aside(folder))
            except OSError as e:
                problems.append(f"'{folder.name}' could not be removed: {e.strerror or e}.")
        self._timer.start()
        self.changed.emit()
        return tuple(problems)

    def undo(self) -> tuple[Path, ...]:
        """Bring back what was removed lately; returns where it is."""
        self._timer.stop()
        back = []
        pending, self._pending = self._pending, []
        for aside in pending:
            try:
                back.append(files.bring_back(aside))
            except OSError as e:
                why = e.strerror or e
                self.message.emit(f"'{aside.name}' could not be brought back: {why}. It is in '{aside.parent}'.", "danger")
        self.changed.emit()
        return tuple(back)

    def commit(self) -> None:
        """Send what was removed to the system's trash, in the background."""
        self._timer.stop()
        pending, self._pending = self._pending, []
        if not pending:
            return
        own = {aside.parent.parent.parent / aside.name for aside in pending}
        self._leaving |= own

        def work(task: Task) -> tuple[list[Path], list[str]]:
            return discard_all(pending)

        def done(result: tuple[list[Path], list[str]]) -> None:
            self._leaving -= own
            self._told(*result)

        def failed(failure: Failure) -> None:
            self._leaving -= own
            self.message.emit(failure.what, "danger")
        self._tasks.run(self, work, done, failed)
        self.changed.emit()

    def _told(self, kept: list[Path], problems: list[str]) -> None:
        if kept:
            back = [files.bring_back(aside) for aside in kept if aside.exists()]
            self.message.emit(f"{problems[0]} {count(len(back), 'delta is', 'deltas are')} back in the library.", "danger")
        self.changed.emit()

    def flush(self) -> None:
        """Do the same at once, when the program ends. What can't go stays where it is and returns at the next start."""
        self._timer.stop()
        pending, self._pending = self._pending, []
        discard_all(pending)

    def rescue(self, library: Path) -> tuple[Path, ...]:
        """Bring back what a killed program left half-way; once for each library."""
        if library in self._seen:
            return ()
        self._seen.add(library)
        mine = set(self._pending)
        back = []
        for aside in files.leftovers(library):
            if aside not in mine:
                try:
                    back.append(files.bring_back(aside))
                except OSError as e:
                    self.message.emit(f"'{aside.name}' lies in '{aside.parent}' and could not be brought back: "
                                      f"{e.strerror or e}.", "danger")
        if back:
            names = ", ".join(f"'{p.name}'" for p in back[:3]) + (" and others" if len(back) > 3 else "")
            verb = "is" if len(back) == 1 else "are"
            self.message.emit(f"{names} had not reached the trash when the program ended; {verb} back again.", "faded")
        return tuple(back)


def discard_all(asides: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Send each to the system's trash; returns those that could not go, and why."""
    kept, problems = [], []
    for aside in asides:
        try:
            files.discard(aside)
        except OSError as e:
            kept.append(aside)
            problems.append(f"'{aside.name}' could not go to the trash: {e.strerror or e}.")
    return kept, problems

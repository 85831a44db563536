"""Finished deltas that lie outside the library: what is known of them, where their copy is, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QObject, Signal

from app.context import Context
from app.library import reading
from app.library.entry import DeltaEntry
from app.library.operations import Step
from app.tasks import Failure


@dataclass(frozen=True)
class Place:
    """A finished job's delta as the page shows it."""

    entry: DeltaEntry | None = None
    """Its figures, once they are read."""
    listed: Path | None = None
    """Where it is in the library; None where it is not."""
    adding: str = ""
    """What its copy into the library is at; empty while none is made."""


class Outside(QObject):
    """Reads deltas outside the library in the background and copies them into it."""

    changed = Signal()
    """A delta was read, or its copy has moved on."""

    def __init__(self, ctx: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self._read: dict[Path, DeltaEntry | None] = {}
        """By folder; None while it is being read."""
        self._adding: dict[Path, str] = {}

    def place(self, folder: Path) -> Place:
        """What is known of a delta; one outside the library is read, and `changed` comes then."""
        library = self._ctx.library
        if is_inside(folder, library.root):
            return Place(library.entry(folder), folder)
        if folder not in self._read and self._ctx.engine.is_ready:
            self._read[folder] = None
            self._ctx.tasks.run(self, lambda task: reading.read_delta(folder), self._got, self._ctx.show_error)
        entry = self._read.get(folder)
        if entry is not None and not entry.usable:
            entry = None
        copy = next((e.path for e in library.entries() if entry is not None and e.sha256 == entry.sha256), None)
        return Place(entry, copy, self._adding.get(folder, ""))

    def _got(self, entry: DeltaEntry) -> None:
        self._read[entry.path] = entry
        self.changed.emit()

    def add(self, folder: Path) -> None:
        """Copy a delta into the library."""
        if folder in self._adding:
            return
        self._adding[folder] = "Copying"

        def told(step: Step) -> None:
            self._adding[folder] = step.text
            self.changed.emit()

        def failed(failure: Failure) -> None:
            self._ended(folder)
            self._ctx.show_error(failure)

        def done(result: tuple[tuple[Path, ...], tuple[str, ...]]) -> None:
            made, refused = result
            self._ended(folder)
            if refused:
                self._ctx.notify(refused[0], "danger")
            elif made:
                self._ctx.notify(f"{made[0].name} is in the library", "success")
        self._ctx.library.import_from(self, (folder,), done, failed, told)
        self.changed.emit()

    def _ended(self, folder: Path) -> None:
        del self._adding[folder]
        self.changed.emit()


def is_inside(folder: Path, root: Path) -> bool:
    """Whether a folder is one that a library lists."""
    return folder.parent == root or folder.resolve().parent == root.resolve()

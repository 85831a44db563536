"""The library: every delta of one folder, kept up to date, and what can be done with it. Lives on the main thread."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QFileSystemWatcher, QObject, QTimer, Signal

from app.library import files, operations, reading
from app.library.entry import DeltaEntry
from app.library.memory import Check, Kept, Memory
from app.library.operations import Checked
from app.library.scan import Found, Order, scan
from app.library.trash import Trash
from app.models.layers import LayerRow
from app.settings import Settings
from app.tasks import Engine, Failure, Task, Tasks

if TYPE_CHECKING:
    from app.jobs.manager import JobManager
    from app.jobs.queue import QueueItem

DEBOUNCE = 300
"""Milliseconds between a change in the folder and reading it anew."""
_ROWS_KEPT = 24
_WATCHED = 400

Done = Callable[[Any], object]
Failed = Callable[[Failure], object]


class Library(QObject):
    """Deltas of the folder in the settings. `changed` comes after entries, notes or `loading` did.

    Operations run as tasks: `done`, `failed` and `progress` (with an `operations.Step`) are called on the main thread
    while `owner` lives.
    """

    changed = Signal()
    select_asked = Signal(object)
    """A Path: show this delta on the Deltas page."""
    compare_asked = Signal(object)
    """A tuple of Paths: compare these."""
    message = Signal(str, str)
    """A sentence and its tone, for the status bar."""

    def __init__(self, settings: Settings, tasks: Tasks, engine: Engine, jobs: JobManager, data: Path,
                 parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._settings, self._tasks, self._engine, self._jobs = settings, tasks, engine, jobs
        self.memory = Memory(data / "library.json")
        self.trash = Trash(tasks, self)
        self.loading = True
        self.progress: tuple[int, int] = (0, 0)
        """Folders read, of how many, while `loading`."""
        self.failure: Failure | None = None
        """Why the library could not be read at all."""
        self.wanted: Path | None = None
        """What `select` asked for last; a page that is made because of it has missed the signal. It sets this to None."""
        self.compare_wanted: tuple[Path, ...] = ()
        """The same for `compare`."""
        self._root = settings.library
        self._found: tuple[tuple[str, DeltaEntry], ...] = ()
        self._entries: tuple[DeltaEntry, ...] = ()
        self._rows: OrderedDict[tuple[Path, str], tuple[LayerRow, ...]] = OrderedDict()
        self._reading: Task | None = None
        self._again = False
        self._watcher = QFileSystemWatcher(self)
        self._timer = QTimer(self, singleShot=True, interval=DEBOUNCE)
        self._timer.timeout.connect(self.refresh)
        self._watcher.directoryChanged.connect(self._touched)
        self.trash.changed.connect(self._trash_changed)
        self.trash.message.connect(self.message)
        engine.ready.connect(self.refresh)
        engine.failed.connect(self._read_failed)
        jobs.finished.connect(self._job_finished)
        settings.changed.connect(self._setting_changed)

    # ---------------------------------------------------------------------------------------------- what there is
    @property
    def root(self) -> Path:
        """The folder that is listed."""
        return self._root

    def entries(self) -> tuple[DeltaEntry, ...]:
        """All deltas, by name."""
        return self._entries

    def entry(self, path: Path) -> DeltaEntry | None:
        """The delta in a folder, if it is in the library."""
        return next((e for e in self._entries if e.path == path), None)

    def base_folder_of(self, entry: DeltaEntry) -> str | None:
        """Where the delta's base is on this machine."""
        return entry.base_path

    def select(self, path: Path) -> None:
        """Ask the Deltas page to show a delta; one that is new is read first."""
        self.wanted = Path(path)
        self.select_asked.emit(self.wanted)
        if self.entry(Path(path)) is None:
            self.refresh()

    def compare(self, paths: Iterable[Path]) -> None:
        """Ask the Compare page to show these."""
        self.compare_wanted = tuple(paths)
        self.compare_asked.emit(self.compare_wanted)

    # -------------------------------------------------------------------------------------------------- reading it
    def refresh(self) -> None:
        """Read what changed, as soon as the engine is there; once more afterwards if it is being read."""
        if self.memory.message:
            said, self.memory.message = self.memory.message, ""
            self.message.emit(said, "warning")
        if not self._engine.is_ready:
            self._engine.load()
            return
        if self._reading is not None:
            self._again = True
            return
        self._timer.stop()
        self.trash.rescue(self._root)
        kept, bases = self.memory.all()
        made_from = {item.output: (str(item.request.get("base", "")), str(item.request.get("fine_tuned", "")))
                     for item in self._jobs.items()}
        places = dict.fromkeys([*self._settings.options.recent, *(p for pair in reversed(made_from.values()) for p in pair)])
        order = Order(self._root, {e.path: (mark, e) for mark, e in self._found}, kept, made_from, bases, tuple(places))
        self._reading = self._tasks.run(self, lambda task: scan(task, order), self._read, self._read_failed, self._told)

    def _told(self, news: tuple[int, int] | None) -> None:
        if news is not None and self.loading:
            self.progress = news
            self.changed.emit()

    def _read(self, found: Found) -> None:
        self._reading = None
        if found.root == self._root:
            self._found = found.entries
            self.loading, self.failure = False, None
            for _, entry in found.entries:
                if entry.base_path and entry.path in {i.output for i in self._jobs.items()}:
                    self.memory.learn_base(entry.base_sha256, entry.base_path)
            self._watch()
            self._overlay()
        if self._again or found.root != self._root:
            self._again = False
            self.refresh()

    def _read_failed(self, failure: Failure) -> None:
        self._reading, self._again = None, False
        self.loading, self.failure = False, failure
        self.changed.emit()

    def _overlay(self) -> None:
        """Entries as read, with what this program remembers."""
        self._entries = tuple(_remembered(entry, mark, self.memory.of(entry.sha256)) for mark, entry in self._found
                              if not self.trash.is_leaving(entry.path))
        self.changed.emit()

    def _watch(self) -> None:
        """Look out for changes in the folder, and in subfolders: a copy that is under way has no config yet."""
        try:
            inner = [p for p in self._root.iterdir() if os.path.isdir(p) and not p.name.startswith(".")]
        except OSError:
            inner = []
        wanted = {str(p) for p in ([self._root] if os.path.isdir(self._root) else []) + sorted(inner)[:_WATCHED]}
        watched = set(self._watcher.directories())
        if gone := watched - wanted:
            self._watcher.removePaths(sorted(gone))
        if new := wanted - watched:
            self._watcher.addPaths(sorted(new))

    def _touched(self, path: str) -> None:
        self._timer.start()

    def _trash_changed(self) -> None:
        gone = {aside.parent.parent.parent / aside.name for aside in self.trash.pending()}
        self._found = tuple((mark, e) for mark, e in self._found if e.path not in gone or e.path.exists())
        self._overlay()
        self._timer.start()

    def _job_finished(self, item: QueueItem) -> None:
        self.refresh()

    def _setting_changed(self, name: str) -> None:
        if name == "library" and self._settings.library != self._root:
            self.trash.commit()
            self._root, self._found, self._entries, self.loading = self._settings.library, (), (), True
            self.changed.emit()
            self.refresh()
        elif name == "recent":
            self._timer.start()

    # ------------------------------------------------------------------------------------------- what we remember
    def set_note(self, entry: DeltaEntry, note: str) -> None:
        """Keep a note of a delta (one line)."""
        self.memory.change(entry.sha256, note=" ".join(note.split())[:500])
        self._overlay()

    def set_places(self, entry: DeltaEntry, base: str = "", fine_tuned: str = "") -> None:
        """Remember where the checkpoints of a delta are; an empty one stays as it is."""
        kept = self.memory.of(entry.sha256)
        self.memory.change(entry.sha256, base=base or kept.base, fine_tuned=fine_tuned or kept.fine_tuned)
        for sha in {e.sha256 for _, e in self._found if e.base_sha256 == entry.base_sha256}:
            self.memory.change(sha, not_base=tuple(p for p in self.memory.of(sha).not_base if p != base))
        self._found = tuple((m, replace(e, base_path=base or e.base_path, fine_tuned_path=fine_tuned or e.fine_tuned_path)
                             if e.path == entry.path else e) for m, e in self._found)
        self._overlay()
        self.refresh()

    # ------------------------------------------------------------------------------------------------- operations
    def load_rows(self, owner: QObject, path: Path, done: Done, failed: Failed) -> Task | None:
        """Bring a delta's layers: `done` gets a tuple of LayerRow, at once (and None is returned) where they are known."""
        key = (path, next((mark for mark, e in self._found if e.path == path), ""))
        if key in self._rows:
            self._rows.move_to_end(key)
            done(self._rows[key])
            return None

        def got(rows: tuple[LayerRow, ...]) -> None:
            self._rows[key] = rows
            while len(self._rows) > _ROWS_KEPT:
                self._rows.popitem(last=False)
            done(rows)
        return self._tasks.run(owner, lambda task: reading.read_rows(path), got, failed)

    def verify(self, owner: QObject, entries: Sequence[DeltaEntry], done: Done, failed: Failed, progress: Done) -> Task:
        """Read every byte; `done` gets a tuple of `operations.Checked`, which is remembered too."""
        def got(found: tuple[Checked, ...]) -> None:
            for checked in found:
                self._remember_check(checked)
            self._overlay()
            self.refresh()
            done(found)
        return self._tasks.run(owner, lambda task: operations.verify(task, entries), got, failed, progress)

    def _remember_check(self, checked: Checked) -> None:
        entry = checked.entry
        check = Check(at=datetime.now().timestamp(), signature=checked.signature, base=checked.base, problem=checked.problem)
        kept = self.memory.of(entry.sha256)
        if checked.base and entry.base_path:
            self.memory.change(entry.sha256, check=check, base=entry.base_path)
            self.memory.learn_base(entry.base_sha256, entry.base_path)
        elif checked.base_problem and entry.base_path:
            self.memory.change(entry.sha256, check=check, not_base=(*kept.not_base, entry.base_path)[-8:],
                               base="" if kept.base == entry.base_path else kept.base)
            if self.memory.base_of(entry.base_sha256) == entry.base_path:
                self.memory.learn_base(entry.base_sha256, "")
        else:
            self.memory.change(entry.sha256, check=check)

    def export_merged(self, owner: QObject, entry: DeltaEntry, target: Path, done: Done, failed: Failed, progress: Done) -> Task:
        """Write the fine-tune that the delta stands for; its base has to be known. `done` gets the folder."""
        folder, base = entry.path, entry.base_path or ""
        return self._tasks.run(owner, lambda task: operations.export_merged(task, folder, base, target), done, failed, progress)

    def export_copy(self, owner: QObject, entry: DeltaEntry, target: Path, done: Done, failed: Failed, progress: Done) -> Task:
        """Copy the delta folder; `done` gets where it is."""
        return self._tasks.run(owner, lambda task: operations.export_copy(task, entry.path, target), done, failed, progress)

    def import_from(self, owner: QObject, sources: Sequence[Path], done: Done, failed: Failed, progress: Done) -> Task:
        """Copy folders into the library; `done` gets (where they are, why others were refused)."""
        root = self._root

        def work(task: Task) -> tuple[tuple[tuple[Path, ...], tuple[str, ...]], list[tuple[str, str]]]:
            result = operations.import_deltas(task, sources, root)
            return result, [(reading.stated_hash(path), reading.signature(path)) for path in result[0]]

        def got(found: tuple[tuple[tuple[Path, ...], tuple[str, ...]], list[tuple[str, str]]]) -> None:
            result, marks = found
            there = {mark for mark, _ in self._found}
            for sha256, mark in marks:                 # every byte was read and compared with its record
                check = self.memory.of(sha256).check
                if mark and (check is None or check.signature not in there):
                    self.memory.change(sha256, check=Check(at=datetime.now().timestamp(), signature=mark))
            self.refresh()
            done(result)
        return self._tasks.run(owner, work, got, failed, progress)

    def measure(self, owner: QObject, entry: DeltaEntry, repeats: int, done: Done, failed: Failed, progress: Done) -> Task:
        """Time loading; base and fine-tune have to be known. `done` gets what is remembered as `load_times`."""
        folder, base, tuned = entry.path, entry.base_path or "", entry.fine_tuned_path or ""

        def got(times: dict[str, Any]) -> None:
            self.memory.change(entry.sha256, base=base, fine_tuned=tuned)
            self.keep_load_times(entry.sha256, times)
            done(times)
        return self._tasks.run(owner, lambda task: operations.measure(task, folder, base, tuned, repeats), got, failed, progress)

    def keep_load_times(self, sha256: str, times: dict[str, Any]) -> None:
        """Remember times that were measured elsewhere, in the form of `DeltaEntry.load_times`, for a delta by its hash."""
        self.memory.change(sha256, load_times=times)
        self._overlay()

    def try_base(self, owner: QObject, entry: DeltaEntry, place: str, done: Done, failed: Failed) -> Task:
        """See whether a checkpoint may be the delta's base and remember it then; `done` gets why not, or an empty text."""
        def got(problem: str) -> None:
            if not problem:
                self.set_places(entry, base=place)
            done(problem)
        return self._tasks.run(owner, lambda task: operations.opened_base(entry.path, place), got, failed)

    def rename(self, entry: DeltaEntry, name: str) -> Path:
        """Call a delta's folder something else. Raises `BadOption`, `OutputExists` or OSError; the folder is as before then."""
        target = files.rename(entry.path, name)
        self._found = tuple(sorted(((m, replace(e, path=target, name=name)) if e.path == entry.path else (m, e)
                                    for m, e in self._found), key=lambda pair: pair[1].name.lower()))
        self._overlay()
        self._timer.start()
        return target

    def remove(self, entries: Sequence[DeltaEntry]) -> tuple[str, ...]:
        """Take deltas out of the library, to come back by `trash.undo` or go by `trash.commit`; returns what did not work."""
        return self.trash.put([e.path for e in entries])

    def close(self) -> list[str]:
        """When the program ends: nothing is left half-way, and notes are on the disk. Returns what went wrong."""
        self._timer.stop()
        self.trash.flush()
        return self.memory.flush()


def _remembered(entry: DeltaEntry, mark: str, kept: Kept) -> DeltaEntry:
    """An entry with notes, checks and times of ours. A check of other bytes than those there now does not count."""
    check = kept.check if kept.check is not None and kept.check.signature == mark else None
    entry = replace(entry, note=kept.note, load_times=_whole_times(kept.load_times))
    if not entry.usable:
        return entry
    if check is not None and check.problem:
        return replace(entry, state="damaged", problem=check.problem)
    if check is not None:
        entry = replace(entry, verified_at=_when(check.at), base_verified=check.base)
    if entry.base_path is None:
        missing = f"No checkpoint on this machine is known as its base '{entry.base_name}'."
        return replace(entry, state="base-missing", problem=missing)
    return replace(entry, state="verified") if check is not None else entry


def _when(at: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at)
    except (ValueError, OverflowError, OSError):       # the clock, or the file, was wrong
        return None


def _whole_times(times: dict[str, Any] | None) -> dict[str, Any] | None:
    """Load times as they were kept; None where the file was changed to something else."""
    if times is None:
        return None
    parts = [times.get(kind, {}) for kind in ("warm", "cold")]
    found = [way for part in parts if isinstance(part, dict) for way in part.values()]
    are_whole = all(isinstance(part, dict) for part in parts) and all(
        isinstance(way, dict) and isinstance(way.get("runs", ()), list | tuple) and all(isinstance(x, int | float) for x in (
            way.get("median"), way.get("lowest"), way.get("highest"), *way.get("runs", ()))) for way in found)
    return times if are_whole else None

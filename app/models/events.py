"""The event log of a run as a table that only gains lines, and the filter that leaves warnings."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QSortFilterProxyModel, Qt

from app.jobs.runlog import LogEntry
from app.jobs.runstate import RunState
from app.words import duration

AnyIndex = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()
MOST = 5_000
"""Rows that are kept; the oldest go, a tenth at a time."""
COLUMNS = ("Time", "Event", "Took")
ENTRY_ROLE = int(Qt.ItemDataRole.UserRole)
"""Gives the `LogEntry`."""
LEVEL_ROLE = ENTRY_ROLE + 1
"""Gives the level: info, done, step, warning or error."""
_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
_DISPLAY, _ALIGNMENT = int(Qt.ItemDataRole.DisplayRole), int(Qt.ItemDataRole.TextAlignmentRole)
_SERVED = frozenset({_DISPLAY, _ALIGNMENT, int(Qt.ItemDataRole.ToolTipRole), int(Qt.ItemDataRole.AccessibleTextRole), ENTRY_ROLE,
                     LEVEL_ROLE})
_WORDS = {"warning": "Warning: ", "error": "Error: "}


def clock(at: float) -> str:
    """Time of day: `14:31:07`."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def as_line(entry: LogEntry) -> str:
    """One line for the clipboard."""
    took = f"  ({duration(entry.seconds)})" if entry.seconds is not None else ""
    return f"{clock(entry.at)}  {_WORDS.get(entry.level, '')}{entry.text}{took}"


class EventModel(QAbstractTableModel):
    """Lines of one run's log, the newest in row 0. `sync` adds what is new."""

    def __init__(self, parent: QObject | None = None, most: int = MOST) -> None:
        super().__init__(parent)
        self._most = most
        self._entries: list[LogEntry] = []
        """Oldest first."""
        self._seen = 0
        """Lines of the run that were taken over or passed by."""
        self._id = ""

    def sync(self, state: RunState | None) -> None:
        """Take over the run's new lines; another run begins the table anew."""
        if state is None or state.id != self._id or state.log_count < self._seen:
            self.beginResetModel()
            self._entries, self._seen, self._id = [], 0, state.id if state is not None else ""
            self.endResetModel()
        if state is None or (new := state.log_count - self._seen) == 0:
            return
        fresh = list(islice(reversed(state.log), min(new, self._most)))[::-1]
        self._seen = state.log_count
        count = len(self._entries)
        if (surplus := count + len(fresh) - self._most) > 0 and count:
            gone = min(count, max(surplus, self._most // 10))
            self.beginRemoveRows(_ROOT, count - gone, count - 1)
            del self._entries[:gone]
            self.endRemoveRows()
        self.beginInsertRows(_ROOT, 0, len(fresh) - 1)
        self._entries += fresh
        self.endInsertRows()

    def text(self) -> str:
        """The whole table for the clipboard, oldest first."""
        return "\n".join(as_line(entry) for entry in self._entries)

    def rowCount(self, parent: AnyIndex = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._entries)

    def columnCount(self, parent: AnyIndex = _ROOT) -> int:
        return 0 if parent.isValid() else len(COLUMNS)

    def data(self, index: AnyIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role not in _SERVED or not index.isValid():  # views ask for eight roles of each cell: this comes first
            return None
        entry, column = self._entries[-1 - index.row()], index.column()
        if role == _DISPLAY:
            if column == 0:
                return clock(entry.at)
            return entry.text if column == 1 else ("" if entry.seconds is None else duration(entry.seconds))
        if role == ENTRY_ROLE:
            return entry
        if role == LEVEL_ROLE:
            return entry.level
        if role == _ALIGNMENT:
            return _RIGHT if column == 2 else None
        return as_line(entry)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal and 0 <= section < len(COLUMNS):
            return COLUMNS[section]
        return None


class EventFilter(QSortFilterProxyModel):
    """The log in the same order, all of it or warnings and errors only."""

    def __init__(self, source: EventModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setFilterRole(LEVEL_ROLE)                 # matched in C++: without a pattern no row costs a call
        self.setSourceModel(source)

    def show_only_warnings(self, on: bool) -> None:
        """Leave out everything else, or show all again."""
        self.setFilterRegularExpression("^(warning|error)$" if on else "")

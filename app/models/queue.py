"""The job queue as a list model; rows are reordered by dragging."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from PySide6.QtCore import (
    QAbstractListModel,
    QByteArray,
    QMimeData,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QSortFilterProxyModel,
    Qt,
)

from app.jobs.manager import JobManager
from app.jobs.queue import QueueItem, State
from app.words import plain_tip

AnyIndex = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()
_USER = int(Qt.ItemDataRole.UserRole)
MIME = "application/x-deltadeck-job"
OVER = (State.DONE, State.CANCELLED)


class Role(IntEnum):
    """What `data` gives beyond the usual: ITEM is the QueueItem, the others are its fields."""

    ITEM = _USER
    ID = _USER + 1
    NAME = _USER + 2
    STATE = _USER + 3
    FRACTION = _USER + 4
    SECONDS = _USER + 5
    SECONDS_LEFT = _USER + 6
    BASE_NAME = _USER + 7
    FINE_TUNED_NAME = _USER + 8
    CREATED = _USER + 9
    BEGAN = _USER + 10
    ENDED = _USER + 11
    FOLDER = _USER + 12
    BLOCKS_DONE = _USER + 13
    BLOCKS = _USER + 14
    ERROR = _USER + 15
    ESTIMATE = _USER + 16
    WEIGHTS_BYTES = _USER + 17
    REQUEST = _USER + 18


_FIELDS = {int(role): role.name.lower() for role in Role if role is not Role.ITEM}


def status_text(item: QueueItem) -> str:
    """`48 %`, `waiting`, `paused at block 12 of 32`, `failed: The disk is full.`"""
    if item.state == State.RUNNING:
        return f"{int(100 * item.fraction)} %"
    if item.state in (State.PAUSED, State.INTERRUPTED) and item.blocks:
        return f"{item.state} at block {item.blocks_done} of {item.blocks}"
    if item.state == State.FAILED and item.error is not None:
        return f"failed: {item.error.what}"
    return f"{item.state} after this step" if item.state in (State.PAUSING, State.CANCELLING) else item.state.value


class QueueModel(QAbstractListModel):
    """The manager's items, row by row in their order."""

    def __init__(self, jobs: JobManager, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._items = list(jobs.items())
        jobs.queue_changed.connect(self._sync)
        jobs.item_changed.connect(self._update)

    def row_of(self, id: str) -> int:
        """Where a job is, or -1."""
        return next((i for i, item in enumerate(self._items) if item.id == id), -1)

    def _update(self, item: QueueItem) -> None:
        row = self.row_of(item.id)
        if row >= 0 and self._items[row] is not item:
            self._items[row] = item
            self.dataChanged.emit(self.index(row), self.index(row))

    def _sync(self) -> None:
        wanted = self._jobs.items()
        ids = {item.id for item in wanted}
        for row in range(len(self._items) - 1, -1, -1):
            if self._items[row].id not in ids:
                self.beginRemoveRows(_ROOT, row, row)
                del self._items[row]
                self.endRemoveRows()
        for row, item in enumerate(wanted):
            at = self.row_of(item.id)
            if at < 0:
                self.beginInsertRows(_ROOT, row, row)
                self._items.insert(row, item)
                self.endInsertRows()
            elif at != row:                            # everything before `row` is right, so it can only come from behind
                self.beginMoveRows(_ROOT, at, at, _ROOT, row)
                self._items.insert(row, self._items.pop(at))
                self.endMoveRows()
            self._update(item)

    # ------------------------------------------------------------------------------------------- for Qt
    def rowCount(self, parent: AnyIndex = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._items)

    def data(self, index: AnyIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        item = self._items[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return item.name
        if role == Role.ITEM:
            return item
        if role in _FIELDS:
            return getattr(item, _FIELDS[role])
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{item.name}, {status_text(item)}"
        if role == Qt.ItemDataRole.ToolTipRole:
            asked = f"\nSize asked for: {item.asked}" if item.asked else ""
            return plain_tip(f"{item.name}\n{item.output}{asked}\n{status_text(item)}")
        return None

    def roleNames(self) -> dict[int, QByteArray]:
        return super().roleNames() | {int(role): QByteArray(role.name.lower().encode()) for role in Role}

    def flags(self, index: AnyIndex) -> Qt.ItemFlag:
        usual = super().flags(index)
        return usual | (Qt.ItemFlag.ItemIsDragEnabled if index.isValid() else Qt.ItemFlag.ItemIsDropEnabled)

    def supportedDropActions(self) -> Qt.DropAction:
        return Qt.DropAction.MoveAction

    def mimeTypes(self) -> list[str]:
        return [MIME]

    def mimeData(self, indexes: Sequence[QModelIndex]) -> QMimeData:
        data = QMimeData()
        data.setData(MIME, QByteArray("\n".join(self._items[i.row()].id for i in indexes).encode()))
        return data

    def canDropMimeData(self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: AnyIndex) -> bool:
        return data.hasFormat(MIME) and action == Qt.DropAction.MoveAction

    def dropMimeData(self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: AnyIndex) -> bool:
        """Move the dragged jobs before the row they were dropped at."""
        if not self.canDropMimeData(data, action, row, column, parent):
            return False
        target = row if row >= 0 else parent.row() if parent.isValid() else len(self._items)
        for id in bytes(data.data(MIME).data()).decode().split("\n"):
            target = self._move(id, target) + 1
        return True

    def moveRows(self, sourceParent: AnyIndex, sourceRow: int, count: int, destinationParent: AnyIndex,
                 destinationChild: int) -> bool:
        """Move jobs before another row."""
        if sourceParent.isValid() or destinationParent.isValid() or not 0 <= sourceRow <= sourceRow + count <= len(self._items):
            return False
        if sourceRow <= destinationChild <= sourceRow + count or not 0 <= destinationChild <= len(self._items):
            return False
        target = destinationChild
        for id in [item.id for item in self._items[sourceRow:sourceRow + count]]:
            target = self._move(id, target) + 1
        return True

    def _move(self, id: str, target: int) -> int:
        """Ask the manager to put a job before row `target`; returns its new row. The model follows by the manager's signal."""
        at = self.row_of(id)
        if at < 0:
            return target - 1
        position = target - 1 if at < target else target
        self._jobs.move(id, position)
        return position


class OpenJobs(QSortFilterProxyModel):
    """The queue without what is over (done or cancelled) unless asked for; what failed stays: it may be tried again."""

    def __init__(self, queue: QueueModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.has_ended = False
        self.setSourceModel(queue)

    def show_ended(self, on: bool) -> None:
        """List what is over, too."""
        if on != self.has_ended:
            self.beginFilterChange()
            self.has_ended = on
            self.endFilterChange()

    def filterAcceptsRow(self, row: int, parent: AnyIndex) -> bool:
        item = self.sourceModel().index(row, 0, parent).data(Role.ITEM)
        return self.has_ended or not isinstance(item, QueueItem) or item.state not in OVER

    def first_open(self) -> int:
        """The row of the first job that has not ended, or 0."""
        items = (self.index(row, 0).data(Role.ITEM) for row in range(self.rowCount()))
        return next((row for row, item in enumerate(items) if not item.is_ended), 0)

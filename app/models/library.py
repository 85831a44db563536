"""The library as a table: one row a delta, sorted and searched through a proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QSortFilterProxyModel, Qt

from app.library.entry import STATE_WORDS, DeltaEntry
from app.models.layers import header_of
from app.words import percent, recovered

AnyIndex = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()
ENTRY_ROLE = int(Qt.ItemDataRole.UserRole)
"""Gives the `DeltaEntry`."""
SORT_ROLE = ENTRY_ROLE + 1
"""Gives the raw number, or a text in lower case. What is missing sorts below everything."""

NAME, BASE, METHOD, SIZE, RATIO, RECOVERY, KL, DATE, NOTE = range(9)


def short_date(date: datetime | None, today: datetime | None = None) -> str:
    """`21 Nov`; of another year its month, `Oct 2025`."""
    if date is None:
        return ""
    same = date.year == (today or datetime.now()).year
    return f"{date.day} {date:%b}" if same else f"{date:%b %Y}"


def short_size(count: float) -> str:
    """Bytes with three digits: `13.7 MB`, `1.02 GB`, `0.96 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.95 * factor:
            value = count / factor
            return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{count:,.0f} B"


def short_time(seconds: float) -> str:
    """Seconds for a bar's end: `0.041 s`, `0.31 s`, `1.92 s`, `12.4 s`."""
    return f"{seconds:.{3 if seconds < 0.1 else 2 if seconds < 10 else 1}f} s"


def recovery_text(recovery: float | None) -> str:
    """`0.988`, `0.99975`: see `app.words.recovered`."""
    return recovered(recovery)


def kl_text(kl: float | None) -> str:
    """Nats per token with four decimals, or in powers of ten where that would be nothing."""
    if kl is None:
        return ""
    return f"{kl:.4f}" if kl == 0 or kl >= 0.00005 else f"{kl:.0e}"


@dataclass(frozen=True)
class Column:
    """One column: its heading, the raw value, how that is written, and what it means."""

    name: str
    raw: Callable[[DeltaEntry], float | str | None]
    shown: Callable[[DeltaEntry], str]
    tip: str
    is_number: bool = False


COLUMNS = (
    Column("Name", lambda e: e.name, lambda e: e.name, "The delta's folder"),
    Column("Base", lambda e: e.base_name, lambda e: e.base_name, "The checkpoint that it is a change of"),
    Column("Method", lambda e: e.method, lambda e: e.method, "How scales lie, or the recipe"),
    Column("Size", lambda e: e.bytes or None, lambda e: short_size(e.bytes) if e.bytes else "",
           "Bytes of its weight files", True),
    Column("Ratio", lambda e: e.ratio or None, lambda e: f"{e.ratio:,.1f} \N{MULTIPLICATION SIGN}" if e.ratio else "",
           "How many times smaller than the full checkpoint", True),
    Column("Recovery", lambda e: e.recovery, lambda e: recovery_text(e.recovery),
           "0: still the base. 1: the fine-tune. On calibration text that no fit has seen", True),
    Column("KL", lambda e: e.kl, lambda e: kl_text(e.kl), "To the fine-tune, in nats per token; 0 is the same", True),
    Column("Date", lambda e: e.created.timestamp() if e.created else None, lambda e: short_date(e.created), "When it was made"),
    Column("Note", lambda e: e.note, lambda e: e.note, "Your own words; F2 changes them"),
)
_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
_LEFT = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)


def trouble(entry: DeltaEntry) -> str:
    """`Base not found` or `Damaged`, for the note's column; empty for what is in order."""
    return STATE_WORDS[entry.state] if entry.state in ("base-missing", "damaged") else ""


def row_text(entry: DeltaEntry) -> str:
    """A row as it is copied: what is shown, with tabs between."""
    return "\t".join(column.shown(entry) for column in COLUMNS)


def header_text() -> str:
    """The headings, with tabs between."""
    return "\t".join(column.name for column in COLUMNS)


class LibraryModel(QAbstractTableModel):
    """Rows of the library. `sync` brings it up to date in place: selection and scrolling survive."""

    def __init__(self, note_changed: Callable[[DeltaEntry, str], object] | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._entries: list[DeltaEntry] = []
        self._note_changed = note_changed

    def entries(self) -> Sequence[DeltaEntry]:
        """The rows in order."""
        return self._entries

    def sync(self, entries: Sequence[DeltaEntry]) -> None:
        """Take over a newer state: rows are known by their folders; changed ones in place, new ones inserted, others removed."""
        wanted = {e.path for e in entries}
        for i in range(len(self._entries) - 1, -1, -1):
            if self._entries[i].path not in wanted:
                self.beginRemoveRows(_ROOT, i, i)
                del self._entries[i]
                self.endRemoveRows()
        where = {e.path: i for i, e in enumerate(self._entries)}
        for entry in entries:
            at = where.get(entry.path)
            if at is not None and self._entries[at] != entry:
                self._entries[at] = entry
                self.dataChanged.emit(self.index(at, 0), self.index(at, len(COLUMNS) - 1))
        if new := [e for e in entries if e.path not in where]:
            self.beginInsertRows(_ROOT, len(self._entries), len(self._entries) + len(new) - 1)
            self._entries += new
            self.endInsertRows()

    # ------------------------------------------------------------------------------------------- for Qt
    def rowCount(self, parent: AnyIndex = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._entries)

    def columnCount(self, parent: AnyIndex = _ROOT) -> int:
        return 0 if parent.isValid() else len(COLUMNS)

    def flags(self, index: AnyIndex) -> Qt.ItemFlag:
        flags = super().flags(index)
        if index.isValid() and index.column() == NOTE and self._entries[index.row()].sha256:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: AnyIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        entry, column = self._entries[index.row()], COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.shown(entry)
        if role == Qt.ItemDataRole.EditRole:
            return entry.note if index.column() == NOTE else column.raw(entry)
        if role == SORT_ROLE:
            raw = column.raw(entry)
            return raw.lower() if isinstance(raw, str) else (float("-inf") if raw is None else raw)
        if role == ENTRY_ROLE:
            return entry
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _RIGHT if column.is_number else _LEFT
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(entry, index.column())
        if role == Qt.ItemDataRole.AccessibleTextRole:
            shown = column.shown(entry) or "none"
            state = f", {STATE_WORDS[entry.state].lower()}" if index.column() == NAME else ""
            return f"{column.name}: {shown}{state}"
        return None

    @staticmethod
    def _tip(entry: DeltaEntry, column: int) -> str | None:
        if column == NAME:
            return f"{entry.path}\n{entry.problem or STATE_WORDS[entry.state].capitalize()}"
        if column == BASE:
            return f"{entry.base_name}\n{entry.base_path}" if entry.base_path else entry.problem or entry.base_name
        if column == RECOVERY and entry.recovery is not None:
            return f"{percent(entry.recovery, 2)} of the change, on {entry.tokens:,} tokens"
        if column == KL and entry.base_kl is not None:
            return f"Base alone: {kl_text(entry.base_kl)} nats per token"
        if column == DATE and entry.created is not None:
            return f"{entry.created:%d %B %Y, %H:%M}".lstrip("0")
        if column == NOTE:
            return "\n".join(x for x in (entry.problem if trouble(entry) else "", entry.note) if x) or None
        return None

    def setData(self, index: AnyIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        if role != Qt.ItemDataRole.EditRole or not index.isValid() or not self.flags(index) & Qt.ItemFlag.ItemIsEditable:
            return False
        entry = self._entries[index.row()]
        if str(value).strip() != entry.note and self._note_changed is not None:
            self._note_changed(entry, str(value))
        return True

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        return header_of(COLUMNS, section, orientation, role)


class LibraryFilter(QSortFilterProxyModel):
    """Rows whose name, base, note or method hold every word that is searched for, of one base or of all."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._words: tuple[str, ...] = ()
        self._base = ""
        self.setSortRole(SORT_ROLE)
        self.setDynamicSortFilter(True)

    def search(self, text: str) -> None:
        """Show rows that hold all these words."""
        self.beginFilterChange()
        self._words = tuple(text.casefold().split())
        self.endFilterChange(QSortFilterProxyModel.Direction.Rows)

    def show_base(self, base: str) -> None:
        """Show deltas of one base only, by its name; empty for all."""
        self.beginFilterChange()
        self._base = base
        self.endFilterChange(QSortFilterProxyModel.Direction.Rows)

    @property
    def is_narrowed(self) -> bool:
        """Whether a search or a base leaves rows out."""
        return bool(self._words or self._base)

    def filterAcceptsRow(self, source_row: int, source_parent: AnyIndex) -> bool:
        entry = self.sourceModel().index(source_row, 0, source_parent).data(ENTRY_ROLE)
        if self._base and entry.base_name != self._base:
            return False
        text = " ".join((entry.name, entry.base_name, entry.note, entry.method, entry.fine_tuned, trouble(entry))).casefold()
        return all(word in text for word in self._words)

    def lessThan(self, left: AnyIndex, right: AnyIndex) -> bool:
        """By the raw value, then by name, so that equal ones stand in one order."""
        a, b = left.data(SORT_ROLE), right.data(SORT_ROLE)
        if a == b:
            mine, other = left.data(ENTRY_ROLE).name.lower(), right.data(ENTRY_ROLE).name.lower()
            return bool(mine < other)
        if isinstance(a, str) != isinstance(b, str):
            return isinstance(b, str)
        return bool(a < b)

"""The layers of a run or of a finished delta: one row type, and the table of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from app.codings import bits_text, coding_of, coding_word, method_word, quiet
from app.words import duration, percent, plain_tip, size

AnyIndex = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()
ROW_ROLE = int(Qt.ItemDataRole.UserRole)
"""Gives the `LayerRow`."""
SORT_ROLE = ROW_ROLE + 1
"""Gives the raw number, or a text in lower case. What is missing sorts below everything."""
AXIS_WORDS = {"row": "Row", "column": "Column", "both": "Row x column", "scalar": "Scalar", "lowrank": "Low rank", "same": "Same",
              "rows": "Some rows", "sparse": "Some entries", "full": "In full", "sign": "Sign", "svdmix": "DeltaMix",
              "coded": "Coded levels", "left-out": "Left out"}


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One tensor, as maps, tables and hover cards show it. A finished layer's losses are relative to no delta."""

    tensor: str
    block: int | None = None
    """None outside the blocks (embedding, head)."""
    kind: str = ""
    shape: tuple[int, ...] = ()
    codec: str = ""
    axes: tuple[str, ...] = ()
    """The choice per slice: a fused matrix has several."""
    losses: tuple[dict[str, float], ...] = ()
    """Held-out objective per axis that was tried, one dict per slice."""
    recovery: float | None = None
    """1 - held-out loss."""
    held_out: float | None = None
    """Share of the layer's change that is lost on held-out text, mean over slices."""
    training: float | None = None
    change: float | None = None
    """|W_ft - W_base| / |W_base|."""
    bytes: int = 0
    seconds: float | None = None
    margin: float | None = None
    """How clearly the better of row and column won, see `margin_of`."""
    winner: str = ""
    """row, column, both or scalar; for another codec its name; empty before the layer is fitted."""
    state: str = "done"
    """todo, now or done."""
    note: str = ""
    method: str = ""
    """How what is stored was chosen, where a codec knows several ways."""
    planes: int = 1
    """Of sign bits."""

    @property
    def coding(self) -> str:
        """How it is stored, as a key of `app.codings.CODINGS` or an unknown codec's name; empty before it is fitted."""
        return coding_of(self.codec, self.method, self.planes, self.note) if self.codec and self.state == "done" else ""

    @property
    def bits(self) -> float | None:
        """Stored bits per weight; None before it is fitted."""
        weights = math.prod(self.shape) if self.shape else 0
        return 8 * self.bytes / weights if weights and self.state == "done" and self.codec else None

    @property
    def title(self) -> str:
        """`Block 16, down`, or the kind alone outside the blocks."""
        return f"Block {self.block}, {self.kind}" if self.block is not None else (self.kind or self.tensor).capitalize()

    @property
    def verdict(self) -> str:
        """`row by 12 %`, `row`, `low rank`; empty before the layer is fitted."""
        if not self.winner:
            return ""
        won = quiet(AXIS_WORDS.get(self.winner, self.winner))
        return f"{won} by {percent(self.margin, 0)}" if self.margin is not None and self.winner in ("row", "column") else won

    def loss_of(self, axis: str) -> float | None:
        """Held-out loss of an axis that was tried, mean over the slices."""
        return _mean([x[axis] for x in self.losses if axis in x])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def margin_of(losses: Mapping[str, float] | Sequence[Mapping[str, float]]) -> float | None:
    """(loser - winner) / loser of row against column: 0 = a tie, 0.3 = the better one loses 30 % less.

    `losses` is held-out loss per axis, of one slice or of each; slices are averaged. None where not both were tried.
    """
    slices = [losses] if isinstance(losses, Mapping) else losses
    margins = []
    for found in slices:
        if "row" in found and "column" in found:
            winner, loser = sorted((found["row"], found["column"]))
            margins.append((loser - winner) / loser if loser > 0 else 0.0)
    return _mean(margins)


def winner_of(codec: str, axes: Sequence[str]) -> str:
    """The axis of most slices (the first of them in a tie); a codec without axes wins by its own name."""
    return Counter(axes).most_common(1)[0][0] if axes else codec


def codec_winner(codec: str, axes: Sequence[str], note: str = "") -> str:
    """`winner_of`, with changes that a budget drops told apart from those that there are none of."""
    return winner_of(coding_of(codec, note=note) if codec == "same" else codec, axes)


def row_of_record(record: Mapping[str, Any], nbytes: int = 0) -> LayerRow:
    """A tensor's record as `delta_config.json` holds it (plain data); `nbytes` are its stored bytes."""
    found = record.get("losses", ())
    losses = tuple(dict(x.get("axis", {})) for x in found)
    held_out = _mean([x["held_out"] for x in found if x.get("held_out") is not None])
    axes = tuple(x["axis"] for x in record.get("slices", ())) if record["codec"] == "sign" else ()
    return LayerRow(record["name"], record.get("block"), record.get("kind", ""), tuple(record.get("shape", ())), record["codec"],
                    axes, losses, None if held_out is None else 1 - held_out, held_out,
                    _mean([x["training"] for x in found if x.get("training") is not None]), record.get("change", 0.0),
                    nbytes, None, margin_of(losses) if set(axes) & {"row", "column"} else None,
                    codec_winner(record["codec"], axes, record.get("note", "")),
                    "done", record.get("note", ""), record.get("method", ""), record.get("planes", 1))


@dataclass(frozen=True)
class Column:
    """One column: its heading, the raw value, and how that is written."""

    name: str
    raw: Callable[[LayerRow], float | str | None]
    shown: Callable[[LayerRow], str]
    tip: str
    is_number: bool = True


def _text(value: Any, write: Callable[[Any], str]) -> str:
    return "" if value is None else write(value)


COLUMNS = (
    Column("Block", lambda r: r.block, lambda r: _text(r.block, str), "Counted from 0; empty outside the blocks"),
    Column("Layer", lambda r: r.kind, lambda r: r.kind, "The layer's kind", False),
    Column("Axis", lambda r: r.winner, lambda r: AXIS_WORDS.get(r.winner, r.winner),
           "Row: one scale per output. Column: one per input", False),
    Column("Codec", lambda r: coding_word(r.coding) if r.coding else "", lambda r: coding_word(r.coding) if r.coding else "",
           "How the change is stored", False),
    Column("Method", lambda r: method_word(r.method), lambda r: method_word(r.method),
           "How what is stored was chosen; empty for the plain way", False),
    Column("Bits", lambda r: r.bits, lambda r: bits_text(r.bits), "Stored bits per weight, scales included"),
    Column("Won by", lambda r: r.margin, lambda r: _text(r.margin, lambda x: percent(x, 0)),
           "How far the better of row and column stays below the other, in the fit's held-out loss"),
    Column("Lost change", lambda r: r.held_out, lambda r: _text(r.held_out, lambda x: f"{x:.3f}"),
           "Share of the layer's change that is lost as it is stored, on text that fitting did not see"),
    Column("Recovery", lambda r: r.recovery, lambda r: _text(r.recovery, lambda x: f"{x:.3f}"),
           "0: still the base. 1: the fine-tune"),
    Column("Change", lambda r: r.change, lambda r: _text(r.change, lambda x: percent(x, 2)),
           "Size of the fine-tune's change relative to the base's weights"),
    Column("Size", lambda r: r.bytes or None, lambda r: size(r.bytes) if r.bytes else "", "Stored bytes"),
    Column("Seconds", lambda r: r.seconds, lambda r: _text(r.seconds, duration), "Time that fitting took"),
)

_RIGHT = int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
_LEFT = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
_DISPLAY, _ALIGNMENT = int(Qt.ItemDataRole.DisplayRole), int(Qt.ItemDataRole.TextAlignmentRole)
_TIP, _ACCESSIBLE = int(Qt.ItemDataRole.ToolTipRole), int(Qt.ItemDataRole.AccessibleTextRole)
_SERVED = frozenset({_DISPLAY, _ALIGNMENT, _TIP, _ACCESSIBLE, ROW_ROLE, SORT_ROLE})
_STATES = {"todo": "to do", "now": "being fitted", "done": "done"}


class LayerModel(QAbstractTableModel):
    """Rows of a run or of a delta. `sync` brings it up to date in place; selection and scrolling survive."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[LayerRow] = []

    def rows(self) -> Sequence[LayerRow]:
        """The rows in order."""
        return self._rows

    def row_of(self, tensor: str) -> int:
        """Where a tensor is, or -1."""
        return next((i for i, row in enumerate(self._rows) if row.tensor == tensor), -1)

    def show(self, rows: Iterable[LayerRow]) -> None:
        """Begin anew with other rows (another run, another delta)."""
        self.beginResetModel()
        self._rows = list(rows)
        self.endResetModel()

    def sync(self, rows: Sequence[LayerRow]) -> None:
        """Take over a newer version of the same rows: changed ones in place, new ones at the end, surplus ones go.

        Rows are frozen, so one that is the same object has not changed: 10,000 rows are compared in under a millisecond.
        """
        mine, common = self._rows, min(len(self._rows), len(rows))
        if len(rows) < len(mine):
            self.beginRemoveRows(_ROOT, len(rows), len(mine) - 1)
            del mine[len(rows):]
            self.endRemoveRows()
        changed = [i for i in range(common) if mine[i] is not rows[i]]
        for i in changed:
            mine[i] = rows[i]
        last = len(COLUMNS) - 1
        for first, end in _stretches(changed):
            self.dataChanged.emit(self.index(first, 0), self.index(end, last))
        if len(rows) > len(mine):
            self.beginInsertRows(_ROOT, len(mine), len(rows) - 1)
            mine.extend(rows[len(mine):])
            self.endInsertRows()

    # ------------------------------------------------------------------------------------------- for Qt
    def rowCount(self, parent: AnyIndex = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: AnyIndex = _ROOT) -> int:
        return 0 if parent.isValid() else len(COLUMNS)

    def data(self, index: AnyIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role not in _SERVED or not index.isValid():  # views ask for eight roles of each cell: this comes first
            return None
        row, column = self._rows[index.row()], COLUMNS[index.column()]
        if role == _DISPLAY:
            return column.shown(row)
        if role == SORT_ROLE:
            raw = column.raw(row)
            return raw.lower() if isinstance(raw, str) else (float("-inf") if raw is None else raw)
        if role == ROW_ROLE:
            return row
        if role == _ALIGNMENT:
            return _RIGHT if column.is_number else _LEFT
        if role == _TIP:
            return plain_tip(row.tensor + (f"\n{row.note}" if row.note else ""))
        if role == _ACCESSIBLE:
            return f"{row.title}: {column.name} {column.shown(row) or _STATES.get(row.state, row.state)}"
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        return header_of(COLUMNS, section, orientation, role)


class Headed(Protocol):
    """What a table's header shows of a column."""

    @property
    def name(self) -> str: ...
    @property
    def is_number(self) -> bool: ...
    @property
    def tip(self) -> str: ...


def header_of(columns: Sequence[Headed], section: int, orientation: Qt.Orientation, role: int) -> Any:
    """`headerData` of a table whose columns are described by `columns`."""
    if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(columns):
        return None
    column = columns[section]
    if role == Qt.ItemDataRole.DisplayRole:
        return column.name
    if role == Qt.ItemDataRole.TextAlignmentRole:
        return _RIGHT if column.is_number else _LEFT
    return column.tip if role == Qt.ItemDataRole.ToolTipRole else None


def _stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted numbers as (first, last) of each run without a gap: few signals for many rows."""
    runs = [list(g) for _, g in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return [(run[0][1], run[-1][1]) for run in runs]


def as_state(row: LayerRow, state: str) -> LayerRow:
    """The row in another state."""
    return row if row.state == state else replace(row, state=state)

"""Layers as cells of the axis map: blocks across, kinds down, tensors outside the blocks apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from app.codings import coding_letter, quiet
from app.models.layers import AXIS_WORDS, LayerRow
from app.widgets.painting import LETTERS
from app.words import count

Key = tuple[int | None, str]
"""Block (None outside the blocks) and kind."""
ORDER = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down")
"""Kinds in the order in which data passes them; others follow as they come."""
VECTORS = ("norm", "bias")
"""Kinds of tensors of one dimension: they have no axis to choose, so the map leaves them to the table."""
AXES = ("row", "column", "both", "scalar")
_STATES = {"todo": "to do", "now": "being fitted"}


def letter_of(winner: str) -> str:
    """The letter of an axis or of a codec."""
    return LETTERS.get(winner) or coding_letter(winner)


@dataclass(frozen=True)
class Cell:
    """The tensors of one kind in one block: one as a rule, many in a mixture of experts."""

    block: int | None
    kind: str
    rows: tuple[LayerRow, ...]

    @cached_property
    def state(self) -> str:
        """`now` while any tensor is being fitted, `done` once any is, else `todo`."""
        states = {row.state for row in self.rows}
        return "now" if "now" in states else "done" if "done" in states else "todo"

    @cached_property
    def winners(self) -> Counter[str]:
        """How many finished tensors chose what."""
        return Counter(row.winner for row in self.rows if row.state == "done")

    @cached_property
    def winner(self) -> str:
        """What most of the finished tensors chose; empty before."""
        return self.winners.most_common(1)[0][0] if self.winners else ""

    @cached_property
    def margin(self) -> float | None:
        """How clearly it won, mean over the tensors that chose it."""
        return _mean(row.margin for row in self.rows if row.state == "done" and row.winner == self.winner)

    @property
    def letter(self) -> str:
        """The letter shown; none before a tensor is finished."""
        return letter_of(self.winner) if self.winner else ""

    @cached_property
    def codings(self) -> Counter[str]:
        """How many finished tensors are stored how."""
        return Counter(row.coding for row in self.rows if row.state == "done" and row.coding)

    @cached_property
    def coding(self) -> str:
        """How most of the finished tensors are stored; empty before."""
        return self.codings.most_common(1)[0][0] if self.codings else ""

    @cached_property
    def bits(self) -> float | None:
        """Stored bits per weight over the finished tensors."""
        known = [(row.bytes, math.prod(row.shape)) for row in self.rows if row.bits is not None]
        return 8 * sum(b for b, _ in known) / sum(n for _, n in known) if known else None

    @property
    def coding_letter(self) -> str:
        """The letter of how it is stored; several planes of signs say how many."""
        planes = {row.planes for row in self.rows if row.coding == "planes"}
        number = str(planes.pop()) if self.coding == "planes" and len(planes) == 1 else ""
        return coding_letter(self.coding) + number if self.coding else ""

    @cached_property
    def lead(self) -> LayerRow:
        """The tensor that stands for the cell: the one being fitted, else the first that chose as most did."""
        now = next((row for row in self.rows if row.state == "now"), None)
        return now or next((row for row in self.rows if row.state == "done" and row.winner == self.winner), self.rows[0])

    @property
    def title(self) -> str:
        """`Block 16, down`, with the number of tensors where there are several."""
        return self.lead.title if len(self.rows) == 1 else f"{self.lead.title}: {count(len(self.rows), 'tensor')}"

    @property
    def verdict(self) -> str:
        """`column by 19 %`, `row in 60 of 64`, `to do`."""
        if self.state != "done":
            return _STATES[self.state]
        if len(self.rows) == 1:
            return self.lead.verdict
        return f"{quiet(AXIS_WORDS.get(self.winner, self.winner))} in {self.winners[self.winner]} of {len(self.rows)}"

    def mean(self, name: str) -> float | None:
        """Mean of a field over the tensors that have it."""
        return _mean(getattr(row, name) for row in self.rows)

    @property
    def bytes(self) -> int:
        """Stored bytes of all tensors."""
        return sum(row.bytes for row in self.rows)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


class Grid:
    """Which cells there are and where: `blocks` across, `kinds` down, `outer` apart. Rows of one tensor replace each other."""

    def __init__(self, rows: Iterable[LayerRow] = ()) -> None:
        found: dict[str, LayerRow] = {row.tensor: row for row in rows}
        matrices = {name: row for name, row in found.items() if row.kind not in VECTORS and len(row.shape) != 1}
        self._members: dict[Key, dict[str, LayerRow]] = {}
        for row in matrices.values():
            self._members.setdefault((row.block, row.kind), {})[row.tensor] = row
        self._left_out = frozenset(found) - frozenset(matrices)
        self.cells: dict[Key, Cell] = {key: Cell(*key, tuple(rows.values())) for key, rows in self._members.items()}
        self.blocks = tuple(sorted({block for block, _ in self.cells if block is not None}))
        self.kinds = _ordered([kind for block, kind in self.cells if block is not None])
        self.outer = tuple(kind for block, kind in self.cells if block is None)
        self._columns = {block: i for i, block in enumerate(self.blocks)}
        self._lines = {kind: i for i, kind in enumerate(self.kinds)}
        self._keys = {row.tensor: key for key, cell in self.cells.items() for row in cell.rows}

    def update(self, rows: Iterable[LayerRow]) -> set[Key] | None:
        """Take over newer versions of rows; the cells that changed, or None where a row is new and the grid must be made anew."""
        touched: set[Key] = set()
        for row in rows:
            key = self._keys.get(row.tensor)
            if key is None:
                if row.tensor in self._left_out:
                    continue
                return None
            if key != (row.block, row.kind):
                return None
            if self._members[key][row.tensor] is not row:
                self._members[key][row.tensor] = row
                touched.add(key)
        for key in touched:
            self.cells[key] = Cell(*key, tuple(self._members[key].values()))
        return touched

    def rows(self) -> list[LayerRow]:
        """All rows on the map."""
        return [row for cell in self.cells.values() for row in cell.rows]

    def key_of(self, tensor: str) -> Key | None:
        """The cell of a tensor; None where the map leaves it out."""
        return self._keys.get(tensor)

    def place(self, key: Key) -> tuple[int, int]:
        """Column and line of a cell inside the blocks; (-1, number) outside them."""
        block, kind = key
        return (-1, self.outer.index(kind)) if block is None else (self._columns[block], self._lines[kind])

    def at(self, column: int, line: int) -> Key | None:
        """The cell at a column and line; None where a block has no such layer."""
        if not (0 <= column < len(self.blocks) and 0 <= line < len(self.kinds)):
            return None
        key = (self.blocks[column], self.kinds[line])
        return key if key in self.cells else None

    def counts(self) -> Counter[str]:
        """Tensors in blocks by what they chose; `todo` counts those that are not finished. Embeddings and heads don't count."""
        return Counter(row.winner if row.state == "done" else "todo" for cell in self.cells.values() if cell.block is not None
                       for row in cell.rows)

    def codings(self) -> Counter[str]:
        """The same by how they are stored."""
        return Counter(row.coding or "other" if row.state == "done" else "todo" for cell in self.cells.values()
                       if cell.block is not None for row in cell.rows)

    def step(self, key: Key, across: int, down: int) -> Key:
        """The next cell in a direction, over places without a cell; the same one at the edge. The outer ones lie below."""
        column, line = self.place(key)
        if column < 0:
            if across:
                return (None, self.outer[min(max(line + across, 0), len(self.outer) - 1)])
            if down < 0 and self.kinds:
                return next((k for r in range(len(self.kinds) - 1, -1, -1) for c in range(len(self.blocks) - 1, -1, -1)
                             if (k := self.at(c, r)) is not None), key)
            return key
        while True:
            column, line = column + across, line + down
            if not (0 <= column < len(self.blocks) and 0 <= line < len(self.kinds)):
                return (None, self.outer[0]) if down > 0 and self.outer else key
            if (found := self.at(column, line)) is not None:
                return found

    def end_of_line(self, key: Key, to_last: bool) -> Key:
        """The first or last cell of a cell's line."""
        column, line = self.place(key)
        if column < 0:
            return (None, self.outer[-1 if to_last else 0])
        line_cells = [k for c in range(len(self.blocks)) if (k := self.at(c, line)) is not None]
        return line_cells[-1 if to_last else 0]

    def first(self) -> Key | None:
        """Where walking begins: the cell being fitted, else the first of the first line."""
        now = next((key for key, cell in self.cells.items() if cell.state == "now"), None)
        if now is not None:
            return now
        return next((k for c in range(len(self.blocks)) if (k := self.at(c, 0)) is not None), next(iter(self.cells), None))


def _ordered(kinds: Sequence[str]) -> tuple[str, ...]:
    names = list(dict.fromkeys(kinds))
    known = [k for k in ORDER if k in names]
    return (*known, *(k for k in names if k not in ORDER))

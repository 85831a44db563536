"""What the axis map says of a cell: the hover card, a sentence for screen readers, lines of a CSV file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from PySide6.QtGui import QColor

from app.codings import bits_text, coding_word, method_word
from app.models.layers import AXIS_WORDS, LayerRow
from app.widgets.charts.axis_data import AXES, Cell
from app.widgets.hover_card import HoverFacts
from app.words import count, duration, listed, percent, size

CSV_HEADER = ("block", "kind", "tensor", "shape", "state", "codec", "method", "bits per weight", "axis", "axes of parts",
              "won by", "lost change", "training loss", "recovery", *(f"held-out loss of {axis}" for axis in AXES), "change",
              "bytes", "seconds", "note")


def hover_facts(cell: Cell, colour: QColor | None, mode: str = "margin") -> HoverFacts:
    """The facts of a cell; `colour` is its own, None for an outline. In mode `codec` how it is stored comes first."""
    rows = _one(cell.rows[0]) if len(cell.rows) == 1 else _many(cell)
    note = cell.rows[0].note if len(cell.rows) == 1 else ""
    if mode == "codec" and cell.coding:
        named = {coding_word(k): n for k, n in cell.codings.most_common()}
        words = coding_word(cell.coding) if len(named) == 1 else listed(named)
        return HoverFacts(cell.title, words, tuple(rows), note, cell.coding_letter, colour)
    return HoverFacts(cell.title, cell.verdict, tuple(rows), note, cell.letter, colour)


def _one(row: LayerRow) -> list[tuple[str, str]]:
    found = [(f"Held-out loss, {AXIS_WORDS[axis].lower()}", f"{loss:.3f}") for axis in AXES
             if (loss := row.loss_of(axis)) is not None]
    if row.recovery is not None:
        found.append(("Recovery", f"{row.recovery:.3f}"))
    if row.change is not None:
        found.append(("Change", percent(row.change, 2)))
    if len(row.axes) > 1:
        found.append(("Parts", listed({AXIS_WORDS.get(a, a).lower(): row.axes.count(a) for a in dict.fromkeys(row.axes)})))
    if (scales := scales_of(row)) is not None:
        found.append(("Scales", f"{scales:,}"))
    if row.method:
        found.append(("Method", method_word(row.method)))
    if row.state == "done":
        found.append(("Stored", size(row.bytes) if row.bytes else "nothing"))
    if row.bits:
        found.append(("Bits per weight", bits_text(row.bits)))
    if row.seconds is not None:
        found.append(("Fitted in", duration(row.seconds)))
    return found


def _many(cell: Cell) -> list[tuple[str, str]]:
    found = [(AXIS_WORDS.get(winner, winner), str(n)) for winner, n in cell.winners.most_common()]
    waiting = sum(row.state != "done" for row in cell.rows)
    if waiting:
        found.append(("To do", str(waiting)))
    if (loss := cell.mean("held_out")) is not None:
        found.append(("Lost change, mean", f"{loss:.3f}"))
    recoveries = [row.recovery for row in cell.rows if row.recovery is not None]
    if recoveries:
        found += [("Recovery, mean", f"{sum(recoveries) / len(recoveries):.3f}"), ("Recovery, lowest", f"{min(recoveries):.3f}")]
    if (change := cell.mean("change")) is not None:
        found.append(("Change, mean", percent(change, 2)))
    if cell.state == "done":
        found.append(("Stored", size(cell.bytes) if cell.bytes else "nothing"))
    if cell.bits:
        found.append(("Bits per weight", bits_text(cell.bits)))
    seconds = [row.seconds for row in cell.rows if row.seconds is not None]
    if seconds:
        found.append(("Fitted in", duration(sum(seconds))))
    return found


def scales_of(row: LayerRow) -> int | None:
    """How many scales a finished matrix of sign bits holds; None where its parts or its shape are not known."""
    if row.state != "done" or len(row.axes) != 1 or len(row.shape) != 2:
        return None
    outputs, inputs = row.shape
    return {"row": outputs, "column": inputs, "both": outputs + inputs, "scalar": 1}.get(row.axes[0])


def csv_rows(rows: Iterable[LayerRow]) -> list[tuple[object, ...]]:
    """All facts of each layer, numbers as they are, under CSV_HEADER."""
    return [(row.block, row.kind, row.tensor, " x ".join(map(str, row.shape)), row.state, row.codec, row.method, row.bits,
             row.winner, " ".join(row.axes), row.margin, row.held_out, row.training, row.recovery,
             *(row.loss_of(axis) for axis in AXES), row.change, row.bytes, row.seconds, row.note) for row in rows]


def describe(cell: Cell) -> str:
    """One sentence after the other, for screen readers."""
    return hover_facts(cell, None).text()


def summary(counts: Mapping[str, int], words: Callable[[str], str] | None = None) -> str:
    """All counts in words: `Row 89, column 33, to do 88`."""
    def axis(key: str) -> str:
        return AXIS_WORDS.get(key) or coding_word(key)
    write = words or axis
    said = (f"{'To do' if name == 'todo' else write(name)} {n:,}" for name, n in counts.items())
    return ", ".join(said) if counts else count(0, "layer")

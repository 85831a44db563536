"""What a report says, worked out once for HTML and PDF. Plain data; colours are those of the light theme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from PySide6.QtGui import QColor

from app.codings import bits_text, coding_role, coding_word, in_order, quiet, strength
from app.library.entry import DeltaEntry
from app.library.reading import OBJECTIVES
from app.models.layers import AXIS_WORDS, LayerRow
from app.models.library import kl_text, recovery_text, short_size, short_time
from app.theme import FOLDER, blend, contrast, load_colours
from app.widgets.charts.axis_data import Cell, Grid
from app.widgets.painting import FULL_MARGIN, LETTERS
from app.words import count, percent, shape

BAND = 40
"""Blocks in one line of the axis map: deeper models continue below."""
_NO_RIVAL = 0.4 * FULL_MARGIN
"""The strength of an axis where no other was tried."""
_FIDELITY = {"base": "Base alone", "fitted": "Fitted scales", "tuned": "Tuned end to end", "variant": "The delta as stored"}
_WAYS = (("full", "Load the full checkpoint"),
         ("switch", "Switch a loaded base to the delta"), ("start", "Load the base, then switch"))
_ORDER = ("row", "column", "both", "scalar")


@dataclass(frozen=True)
class MapCell:
    """A cell: column and line in its band, letter, colours, and what it stands for."""

    column: int
    line: int
    letter: str
    ground: str
    ink: str
    title: str


@dataclass(frozen=True)
class Band:
    """One line of blocks of the axis map."""

    blocks: tuple[int, ...]
    kinds: tuple[str, ...]
    cells: tuple[MapCell, ...]


@dataclass(frozen=True)
class BarLine:
    """A bar: its share of the longest, and how far it reaches for what was repeated."""

    name: str
    share: float
    text: str
    accent: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Table:
    """Headings and rows; columns from `words` on hold numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


@dataclass(frozen=True)
class Report:
    """A whole report in the order in which it is read."""

    title: str
    line: str
    date: str
    note: str
    figures: tuple[tuple[str, str], ...]
    """Value and caption."""
    facts: tuple[tuple[str, str], ...]
    counts: tuple[tuple[str, str, int], ...]
    """Axis, words and number, of those on the map."""
    bands: tuple[Band, ...]
    outer: tuple[MapCell, ...]
    """Cells outside the blocks; the title is their name."""
    sizes: tuple[BarLine, ...]
    times: tuple[tuple[str, tuple[BarLine, ...]], ...]
    """Warm and cold, each with its bars."""
    times_note: str
    fidelity: Table
    kinds: Table
    layers: Table
    settings: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


@cache
def roles() -> dict[str, str]:
    """The light theme's colours by role."""
    return load_colours(FOLDER / "light.toml").roles


def mixed(role: str, share: float, ground: str = "surface-raised") -> str:
    """`share` of a role's colour on another's."""
    found = roles()
    return blend(QColor(found[role]), QColor(found[ground]), share).name()


def ink_on(ground: str) -> str:
    """Black or white, whichever stands out more."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(QColor(ink), QColor(ground)))


def make_report(entry: DeltaEntry, rows: Sequence[LayerRow]) -> Report:
    """Everything that a report of a delta says; `rows` are its tensors (see `app.library.reading.read_rows`)."""
    grid = Grid(rows)
    matrices = [r for r in rows if len(r.shape) != 1]
    tally = grid.counts()
    known = (*(a for a in _ORDER if tally[a]), *in_order(k for k in tally if k not in (*_ORDER, "todo")))
    counts = tuple((axis, AXIS_WORDS.get(axis) or coding_word(axis), tally[axis]) for axis in known)
    return Report(
        entry.name, f"{entry.method}, {entry.fine_tuned} as a delta on {entry.base_name}",
        f"{entry.created:%d %B %Y}".lstrip("0") if entry.created else "", entry.note, _figures(entry), _facts(entry), counts,
        _bands(grid), tuple(_cell(grid.cells[None, kind], i, 0, kind) for i, kind in enumerate(grid.outer)),
        _sizes(entry), *_times(entry), _fidelity(entry), _kinds(matrices), _layers(matrices), entry.settings, entry.warnings)


def _figures(entry: DeltaEntry) -> tuple[tuple[str, str], ...]:
    found = [(short_size(entry.bytes), f"in place of {short_size(entry.full_bytes)}"),
             (f"{entry.ratio:,.1f} \N{MULTIPLICATION SIGN}", "smaller")]
    if entry.recovery is not None:
        found.append((recovery_text(entry.recovery), "recovery, 1 is the fine-tune"))
    if entry.kl is not None:
        found.append((kl_text(entry.kl), f"KL to it; the base has {kl_text(entry.base_kl)}"))
    return tuple(found)


def _facts(entry: DeltaEntry) -> tuple[tuple[str, str], ...]:
    checked = "not verified here"
    if entry.verified_at is not None:
        checked = f"every byte on {entry.verified_at:%d %B %Y}" + (", base too" if entry.base_verified else "")
    return (("Base", entry.base_name), ("Fine-tune", entry.fine_tuned), ("Architecture", entry.architecture),
            ("Method", f"{entry.method}, {entry.asked}" if entry.asked else entry.method), *_mix(entry),
            ("Matrices in blocks", f"{entry.layers:,}"), ("Weights", f"{entry.bytes:,} bytes"),
            ("Whole folder", f"{entry.folder_bytes:,} bytes"), ("Verified", checked), ("SHA-256 of the record", entry.sha256))


def _mix(entry: DeltaEntry) -> tuple[tuple[str, str], ...]:
    """What a size was shared out to, and what was expected of it."""
    found = [("Matrices by method", ", ".join(f"{n:,} {quiet(word)}" for word, n in entry.mix))] \
        if entry.mix else []
    found += [("Expected KL", kl_text(entry.expected_kl))] if entry.expected_kl is not None else []
    return tuple(found)


def _bands(grid: Grid) -> tuple[Band, ...]:
    bands = []
    for begin in range(0, len(grid.blocks), BAND):
        blocks = grid.blocks[begin:begin + BAND]
        cells = tuple(_cell(grid.cells[block, kind], i, line) for i, block in enumerate(blocks)
                      for line, kind in enumerate(grid.kinds) if (block, kind) in grid.cells)
        bands.append(Band(blocks, grid.kinds, cells))
    return tuple(bands)


def _cell(cell: Cell, column: int, line: int, title: str = "") -> MapCell:
    ground = cell_colour(cell)
    recovery = cell.mean("recovery")
    words = f"{cell.title}: {cell.verdict}" + (f", recovery {recovery_text(recovery)}" if recovery is not None else "")
    return MapCell(column, line, cell.letter, ground, ink_on(ground), title or words)


def cell_colour(cell: Cell) -> str:
    """As on the axis map of the window: the axis's colour, as strong as its margin; other codecs in theirs, as strong as their
    bits."""
    if cell.winner in ("row", "column"):
        margin = _NO_RIVAL if cell.margin is None else cell.margin
        return mixed(cell.winner, 0.14 + 0.86 * min(1.0, max(0.0, margin) / FULL_MARGIN))
    if cell.winner in LETTERS:
        return mixed("text-faded", 0.24)
    return mixed(coding_role(cell.coding), (0.18 + 0.82 * strength(cell.bits or 0.0)) * (0.6 if coding_role(cell.coding) ==
                                                                                         "text-faded" else 1.0))


def legend_colour(key: str) -> str:
    """Of an axis, or of a way to store."""
    if key in ("row", "column"):
        return roles()[key]
    return mixed("text-faded", 0.24) if key in LETTERS else mixed(coding_role(key), 0.5)


def _sizes(entry: DeltaEntry) -> tuple[BarLine, ...]:
    full = max(1, entry.full_bytes)
    return (BarLine("Full checkpoint", 1.0, short_size(entry.full_bytes)),
            BarLine("Delta", entry.bytes / full, short_size(entry.bytes), True))


def _times(entry: DeltaEntry) -> tuple[tuple[tuple[str, tuple[BarLine, ...]], ...], str]:
    times = entry.load_times or {}
    groups = []
    for kind, name in (("warm", "Warm: files in the system's cache"), ("cold", "Cold: their pages dropped before each run")):
        found = [(way, text, times.get(kind, {}).get(way)) for way, text in _WAYS]
        known = [(way, text, t) for way, text, t in found if t]
        longest = max((t["highest"] for _, _, t in known), default=0.0) or 1.0
        if known:
            groups.append((name, tuple(BarLine(text, t["median"] / longest, short_time(t["median"]), way != "full",
                                               t["lowest"] / longest, t["highest"] / longest) for way, text, t in known)))
    if not groups:
        return (), "Not measured."
    runs, when = count(int(times.get("repeats", 0)), "run"), str(times.get("date", ""))[:10]
    note = f"Median of {runs}, whiskers from the quickest to the slowest; measured on {when}."
    return tuple(groups), " ".join(x for x in (note, str(times.get("note", ""))) if x)


def _fidelity(entry: DeltaEntry) -> Table:
    unit = "KL, nats per token" if entry.objective == "kl" else OBJECTIVES.get(entry.objective, "Loss")
    base = dict(entry.fidelity).get("base", 0.0)
    rows = tuple((_FIDELITY.get(name, name), f"{value:.5f}", recovery_text(1 - value / base) if base > 0 else "")
                 for name, value in entry.fidelity)
    return Table((f"On {count(entry.tokens, 'token')} that no fit has seen", unit, "Recovery"), rows)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _kinds(rows: Sequence[LayerRow]) -> Table:
    groups: dict[str, list[LayerRow]] = {}
    for row in rows:
        groups.setdefault(row.kind, []).append(row)
    lines = []
    for kind, members in groups.items():
        winners = {w: sum(r.winner == w for r in members) for w in dict.fromkeys(r.winner for r in members)}
        recovery, change = _mean([r.recovery for r in members]), _mean([r.change for r in members])
        lines.append((kind, ", ".join(f"{n} {quiet(_stored(w))}" for w, n in winners.items()), f"{len(members):,}",
                      percent(change, 2) if change is not None else "", recovery_text(recovery),
                      short_size(sum(r.bytes for r in members)) if any(r.bytes for r in members) else ""))
    return Table(("Kind", "Stored as", "Tensors", "Mean change", "Mean recovery", "Size"), tuple(lines), 2)


def _layers(rows: Sequence[LayerRow]) -> Table:
    lines = tuple((
        r.kind if r.block is None else f"{r.block} {r.kind}", quiet(_stored(r.winner)), shape(r.shape),
        "" if r.margin is None else percent(r.margin, 0), "" if r.held_out is None else f"{r.held_out:.3f}",
        recovery_text(r.recovery), "" if r.change is None else percent(r.change, 2),
        short_size(r.bytes) if r.bytes else "", bits_text(r.bits)) for r in rows)
    return Table(("Layer", "Axis", "Shape", "Won by", "Lost change", "Recovery", "Change", "Size", "Bits"), lines, 2)


def _stored(winner: str) -> str:
    return AXIS_WORDS.get(winner) or coding_word(winner)


def footer() -> str:
    """What stands at the end of a report."""
    from core import __version__

    today = datetime.now()
    return f"Written by Deltadeck {__version__} on {today.day} {today:%B %Y}"

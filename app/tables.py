"""Results as tables: records by kind and one by one, the axis map, fidelity, load times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.codings import bits_text, coding_letter, coding_of
from app.words import duration, one_line, percent, shape, size

KIND_ORDER = ("embed", "q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down", "head", "norm", "bias")
LETTERS = {"row": "R", "column": "C", "both": "B", "scalar": "S", "auto": "?"}
AXIS_WORDS = {"row": "row", "column": "column", "both": "row x column", "scalar": "scalar", "auto": "row|column"}
LEGEND = {"R": "row (per output)", "C": "column (per input)", "B": "row x column", "S": "scalar", "?": "row or column",
          "P": "sign planes", "M": "DeltaMix", "E": "coded levels", "L": "low rank", "F": "full", "=": "same as base",
          "\N{EN DASH}": "left out", "s": "sparse", "r": "some rows"}


_ROOMY = 100
"""Columns from which on a line per tensor holds everything."""
_LONGEST_WORD = 20
_WIDEST_FIGURE = 7


@dataclass(frozen=True)
class KindSummary:
    """All tensors of one kind: how many, how they are stored, bytes, and means over them (None where not measured)."""

    kind: str
    count: int
    codecs: dict[str, int]
    axes: dict[str, int]
    bytes: int
    full_bytes: int
    change: float
    unchanged: float
    recovery: float | None
    stored: dict[str, int]
    """As `codecs`, with methods and planes told apart."""


def record_size(record: Any) -> int:
    """Bytes a record's tensors take in the delta."""
    from core.artifact import stored_tensors

    return sum(t.nbytes for t in stored_tensors(record))


def record_coding(record: Any) -> str:
    """How a record's change is stored: see `app.codings.coding_of`. Planes count where a method chose them."""
    return coding_of(record.codec, record.method, 1, record.note)


def codec_words(record: Any) -> str:
    """A record's codec as tables name it: `svdmix`, `sign x 3`, `same (left out)`; a method of its own in brackets."""
    key = record_coding(record)
    more = "left out" if key == "left-out" else record.method if record.method not in ("", "planes", record.codec) else ""
    planes = f" x {record.planes}" if record.codec == "sign" and record.planes > 1 else ""
    return f"{record.codec}{planes}" + (f" ({more})" if more else "")


def record_bits(record: Any) -> float:
    """Stored bits per weight."""
    return 8 * record_size(record) / max(1, _numel(record.shape))


def full_size(record: Any) -> int:
    """Bytes of the fine-tune's tensor."""
    return int(record.torch_dtype.itemsize * _numel(record.shape))


def _numel(sides: Sequence[int]) -> int:
    product = 1
    for side in sides:
        product *= side
    return product


def record_recovery(record: Any) -> float | None:
    """Mean over slices of 1 - held-out loss; None where nothing was fitted."""
    found = [x.recovery for x in record.losses if x.recovery is not None]
    return sum(found) / len(found) if found else None


def _kind_key(kind: str) -> tuple[int, str]:
    return (KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER), kind)


def in_order(records: Iterable[Any]) -> list[Any]:
    """As data meets them: the embedding, block after block, then the rest."""
    def key(record: Any) -> tuple[float, tuple[int, str], str]:
        outside = -1.0 if record.kind == "embed" else float("inf")
        return outside if record.block is None else record.block, _kind_key(record.kind), record.name
    return sorted(records, key=key)


def short_names(records: Sequence[Any]) -> list[str]:
    """`3 q`: block and kind; where several share those, what tells them apart in their names."""
    labels = [r.kind if r.block is None else f"{r.block} {r.kind}" for r in records]
    shared = {label for label, n in Counter(labels).items() if n > 1}

    def own(record: Any) -> str:
        name = record.name.removesuffix(".weight")
        return name if record.block is None else f"{record.block} {name.partition(f'.{record.block}.')[2] or name}"
    return [own(r) if label in shared else label for label, r in zip(labels, records, strict=True)]


def by_kind(records: Iterable[Any]) -> list[KindSummary]:
    """Sums per layer kind: in the order in which data meets them, then the rest by name."""
    groups: dict[str, list[Any]] = {}
    for record in records:
        groups.setdefault(record.kind, []).append(record)
    rows = []
    for kind in sorted(groups, key=_kind_key):
        members = groups[kind]
        changes = sorted(r.change for r in members)
        weights = [_numel(r.shape) for r in members]
        recoveries = [x for x in map(record_recovery, members) if x is not None]
        rows.append(KindSummary(
            kind, len(members), dict(Counter(r.codec for r in members)),
            dict(Counter(s.axis for r in members if r.codec == "sign" for s in r.slices)), sum(map(record_size, members)),
            sum(map(full_size, members)), (changes[len(changes) // 2] + changes[(len(changes) - 1) // 2]) / 2,
            sum(r.unchanged * w for r, w in zip(members, weights, strict=True)) / max(1, sum(weights)),
            sum(recoveries) / len(recoveries) if recoveries else None, dict(Counter(map(codec_words, members)))))
    return rows


def shown(text: str) -> str:
    """A name out of a file, for a cell or a line: no markup, no control characters, one line."""
    return escape(one_line(text))


def table(*columns: str, left: int = 1) -> Table:
    """An empty table in this program's style; the first `left` columns hold words, the others numbers."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for i, column in enumerate(columns):
        grid.add_column(column, justify="left" if i < left else "right", no_wrap=i >= left,
                        overflow="fold" if i < left else "ellipsis")
    return grid


def keep_words(grid: Table, columns: int = 1) -> Table:
    """Let the first columns be broken between words only: cut to "KL me...", mean and median are one."""
    for column in grid.columns[:columns]:
        cells = [str(column.header), *(str(cell) for cell in column.cells)]
        column.min_width = min(_LONGEST_WORD, max((cell_len(plain(word)) for cell in cells for word in cell.split()), default=1))
    return grid


def plain(markup: str) -> str:
    """A cell without its markup."""
    return Text.from_markup(markup).plain


def figure(value: float, digits: int) -> str:
    """A number with so many decimals, fewer where it would be longer than a column is wide."""
    while digits and len(f"{value:.{digits}f}") > _WIDEST_FIGURE:
        digits -= 1
    text = f"{value:.{digits}f}"
    return text if len(text) <= _WIDEST_FIGURE else f"{value:.1e}"


def counts(found: Mapping[str, int], words: Mapping[str, str] | None = None) -> str:
    """`sign`, or `28 sign, 2 lowrank` where there are several."""
    named = {(words or {}).get(k, k): n for k, n in found.items()}
    if len(named) == 1:
        return next(iter(named))
    return ", ".join(f"{n} {name}" for name, n in sorted(named.items(), key=lambda pair: -pair[1]))


def kinds_table(kinds: Sequence[KindSummary], width: int = _ROOMY, *, planned: bool) -> Table:
    """One line per kind; a plan shows how far apart the checkpoints are, a finished delta what was recovered.

    Below 100 columns of `width` the shares of the full checkpoint are left out.
    """
    last, shares = ("Unchanged",) if planned else ("Recovery",), width >= _ROOMY
    grid = table("Kind", "Codec", "Axis", "Tensors", "Change", *last, "Bytes", *(("Of full",) if shares else ()), left=3)
    for k in kinds:
        extra = percent(k.unchanged) if planned else ("" if k.recovery is None else f"{k.recovery:.3f}")
        grid.add_row(shown(k.kind), shown(counts(k.stored)), counts(k.axes, AXIS_WORDS), str(k.count), percent(k.change, 2),
                     extra, size(k.bytes), *([percent(k.bytes / k.full_bytes if k.full_bytes else 0)] if shares else []))
    total, full = sum(k.bytes for k in kinds), sum(k.full_bytes for k in kinds)
    grid.add_section()
    grid.add_row("all", "", "", str(sum(k.count for k in kinds)), "", "", size(total),
                 *([percent(total / full if full else 0)] if shares else []))
    keep_words(grid, 3)
    return grid


def tensors_table(records: Iterable[Any], width: int) -> Table:
    """One line per tensor: how it is stored, and held-out losses relative to no delta for each axis that was tried.

    Below 100 columns of `width` the shapes are left out.
    """
    found = in_order(records)
    tried = [axis for axis in ("row", "column", "both", "scalar") if any(axis in x.axis for r in found for x in r.losses)]
    shapes, digits = width >= _ROOMY, 4 if width >= _ROOMY else 3
    words = ("Tensor", *(("Shape",) if shapes else ()), "Codec", "Axis")
    bits = ("Bits",) if shapes else ()
    heads = [f"Loss {axis}" if axis == tried[0] else axis for axis in tried]
    grid = table(*words, "Bytes", *bits, *heads, "Recovery", left=len(words))
    for column in grid.columns[1:]:
        column.no_wrap = True
    grid.columns[0].overflow = "fold"
    for r, name in zip(found, short_names(found), strict=True):
        losses = [[x.axis[axis] for x in r.losses if axis in x.axis] for axis in tried]
        lost = [f"{sum(v) / len(v):.{digits}f}" if v else "" for v in losses]
        recovered = record_recovery(r)
        axes = counts(Counter(s.axis for s in r.slices), AXIS_WORDS) if r.codec == "sign" else ""
        grid.add_row(shown(name), *([shape(r.shape)] if shapes else []), shown(codec_words(r)), axes, f"{record_size(r):,}",
                     *([bits_text(record_bits(r))] if shapes else []), *lost,
                     "" if recovered is None else f"{recovered:.{digits}f}")
    return grid


def axis_map(records: Iterable[Any]) -> list[list[str]]:
    """Blocks by kinds with one letter each (see LEGEND): a first line of kinds, then one line per block. Matrices only."""
    cells: dict[int, dict[str, list[str]]] = {}
    kinds: list[str] = []
    for r in records:
        if r.block is None or len(r.shape) != 2:
            continue
        if r.kind not in kinds:
            kinds.append(r.kind)
        key = record_coding(r)
        letters = [LETTERS.get(s.axis, "?") for s in r.slices] if key == "sign" else [coding_letter(key)]
        cells.setdefault(r.block, {}).setdefault(r.kind, []).extend(letters)
    kinds.sort(key=lambda k: KIND_ORDER.index(k) if k in KIND_ORDER else len(KIND_ORDER))

    def cell(letters: list[str]) -> str:
        # Many experts in one place: the letters with their counts.
        return "".join(letters) if len(letters) <= 4 else " ".join(f"{n}{c}" for c, n in Counter(letters).most_common())
    return [["", *kinds]] + [[str(b), *(cell(cells[b].get(k, [])) for k in kinds)] for b in sorted(cells)]


def legend(rows: Sequence[Sequence[str]]) -> str:
    """What the letters of an axis map mean, of those that are in it."""
    there = {c for row in rows[1:] for cell in row[1:] for c in cell if not c.isdigit() and c != " "}
    known = [f"{letter} {word}" for letter, word in LEGEND.items() if letter in there]
    return "   ".join([*known, *(f"{letter} another codec" for letter in sorted(there - set(LEGEND)))])


def axis_map_table(rows: Sequence[Sequence[str]]) -> Table:
    """The axis map in colours (letters carry the meaning)."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for i, head in enumerate(rows[0]):
        grid.add_column(shown(head) or "block", justify="right" if i == 0 else "center", style="dim" if i == 0 else "")
    colours = {"R": "#4da3e0", "C": "#e8833a", "B": "#b48ead"}
    for row in rows[1:]:
        grid.add_row(row[0], *(Text(c, style=colours.get(c[:1], "")) for c in row[1:]))
    return grid


def fidelity_table(report: Mapping[str, Any]) -> Table:
    """Base and variant against the fine-tune, from `fidelity.Report.as_dict()`; a line per figure, with standard errors."""
    grid = table("To the fine-tune", "Base", "+-", "Variant", "+-", "Fine-tune", "+-")
    own = report["fine_tuned"]

    def line(words: str, key: str, error: str, digits: int, exact: str = "", exact_error: str = "") -> None:
        cells = []
        for name in ("base", "variant"):
            f = report[name]
            cells += [figure(f[key], digits), figure(f[error], digits) if error else ""]
        grid.add_row(words, *cells, exact, exact_error)

    line("KL mean", "kl_mean", "kl_se", 5, "0")
    line("KL median", "kl_median", "kl_median_se", 5, "0")
    line("KL 99th percentile", "kl_p99", "kl_p99_se", 4, "0")
    line("KL largest", "kl_max", "", 3, "0")
    shares = [percent(report[name][key], 2) for name in ("base", "variant") for key in ("top1", "top1_se")]
    grid.add_row("Top-1 agreement", *shares, "100 %", "")
    line("Perplexity", "ppl", "ppl_se", 3, figure(own["ppl"], 3), figure(own["ppl_se"], 3))
    line("Perplexity gap", "ppl_gap", "ppl_gap_se", 3, "0")
    grid.columns[0].no_wrap = True
    return grid


def times_table(times: Mapping[str, Any]) -> Table:
    """Load times of `core.loadtime` by way, warm and cold."""
    words = {"full": "load the whole fine-tune", "switch": "switch a loaded base", "start": "load base, then switch"}
    grid = table("", "Warm", "range, s", "Cold", "range, s", left=0)
    grid.columns[0].justify = "left"
    for way, text in words.items():
        cells = []
        for kind in ("warm", "cold"):
            t = times[kind].get(way)
            cells += [duration(t["median"]), f"{t['lowest']:.3f}-{t['highest']:.3f}"] if t else ["not measured", ""]
        grid.add_row(text, *cells)
    return grid


def speed(ratio: float) -> str:
    """`12.5 times faster than`, for the time of the one over the time of the other."""
    return f"{ratio:,.1f} times faster than" if ratio >= 1 else f"{1 / ratio:,.1f} times slower than"


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values in two columns, for summaries."""
    grid = Table.grid(padding=(0, 3))
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in rows:
        grid.add_row(name, value)
    return grid

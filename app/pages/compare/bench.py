"""A benchmark's table (`benchmark.json`, written by `deltadeck benchmark`) as curves on the scatter."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import words
from app.widgets.charts.marks import SHAPES
from app.widgets.charts.scales import digits
from app.widgets.charts.scatter import ROLES, Level, Point
from core.errors import BadOption

_MOST = 50_000_000
_REMEDY = "Choose the benchmark.json that 'deltadeck benchmark' wrote."


@dataclass(frozen=True)
class BenchRow:
    """One method at one size."""

    label: str
    size: float
    """So many times smaller than the linear layers."""
    bytes: float
    kl: float
    error: float | None
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Benchmark:
    """What can be drawn of a benchmark."""

    path: Path
    title: str
    base_kl: float | None
    rows: tuple[BenchRow, ...]
    left_out: int
    """Rows without a size or a KL above 0."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels, in the order of the table."""
        return tuple(dict.fromkeys(r.label for r in self.rows))


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark. Raises `BadOption` for a file that is none, OSError for one that can't be read."""
    if path.stat().st_size > _MOST:
        raise BadOption(f"'{path.name}' is no benchmark.", "It is far too large.", _REMEDY)
    try:
        value = json.loads(path.read_text("utf-8"))
        pair, rows = value["pair"], value["rows"]
        found = [_row(r) for r in rows if isinstance(r, dict)]
        title = f"{_word(pair.get('fine_tuned'))} on {_word(pair.get('base'))}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise BadOption(f"'{path.name}' is no benchmark.", "It can't be understood.", _REMEDY) from e
    known = tuple(r for r in found if r is not None)
    if not known:
        raise BadOption(f"'{path.name}' has nothing to show.", "No row has a size and a KL above 0.", _REMEDY)
    tokens = _number(pair.get("tokens"))
    if tokens:
        title += f", {tokens:,.0f} tokens"
    base = _number(pair.get("base_kl"))
    return Benchmark(path, title, base if base is not None and base > 0 else None, known, len(rows) - len(known))


def _row(row: Mapping[str, Any]) -> BenchRow | None:
    nbytes, kl, error = _number(row.get("bytes")), _number(row.get("kl_mean")), _number(row.get("kl_se"))
    if nbytes is None or kl is None or nbytes <= 0 or kl <= 0:
        return None
    ratio, recovery, top = (_number(row.get(k)) for k in ("ratio", "recovery", "top1"))
    facts = [("Smaller than full", f"{digits(ratio)} times")] if ratio is not None and ratio > 0 else []
    facts += [(name, words.percent(x)) for name, x in (("Recovery", recovery), ("Top-1 agreement", top)) if x is not None]
    seconds = _number(row.get("fit_seconds"))
    facts += [("Fitted in", words.duration(seconds))] if seconds is not None and seconds >= 0 else []
    label = _word(row.get("label")) or _word(row.get("method")) or "Unknown"
    return BenchRow(label, _number(row.get("size")) or 0.0, nbytes, kl, error if error and error > 0 else None, tuple(facts))


def _word(value: object) -> str:
    return value[:60] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def bench_points(found: Benchmark, others: Sequence[Point] = ()) -> list[Point]:
    """A mark per row; those of a method are joined, in one colour and shape. `others` stand on the chart with them."""
    taken, before = {p.legend for p in others if p.legend}, len({p.line for p in others if p.line})
    place = {name: i for i, name in enumerate(found.methods)}
    return [Point(f"benchmark {i}", f"{r.label}, 1/{r.size:g}" if r.size else r.label, r.bytes, r.kl, r.error,
                  SHAPES[place[r.label] % len(SHAPES)], aside=True, line=f"benchmark: {r.label}",
                  legend=f"{r.label} (benchmark)" if r.label in taken else r.label,
                  role=ROLES[(before + place[r.label]) % len(ROLES)], is_unnamed=True,
                  facts=(*r.facts, ("Benchmark", found.title)))
            for i, r in enumerate(found.rows)]


def bench_levels(found: Benchmark, known: Sequence[Level]) -> list[Level]:
    """The base alone on the benchmark's text, unless a level says the same."""
    if found.base_kl is None or any(abs(level.kl / found.base_kl - 1) < 0.02 for level in known):
        return []
    return [Level("base alone in the benchmark" if known else "base alone", found.base_kl)]


def bench_note(found: Benchmark) -> str:
    """What was loaded, under the chart."""
    left = f" {words.count(found.left_out, 'row')} without a KL above 0 left out." if found.left_out else ""
    return f"Benchmark: {found.title}; {words.count(len(found.methods), 'method')}, bars are standard errors.{left}"

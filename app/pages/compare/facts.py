"""From entries of the library to what the four charts and the table show. Nothing here touches the screen."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from app import words
from app.library.entry import DeltaEntry
from app.widgets.charts.bars import LoadBar, SizeBar, spread
from app.widgets.charts.scales import digits
from app.widgets.charts.scatter import ROLES, Level, Point

Way = Literal["switch", "start"]
WAYS: dict[Way, str] = {"switch": "Switch", "start": "Start"}
WAY_TIPS: dict[Way, str] = {"switch": "A delta onto a base that is loaded already",
                            "start": "Nothing is loaded: the base, then the delta"}

_ALIKE = 1.03
"""Sizes within this factor count as the same size of a method."""
_MOST_ASIDE = 10
_SAME_TEXT = 1.02
"""Losses of one base that differ by more than this factor come from different texts."""


def pair(entry: DeltaEntry) -> tuple[str, str]:
    """What a delta leads from and to: deltas of one pair can be compared directly."""
    return entry.base_sha256 or entry.base_name, entry.fine_tuned


def pairs(entries: Iterable[DeltaEntry]) -> list[list[DeltaEntry]]:
    """Entries by pair, in the order of each pair's first."""
    found: dict[tuple[str, str], list[DeltaEntry]] = {}
    for entry in entries:
        found.setdefault(pair(entry), []).append(entry)
    return list(found.values())


def page_caption(chosen: Sequence[DeltaEntry]) -> str:
    """`5 deltas of one fine-tune, against the full checkpoint`."""
    fine_tunes, bases = len({e.fine_tuned for e in chosen}), len({pair(e)[0] for e in chosen})
    if not chosen:
        return "Size, load time and fidelity of several deltas side by side"
    count = words.count(len(chosen), "delta")
    if len(chosen) == 1:
        return f"1 delta of {chosen[0].fine_tuned or 'a fine-tune'}, against the full checkpoint"
    if bases > 1:
        return f"{count} of {bases} bases: sizes and times compare, fidelity only within one base"
    if fine_tunes > 1:
        return f"{count} of {fine_tunes} fine-tunes, against the full checkpoints"
    return f"{count} of one fine-tune, against the full checkpoint"


def kl_text(entry: DeltaEntry) -> str:
    """The KL as chips show it: four decimals, or more where it is smaller; empty where none was measured."""
    if entry.kl is None:
        return ""
    if entry.kl == 0:
        return "0"
    return f"{entry.kl:.4f}" if entry.kl >= 0.0005 else f"{entry.kl:.1e}"


# ------------------------------------------------------------------------------------------ fidelity against size
def can_plot(entry: DeltaEntry) -> bool:
    """Whether a delta has a place on two logarithmic scales."""
    return entry.kl is not None and entry.kl > 0 and entry.bytes > 0


def points(chosen: Sequence[DeltaEntry], shapes: Mapping[Path, str], accent: Path | None,
           library: Sequence[DeltaEntry]) -> list[Point]:
    """A mark for each chosen delta; where its method is in the library at other sizes too, those marks, joined by a line."""
    plotted = [e for e in chosen if can_plot(e)]
    found: list[Point] = []
    done: set[tuple[str, ...]] = set()
    joined: dict[Path, str] = {}
    for entry in plotted:
        family = _family(entry)
        if family in done:
            continue
        done.add(family)
        line = _line(family, plotted, library)
        name = "/".join(family)
        joined |= {e.path: name for e in line}
        aside = [e for e in line if all(e.path != c.path for c in chosen)]
        found += [_point(e, shapes.get(entry.path, "circle"), line=name, aside=True, label=_short(e)) for e in aside]
    found += [_point(e, shapes.get(e.path, "circle"), accent=e.path == accent, line=joined.get(e.path, "")) for e in plotted]
    names = legends({"/".join(family): family for family in done if any(p.line == "/".join(family) for p in found)})
    order = list(names)
    return [replace(p, legend=names[p.line], role=ROLES[order.index(p.line) % len(ROLES)]) if p.line else p for p in found]


def legends(families: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """What lines are called: their methods, with the fine-tune where lines of several pairs have the same; in that order."""
    methods = Counter(family[-1] for family in families.values())
    names = {line: f[-1] if methods[f[-1]] == 1 else f"{f[-1]}, {f[1]}" for line, f in families.items()}
    return dict(sorted(names.items(), key=lambda pair: pair[1].lower()))


def _family(entry: DeltaEntry) -> tuple[str, ...]:
    """What a method at several sizes has in common: the pair and the method's name without its number."""
    return *pair(entry), entry.recipe, entry.axis, re.sub(r"[\s,]*[\d.]+( bits?)?$", "", entry.method)


def _line(family: tuple[str, ...], chosen: Sequence[DeltaEntry], library: Sequence[DeltaEntry]) -> list[DeltaEntry]:
    """Deltas of a method with a size of their own, the chosen ones first; none where there is but one size."""
    others = sorted((e for e in library if can_plot(e) and e.usable), key=lambda e: e.kl or 0.0)
    kept: list[DeltaEntry] = []
    for entry in (*chosen, *others):
        if _family(entry) == family and len(kept) < _MOST_ASIDE:
            alike = (max(entry.bytes, k.bytes) / min(entry.bytes, k.bytes) < _ALIKE for k in kept)
            if not any(alike):
                kept.append(entry)
    return sorted(kept, key=lambda e: e.bytes) if len(kept) > 1 else []


def _short(entry: DeltaEntry) -> str:
    """The size it was made for, or the number at the end of a method's name (the rank, the bits), else the delta's name."""
    if entry.asked:
        return entry.asked
    found = re.search(r"([\d.]+)( bits?)?$", entry.method)
    return found[1] if found else entry.name


def _point(entry: DeltaEntry, shape: str, *, accent: bool = False, aside: bool = False, line: str = "", label: str = "") -> Point:
    facts = [("Smaller than full", f"{digits(entry.ratio)} times")] if entry.ratio else []
    if entry.recovery is not None:
        facts.append(("Recovery", words.recovered(entry.recovery)))
    if entry.base_kl is not None:
        facts.append(("Base alone", digits(entry.base_kl)))
    if entry.tokens:
        facts.append(("Measured on", f"{entry.tokens:,} tokens"))
    method = entry.method or "unknown"
    facts.append(("Method", f"{method}, {entry.asked}" if entry.asked else method))
    return Point(str(entry.path), entry.name, entry.bytes, entry.kl or 0.0, entry.kl_se, shape, accent, aside, line, label,
                 tuple(facts), method=method)


def levels(chosen: Sequence[DeltaEntry]) -> list[Level]:
    """The base alone, once per pair: the median of what was measured; none where that was on different texts, since a mean of
    those belongs to no delta."""
    found = []
    groups = [g for g in pairs(chosen) if any(e.base_kl for e in g)]
    for group in groups:
        measured = [e.base_kl for e in group if e.base_kl is not None and e.base_kl > 0]
        if measured and not on_different_texts(group):
            name = "base alone" if len(groups) == 1 else f"base alone for {group[0].fine_tuned}"
            found.append(Level(name, statistics.median(measured)))
    return found


def full_caption(chosen: Sequence[DeltaEntry]) -> str:
    """Names the yardstick that has no place on a logarithmic scale: `full checkpoint: 269 MB, KL 0`."""
    sizes = sorted({e.full_bytes for e in chosen if e.full_bytes})
    if not sizes:
        return ""
    said = words.size(sizes[0]) if len(sizes) == 1 else f"{words.size(sizes[0])} to {words.size(sizes[-1])}"
    return f"full checkpoint{'s' if len(sizes) > 1 else ''}: {said}, KL 0"


def fidelity_note(chosen: Sequence[DeltaEntry]) -> str:
    """What the scatter does not show, and what would mislead; empty where there is neither."""
    said = []
    if unmeasured := [e.name for e in chosen if e.kl is None]:
        said.append(f"Not shown, no KL measured: {_listed(unmeasured)}.")
    if exact := [e.name for e in chosen if e.kl is not None and e.kl <= 0]:
        said.append(f"Exact, KL 0, below every logarithmic scale: {_listed(exact)}.")
    for group in pairs(e for e in chosen if e.base_kl):
        measured = [e.base_kl for e in group if e.base_kl]
        if on_different_texts(group):
            said.append(f"Deltas of {group[0].fine_tuned} were measured on different texts (base alone from "
                        f"{digits(min(measured))} to {digits(max(measured))}): compare them by recovery, which their chips above "
                        "tell.")
    return " ".join(said)


def on_different_texts(group: Iterable[DeltaEntry]) -> bool:
    """Whether the bases of one pair's deltas show that their losses can't be compared."""
    measured = [e.base_kl for e in group if e.base_kl]
    return bool(measured) and max(measured) / min(measured) > _SAME_TEXT


def chip_figures(chosen: Sequence[DeltaEntry]) -> dict[Path, str]:
    """The figure in each delta's chip: its KL, or its recovery where the KLs of its pair can't be compared."""
    found: dict[Path, str] = {}
    for group in pairs(chosen):
        other = on_different_texts(group)
        found |= {e.path: f"recovery {words.recovered(e.recovery)}" if other and e.recovery is not None else kl_text(e)
                  for e in group}
    return found


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---------------------------------------------------------------------------------------------------------- sizes
def size_bars(chosen: Sequence[DeltaEntry], accent: Path | None) -> list[SizeBar]:
    """Full checkpoints first, then each delta."""
    groups = [g for g in pairs(chosen) if g[0].full_bytes]
    bars = [SizeBar(_full_name(g[0], len(groups)), g[0].full_bytes) for g in groups]
    return bars + [SizeBar(e.name, e.bytes, e.full_bytes, str(e.path), e.path == accent) for e in chosen]


def _full_name(entry: DeltaEntry, pairs_shown: int) -> str:
    return "Full checkpoint" if pairs_shown < 2 else f"Full {entry.fine_tuned}"


# ----------------------------------------------------------------------------------------------------- load times
def why_unmeasurable(entry: DeltaEntry, base: str | None) -> str:
    """Why load times can't be measured here; empty where they can."""
    if not entry.usable:
        return "the delta is damaged"
    if not base:
        return "its base's folder is not known"
    return "" if entry.fine_tuned_path else "its fine-tune's folder is not known"


def timing(entry: DeltaEntry | None, kind: str, way: str) -> Mapping[str, Any] | None:
    """The kept timing of a way, cold or warm; None where there is none."""
    found = ((entry.load_times or {}).get(kind) or {}).get(way) if entry is not None else None
    return found if isinstance(found, Mapping) else None


def load_bars(chosen: Sequence[DeltaEntry], accent: Path | None, way: Way, bases: Mapping[Path, str | None]) -> list[LoadBar]:
    """Full checkpoints first, each as timed along with the delta in accent, else with the latest measured one of its pair."""
    bars = []
    groups = pairs(chosen)
    for group in groups:
        one = yardstick(group, accent)
        bars.append(LoadBar(_full_name(group[0], len(groups)), spread(timing(one, "cold", "full")),
                            spread(timing(one, "warm", "full")), "" if one else "not measured yet"))
    for entry in chosen:
        cold, warm = spread(timing(entry, "cold", way)), spread(timing(entry, "warm", way))
        why = why_unmeasurable(entry, bases.get(entry.path))
        reason = "" if cold or warm else f"not measured: {why}" if why else "not measured yet"
        bars.append(LoadBar(entry.name, cold, warm, reason, str(entry.path), entry.path == accent))
    return bars


def yardstick(group: Sequence[DeltaEntry], accent: Path | None) -> DeltaEntry | None:
    """The delta whose measurement gives the full checkpoint's times: that in accent, else the one measured last."""
    timed = [e for e in group if timing(e, "warm", "full")]
    timed.sort(key=lambda e: (e.path == accent, _when(e)))
    return timed[-1] if timed else None


def _when(entry: DeltaEntry) -> float:
    """When a delta was measured, in seconds since 1970; 0 where that is not known."""
    date = (entry.load_times or {}).get("date")
    if isinstance(date, int | float):
        return float(date)
    try:
        return datetime.fromisoformat(str(date)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def load_caption(chosen: Sequence[DeltaEntry], way: Way) -> str:
    """`median of 7, whiskers 10 to 90 %`."""
    found = [s for e in chosen for kind in ("cold", "warm") if (s := spread(timing(e, kind, way)))]
    if not found:
        return "nothing measured yet"
    counts = sorted({s.runs for s in found})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    inner = {s.inner for s in found}
    whiskers = "10 to 90 %" if inner == {True} else "lowest to highest" if inner == {False} else "10 to 90 %, below 5 runs all"
    return f"median of {runs}, whiskers {whiskers}"


@dataclass(frozen=True)
class Faster:
    """How a delta's loading compares with the full checkpoint's, measured together: `14.5 ×`, `faster cold`."""

    figure: str
    words: str


def faster(entry: DeltaEntry, way: Way) -> list[Faster]:
    """Cold and warm, where both were measured."""
    found = []
    for kind in ("cold", "warm"):
        full, part = timing(entry, kind, "full"), timing(entry, kind, way)
        if full and part and part["median"] > 0 and full["median"] > 0:
            times = full["median"] / part["median"]
            shown = max(times, 1 / times)
            found.append(Faster(f"{digits(shown, 2 if shown < 9.95 else 3)} ×", f"{'faster' if times >= 1 else 'slower'} {kind}"))
    return found


# ---------------------------------------------------------------------------------------------------------- table
def table(chosen: Sequence[DeltaEntry]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Every figure of the page: a row per delta, full checkpoints first; bytes, nats per token, seconds."""
    timed = [(way, kind, what) for way in ("full", "switch", "start") for kind in ("cold", "warm")
             for what in ("median", "lowest", "highest")]
    titles = ("Name", "Base", "Fine-tune", "Method", "Bytes", "Times smaller", "KL", "KL standard error", "Base KL", "Recovery",
              "Row", "Column", "Other", *(f"{way.capitalize()} {kind} {what} s" for way, kind, what in timed))
    rows: list[tuple[str, ...]] = []
    for group in pairs(chosen):
        first = group[0]
        if first.full_bytes:
            rows.append((f"Full {first.fine_tuned}", first.base_name, first.fine_tuned, "", str(first.full_bytes), "1", "0", "",
                         _figure(first.base_kl), "1", *[""] * (len(titles) - 10)))
    for e in chosen:
        rows.append((e.name, e.base_name, e.fine_tuned, e.method, str(e.bytes), f"{e.ratio:.2f}", _figure(e.kl), _figure(e.kl_se),
                     _figure(e.base_kl), _figure(e.recovery), *(str(sum(k)) for k in _counts(e)),
                     *(_seconds(timing(e, kind, way), what) for way, kind, what in timed)))
    return titles, rows


def _counts(entry: DeltaEntry) -> tuple[list[int], list[int], list[int]]:
    return [k.row for k in entry.kinds], [k.column for k in entry.kinds], [k.other for k in entry.kinds]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _seconds(found: Mapping[str, Any] | None, what: str) -> str:
    return f"{found[what]:.4f}" if found else ""

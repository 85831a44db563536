"""Which bases can be loaded, and with what on the deck: those of the library's deltas, recent ones, the demo's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.chat.session import Source
from app.checkpoints import Choice, list_choices, name_of, shown_source, weight_bytes
from app.library.entry import DeltaEntry
from app.tasks import Task
from app.words import count

AT_ONCE = 3
"""Deltas that are put on the deck with their base, the newest; others with Add variant."""


@dataclass(frozen=True)
class BaseChoice:
    """A base, and what comes with it."""

    source: str
    name: str
    note: str
    bytes: int | None
    sources: tuple[Source, ...] = ()
    demo: bool = False


def deltas_of(entries: Iterable[DeltaEntry], base: str) -> list[DeltaEntry]:
    """Deltas of the library that belong to a base, the newest first."""
    found = [e for e in entries if e.usable and e.base_path == base]
    return sorted(found, key=lambda e: -(e.created.timestamp() if e.created else 0.0))


def sources_of(entries: Sequence[DeltaEntry]) -> tuple[Source, ...]:
    """The newest of them, to be put on the deck."""
    return tuple(Source(e.path, e.name) for e in entries[:AT_ONCE])


def list_bases(choices: Iterable[Choice], entries: Sequence[DeltaEntry]) -> tuple[BaseChoice, ...]:
    """In the order in which they are likely wanted: with deltas in the library, the demo, recent ones, the hub's cache."""
    found: dict[str, BaseChoice] = {}
    for base in dict.fromkeys(e.base_path for e in sorted(entries, key=lambda e: -(e.created.timestamp() if e.created else 0.0))):
        mine = deltas_of(entries, base) if base else []
        if base and mine:
            more = f", the newest {AT_ONCE} come with it" if len(mine) > AT_ONCE else ""
            found[base] = BaseChoice(base, name_of(base), f"{count(len(mine), 'delta')} in the library{more}",
                                     _size(base), sources_of(mine))
    rest = list(choices)
    demos = [c for c in rest if c.group == "Demo"]
    tuned = {str(e.fine_tuned_path) for e in entries if e.fine_tuned_path} | {c.source for c in demos if not _is_base(c)}
    for choice in demos:
        if _is_base(choice) and choice.source not in found:
            siblings = [c for c in demos if Path(c.source).parent == Path(choice.source).parent and c.source != choice.source]
            extra = tuple(Source(Path(c.source), c.name) for c in siblings)
            names = " and ".join(c.name for c in siblings)
            which = "Demo, built in" if choice.name == "tiny-base" else "Demo pair"
            found[choice.source] = BaseChoice(choice.source, choice.name, f"{which}, with {names}" if names else which,
                                              choice.bytes, extra, demo=True)
    for choice in rest:
        if choice.source not in found and choice.source not in tuned and choice.group != "Demo":
            note = choice.note or shown_source(choice.source)
            found[choice.source] = BaseChoice(choice.source, choice.name, f"{choice.group}, {note}", choice.bytes)
    return tuple(found.values())


def _is_base(choice: Choice) -> bool:
    return choice.name in ("tiny-base", "base")


def _size(base: str) -> int | None:
    path = Path(base)
    return weight_bytes(path) if path.is_dir() else None


def gather(task: Task, recent: Sequence[str], entries: Sequence[DeltaEntry]) -> tuple[BaseChoice, ...]:
    """Look around; for a worker thread."""
    return list_bases(list_choices(recent), entries)

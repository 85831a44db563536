"""One reading of the whole library, on a worker thread: folders into entries, and where their checkpoints are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.library.entry import DeltaEntry
from app.library.memory import Kept
from app.library.reading import delta_folders, is_base, is_fine_tune, place_name, read_delta, resolve, signature
from app.tasks import Task


@dataclass(frozen=True)
class Order:
    """What to read, and what is known before."""

    root: Path
    known: Mapping[Path, tuple[str, DeltaEntry]] = field(default_factory=dict)
    """By folder: signature and entry of the last reading."""
    kept: Mapping[str, Kept] = field(default_factory=dict)
    """What is remembered, by a delta's hash."""
    made_from: Mapping[Path, tuple[str, str]] = field(default_factory=dict)
    """By folder: (base, fine-tune) of the job that wrote it."""
    bases: Mapping[str, str] = field(default_factory=dict)
    """By the base's digest: where it was seen last."""
    places: tuple[str, ...] = ()
    """Checkpoints used lately, best first."""


@dataclass(frozen=True)
class Found:
    """The library as it was read: entries with signatures, in order of their names."""

    root: Path
    entries: tuple[tuple[str, DeltaEntry], ...]


def scan(task: Task, order: Order) -> Found:
    """Read what changed since `order.known`, look every checkpoint up anew (a disk may have come or gone)."""
    folders = delta_folders(order.root)
    read: list[tuple[str, DeltaEntry]] = []
    for i, folder in enumerate(folders):
        task.progress((i, len(folders)))
        mark = signature(folder)
        before = order.known.get(folder)
        read.append(before if before is not None and before[0] == mark and mark else (mark, read_delta(folder)))
    finder = _Finder(task, order, [e for _, e in read])
    placed = [(mark, finder.placed(entry) if entry.usable else entry) for mark, entry in read]
    # A base that one delta knows is known to all that need the very same one.
    by_digest = {e.base_sha256: e.base_path for _, e in placed if e.base_path}
    return Found(order.root, tuple((mark, replace(e, base_path=e.base_path or by_digest.get(e.base_sha256)) if e.usable else e)
                                   for mark, e in placed))


class _Finder:
    """Looks checkpoints up, each place once."""

    def __init__(self, task: Task, order: Order, entries: Sequence[DeltaEntry]) -> None:
        self._task, self._order = task, order
        self._wrong: dict[str, set[str]] = {}
        for entry in entries:                          # what is not the base of one delta is not that of its siblings
            self._wrong.setdefault(entry.base_sha256, set()).update(order.kept.get(entry.sha256, Kept()).not_base)
        self._resolved: dict[str, str] = {}
        self._fits: dict[tuple[str, str], bool] = {}
        self._names: dict[str, list[str]] = {}
        for place in order.places:
            if self._resolve(place):
                self._names.setdefault(place_name(place), []).append(place)

    def _resolve(self, place: str) -> str:
        if place not in self._resolved:
            self._resolved[place] = resolve(place)
        return self._resolved[place]

    def placed(self, entry: DeltaEntry) -> DeltaEntry:
        """The entry with the places of its base and its fine-tune, where they are on this machine."""
        self._task.progress(None)
        kept = self._order.kept.get(entry.sha256, Kept())
        job_base, job_tuned = self._order.made_from.get(entry.path, ("", ""))
        wrong = self._wrong[entry.base_sha256]
        base = self._first((kept.base, job_base, self._order.bases.get(entry.base_sha256, "")), wrong)
        if base is None:
            base = self._named(entry, wrong)
        tuned = self._first((kept.fine_tuned, job_tuned), set())
        if tuned is None:
            tuned = self._named_fine_tune(entry)
        return replace(entry, base_path=base, fine_tuned_path=tuned)

    def _first(self, places: Sequence[str], wrong: set[str]) -> str | None:
        """The first place that is there."""
        return next((found for p in places if p and (found := self._resolve(p)) and found not in wrong), None)

    def _named(self, entry: DeltaEntry, wrong: set[str]) -> str | None:
        """A checkpoint of that name with the tensors that the delta needs: deltas of one base share the answer."""
        for place in self._names.get(entry.base_name, ()):
            found = self._resolve(place)
            if found in wrong:
                continue
            key = (entry.base_sha256, found)
            if key not in self._fits:
                self._fits[key] = is_base(entry.path, found)
            if self._fits[key]:
                return found
        return None

    def _named_fine_tune(self, entry: DeltaEntry) -> str | None:
        for place in self._names.get(entry.fine_tuned, ()):
            found = self._resolve(place)
            key = (f"variant {entry.base_sha256}", found)
            if key not in self._fits:
                self._fits[key] = is_fine_tune(entry.path, found)
            if self._fits[key]:
                return found
        return None

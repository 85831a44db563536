"""What is done to deltas away from the main thread: check every byte, rebuild, copy, time. Progress is a `Step`."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.library.entry import DeltaEntry
from app.library.files import free_name
from app.library.reading import signature
from app.tasks import Task
from app.words import size
from core.errors import DeltadeckError, NoSpace, OutputExists, WrongBase

if TYPE_CHECKING:
    from core.artifact import Delta

_AT_ONCE = 8 * 2**20
TIMING = threading.Lock()
"""Held while load times are measured: a cancelled run ends only after its model is loaded, and two would slow each other."""


@dataclass(frozen=True)
class Step:
    """How far an operation is: `done` of `total` (0 where unknown) and what is under way."""

    text: str
    done: float = 0
    total: float = 0


@dataclass(frozen=True)
class Checked:
    """What reading every byte of a delta brought: `problem` of its own, `base_problem` of the base that was tried."""

    entry: DeltaEntry
    signature: str
    problem: str = ""
    base: bool = False
    """Whether every base tensor was hashed and is the right one."""
    base_problem: str = ""


def verify(task: Task, entries: Sequence[DeltaEntry]) -> tuple[Checked, ...]:
    """Read every byte of some deltas, and of the base tensors that each needs where its base is known.

    A checkpoint that several deltas share is hashed once.
    """
    from core.checkpoint import Checkpoint, open_checkpoint

    found = []
    opened: dict[str, Checkpoint] = {}
    try:
        for i, entry in enumerate(entries):
            before = f"{i + 1} of {len(entries)}: " if len(entries) > 1 else ""
            if entry.base_path and entry.base_path not in opened:
                with suppress(DeltadeckError, OSError):
                    opened[entry.base_path] = open_checkpoint(entry.base_path)
            found.append(_verify_one(task, entry, opened.get(entry.base_path or ""), f"{before}{entry.name}"))
    finally:
        for checkpoint in opened.values():
            checkpoint.close()
    return tuple(found)


def _verify_one(task: Task, entry: DeltaEntry, base: Any, words: str) -> Checked:
    from core.artifact import AGAIN, check_base, open_delta, verify_files

    mark = signature(entry.path)
    try:
        delta = open_delta(entry.path)
        total = len(delta.config.files) + 1
        for i, (name, problem) in enumerate(verify_files(delta)):
            task.progress(Step(f"{words}: {name}", i + 1, total))
            if problem:
                return Checked(entry, mark, f"The delta in '{entry.path}' is damaged: {name} {problem}. {AGAIN}")
        if base is None:
            return Checked(entry, mark)
        needed = [r.base for r in delta.records.values() if r.base and r.base in base.tensors]
        for i, tensor in enumerate(needed):
            task.progress(Step(f"{words}: base {entry.base_name}", i + 1, len(needed)))
            base.sha256(tensor)                        # kept by the checkpoint, for the check below and the next delta
        try:
            check_base(delta, base)
        except WrongBase as e:
            return Checked(entry, mark, base_problem=str(e))
        return Checked(entry, mark, base=True)
    except (DeltadeckError, OSError) as e:
        if task.cancelled:
            raise
        return Checked(entry, mark, str(e))


def export_merged(task: Task, folder: Path, base: str, target: Path) -> Path:
    """Rebuild the fine-tune as a checkpoint folder. Raises as `core.export.export_checkpoint`."""
    from core.artifact import open_delta
    from core.checkpoint import open_checkpoint
    from core.export import export_checkpoint

    def told(done: int, total: int) -> None:
        task.progress(Step(f"Exporting {target.name}, {size(done)} of {size(total)}", done, total))
    task.progress(Step(f"Checking {folder.name} and its base"))
    with open_checkpoint(base) as opened:
        return export_checkpoint(open_delta(folder), opened, target, progress=told).folder


def copy_delta(task: Task, source: Path, parent: Path, name: str = "", *, checked: bool = True) -> Path:
    """Copy a delta folder whole: under a hidden name, synced, renamed to a free one. Returns where it is.

    What is no delta is refused as by `core.artifact.open_delta`, before anything is written, and `NoSpace` where the
    disk has too little room; a copy with a byte that is not as it was written by `DeltaCorrupt`. `checked=False` copies a
    folder without looking into it.
    """
    files = [p for p in sorted(source.iterdir()) if p.is_file() and not p.is_symlink()]
    if checked:
        files = _own_files(source, files)
    total = sum(p.stat().st_size for p in files)
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < total + (1 << 20):
        raise NoSpace(f"The delta needs {size(total)} on the disk of '{parent}', {size(free)} are free.", "",
                      "Free some space, or choose a folder on another disk.")
    name = name or source.resolve().name
    from core.safefile import sync_folder
    from core.shortage import in_words

    with in_words(parent, lambda: total), _whole(parent, name) as work:
        done = 0
        for path in files:
            def told(part: int, path: Path = path, before: int = done) -> None:
                task.progress(Step(f"Copying {name}: {path.name}, {size(before + part)} of {size(total)}", before + part, total))
            _copy_file(path, work / path.name, told)
            done += path.stat().st_size
        if checked:
            task.progress(Step(f"Checking the copy of {name}", 0, 0))
            _check_copy(source, work)
        sync_folder(work)
        target = parent / free_name(parent, name)
        os.rename(work, target)
    with suppress(OSError):                            # it is there, and whole
        sync_folder(parent)
    return target


def _own_files(source: Path, files: Sequence[Path]) -> list[Path]:
    """What to copy of a folder that is a delta: its own files, links to them followed, and other plain files."""
    from core.artifact import CONFIG, open_delta

    own = {CONFIG, *open_delta(source).config.files}
    return [*(source / name for name in sorted(own)), *(p for p in files if p.name not in own)]


def _check_copy(source: Path, copy: Path) -> None:
    """Raise `DeltaCorrupt` where a byte is not as it was written: the copy stands for the source, which may be a stranger's."""
    from core.artifact import AGAIN, open_delta, verify_files
    from core.errors import DeltaCorrupt

    for name, problem in verify_files(open_delta(copy)):
        if problem:
            raise DeltaCorrupt(f"The delta in '{source}' is damaged: {name} {problem}.", "", AGAIN)


@contextmanager
def _whole(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder to write into, which is gone again unless it was renamed."""
    work = Path(tempfile.mkdtemp(prefix=f".{name[:60]}.", suffix=".partial", dir=parent))
    try:
        work.chmod(0o755)
        yield work
    finally:
        if work.exists():
            shutil.rmtree(work, ignore_errors=True)


def _copy_file(source: Path, target: Path, told: Callable[[int], None]) -> None:
    with source.open("rb") as file, target.open("wb") as copy:
        done = 0
        while part := file.read(_AT_ONCE):
            copy.write(part)
            done += len(part)
            told(done)
        copy.flush()
        os.fsync(copy.fileno())
    shutil.copystat(source, target)


def import_deltas(task: Task, sources: Sequence[Path], library: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Copy folders into the library; returns (where they are, why others were refused). One that fails stops no other."""
    made, refused = [], []
    for source in sources:
        try:
            if source.is_dir() and source.resolve().parent == library.resolve() and (source / "delta_config.json").is_file():
                refused.append(f"'{source.name}' is in the library already.")
            elif not source.is_dir():
                refused.append(f"'{source.name}' is no folder. Import the folder that holds delta_config.json.")
            else:
                made.append(copy_delta(task, source, library))
        except (DeltadeckError, OSError) as e:
            if task.cancelled:
                raise
            refused.append(str(e))
    return tuple(made), tuple(refused)


def export_copy(task: Task, folder: Path, target: Path) -> Path:
    """Copy a delta to a folder that must not exist yet."""
    if os.path.lexists(target):
        raise OutputExists(f"'{target}' exists already.", "", "Choose another name.")
    return copy_delta(task, folder, target.parent, target.name)


def measure(task: Task, folder: Path, base: str, fine_tuned: str, repeats: int) -> dict[str, Any]:
    """Load times on this machine as plain data (see `DeltaEntry.load_times`). Raises as `core.loadtime.measure_load_times`.

    A cold run that was no slower than a warm one was cached all the same, out of the system's sight: it is left out.
    """
    from core.checkpoint import open_checkpoint
    from core.loadtime import measure_load_times

    def told(done: int, total: int) -> None:
        task.progress(Step(f"Timing run {min(done + 1, total)} of {total}", done, total))
    while not TIMING.acquire(timeout=0.1):
        task.progress(Step("Waiting for an earlier measurement to end"))
    try:
        task.progress(Step("Preparing the first run"))
        with open_checkpoint(base) as zero, open_checkpoint(fine_tuned) as target:
            times = measure_load_times(folder, zero, target, repeats=repeats, progress=told)
    finally:
        TIMING.release()
    cold = {way: t for way, t in times.cold.items() if t.median > times.warm[way].median}
    return {"warm": {way: asdict(t) for way, t in times.warm.items()}, "cold": {way: asdict(t) for way, t in cold.items()},
            "date": datetime.now().astimezone().isoformat(timespec="seconds"), "repeats": repeats, "note": times.note,
            "full_bytes": times.full_bytes, "delta_bytes": times.delta_bytes}


def opened_base(folder: Path, place: str) -> str:
    """Why a checkpoint can't be a delta's base, as a sentence; empty where names, shapes and types fit."""
    from core.artifact import check_base, open_delta
    from core.checkpoint import open_checkpoint

    try:
        with open_checkpoint(place) as base:
            delta: Delta = open_delta(folder)
            check_base(delta, base, hashes=False)
    except (DeltadeckError, OSError) as e:
        return str(e)
    return ""

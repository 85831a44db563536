"""A job's own folder beside its output: claimed against other processes, cleared at the end, recognised after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch
from filelock import FileLock, Timeout

from core.artifact import CONFIG, Delta, check_whole, open_delta
from core.errors import DeltadeckError, JobMismatch, OutputExists
from core.journal import Journal, read_job_note
from core.request import parts_sha256
from core.safefile import sync_folder, write_synced

NOTE = "job.json"


def is_own(name: str) -> bool:
    """Whether a file of a job folder may be the job's own."""
    return name in ("lock", NOTE, "target.bin", "student.bin") or name.endswith((".step", ".partial"))


def claim(folder: Path, wanted: Mapping[str, Any], extra: Mapping[str, Any]) -> FileLock:
    """Make or reopen a job's folder, held against a second process until the lock is released.

    `wanted` is what the job depends on and is compared with the note that is there, `extra` what else a new note holds.
    Raises `OutputExists` for a folder that is no job's, `JobMismatch` for another job's or one that is being worked on.
    """
    if folder.exists() and not (folder / NOTE).is_file() and (
            not folder.is_dir() or any(not is_own(p.name) for p in folder.iterdir())):
        raise OutputExists(f"'{folder}' exists and is no job's folder.", "The job would keep its steps there and "
                           "remove it at the end.", "Choose another output, or move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as e:
        raise JobMismatch(f"Another process is working on '{folder}'.", "", "Wait for it, or stop it first.") from e
    try:
        _agree(folder, wanted, extra)
    except BaseException:
        lock.release()
        raise
    return lock


def _agree(folder: Path, wanted: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    path = folder / NOTE
    if not path.exists():
        work = path.with_suffix(".partial")
        write_synced(work, msgspec.json.format(msgspec.json.encode({**wanted, **extra})))
        work.replace(path)
        sync_folder(folder)
        return
    found = read_job_note(path)
    differing = [k for k in wanted if k != "threads" and found.get(k) != wanted[k]]
    if differing:
        raise JobMismatch(f"'{folder}' belongs to another job: its {' and '.join(differing)} "
                          f"{'differ' if len(differing) > 1 else 'differs'}.", "Its finished layers would not fit this one.",
                          f"Delete '{folder}' to begin anew, or choose another output.")
    # The number of threads decides in which order sums are taken, and with that the last bits.
    torch.set_num_threads(int(found["threads"]))


def clear(folder: Path) -> None:
    """Remove a job's own files, and its folder if nothing else is in it. What can't be removed stays: the delta is there."""
    with suppress(OSError):
        # The note last: while it is there, the folder is known for a job's.
        for path in sorted(folder.iterdir(), key=lambda p: p.name == NOTE):
            if is_own(path.name):
                path.unlink(missing_ok=True)
        folder.rmdir()


def sweep(folder: Path) -> None:
    """Remove what a process leaves that ends in the middle of `clear`: a folder of a finished job, without its note."""
    if folder.is_dir() and not folder.is_symlink() and not (folder / NOTE).exists():
        clear(folder)


def may_be_finished(folder: Path, output: Path) -> bool:
    """Whether a job folder and a delta stand side by side, as a process leaves them that ends between rename and clearing."""
    return (folder / NOTE).is_file() and (output / CONFIG).is_file()


def finished(journal: Journal, output: Path) -> Delta:
    """The delta that this very job has written before. Raises `OutputExists` where another one is in its place."""
    calibration, tuned = journal.read("calibration"), journal.read("tuned")
    try:
        if calibration is not None and tuned is not None:
            delta = open_delta(output)
            fidelity = delta.config.fidelity
            if (delta.config.calibration.get("sha256") == parts_sha256(calibration.tensors["parts"])
                    and all(fidelity.get(k) == v for k, v in tuned.extra.items())):
                check_whole(delta)
                return delta
    except (DeltadeckError, KeyError, RuntimeError):
        pass
    raise OutputExists(f"'{output}' exists already.", "It is not what this job would write.",
                       "Choose another output, or move it away.")

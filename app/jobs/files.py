"""Small files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_BLOCK = re.compile(r"block-(\d{4,9})-done\.step", re.ASCII)


def write_atomic(path: Path, data: bytes) -> None:
    """Write under another name, sync, rename; the old file stays until the new one is whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(path.name + ".partial")
    try:
        with work.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, path)
    except OSError:
        with suppress(OSError):
            work.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":                             # elsewhere a folder can't be opened, and a rename is durable
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to NAME.broken (NAME.broken-2, ... if that is taken); returns where it went."""
    number = 1
    while True:
        kept = path.with_name(f"{path.name}.broken" + (f"-{number}" if number > 1 else ""))
        if not os.path.lexists(kept):
            break
        number += 1
    path.rename(kept)
    return kept


def is_own_step(name: str) -> bool:
    """Whether a file of a job's folder is one that a job writes (`core.job` names them)."""
    return name in ("lock", "job.json", "target.bin", "student.bin") or name.endswith((".step", ".partial"))


def finished_blocks(folder: Path) -> frozenset[int]:
    """Blocks that a job's folder holds whole, by the names of their steps; none where it can't be read."""
    found: set[int] = set()
    with suppress(OSError, ValueError):                # ValueError: a path that can be none
        found = {int(m[1]) for name in os.listdir(folder) if (m := _BLOCK.fullmatch(name)) is not None}
    return frozenset(found)


def drop_steps(folder: Path) -> None:
    """Delete a job's steps, and its folder if nothing else is in it. A missing folder is fine. Raises OSError."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in list(folder.iterdir()):
        if is_own_step(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)
    with suppress(OSError):                            # somebody else's files stay
        folder.rmdir()

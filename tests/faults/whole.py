"""What must hold after anything that went wrong: whole deltas only, and the same bytes in the end."""

from __future__ import annotations

import hashlib
from pathlib import Path

from core.artifact import check_whole, open_delta


def digest(folder: Path) -> str:
    """One hash over names and bytes of all files below a folder."""
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()


def check_library(folder: Path) -> list[str]:
    """Names of the deltas that a library lists; raises `DeltadeckError` for one that is not whole."""
    shown = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and p.suffix != ".job")
    for path in shown:
        check_whole(open_delta(path))
    return [path.name for path in shown]


def leftovers(folder: Path) -> list[str]:
    """Whatever work in progress has left behind."""
    return sorted(p.name for p in folder.rglob("*") if p.name.endswith((".partial", ".job", ".step", ".part")))

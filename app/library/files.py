"""Names and moves of delta folders. Every move is one rename on the same disk, so nothing is lost half-way."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from core.errors import BadOption, OutputExists

TRASH = ".deltadeck-trash"
"""Beside the deltas: what was removed and can still be brought back. What a killed program left here returns."""
LONGEST_NAME = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')


def name_problem(name: str) -> str:
    """Why a folder can't be called so on some system; empty where it can."""
    if not name:
        return "A delta needs a name."
    if _FORBIDDEN.search(name):
        return 'A name holds none of < > : " / \\ | ? *.'
    if name != name.strip() or name.startswith(".") or name.endswith("."):
        return "A name begins with no dot or blank and ends with none."
    if name.lower().endswith((".job", ".partial")):
        return "Names that end in .job or .partial are used for work in progress."
    if _RESERVED.fullmatch(name):
        return f"'{name}' is reserved on some systems."
    if len(name) > LONGEST_NAME or len(name.encode()) > 200:
        return f"A name has at most {LONGEST_NAME} characters."
    return ""


def free_name(parent: Path, name: str) -> str:
    """`name`, or `name-2`, `name-3`, ... where that is taken."""
    name = re.sub(r"^[.\s]+|[.\s]+$", "", _FORBIDDEN.sub("_", name))[:LONGEST_NAME] or "delta"
    name = f"{name}-delta" if name_problem(name) else name
    number, free = 1, name
    while os.path.lexists(parent / free):
        number += 1
        free = f"{name}-{number}"
    return free


def rename(folder: Path, name: str) -> Path:
    """Call a delta folder something else. Raises `BadOption` for an impossible name, `OutputExists` for a taken one."""
    if name == folder.name:
        return folder
    if problem := name_problem(name):
        raise BadOption(f"'{name}' can't be a delta's name.", problem, "Choose another name.")
    target = folder.with_name(name)
    # Where the disk tells no capitals apart, the folder itself is found under its new name.
    if os.path.lexists(target) and not os.path.samefile(target, folder):
        raise OutputExists(f"There is a '{name}' in the library already.", "", "Choose another name.")
    os.rename(folder, target)
    return target


def put_aside(folder: Path) -> Path:
    """Move a delta folder out of sight, into the library's own trash; returns where it lies."""
    place = folder.parent / TRASH / uuid4().hex
    place.mkdir(parents=True)
    target = place / folder.name
    try:
        os.rename(folder, target)
    except OSError:
        _tidy(place)
        raise
    return target


def bring_back(aside: Path) -> Path:
    """Move it back to the library, under its name or a free one; returns where it is."""
    library = aside.parent.parent.parent
    target = library / free_name(library, aside.name)
    os.rename(aside, target)
    _tidy(aside.parent)
    return target


def discard(aside: Path) -> None:
    """Send what was put aside to the system's trash, from its own place, so that the trash can restore it there.

    Killed in between, it is back in the library. Raises OSError where there is no trash; it then is where it was aside.
    """
    from send2trash import send2trash

    library = aside.parent.parent.parent
    target = library / aside.name
    if os.path.lexists(target):                        # another delta took the name: the trash names the hidden place then
        send2trash(str(aside))
    else:
        os.rename(aside, target)
        try:
            send2trash(str(target))
        except BaseException:
            if target.exists() and not aside.exists():
                os.rename(target, aside)
            raise
    _tidy(aside.parent)


def leftovers(library: Path) -> list[Path]:
    """What lies in the library's own trash."""
    try:
        return sorted(p for place in (library / TRASH).iterdir() if place.is_dir() for p in place.iterdir())
    except OSError:
        return []


def _tidy(place: Path) -> None:
    with suppress(OSError):                            # another delta may wait beside it
        place.rmdir()
        place.parent.rmdir()

"""Deltadeck in the desktop's menu: the files of resources/desktop where Linux desktops look for them, for one user.

After freedesktop.org's Desktop Entry, Icon Theme and Shared MIME-info specifications.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import DeltadeckError, Refused

if TYPE_CHECKING:
    from app.console import Terminal

SOURCE = Path(__file__).parent.parent / "resources" / "desktop"
ENTRY, TYPES = "deltadeck.desktop", "deltadeck-delta.xml"
SIZES = (16, 24, 32, 48, 64, 128, 256, 512)
"""Sides of the icon's pictures, in pixels."""


def data_home() -> Path:
    """Where a user's desktop files are."""
    named = os.environ.get("XDG_DATA_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".local" / "share"


def places(home: Path) -> Iterator[tuple[Path, Path]]:
    """(file of resources/desktop, where it goes) of all files."""
    yield SOURCE / ENTRY, home / "applications" / ENTRY
    yield SOURCE / TYPES, home / "mime" / "packages" / TYPES
    yield SOURCE / "deltadeck.svg", home / "icons" / "hicolor" / "scalable" / "apps" / "deltadeck.svg"
    for side in SIZES:
        yield SOURCE / f"deltadeck-{side}.png", home / "icons" / "hicolor" / f"{side}x{side}" / "apps" / "deltadeck.png"


def program_line() -> str:
    """The command that starts this installation, quoted for an Exec key: desktops don't know a shell's PATH."""
    beside = Path(sys.executable).parent / "deltadeck"
    named = shutil.which("deltadeck")
    if named and beside.is_file() and os.path.realpath(named) == os.path.realpath(beside):
        return quoted(named)                           # the link that outlives an upgrade
    return quoted(str(beside)) if beside.is_file() else f"{quoted(sys.executable)} -m app"


def quoted(text: str) -> str:
    """An argument of an Exec key, in quotes if need be: escaped for the key and then for the string, % doubled."""
    inner = "".join("\\" + c if c in '"`$\\' else c for c in text).replace("\\", "\\\\").replace("%", "%%")
    plain = all(c.isalnum() or c in "/._-+" for c in text)
    return text if plain else f'"{inner}"'


def entry(text: str, program: str) -> str:
    """The desktop file with the command of this installation in its Exec and TryExec keys."""
    lines = []
    for line in text.splitlines():
        if line.startswith("Exec=deltadeck "):
            line = f"Exec={program} {line.removeprefix('Exec=deltadeck ')}"
        if not line.startswith("TryExec="):
            lines.append(line)
    return "\n".join(lines) + "\n"


def install(home: Path) -> list[Path]:
    """Put all files in place; returns where they are. Raises OSError."""
    made = []
    for source, target in places(home):
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.name == ENTRY:
            target.write_text(entry(source.read_text(encoding="utf-8"), program_line()), encoding="utf-8")
        else:
            shutil.copyfile(source, target)
        made.append(target)
    _refresh(home)
    return made


def remove(home: Path) -> list[Path]:
    """Take all files away; returns those that were there. Raises OSError."""
    gone = []
    for _, target in places(home):
        if target.exists():
            target.unlink()
            gone.append(target)
    _refresh(home)
    return gone


def _refresh(home: Path) -> None:
    """Have the desktop look again, with the tools that it has; it does so by itself at the next login."""
    for tool, folder in (("update-desktop-database", home / "applications"), ("update-mime-database", home / "mime"),
                         ("gtk-update-icon-cache", home / "icons" / "hicolor")):
        if folder.is_dir() and (found := shutil.which(tool)) is not None:
            arguments = ["-q", "-t", "-f"] if tool.startswith("gtk") else []
            subprocess.run([found, *arguments, str(folder)], capture_output=True, timeout=60, check=False)


def desktop(terminal: Terminal, away: bool) -> None:
    """The command."""
    if not sys.platform.startswith("linux"):
        raise Refused("This system has no menu of desktop files.", "They are used on Linux.", "Start it with: deltadeck")
    home = data_home()
    try:
        files = remove(home) if away else install(home)
    except OSError as e:
        raise DeltadeckError(f"'{e.filename or home}' can't be written: {e.strerror or e}.", "",
                             "Make it writable, or name another folder in XDG_DATA_HOME.") from e
    words = "taken out of the menu" if away else "in the menu, and a delta's delta_config.json opens with it"
    terminal.result({"removed" if away else "installed": [str(f) for f in files]},
                    lambda console: console.print(f"Deltadeck is {words}: {len(files)} files in {home}.", soft_wrap=True,
                                                  markup=False))

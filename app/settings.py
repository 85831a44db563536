"""What the user chose once: typed, with defaults, kept in one JSON file that is written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from PySide6.QtCore import QObject, Signal

from app.fleet_address import address_problem
from app.paths import expanded

ZOOMS = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
RECENT = 12


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. A file of an older version may lack some; unknown ones are ignored."""

    theme: Literal["system", "light", "dark"] = "system"
    zoom: float = 1.0
    library: str = "~/deltas"
    device: str = "auto"
    runs_on: Literal["here", "ray"] = "here"
    """Where jobs run that are queued from now on: this computer, or the cluster."""
    cluster: str = ""
    """Its address, `ray://HOST:PORT`; kept while it is not chosen."""
    offline: bool = False
    calibration: str = "default"
    recent: tuple[str, ...] = ()
    """Checkpoints used lately, the last one first: folders and hub ids."""
    geometry: str = ""
    """Of the window, in Qt's own packed form, base64."""
    page: str = "compress"
    splitters: dict[str, list[int]] = {}
    chat_drawer: bool = True
    chat_last: str = ""
    """The conversation that was open last, by id."""
    chat_presets: dict[str, dict[str, float]] = {}
    """Sampling that was kept under a name."""
    columns: dict[str, str] = {}
    """Header states of tables by name, base64."""


class Settings(QObject):
    """The options in force. `changed(name)` comes after one took another value."""

    changed = Signal(str)
    problem = Signal(str)

    def __init__(self, path: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.path = path
        self.message = ""
        """Why the file could not be read, for whoever shows it."""
        self.options = self._read()

    def _read(self) -> Options:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=Options)
        except FileNotFoundError:
            return Options()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            aside = self.path.with_suffix(".broken")
            with suppress(OSError):
                self.path.replace(aside)
            self.message = f"The settings could not be read ({e}), so the defaults are in force. The old file is {aside}."
            return Options()
        # A folder that can't be one (no whole path, a name too long for any disk) would fail wherever it is looked at.
        library = found.library if _can_be_folder(found.library) else Options().library
        return msgspec.structs.replace(found, zoom=min(max(found.zoom, ZOOMS[0]), ZOOMS[-1]), library=library)

    def set(self, **values: object) -> None:
        """Change some options and keep them."""
        names = [n for n, v in values.items() if getattr(self.options, n) != v]
        if not names:
            return
        self.options = msgspec.structs.replace(self.options, **values)
        self._write()
        for name in names:
            self.changed.emit(name)

    def _write(self) -> None:
        work = self.path.with_suffix(".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            work.write_bytes(msgspec.json.format(msgspec.json.encode(self.options)))
            work.replace(self.path)
        except (OSError, UnicodeEncodeError) as e:     # a folder's name may hold bytes that are no text
            self.problem.emit(f"The settings could not be saved: {e}.")

    @property
    def library(self) -> Path:
        """The folder that new deltas go to and that the Deltas page lists."""
        return expanded(self.options.library)

    @property
    def where(self) -> str:
        """The address of the cluster that jobs go to; empty: they run on this computer."""
        return self.options.cluster if self.options.runs_on == "ray" and not address_problem(self.options.cluster) else ""

    def remember(self, source: str) -> None:
        """Put a checkpoint at the head of the recent ones."""
        self.set(recent=(source, *(s for s in self.options.recent if s != source))[:RECENT])

    def step_zoom(self, step: int) -> None:
        """A larger or smaller font; 0 goes back to the usual one."""
        if step == 0:
            self.set(zoom=1.0)
            return
        near = min(range(len(ZOOMS)), key=lambda i: abs(ZOOMS[i] - self.options.zoom))
        self.set(zoom=ZOOMS[min(len(ZOOMS) - 1, max(0, near + step))])


def _can_be_folder(text: str) -> bool:
    path = expanded(text)
    return path.is_absolute() and len(os.fsencode(path)) < 4000 and all(len(os.fsencode(p)) <= 255 for p in path.parts)

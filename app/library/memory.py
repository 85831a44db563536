"""What this program remembers of deltas: notes, checks, places of checkpoints, times measured here.

It is kept in one JSON file of ours, under the hash of each delta's config, and never written into a delta: folders
stay as they were made, and notes survive a rename, a move and a new copy of the same delta.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from app.jobs.files import set_aside
from app.jobs.saver import Saver

_VERSION = 1


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The last time every byte was read."""

    at: float
    """Seconds since 1970."""
    signature: str
    """Of the folder as it was then, see `app.library.reading.signature`: a later change makes the check stale."""
    base: bool = False
    problem: str = ""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one delta."""

    note: str = ""
    base: str = ""
    fine_tuned: str = ""
    not_base: tuple[str, ...] = ()
    """Places of the base's name that were found to hold another model."""
    check: Check | None = None
    load_times: dict[str, Any] | None = None


class _File(msgspec.Struct, frozen=True):
    version: int
    deltas: dict[str, Kept] = {}
    bases: dict[str, str] = {}


class Memory:
    """The file's content. Changes are written in the background; `flush` waits for that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.message = ""
        """Why the file could not be read, as a sentence; empty otherwise."""
        self._saver = Saver()
        found = self._read()
        self._deltas, self._bases = dict(found.deltas), dict(found.bases)

    def _read(self) -> _File:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=_File)
            if found.version != _VERSION:
                raise msgspec.DecodeError(f"unknown version {found.version}")
        except FileNotFoundError:
            return _File(_VERSION)
        except OSError as e:
            self.message = f"The notes of the library '{self.path}' can't be read: {e.strerror or e}."
            return _File(_VERSION)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            damaged = "The notes of the library were damaged"
            try:
                self.message = f"{damaged}. They begin empty; the old file is '{set_aside(self.path)}'."
            except OSError as e:
                self.message = f"{damaged}, and '{self.path}' could not be set aside: {e.strerror or e}."
            return _File(_VERSION)
        return found

    def of(self, sha256: str) -> Kept:
        """What is known of a delta; nothing for one whose hash is unknown."""
        return self._deltas.get(sha256, Kept())

    def change(self, sha256: str, **values: Any) -> None:
        """Remember something else of a delta."""
        before = self.of(sha256)
        after = msgspec.structs.replace(before, **values)
        if sha256 and after != before:
            self._deltas[sha256] = after
            self._save()

    def base_of(self, digest: str) -> str:
        """Where the base with this digest was seen last, or nothing."""
        return self._bases.get(digest, "")

    def learn_base(self, digest: str, place: str) -> None:
        """Remember where a base is; an empty place forgets it."""
        if digest and place != self.base_of(digest):
            if place:
                self._bases[digest] = place
            else:
                self._bases.pop(digest, None)
            self._save()

    def all(self) -> tuple[dict[str, Kept], dict[str, str]]:
        """A copy of everything: deltas by hash, places of bases by digest."""
        return dict(self._deltas), dict(self._bases)

    def _save(self) -> None:
        now = _File(_VERSION, dict(self._deltas), dict(self._bases))
        self._saver.save(self.path, lambda: msgspec.json.format(msgspec.json.encode(now)))

    def flush(self) -> list[str]:
        """Wait until everything is written; what went wrong, as sentences."""
        self._saver.flush()
        return self._saver.take_problems()

"""The runs of the store folder: those in memory, those in files, and the tuning curves of the last finished ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from app.jobs.runfile import encode_tunes, read_run, read_tunes, snapshot
from app.jobs.runstate import RunState, TuneCurve
from app.jobs.saver import Saver

_LOADED = 8
"""Runs that stay in memory beyond those that are needed."""


class Archive:
    """Run states by the id of their job. Files are written by `saver`."""

    def __init__(self, store: Path, saver: Saver) -> None:
        self._store, self._saver = store, saver
        self._runs: OrderedDict[str, RunState] = OrderedDict()
        self._tunes: list[TuneCurve] | None = None

    def _file(self, id: str) -> Path:
        return self._store / "runs" / f"{id}.msgpack"

    def loaded(self, id: str) -> RunState | None:
        """A run if it is in memory."""
        return self._runs.get(id)

    def find(self, id: str) -> RunState | None:
        """A run from memory or from its file; None where there is none that can be understood."""
        return self._runs.get(id) or read_run(self._file(id))

    def remember(self, state: RunState, is_needed: Callable[[str], bool]) -> None:
        """Hold a run in memory; of those that are not needed, only the latest stay."""
        self._runs[state.id] = state
        self._runs.move_to_end(state.id)
        for id in list(self._runs):
            if len(self._runs) <= _LOADED:
                break
            if id != state.id and not is_needed(id):
                del self._runs[id]

    def keep(self, state: RunState) -> None:
        """Write a run's file."""
        self._saver.save(self._file(state.id), snapshot(state))

    def seconds(self, id: str) -> float:
        """What the last writing of a run's file took."""
        return self._saver.took(self._file(id))

    def forget(self, id: str) -> None:
        """Let go of a run and its file."""
        self._runs.pop(id, None)
        path = self._file(id)
        self._saver.work(str(path), lambda: path.unlink(missing_ok=True))

    def tunes(self) -> list[TuneCurve]:
        """Tuning curves of finished runs, newest last."""
        if self._tunes is None:
            self._tunes = read_tunes(self._store / "tunes.msgpack")
        return self._tunes

    def add_tune(self, curve: TuneCurve) -> None:
        """Keep the tuning curve of a run that has finished, unless it has none."""
        if curve.is_empty:
            return
        self._tunes = [c for c in self.tunes() if c.id != curve.id] + [curve]
        kept = tuple(self._tunes)
        self._saver.save(self._store / "tunes.msgpack", lambda: encode_tunes(kept))

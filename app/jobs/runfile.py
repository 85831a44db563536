"""Runs kept on disk, so that the last ones are there after a restart: one file each, of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from app.jobs.curves import POINT, Curve, CurveView, Packed
from app.jobs.queue import Failure, State
from app.jobs.runlog import LogEntry
from app.jobs.runstate import RunState, Stage, TuneCurve
from app.models.layers import LayerRow, as_state

_VERSION = 1
POINTS = 300_000
"""Points of layer curves that a file may hold; beyond that all curves are thinned."""
TUNES = 4
"""Tuning curves of finished runs that are kept."""
_PORTION = 200


class _Tune(msgspec.Struct, frozen=True):
    id: str
    name: str
    objective: str
    total: int
    training: bytes
    held_out: bytes


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    base_name: str
    fine_tuned_name: str
    state: State
    stages: tuple[Stage, ...]
    stage: str
    fraction: float
    layers_total: int
    bytes_written: int
    bytes_total: int
    blocks_done: int
    blocks: int
    log_count: int
    warnings: int
    failure: Failure | None
    folder: str
    seconds_before: float
    tune_before: float | None


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    head: _Head
    log: list[list[LogEntry]]
    layers: list[list[LayerRow]]
    curves: list[dict[str, list[tuple[int, str, bytes]]]]
    tuning: bytes
    tuned: bytes


def snapshot(state: RunState) -> Callable[[], bytes]:
    """What to keep of a run as it is now. The result makes the file's bytes, on any thread, in small portions."""
    alike = {name: getattr(state, name) for name in _Head.__struct_fields__ if name not in ("stages", "seconds_before")}
    head = _Head(stages=tuple(state.stages.values()), seconds_before=state.elapsed, **alike)
    layers, log, curves = tuple(state.layers), tuple(state.log), state.curves

    def make() -> bytes:
        packed, tuning, tuned = curves.snapshot()
        found = [{t: [(*k, c) for k, c in kept.items()] for t, kept in part} for part in _portions(list(_within(packed).items()))]
        return _encode({"version": _VERSION, "head": head, "log": _raw(_portions(log)), "layers": _raw(_portions(layers)),
                        "curves": _raw(found), "tuning": tuning, "tuned": tuned})
    return make


def _encode(content: Any) -> bytes:
    return msgspec.msgpack.encode(content)


def _portions(things: Sequence[Any]) -> list[Sequence[Any]]:
    return [things[at:at + _PORTION] for at in range(0, len(things), _PORTION)]


def _raw(parts: Sequence[Any]) -> list[msgspec.Raw]:
    # One call encodes without letting other threads in: small calls keep the window smooth.
    return [msgspec.Raw(_encode(part)) for part in parts]


def _within(packed: Packed) -> Packed:
    points = sum(len(data) for found in packed.values() for data in found.values()) // POINT
    if points <= POINTS:
        return packed
    curves = sum(len(found) for found in packed.values())
    most = max(2, POINTS // curves)
    return {tensor: {k: data if len(data) <= most * POINT else Curve.unpacked(data).packed(most) for k, data in found.items()}
            for tensor, found in packed.items()}


def read_run(path: Path) -> RunState | None:
    """A kept run, or None where there is none or it can't be understood."""
    try:
        file = msgspec.msgpack.decode(path.read_bytes(), type=_File)
        if file.version != _VERSION:
            return None
        head = file.head
        state = RunState(head.id, head.name, head.base_name, head.fine_tuned_name)
        state.curves.restore({t: {(piece, axis): data for piece, axis, data in found} for part in file.curves
                              for t, found in part.items()}, file.tuning, file.tuned)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    for name in _Head.__struct_fields__:
        if name not in ("stages", "id"):
            setattr(state, name, getattr(head, name))
    state.stages |= {stage.name: stage for stage in head.stages}
    # What comes from a file does not run: the program may have been killed while a layer was fitted.
    state.take_layers([as_state(row, "todo") if row.state == "now" else row for part in file.layers for row in part])
    state.log.extend(entry for part in file.log for entry in part)
    return state


def encode_tunes(curves: Sequence[TuneCurve]) -> bytes:
    """The tuning curves of the latest finished runs, newest last."""
    return _encode([_Tune(c.id, c.name, c.objective, c.total, _pack(c.training), _pack(c.held_out)) for c in curves[-TUNES:]])


def read_tunes(path: Path) -> list[TuneCurve]:
    """Those curves again; an empty list where there are none, or none that can be understood."""
    try:
        found = msgspec.msgpack.decode(path.read_bytes(), type=list[_Tune])
        return [TuneCurve(t.id, t.name, t.objective, t.total, _unpack(t.training, "training"), _unpack(t.held_out, "held-out"))
                for t in found]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return []


def _pack(view: CurveView) -> bytes:
    return view.iterations.tobytes() + view.training.tobytes() + view.held_out.tobytes()


def _unpack(data: bytes, axis: str) -> CurveView:
    return CurveView("", 0, axis, *Curve.unpacked(data).columns())

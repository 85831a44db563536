"""What a job tells while it runs: frozen, small, safe to send between threads."""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=str.lower):
    """Common to all: seconds since the job began (of this process)."""

    time: float = 0.0


class StageStarted(Event, frozen=True, kw_only=True):
    """A stage begins: plan, hash, prepare, fit, tune, write, measure. `total` counts its steps."""

    stage: str
    total: int
    message: str = ""


class Progress(Event, frozen=True, kw_only=True):
    """`done` of `total` steps of a stage; `fraction` of the whole job and seconds left, both estimates."""

    stage: str
    done: float
    total: int
    fraction: float
    seconds_left: float | None = None


class LayerStarted(Event, frozen=True, kw_only=True):
    """A matrix is being fitted. `block` is None outside the blocks."""

    tensor: str
    block: int | None
    kind: str
    index: int
    total: int


class LossPoint(Event, frozen=True, kw_only=True):
    """A point of a layer's curve: losses relative to no delta. `slice` counts the parts of a fused matrix."""

    tensor: str
    slice: int
    axis: str
    iteration: int
    training: float
    held_out: float


class LayerFitted(Event, frozen=True, kw_only=True):
    """A matrix is done and journalled. `axes` has one choice per slice, `losses` the held-out loss per axis of each.

    `restored` is set where an earlier run of the job had fitted it.
    """

    tensor: str
    block: int | None
    kind: str
    codec: str
    axes: tuple[str, ...]
    losses: tuple[dict[str, float], ...]
    recovery: float | None
    bytes: int
    seconds: float
    index: int
    total: int
    restored: bool = False
    method: str = ""
    """As in the tensor's record."""


class TunePoint(Event, frozen=True, kw_only=True):
    """One step of end-to-end tuning, on training text; held-out where it was measured (before the first, after the last)."""

    step: int
    total: int
    epoch: int
    training: float | None = None
    held_out: float | None = None


class Warned(Event, frozen=True, kw_only=True):
    """Something the user should know; the job goes on."""

    message: str


class Written(Event, frozen=True, kw_only=True):
    """Bytes of the delta on disk so far."""

    bytes: int
    total: int


class Finished(Event, frozen=True, kw_only=True):
    """The delta is in place."""

    folder: str
    weights_bytes: int
    seconds: float


AnyEvent = StageStarted | Progress | LayerStarted | LossPoint | LayerFitted | TunePoint | Warned | Written | Finished


def as_dict(event: Event) -> dict[str, Any]:
    """For a line of JSON."""
    result: dict[str, Any] = msgspec.to_builtins(event)
    return result

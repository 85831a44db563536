"""Small parts of what is known of a run: its stages, layers that are to come, the curve of its tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from app.jobs.curves import CurveView

STAGES = ("plan", "prepare", "fit", "tune", "write")


class Expected(NamedTuple):
    """A layer that the plan will have fitted."""

    tensor: str
    block: int | None
    kind: str
    shape: tuple[int, ...] = ()
    change: float | None = None


class Stage(msgspec.Struct, frozen=True):
    """One stage: todo, now or done; `total` in tensors, blocks, steps or bytes; seconds over all runs of the job."""

    name: str
    state: str = "todo"
    done: float = 0.0
    total: int = 0
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class TuneCurve:
    """End-to-end tuning of one run: losses per step, held-out where it was measured."""

    id: str
    name: str
    objective: str
    total: int
    training: CurveView
    held_out: CurveView

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not (self.training.iterations or self.held_out.iterations)


def replace_stage(stage: Stage, **changes: float | str) -> Stage:
    """The stage with some fields changed."""
    return msgspec.structs.replace(stage, **changes)

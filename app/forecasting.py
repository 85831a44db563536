"""Fidelity over size, predicted: for the plan command and the budget slider. The engine is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.paths import data_folder
from app.words import percent, size

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from app.progress import Display
    from core.checkpoint import Checkpoint
    from core.plan import Plan
    from core.request import Request

RATIOS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
"""Of the full checkpoint to the delta, at which the terminal shows the curve."""


def forecasts_folder() -> Path:
    """Where forecasts are kept."""
    return data_folder() / "forecasts"


@dataclass(frozen=True)
class Ahead:
    """A predicted curve, and the plan that a budget makes of it (as it was where none was asked for)."""

    plan: Plan
    points: tuple[tuple[int, float], ...]
    """(bytes of weight files, expected KL), ascending in bytes."""
    base_kl: float
    expected_kl: float | None
    full_bytes: int

    def value(self) -> dict[str, Any]:
        """As JSON."""
        step = max(1, len(self.points) // 200)
        return {"base_kl": self.base_kl, "expected_kl": self.expected_kl,
                "points": [{"bytes": b, "kl": k, "recovery": 1 - k / self.base_kl if self.base_kl else 1.0}
                           for b, k in self.points[::step]]}

    def at(self, nbytes: int) -> float:
        """Expected KL of a delta of at most so many bytes; the base's where nothing fits in."""
        return next((k for b, k in reversed(self.points) if b <= nbytes), self.base_kl)


def look_ahead(request: Request, plan: Plan, base: Checkpoint, tuned: Checkpoint, device: torch.device,
               tick: Callable[[float], None]) -> Ahead:
    """Predict the curve of a pair (minutes, kept afterwards), and allocate the request's budget if it has one."""
    from core.budget import allocate, parse_budget
    from core.budget_stage import forecast_pair
    from core.forecast import parse_quality

    found = forecast_pair(request, plan, base, tuned, device, forecasts_folder(), tick)
    points = tuple(found.points(plan.records))
    expected = None
    full = plan.full_bytes
    if request.is_allocated:
        from dataclasses import replace

        budget = (found.budget_for(plan.records, parse_quality(request.quality)) if request.quality
                  else parse_budget(request.budget, full))
        records = allocate(plan.records, found.probe, budget)
        expected = found.expected(plan.records, records)
        plan = replace(plan, records=records)
    return Ahead(plan, points, found.zero, expected, full)


def forecast_curve(request: Request, plan: Plan, base: Checkpoint, tuned: Checkpoint, device: torch.device, display: Display,
                   wanted: bool) -> Ahead | None:
    """For the plan command: the curve where it was asked for or a budget needs it."""
    if not (wanted or request.is_allocated) or request.is_uniform:
        return None
    display.stage("Predicting", 100, "steps")
    return look_ahead(request, plan, base, tuned, device, lambda done: display.advance(done * 100))


def curve_table(ahead: Ahead) -> Table:
    """The curve at some sizes."""
    from rich.table import Table

    found = Table("Smaller by", "Weights", "Expected KL", "Expected recovery", box=None, header_style="bold")
    for ratio in RATIOS:
        nbytes = ahead.full_bytes // ratio
        if nbytes < ahead.points[0][0]:
            break
        kl = ahead.at(nbytes)
        found.add_row(f"{ratio} x", size(nbytes), f"{kl:.5f}", percent(1 - kl / ahead.base_kl if ahead.base_kl else 1.0, 2))
    return found

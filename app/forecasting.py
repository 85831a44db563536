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
    from core.forecast import Forecast
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


@dataclass(frozen=True)
class Curve:
    """A predicted curve as the window draws it: plain data, thinned."""

    points: tuple[tuple[int, float], ...]
    """(bytes of weight files, expected KL above 0), ascending in bytes."""
    base_kl: float
    full_bytes: int

    def at(self, nbytes: float) -> float:
        """Expected KL of a delta of at most so many bytes; the base's where nothing fits in."""
        return next((kl for b, kl in reversed(self.points) if b <= nbytes), self.base_kl)

    def recovery(self, nbytes: float) -> float:
        """Expected recovery of a size."""
        return 1 - self.at(nbytes) / self.base_kl if self.base_kl > 0 else 1.0

    def size_for(self, recovery: float) -> int:
        """The smallest size that is expected to recover so much; the largest where none does."""
        return next((b for b, kl in self.points if kl <= (1 - recovery) * self.base_kl), self.points[-1][0])


MOST_POINTS = 300
"""Of a curve in the window."""
FLOOR = 1e-5
"""Share of the base's KL below which a curve is not drawn on."""


def curve_of(found: Forecast, plan: Plan) -> Curve:
    """The curve of a forecast for a plan without a size."""
    least = FLOOR * found.zero if found.zero > 0 else 1e-9
    points: list[tuple[int, float]] = []
    for nbytes, kl in found.points(plan.records):
        points.append((nbytes, max(kl, least)))
        if kl <= least:                                # beyond it rounding is all that is left
            break
    points = points or [(plan.weights_bytes, least)]
    step = max(1, len(points) // MOST_POINTS)
    kept = [*points[:-1:step], points[-1]]
    return Curve(tuple(kept), found.zero, plan.full_bytes)


def known_forecast(request: Request, plan: Plan, base: Checkpoint, tuned: Checkpoint, device: torch.device) -> Forecast | None:
    """The forecast of a pair that was made before, or None. Text that has to be streamed is not drawn for it: then only what
    was noted when it was made counts."""
    from core.budget_stage import forecast_depends
    from core.errors import DeltadeckError
    from core.forecast import forecast_key, load_forecast
    from core.request import draw_samples, parts_sha256, sequence_length
    from core.weights import StagedModel

    folder = forecasts_folder()
    if not folder.is_dir():
        return None
    note = folder / f"{_quick_key(request, base, tuned, device)}.key"
    try:
        return load_forecast(folder, note.read_text("utf-8").strip()[:64])
    except (OSError, UnicodeDecodeError):
        if not is_local_text(request.calibration):
            return None
    try:
        length = sequence_length(request, tuned.config)
        parts = draw_samples(request, base, tuned, length, StagedModel.of(tuned).skeleton.vocabulary).parts
    except (DeltadeckError, OSError):
        return None
    key = forecast_key(*forecast_depends(request, base, tuned, length, parts_sha256(parts), device))
    found = load_forecast(folder, key)
    if found is not None:
        _note(note, key)
    return found


def is_local_text(calibration: str) -> bool:
    """Whether calibration text is on this machine: the embedded one, or a file."""
    return calibration == "default" or (calibration not in ("auto", "c4") and not calibration.startswith("hub:"))


def _quick_key(request: Request, base: Checkpoint, tuned: Checkpoint, device: torch.device) -> str:
    """What a forecast depends on, with the source of the text in place of the text: known without drawing any."""
    from core.budget_stage import forecast_depends
    from core.forecast import forecast_key
    from core.request import sequence_length

    source: list[object] = [request.calibration, request.samples, request.tune_samples]
    path = Path(request.calibration)
    if is_local_text(request.calibration) and path.is_file():
        source += [path.stat().st_size, path.stat().st_mtime_ns]
    return forecast_key(source, *forecast_depends(request, base, tuned, sequence_length(request, tuned.config), "", device))


def _note(path: Path, key: str) -> None:
    try:
        path.write_text(key, "utf-8")
    except OSError:
        return


def predict(request: dict[str, Any], tick: Callable[[float], None], *, offline: bool | None = None) -> Curve:
    """Predict the curve of a pair (minutes), and keep it. `request` as for `app.planning.plan_facts`; `tick` gets the share that
    is done, and may raise to stop. For a worker thread; raises the `Refused` errors of opening, pairing and text."""
    from core.budget_stage import forecast_depends, forecast_pair
    from core.checkpoint import open_checkpoint
    from core.devices import choose_device
    from core.forecast import forecast_key
    from core.plan import make_plan
    from core.request import Request, draw_samples, parts_sha256, sequence_length
    from core.weights import StagedModel

    asked = Request(**{**request, "budget": "", "quality": ""})
    device = choose_device(asked.device)
    with open_checkpoint(asked.base, offline=offline) as base, open_checkpoint(asked.fine_tuned, offline=offline) as tuned:
        plan = make_plan(base, tuned, asked.options(), lambda done, of: tick(0.02 * done / max(1, of)))
        found = forecast_pair(asked, plan, base, tuned, device, forecasts_folder(), lambda done: tick(0.02 + 0.98 * done))
        if not is_local_text(asked.calibration):       # so that nothing has to be streamed to find it
            length = sequence_length(asked, tuned.config)
            parts = draw_samples(asked, base, tuned, length, StagedModel.of(tuned).skeleton.vocabulary).parts
            key = forecast_key(*forecast_depends(asked, base, tuned, length, parts_sha256(parts), device))
            _note(forecasts_folder() / f"{_quick_key(asked, base, tuned, device)}.key", key)
        return curve_of(found, plan)


def look_ahead(request: Request, plan: Plan, base: Checkpoint, tuned: Checkpoint, device: torch.device,
               tick: Callable[[float], None]) -> Ahead:
    """Predict the curve of a pair (minutes, kept afterwards), and allocate the request's budget if it has one."""
    from core.budget import parse_budget
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
        records = found.allocate(plan.records, budget)
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

"""The job's stage that turns a size or a fidelity that was asked for into a plan for every tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from core import __version__
from core.budget import CANDIDATES, OFFERED, is_item, parse_budget, uniform
from core.checkpoint import Checkpoint
from core.devices import exact_arithmetic
from core.forecast import Forecast, forecast_key, keep_forecast, load_forecast, make_forecast, parse_quality
from core.journal import Journal
from core.outer_ways import WAYS
from core.plan import Plan
from core.probe import REFERENCE_SHARE
from core.request import Request, draw_samples, identity, parts_sha256, sequence_length
from core.weights import StagedModel

KEY = "forecast"


def choices_key() -> str:
    """What a budget chooses from, as one word: a job can only go on by the same."""
    return forecast_key([c.key for c in CANDIDATES], [c.key for c in OFFERED], WAYS)


def forecast_depends(request: Request, base: Checkpoint, tuned: Checkpoint, length: int, tokens_sha256: str,
                     device: torch.device) -> list[Any]:
    """All that a forecast depends on, as plain data."""
    return [__version__, [c.key for c in CANDIDATES], WAYS, REFERENCE_SHARE, request.embeddings, request.seed, length,
            tokens_sha256, str(device), torch.get_num_threads(), identity(base), identity(tuned)]


def forecast_pair(request: Request, plan: Plan, base: Checkpoint, tuned: Checkpoint, device: torch.device,
                  folder: Path | None, tick: Callable[[float], None] = lambda _: None) -> Forecast:
    """The forecast of a planned pair without a job, from the very text that a job would take; kept in `folder`.

    Raises `Refused` errors for unusable calibration text.
    """
    model = StagedModel.of(tuned)
    length = sequence_length(request, tuned.config)
    parts = draw_samples(request, base, tuned, length, model.skeleton.vocabulary).parts
    key = forecast_key(*forecast_depends(request, base, tuned, length, parts_sha256(parts), device))
    known = load_forecast(folder, key)
    if known is not None:
        return known
    wanted = {k: parts[k].long() for k in ("fit", "fit_held_out", "tune_held_out")}
    with exact_arithmetic():
        found = make_forecast(model, base, tuned, plan.records, wanted, device, seed=request.seed, tick=tick)
    keep_forecast(folder, key, found)
    return found


def shaped(plan: Plan, request: Request) -> Plan:
    """The plan of a method that gives every matrix the same share: nothing has to be measured for it.

    Without a budget it takes the bytes that signs would. Other recipes' plans come back as they are. Raises
    `BadOption` where the budget is no size or too small.
    """
    if not request.is_uniform:
        return plan
    budget = parse_budget(request.budget, plan.full_bytes) if request.budget else plan.weights_bytes
    return replace(plan, records=uniform(plan.records, request.recipe, budget))


def allocated(plan: Plan, request: Request, model: StagedModel, pair: tuple[Checkpoint, Checkpoint], parts: dict[str, Tensor],
              device: torch.device, journal: Journal, cache: tuple[Path | None, list[Any]],
              tick: Callable[[float], None]) -> tuple[Plan, dict[str, Any]]:
    """(the plan that makes the best of what was asked for, what is expected of it as plain data).

    The forecast is read from the job's journal or the folder of `cache` (folder, what it depends on) where it is known.
    """
    key = forecast_key(*cache[1])
    found = _journalled(journal)
    if found is None:
        known = load_forecast(cache[0], key)
        found = known or make_forecast(model, *pair, plan.records, parts, device, seed=request.seed, tick=tick)
        journal.write(KEY, [], {}, {"forecast": msgspec.json.encode(found).decode()})
        keep_forecast(cache[0], key, found)
    if request.quality:
        budget = found.budget_for(plan.records, parse_quality(request.quality))
    else:
        budget = parse_budget(request.budget, plan.full_bytes)
    records = found.allocate(plan.records, budget)
    expected = {"budget": budget, "expected_kl": found.expected(plan.records, records), "base_kl": found.zero,
                "methods": _counts(plan, records)}
    return replace(plan, records=records), expected


def shortfall(plan: Plan, request: Request, journal: Journal, measured: float, base: float, expected: float) -> str:
    """What to tell where less was recovered on held-out text than was asked for; empty where nothing fell short.

    `plan` is the one before anything was allocated, `measured` and `base` are the variant's KL and the base's, `expected` is
    what the variant's was expected to be.
    """
    if not request.quality or base <= 0:
        return ""
    asked, reached = parse_quality(request.quality), 1 - measured / base
    if reached >= asked:
        return ""
    message = f"A recovery of {request.quality} was asked for, {reached:.4f} was measured on held-out text."
    found = _journalled(journal)
    if found is None or measured <= 0:
        return message
    # What was measured next to what was expected, taken to hold for larger sizes too.
    larger = next((nbytes for nbytes, kl in found.points(plan.records) if kl * measured <= (1 - asked) * base * expected), None)
    return message if larger is None else f"{message} By that, it would take some {larger / 1e6:,.3g} MB (--budget {larger})."


def _journalled(journal: Journal) -> Forecast | None:
    entry = journal.read(KEY)
    try:
        return None if entry is None else msgspec.json.decode(entry.extra["forecast"], type=Forecast)
    except (msgspec.DecodeError, KeyError, TypeError):
        return None


def _counts(plan: Plan, records: tuple[Any, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for before, after in zip(plan.records, records, strict=True):
        if is_item(before):
            name = after.method or ("left out" if after.codec == "same" else after.codec)
            counts[name] = counts.get(name, 0) + 1
    return counts

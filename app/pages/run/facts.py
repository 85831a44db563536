"""What the Run page says of a job, in words. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.codings import bits_text, method_word
from app.jobs.queue import QueueItem, State
from app.jobs.rows import KEPT
from app.jobs.runstate import RunState, Stage
from app.library.reading import UNIFORM, method_label
from app.models.layers import AXIS_WORDS, LayerRow
from app.words import about, count, size

SHOWN = (("plan", "Plan"), ("fit", "Fit layers"), ("tune", "Tune end to end"), ("write", "Write and measure"))
"""Stages of the strip: preparing belongs to the plan."""
_RECIPES = {"chosen": "chosen signs", "paper": "paper fit", "exact": "exact fit", "bitdelta": "one scale per tensor"}
_AXES = {"auto": "Per-axis", "row": "Row only", "column": "Column only", "both": "Row x column", "scalar": "BitDelta"}
_STOPPED = {State.PAUSED: ("pause", "warning"), State.INTERRUPTED: ("warning", "warning"), State.FAILED: ("error", "danger"),
            State.CANCELLED: ("close", "text-faded"), State.PAUSING: ("pause", "text-faded"),
            State.CANCELLING: ("close", "text-faded"), State.WAITING: ("clock", "text-faded")}


@dataclass(frozen=True)
class StageWords:
    """One stage of the strip: icon and its role, what it says, and whether it is the one under way."""

    icon: str
    role: str
    text: str
    is_now: bool


def method_text(item: QueueItem) -> str:
    """The method badge: `Per-axis, chosen signs`, `BitDelta`."""
    recipe, axis = str(item.request.get("recipe", "chosen")), str(item.request.get("axis", "auto"))
    if recipe in UNIFORM:
        return f"{method_label(recipe, axis)}, {item.asked}" if item.asked else method_label(recipe, axis)
    if item.asked:
        return f"{method_label(recipe, axis, is_mix=True)}, {item.asked}"
    if recipe == "bitdelta" or (axis == "scalar" and recipe != "chosen"):
        return "BitDelta"
    if axis == "scalar":
        return "One scale, chosen signs"
    return f"{_AXES.get(axis, axis)}, {_RECIPES.get(recipe, recipe)}"


def clock_text(seconds: float) -> str:
    """Time as on a stop watch: `0:07`, `14:31`, `3:20:05`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def whole_percent(fraction: float) -> str:
    """`48 %`; 100 % only when it is all done."""
    return f"{int(100 * min(1.0, max(0.0, fraction)) + 1e-6)} %"


def stage_words(name: str, state: RunState | None, item: QueueItem) -> StageWords:
    """What the strip says of one of `SHOWN`."""
    stage = _merged(name, state)
    where = state.state if state is not None else item.state
    if stage.state == "done" or where == State.DONE:
        return StageWords("done", "success", _done(name, stage, state), False)
    if stage.state == "now" and state is not None:
        icon, role = _STOPPED.get(where, ("run", "accent"))
        return StageWords(icon, role, _now(name, stage, state), True)
    return StageWords("clock", "text-faded", _todo(name, state, item), False)


def _merged(name: str, state: RunState | None) -> Stage:
    if state is None:
        return Stage(name)
    if name != "plan":
        return state.stages[name]
    plan, prepare = state.stages["plan"], state.stages["prepare"]
    return prepare if prepare.state == "now" else plan


def _done(name: str, stage: Stage, state: RunState | None) -> str:
    if state is None:
        return ""
    if name == "plan" and not state.layers_total:      # killed before it could be noted
        return "done"
    if name == "plan":
        layers = count(state.layers_total, "layer")
        return f"{layers}, {count(state.blocks, 'block')}" if state.blocks else layers
    took = f" in {about(stage.seconds)}" if stage.seconds else ""
    if name == "fit":
        if kept := sum(row.note == KEPT for row in state.layers):
            return f"{kept:,} of {state.layers_total:,} at mean change"
        return f"{state.layers_done:,} of {state.layers_total:,}{took}"
    if name == "tune":
        return f"{count(stage.total, 'step')}{took}" if stage.total else "left out"
    return size(state.bytes_total)


def _now(name: str, stage: Stage, state: RunState) -> str:
    if stage.name == "prepare" and stage.total == 1:
        return f"predicting, {whole_percent(stage.done)}"
    if name == "plan":
        return f"{stage.done:,.0f} of {count(stage.total, 'tensor')}" if stage.total else "reading both checkpoints"
    if name == "fit":
        row = state.row(state.current) if state.current is not None else None
        block = f", in block {row.block}" if row is not None and row.block is not None else ""
        if not state.layers_total:
            return f"{count(state.blocks_done, 'block')} kept" if state.blocks_done else "begun"
        return f"{state.layers_done:,} of {state.layers_total:,}{block}"
    if name == "tune":
        step = tuned_steps(state)
        return f"step {step:,} of {stage.total:,}" if step else "measuring before the first step"
    return f"{size(state.bytes_written)} of {size(state.bytes_total)}"


def _todo(name: str, state: RunState | None, item: QueueItem) -> str:
    if name == "plan":
        return "not begun"
    if name == "fit":
        return count(state.layers_total, "layer") if state is not None and state.layers_total else "then"
    if name == "tune":
        samples = item.request.get("tune_samples", 150)
        return count(int(samples), "sample") if samples else "left out"
    if state is not None and state.bytes_fitted:
        return f"{size(state.bytes_fitted)} so far"
    return "then"


def tuned_steps(state: RunState) -> int:
    """Steps of tuning so far."""
    steps = state.curves.tune_columns()[0].iterations
    return int(steps[-1]) if len(steps) else 0


def rate_words(state: RunState) -> tuple[str, str]:
    """(value, unit) of the rate."""
    rate = state.rate if state.is_running else None
    if rate is None:
        return "–", ""
    return (f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"), state.rate_unit


def left_text(state: RunState) -> str:
    """The time left, `–` while unknown."""
    return about(state.seconds_left) if state.seconds_left is not None else "–"


def layer_facts(row: LayerRow | None, *, brief: int = 0) -> str:
    """The line under a layer's curves: held-out losses of all that was tried, recovery, bytes.

    `brief` 1 leaves the bits per weight out, 2 also the losses of what was not chosen, 3 all losses.
    """
    if row is None or row.state != "done":
        return "Losses of every axis follow when it is done" if row is not None else ""
    if row.coding in ("same", "left-out"):             # nothing is stored, and the line above says why
        return ""
    shown = ("row", "column", "both", "scalar") if brief < 2 else (row.winner,) if brief == 2 else ()
    losses = {a: row.loss_of(a) for a in shown}
    parts = [f"{AXIS_WORDS[a].lower()} {loss:.3f}" for a, loss in losses.items() if loss is not None]
    by_axis = not method_word(row.method) and row.winner in AXIS_WORDS
    # The line above begins with the method's name: not twice.
    facts = [f"Held-out: {', '.join(parts)}"] if parts else [AXIS_WORDS[row.winner]] if by_axis and brief < 3 else []
    if row.recovery is not None:
        facts.append(f"recovery {row.recovery:.3f}")
    if row.bytes:
        facts.append(size(row.bytes) + (f", {bits_text(row.bits)} bits per weight" if row.bits and not brief else ""))
    return " · ".join(facts)


def tune_start_text(state: RunState | None, item: QueueItem) -> str:
    """Under the empty tuning chart: when it will start."""
    if not item.request.get("tune_samples", 150):
        return "Left out: this job takes no samples for tuning"
    if item.state == State.DONE:
        return "This job was not tuned"
    if item.state in (State.FAILED, State.CANCELLED):
        return "The job ended before it was tuned"
    if state is None or state.stage in ("", "plan", "prepare") or not (state.blocks and state.layers_total):
        return "Starts after the last block"
    if state.state not in (State.RUNNING, State.PAUSING):
        return f"Starts after block {state.blocks - 1}"
    wait = fit_left(state)
    return f"Starts after block {state.blocks - 1}" + (f", in about {about(wait)}" if wait is not None else "")


def fit_left(state: RunState) -> float | None:
    """Seconds until the last layer is fitted, at the rate so far."""
    if state.stage != "fit" or not (rate := state.rate):
        return None
    return max(0.0, 60 * (state.layers_total - state.layers_done) / rate)


def job_choice(item: QueueItem, words: str) -> str:
    """A job in the selector: `pirate (done)`."""
    return f"{item.name} ({words})"


def newest_with_run(items: Sequence[QueueItem]) -> QueueItem | None:
    """The job to show first: the one that runs, else the last that stopped and may go on, else the last that ran at all,
    else the first that waits."""
    running = next((i for i in items if i.is_on_worker), None)
    ran = [i for i in items if i.can_resume] or [i for i in items if i.began is not None]
    return running or (max(ran, key=lambda i: i.ended or i.began or 0.0) if ran else (items[0] if items else None))

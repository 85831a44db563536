"""What a run's event log says, in words."""

from __future__ import annotations

from collections import Counter

import msgspec

from app.codings import coding_word, quiet
from app.models.layers import AXIS_WORDS, LayerRow
from app.words import count, duration, percent, size

LEVELS = ("info", "done", "step", "warning", "error")
OBJECTIVES = {"kl": "KL", "mse": "logit MSE"}


class LogEntry(msgspec.Struct, frozen=True):
    """One line of the log: seconds since 1970, one of LEVELS, a sentence, and how long it took."""

    at: float
    level: str
    text: str
    seconds: float | None = None


def layer_text(row: LayerRow) -> str:
    """`Block 17 v: row by 12 %`."""
    place = f"Block {row.block} {row.kind}" if row.block is not None else (row.kind or row.tensor).capitalize()
    if len(row.axes) > 1:
        return f"{place}: {', '.join(row.axes)}"
    return f"{place}: {row.verdict or row.codec}"


def fit_text(rows: list[LayerRow]) -> str:
    """`Fit done: row 148, column 62`."""
    won = Counter(row.winner for row in rows if row.state == "done" and row.winner and row.block is not None)
    names = {w: quiet(AXIS_WORDS.get(w) or coding_word(w)) for w in won}
    return "Fit done" + (": " if won else "") + ", ".join(f"{names[w]} {n}" for w, n in won.most_common())


def kept_text(number: int) -> str:
    """`28 layers keep their mean change`."""
    return f"{count(number, 'layer')} {'keeps its' if number == 1 else 'keep their'} mean change"


def tune_text(objective: str, before: float | None, after: float, is_start: bool) -> str:
    """What a held-out measurement of tuning says."""
    name = OBJECTIVES.get(objective, objective or "loss")
    if is_start:
        return f"Tuning starts at {name} {after:.4g}"
    if before and after < before:
        return f"Tuning done: held-out {name} {after:.4g}, {percent(1 - after / before, 0)} below the start"
    return f"Tuning done: held-out {name} {after:.4g}, not below the start"


def stage_text(stage: str, total: int) -> str:
    """What the start of a stage says; empty where something better follows."""
    return {"plan": "Plan: looking at every tensor's change", "prepare": f"Prepare: {count(total, 'tensor')}",
            "fit": f"Fit: {count(total, 'block')}", "write": f"Write: {size(total)}"}.get(stage, "")


def done_text(nbytes: int, seconds: float) -> str:
    """The last line."""
    return f"Done: {size(nbytes)} in {duration(seconds)}"

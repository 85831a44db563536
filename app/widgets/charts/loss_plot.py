"""The two plots of a run: a layer's losses by axis while its scales are fitted, and the loss of tuning end to end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from PySide6.QtWidgets import QWidget

from app.codings import LEFT_OUT, coding_word, method_word
from app.jobs.curves import CurveView
from app.jobs.rows import KEPT
from app.jobs.runlog import OBJECTIVES
from app.jobs.runstate import TuneCurve
from app.models.layers import AXIS_WORDS, LayerRow
from app.theme import Theme
from app.widgets.charts.plot_base import PlainPlot
from app.widgets.charts.plot_series import EndLabel, Line, Values
from app.widgets.charts.plot_ticks import loss_text
from app.words import percent

MANY = 40
"""Points from which on a curve is drawn raw and smoothed; fewer are drawn as they are, with marks."""
AXES = ("row", "column", "both", "scalar")
_ROLES = {"row": "row", "column": "column", "both": "text", "scalar": "text-faded"}
_LETTERS = {"row": "R", "column": "C", "both": "B", "scalar": "S"}


def smoothed(values: Values, width: int) -> Values:
    """A moving mean over `width` neighbours (odd), over fewer at the ends; NaN counts for nothing."""
    known = np.isfinite(values)
    kernel, first = np.ones(width), width // 2
    total = np.convolve(np.where(known, values, 0.0), kernel)[first:first + len(values)]
    number = np.convolve(known.astype(np.float64), kernel)[first:first + len(values)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Values = np.where(number > 0, total / number, np.nan)
    return means


def window_for(points: int) -> int:
    """The odd number of points to smooth over."""
    return max(5, points // 24) | 1


def mean_curve(views: Sequence[CurveView]) -> tuple[Values, Values, Values]:
    """(iterations, training, held-out) of one axis, the mean over slices; one that ended earlier keeps its last value."""
    if len(views) == 1:
        one = views[0]
        return (np.asarray(one.iterations, dtype=np.float64), np.asarray(one.training, dtype=np.float64),
                np.asarray(one.held_out, dtype=np.float64))
    found = [v for v in views if len(v.iterations)]
    every = np.unique(np.concatenate([np.asarray(v.iterations, dtype=np.float64) for v in found]))

    def mean(name: str) -> Values:
        means: Values = np.mean([np.interp(every, np.asarray(v.iterations), np.asarray(getattr(v, name))) for v in found], axis=0)
        return means
    return every, mean("training"), mean("held_out")


def compared(losses: dict[str, float], is_live: bool, chosen: str = "") -> str:
    """The sentence under a layer's curves: who leads, or who was chosen, by held-out loss."""
    known = {a: v for a, v in losses.items() if math.isfinite(v)}
    rivals = {a: v for a, v in known.items() if a != "scalar"} or known
    if not rivals:
        return "No points yet"
    best = chosen if chosen in rivals else min(rivals, key=lambda a: rivals[a])
    name = AXIS_WORDS[best]
    others = {a: v for a, v in rivals.items() if a != best}
    if not others:
        return f"{name}: held-out loss {loss_text(rivals[best])}"
    second = min(others, key=lambda a: others[a])
    gain = 1 - rivals[best] / others[second] if others[second] > 0 else 0.0
    other = AXIS_WORDS[second].lower()
    if abs(gain) < 0.0005:
        return f"{name} and {other} are level: held-out loss {loss_text(rivals[best])}"
    share = percent(abs(gain), 0 if abs(gain) >= 0.0095 else 1)
    verb = "leads" if is_live else "chosen"
    return f"{name} {verb}: held-out loss {share} {'below' if gain > 0 else 'above'} {other}"


class _Axis:
    """The series of one axis: raw and smoothed training, held-out."""

    def __init__(self, plot: PlainPlot, axis: str) -> None:
        role, faint = _ROLES[axis], axis == "scalar"
        name = AXIS_WORDS[axis]
        width = 1.4 if faint else 2.0
        z = {"scalar": 0, "row": 20, "column": 30, "both": 40}[axis]
        self.role, self.letter = role, _LETTERS[axis]
        self.raw = plot.add(f"{name} raw", Line(role, 1.0, opacity=0.28, z=z), listed=False)
        self.few = plot.add(f"{name} few", Line(role, width, marks="dot", most_marks=MANY, z=z + 4), listed=False)
        self.many = plot.add(f"{name} smoothed", Line(role, width, z=z + 4), listed=False)
        # What is read and saved: the points themselves, whichever way they are drawn.
        self.training = plot.add(f"{name}, training", Line(role, 0.0, opacity=0.0))
        self.held_out = plot.add(f"{name}, held-out", Line(role, width, "dash", marks="ring", most_marks=14, z=z + 6))

    def set(self, x: Values, training: Values, held_out: Values) -> None:
        many = len(x) > MANY
        for one, wanted in ((self.raw, many), (self.many, many), (self.few, not many)):
            if not wanted:
                one.clear()
        if many:
            self.raw.set(x, training)
            self.many.set(x, smoothed(training, window_for(len(x))))
        else:
            self.few.set(x, training)
        self.held_out.set(x, held_out)
        self.training.keep(x, training)

    def clear(self) -> None:
        for one in (self.raw, self.few, self.many, self.training, self.held_out):
            one.clear()


class LayerLossPlot(PlainPlot):
    """Losses of one layer by axis, training and held-out. `sentence` says what is to be seen."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, "Layer loss", x_name="iteration", log=True, message="No points yet", parent=parent)
        self._axes = {axis: _Axis(self, axis) for axis in AXES}
        self.sentence = "No points yet"
        self.setAccessibleDescription(self.sentence)

    def show_curves(self, curves: Sequence[CurveView], row: LayerRow | None = None, *, live: bool = False) -> None:
        """Show a layer: its curves by slice and axis, what was chosen if it is done; `live` while points still come."""
        by_axis: dict[str, list[CurveView]] = defaultdict(list)
        for view in curves:
            if view.axis in self._axes and len(view.iterations):
                by_axis[view.axis].append(view)
        done = row is not None and row.state == "done"
        labels, losses, last = [], {}, 0.0
        for axis, made in self._axes.items():
            if not (views := by_axis.get(axis)):
                made.clear()
                continue
            x, training, held_out = mean_curve(views)
            made.set(x, training, held_out)
            last = max(last, float(x[-1]))
            if (end := made.held_out.last) is not None:
                # Once a layer is done the best iteration is kept, which need not be the last: say what was measured of it.
                kept = row.loss_of(axis) if row is not None and done else None
                losses[axis] = end[1] if kept is None else kept
                labels.append(EndLabel(end[1], f"{made.letter}  {loss_text(losses[axis])}", made.role, end[0],
                                       400 if axis == "scalar" and len(by_axis) > 1 else 600))
        if not losses and row is not None and row.losses:
            losses = {a: v for a in AXES if (v := row.loss_of(a)) is not None}
        self.sentence = compared(losses, not done, row.winner if row is not None and done else "")
        if row is not None and done and row.note == KEPT:
            self.sentence = KEPT
        at_once = row is not None and done and not by_axis and row.coding not in ("", "sign")
        if row is not None and at_once and not losses:
            name = method_word(row.method) or coding_word(row.coding)
            lost = f": {loss_text(row.held_out)} of the change is lost" if row.held_out is not None else ""
            self.sentence = row.note if row.note.startswith(LEFT_OUT) else f"{name}{lost}"
        if by_axis:
            self.message = ""
        elif row is not None and at_once:
            self.message = "Nothing is stored of it" if row.codec == "same" else "Chosen at once, without a curve"
        elif done:
            self.message = "No curves" if self.sentence == KEPT else "Its curves were not kept"
        else:
            self.message = "No points yet"
        self.setAccessibleDescription(self.sentence)
        self.finish(labels=labels, caption="held-out" if labels else "", now=last if live and labels else None)


class TunePlot(PlainPlot):
    """Loss per step of tuning; the last finished run as a ghost behind it."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, "End-to-end tuning", x_name="step", message="No steps yet", parent=parent)
        self._ghost = self.add("Last run", Line("line-strong", 1.4, "dot", z=0), listed=False)
        self._raw = self.add("Training raw", Line("accent", 1.0, opacity=0.34, z=10), listed=False)
        self._smooth = self.add("Training smoothed", Line("accent", 2.0, z=12), listed=False)
        self._training = self.add("Training", Line("accent", 0.0, opacity=0.0))
        self._held_out = self.add("Held-out", Line("accent", 2.0, "dash", marks="ring", z=16))
        self.sentence = ""

    def show_tuning(self, curve: TuneCurve | None, ghost: TuneCurve | None = None, *, live: bool = False, total: int = 0) -> None:
        """Show a run's tuning, or, where it has none yet, `ghost` alone; `total` steps are expected."""
        self._show_ghost(ghost)
        span = max(total, curve.total if curve is not None else 0)
        labels, now = [], None
        if curve is None or curve.is_empty:
            for one in (self._raw, self._smooth, self._training, self._held_out):
                one.clear()
            self.message, self.sentence = "No steps yet", ""
        else:
            x, y = np.asarray(curve.training.iterations, dtype=np.float64), np.asarray(curve.training.training, dtype=np.float64)
            self._raw.set(x, y)
            self._smooth.set(x, smoothed(y, window_for(len(y)) + 2) if len(y) else y)
            self._training.keep(x, y)
            self._held_out.set(curve.held_out.iterations, curve.held_out.held_out)
            self.message = ""
            self.sentence = tune_sentence(curve)
            if (end := self._held_out.last) is not None:
                labels.append(EndLabel(end[1], loss_text(end[1]), "accent", end[0]))
            now = float(x[-1]) if live and len(x) else None
        self.setAccessibleDescription(self.sentence)
        self.finish(labels=labels, now=now, x_span=(0.0, float(span)) if span else None)

    def _show_ghost(self, ghost: TuneCurve | None) -> None:
        if ghost is None or ghost.is_empty:
            self._ghost.clear()
            return
        y = np.asarray(ghost.training.training, dtype=np.float64)
        if len(y) > 1:
            self._ghost.set(ghost.training.iterations, smoothed(y, window_for(len(y)) + 4))
        else:
            self._ghost.set(ghost.held_out.iterations, ghost.held_out.held_out)


def tune_sentence(curve: TuneCurve) -> str:
    """`Held-out 0.0044, 27 % below the start`; before the second measurement where it starts."""
    known = [v for v in curve.held_out.held_out if math.isfinite(v)]
    name = OBJECTIVES.get(curve.objective, "loss")
    if not known:
        return f"Held-out {name} is measured before the first step"
    if len(known) == 1:
        return f"Held-out {loss_text(known[0])} at the start, next at the end"
    first, last = known[0], known[-1]
    if first > 0 and last < first:
        return f"Held-out {loss_text(last)}, {percent(1 - last / first, 0)} below the start"
    return f"Held-out {loss_text(last)}, not below the start: the scales before tuning are kept"

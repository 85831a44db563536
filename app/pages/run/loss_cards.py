"""The two cards with curves: a layer's losses by axis, and tuning end to end. Each has one sentence that says what it shows."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QWidget

from app.icons import Icons
from app.jobs.queue import State
from app.jobs.runlog import OBJECTIVES
from app.jobs.runstate import RunState, TuneCurve
from app.models.layers import LayerRow
from app.pages.run.facts import layer_facts
from app.widgets.basics import Card, ElidedLabel, IconLabel, Swatch, column, label, row
from app.widgets.charts.loss_plot import LayerLossPlot, TunePlot
from app.widgets.charts.plot_paint import LineKey

MOVING = (State.RUNNING, State.PAUSING, State.CANCELLING)

LONG, SHORT = ("Row (per output)", "Column (per input)"), ("Row", "Column")


def _sentence_label() -> ElidedLabel:
    made = ElidedLabel()
    made.setProperty("weight", "500")
    return made


def head_fits(card: Card, keys: QHBoxLayout) -> bool:
    """Whether title, caption and keys have room beside each other."""
    keys.invalidate()
    caption = 0 if card.caption.isHidden() else card.caption.sizeHint().width()
    return card.title.sizeHint().width() + caption + keys.sizeHint().width() <= card.width() - 56


class LayerLossCard(Card):
    """Curves of one layer. `followed` tells that the user wants the current layer, or no longer."""

    followed = Signal(bool)

    def __init__(self, icons: Icons) -> None:
        super().__init__("Layer loss", " ", gap=4)
        theme = icons.theme
        self.plot = LayerLossPlot(theme)
        self.sentence = _sentence_label()
        self.facts = ElidedLabel()
        self.facts.setProperty("step", "small")
        self.facts.setProperty("tone", "faded")
        self.follow = QCheckBox("Follow the current layer")
        self.follow.setChecked(True)
        self.follow.setToolTip("Show each layer while it is being fitted")
        self.follow.toggled.connect(self.followed)
        small = [label(text, size="small", tone="faded") for text in (*LONG, "training", "held-out")]
        self._axes, self._lines = small[:2], (LineKey(theme), small[2], LineKey(theme, "dash"), small[3])
        marks = Swatch(icons, "row"), Swatch(icons, "column")
        self._colours: tuple[QWidget, ...] = *marks, *self._axes
        self._keys = row(marks[0], small[0], 4, marks[1], small[1], 4, *self._lines[:2], 4,
                         *self._lines[2:], gap=6)
        self.head.addLayout(self._keys)
        said = row(self.sentence, self.follow, gap=8)
        said.setStretch(0, 1)
        words = column(said, self.facts, gap=1)
        flag = IconLabel(icons, "flag", size=16)
        foot = row(flag, words, gap=8)
        foot.setAlignment(flag, Qt.AlignmentFlag.AlignTop)      # beside the sentence, facts or none
        foot.setStretch(1, 1)
        self.add(self.plot, foot)
        self.body.setStretch(1, 1)
        self._layer: LayerRow | None = None
        self._has_curves = True
        self._theme = theme
        theme.changed.connect(self._restyle)
        self._restyle()

    def _restyle(self) -> None:
        self.setMinimumHeight(self._theme.px(226))

    def _fit_keys(self) -> None:
        # From the most telling to the shortest that has room: what goes is in the cross-hair's box, too.
        for words, lines in ((LONG, True), (SHORT, True), (SHORT, False)):
            for made, text in zip(self._axes, words, strict=True):
                made.setText(text)
            for line in self._lines:
                line.setVisible(lines and self._has_curves)
            if head_fits(self, self._keys):
                break
        for mark in self._colours:
            mark.setVisible(self._has_curves)

    def _fit_facts(self) -> None:
        # A figure is there whole or not at all; the tooltip has them all.
        told = [layer_facts(self._layer, brief=brief) for brief in range(4)]
        room, metrics = self.width() - 60, self.facts.fontMetrics()
        shown = next((text for text in told if metrics.horizontalAdvance(text) <= room), told[-1])
        self.facts.setText(shown)
        if shown != told[0]:
            self.facts.setToolTip(told[0])

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrow card has shorter keys."""
        super().resizeEvent(event)
        self._fit_keys()
        self._fit_facts()

    def show_layer(self, state: RunState | None, layer: LayerRow | None) -> None:
        """Show a layer of a run, or nothing."""
        if state is None or layer is None:
            self.caption.setText("")
            self.plot.show_curves([], None)
            self.sentence.setText("The curves begin with the first layer")
            self._layer, self._has_curves = None, True
            self._fit_keys()
            self._fit_facts()
            return
        place = f"block {layer.block}, {layer.kind}" if layer.block is not None else layer.title
        self.caption.setText(place)
        curves = state.curves_of(layer.tensor)
        self._layer, self._has_curves = layer, layer.state != "done" or any(len(view.iterations) for view in curves)
        self._fit_keys()
        live = layer.state == "now" and state.state in MOVING
        self.plot.show_curves(curves, layer, live=live)
        self.sentence.setText(self.plot.sentence)
        self._fit_facts()


class TuneCard(Card):
    """The loss of tuning, with the last finished run behind it."""

    def __init__(self, icons: Icons) -> None:
        super().__init__("End-to-end tuning", " ", gap=4)
        theme = icons.theme
        self.plot = TunePlot(theme)
        self._begun = self._draws_ghost = self._is_live = False
        self._curve: TuneCurve | None = None
        self._last: TuneCurve | None = None
        """The last finished run, which is drawn where its key has room."""
        self._icon = IconLabel(icons, "clock", size=16)
        self.sentence = _sentence_label()
        self._training_key, self._training = LineKey(theme, "solid", "accent"), label("training", size="small", tone="faded")
        self._held_key, self._held = LineKey(theme, "dash", "accent"), label("held-out", size="small", tone="faded")
        self._ghost_key, self._ghost = LineKey(theme, "dot", "line-strong", 1.4), ElidedLabel()
        self._ghost.setProperty("step", "small")
        self._ghost.setProperty("tone", "faded")
        self._keys = row(self._training_key, self._training, 2, self._held_key, self._held, 2, self._ghost_key, self._ghost,
                         gap=6)
        self.head.addLayout(self._keys)
        foot = row(self._icon, self.sentence, gap=8)
        foot.setStretch(1, 1)
        self.add(self.plot, foot)
        self.body.setStretch(1, 1)
        self._theme = theme
        theme.changed.connect(self._restyle)
        self._restyle()

    def _restyle(self) -> None:
        self.setMinimumHeight(self._theme.px(226))

    def _fit_keys(self) -> None:
        # A curve without a key explains nothing: where that of the last run has no room, it is not drawn. What the card shows
        # goes before it where there are no other curves: it is said again once there are.
        lines = (self._training_key, self._training, self._held_key, self._held)
        ghost = (self._ghost_key, self._ghost)
        name = f"last run, {self._last.name}" if self._last is not None else ""
        tried = [(self._begun, bool(name), words, True) for words in (*(() if self._begun else (name,)), "last run")]
        tried += [(self._begun, bool(name), "last run", False)] * (not self._begun) + [(self._begun, False, "", True)]
        for has_lines, has_ghost, words, has_caption in (*tried, (False, False, "", True)):
            self._ghost.setText(words)
            self.caption.setVisible(has_caption)
            for group, shown in ((lines, has_lines), (ghost, has_ghost)):
                for made in group:
                    made.setVisible(shown)
            if head_fits(self, self._keys):
                break
        self._draws_ghost = has_ghost

    def _draw(self) -> None:
        last = self._last if self._draws_ghost else None
        self.plot.show_tuning(self._curve, last, live=self._is_live)
        self.plot.setToolTip(f"Grey and dotted: the last finished run, {last.name}" if last is not None else "")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrow card has fewer keys."""
        super().resizeEvent(event)
        before = self._draws_ghost
        self._fit_keys()
        if before != self._draws_ghost:
            self._draw()

    def show_run(self, state: RunState | None, ghost: TuneCurve | None, starts: str) -> None:
        """Show a run's tuning, or `starts`: when it will begin."""
        curve = state.tune_curve() if state is not None else None
        begun = curve is not None and not curve.is_empty
        if begun and curve is not None and ghost is not None and ghost.objective != curve.objective:
            ghost = None                              # another loss: on one scale the two would only mislead
        objective = curve.objective if begun and curve is not None else ghost.objective if ghost is not None else "kl"
        name = OBJECTIVES.get(objective, "loss")
        self.caption.setText(name if begun else f"{name} to the fine-tune")
        self.caption.setToolTip(f"{name} to the fine-tune, on training and on held-out text")
        self._is_live = state is not None and state.stage == "tune" and state.state in MOVING
        self._begun, self._curve, self._last = begun, curve, ghost
        self._fit_keys()
        self._draw()
        self._icon.set_icon("flag" if begun else "clock")
        self.sentence.setText(self.plot.sentence if begun else starts)

"""The two cards with curves: a layer's losses by axis, and tuning end to end. Each has one sentence that says what it shows."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QCheckBox, QHBoxLayout

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
    return card.title.sizeHint().width() + card.caption.sizeHint().width() + keys.sizeHint().width() <= card.width() - 56


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
        self._keys = row(Swatch(icons, "row"), small[0], 4, Swatch(icons, "column"), small[1], 4, *self._lines[:2], 4,
                         *self._lines[2:], gap=6)
        self.head.addLayout(self._keys)
        foot = row(IconLabel(icons, "flag", size=16), column(self.sentence, self.facts, gap=1), self.follow, gap=8)
        foot.setStretch(1, 1)
        self.add(self.plot, foot)
        self.body.setStretch(1, 1)
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
                line.setVisible(lines)
            if head_fits(self, self._keys):
                break

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrow card has shorter keys."""
        super().resizeEvent(event)
        self._fit_keys()

    def show_layer(self, state: RunState | None, layer: LayerRow | None) -> None:
        """Show a layer of a run, or nothing."""
        if state is None or layer is None:
            self.caption.setText("")
            self.plot.show_curves([], None)
            self.sentence.setText("The curves begin with the first layer")
            self.facts.setText("")
            return
        place = f"block {layer.block}, {layer.kind}" if layer.block is not None else layer.title
        self.caption.setText(place)
        self._fit_keys()
        live = layer.state == "now" and state.state in MOVING
        self.plot.show_curves(state.curves_of(layer.tensor), layer, live=live)
        self.sentence.setText(self.plot.sentence)
        self.facts.setText(layer_facts(layer))


class TuneCard(Card):
    """The loss of tuning, with the last finished run behind it."""

    def __init__(self, icons: Icons) -> None:
        super().__init__("End-to-end tuning", " ", gap=4)
        theme = icons.theme
        self.plot = TunePlot(theme)
        self._begun = self._has_ghost = False
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
        # Beside the other two there is no room for it in a narrow card; the plot's tooltip says it, too.
        lines = (self._training_key, self._training, self._held_key, self._held)
        ghost = (self._ghost_key, self._ghost)
        for has_lines, has_ghost in ((self._begun, self._has_ghost), (self._begun, False), (False, False)):
            for group, shown in ((lines, has_lines), (ghost, has_ghost)):
                for made in group:
                    made.setVisible(shown)
            if head_fits(self, self._keys):
                break

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrow card has fewer keys."""
        super().resizeEvent(event)
        self._fit_keys()

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
        live = state is not None and state.stage == "tune" and state.state in MOVING
        self.plot.show_tuning(curve, ghost, live=live)
        self._begun, self._has_ghost = begun, ghost is not None
        self._ghost.setText(f"last run, {ghost.name}" if ghost is not None and not begun else "last run")
        self.plot.setToolTip(f"Grey and dotted: the last finished run, {ghost.name}" if ghost is not None else "")
        self._fit_keys()
        self._icon.set_icon("flag" if begun else "clock")
        self.sentence.setText(self.plot.sentence if begun else starts)

"""The card in which a size is asked for: one bit per weight, or a slider over all sizes with the predicted curve."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QLineEdit, QProgressBar, QSlider, QWidget

from app.context import Context
from app.forecasting import Curve, predict
from app.pages.compress.fields import Zoomed
from app.pages.compress.sizing import (
    CLOSEST,
    Asked,
    Span,
    bytes_of,
    fidelity_words,
    problem_of,
    read_asked,
    share_of,
    size_at,
    size_words,
    times,
)
from app.planning import PlanFacts
from app.tasks import Failure, Task
from app.widgets.basics import Card, Segmented, boxed, button, column, label, row, set_look
from app.widgets.charts.curve import CurveChart
from app.words import about

STEPS = 1000
_ONE_BIT, _BY_SIZE = "signs", "size"
_BY_ITSELF = "A job with a size predicts the curve by itself before it chooses."


def _subject(request: dict[str, Any]) -> dict[str, Any]:
    """What of a request a curve depends on."""
    return {k: v for k, v in request.items() if k not in ("budget", "quality", "output", "objective")}


class SizeCard(Card):
    """`changed` comes when what is asked for did, `opened` when the slider appeared, `predicted` when a curve was made."""

    changed = Signal()
    opened = Signal()
    predicted = Signal()

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__("Size", parent=parent)
        self._ctx = ctx
        self._span: Span | None = None
        self._request: dict[str, Any] | None = None
        self._why = ""
        self._seconds = 0.0
        self._task: Task | None = None
        self._made: tuple[dict[str, Any], Curve] | None = None
        """The curve that was made here last, and what of."""
        self.mode = Segmented(((_ONE_BIT, "One bit per weight"), (_BY_SIZE, "By size")), "Size of the delta", expand=True)
        self.mode.chosen.connect(self._mode_chosen)
        self._sentence = label("", size="small", tone="faded", wrap=True)
        self.field = QLineEdit("12x")
        self.field.setAccessibleName("Size or recovery")
        self.field.setToolTip("A size like 12x or 900MB, or a recovery like 0.98")
        Zoomed(ctx, self.field, self.field.setFixedWidth, 92)
        self.field.textEdited.connect(self._typed)
        self._figures = label("", weight=600)
        self._fidelity = label("", size="small", tone="faded", wrap=True)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setPageStep(50)
        self.slider.setSingleStep(10)
        self.slider.setAccessibleName("Size, up to the full checkpoint's")
        self.slider.valueChanged.connect(self._slid)
        self._ends = label("", size="tick", tone="faded"), label("", size="tick", tone="faded")
        self.presets = {"signs": button("As small as signs", dense=True, clicked=lambda: self._preset("signs")),
                        "12x": button("12 x", dense=True, name="12 times smaller", clicked=lambda: self._preset("12x")),
                        "closest": button("As close as can be", dense=True, clicked=lambda: self._preset("closest"),
                                          tip="The smallest size that is expected to recover 99.9 % of the change")}
        self.chart = CurveChart(ctx.theme)
        self.chart.picked.connect(self._picked)
        self.predict = button("Predict the curve", clicked=self.start, icons=ctx.icons, icon="clock")
        self._note = label(_BY_ITSELF, size="small", tone="faded", wrap=True)
        self._bar = QProgressBar()
        self._bar.setProperty("look", "thin")
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 1000)
        self._bar.setAccessibleName("Predicting the curve")
        self.stop = button("Cancel", dense=True, name="Cancel the prediction", clicked=self.cancel)
        progress = row(self._bar, self.stop, gap=8)
        progress.setStretch(0, 1)
        self._progress = boxed(progress)
        self._unknown = boxed(column(self.predict, self._progress, self._note, gap=6))
        head = row(self.field, self._figures, gap=10)
        head.setStretch(1, 1)
        self._body = boxed(column(row(*self.presets.values(), None, gap=5), head, self.slider,
                                  row(self._ends[0], None, self._ends[1]), self._fidelity, self.chart, self._unknown, gap=6))
        self.add(self.mode, self._sentence, self._body)
        self._restate()

    # ------------------------------------------------------------------------------------------------- the values
    @property
    def is_by_size(self) -> bool:
        """Whether a size is asked for."""
        return self.mode.value() == _BY_SIZE and not self._why

    def asked(self) -> Asked:
        """What a request has to say; nothing where one bit per weight is wanted, or the text says nothing."""
        return read_asked(self.field.text())[0] if self.is_by_size else Asked()

    def problem(self) -> str:
        """Why no job can be started with it; empty where one can."""
        if not self.is_by_size:
            return ""
        asked, why = read_asked(self.field.text())
        return why or (problem_of(bytes_of(asked, self._span, self.chart.curve), self._span) if self._span is not None else "")

    @property
    def is_predicting(self) -> bool:
        """Whether a curve is being made."""
        return self._task is not None

    def ask(self, asked: Asked) -> None:
        """Take over what is asked for, without telling."""
        self.mode.set_value(_BY_SIZE if asked.text else _ONE_BIT)
        if asked.text:
            self.field.setText(asked.text)
        self._restate()

    def forbid(self, why: str) -> None:
        """Say why the recipe has one size; nothing: it takes any."""
        if why != self._why:
            self._why = why
            self._restate()

    # ------------------------------------------------------------------------------------------------- the pair
    def clear(self) -> None:
        """No pair, or another one: nothing is known of it."""
        self.cancel()
        self._span, self._request = None, None
        self.chart.set_curve(None)
        self._restate()

    def show_plan(self, facts: PlanFacts, request: dict[str, Any]) -> None:
        """Take over what a plan knows: the ends, and the curve where the pair's was made before."""
        self._span = Span(facts.smallest, facts.largest, facts.signs, facts.full_bytes)
        self._request, self._seconds = dict(request), facts.prediction_seconds
        curve = facts.ahead
        if curve is None and self._made is not None and self._made[0] == _subject(request):
            curve = self._made[1]                      # it could not be kept on the disk
        if curve != self.chart.curve:
            self.chart.set_curve(curve)
        self._restate()

    # ---------------------------------------------------------------------------------------------------- changes
    def _mode_chosen(self) -> None:
        self._told()
        if self.is_by_size:
            self.opened.emit()

    def _told(self) -> None:
        self._restate()
        self.changed.emit()

    def _typed(self) -> None:
        self._told()

    def _slid(self, value: int) -> None:
        if self._span is not None:
            self.field.setText(times(size_at(value / STEPS, self._span), self._span.full))
            self._told()

    def _picked(self, nbytes: str) -> None:
        if self._span is not None:
            self.field.setText(times(int(nbytes), self._span.full))
            self._told()

    def _preset(self, key: str) -> None:
        if key == "signs" and self._span is not None:
            self.field.setText(times(self._span.signs, self._span.full, up=True))
        elif key != "signs":
            self.field.setText(CLOSEST if key == "closest" else key)
        self._told()

    def _restate(self) -> None:
        span, curve, is_open = self._span, self.chart.curve, self.is_by_size
        self.mode.setEnabled(not self._why)
        self.mode.setToolTip(self._why)
        said = "Methods and bits are chosen for each matrix: the best there is for so many bytes." if is_open else \
            "As small as signs: each matrix takes one bit per weight, and its scales."
        self._sentence.setText(self._why or said)
        self._body.setVisible(is_open)
        asked, why = read_asked(self.field.text())
        nbytes = bytes_of(asked, span, curve) if span is not None and not why else None
        problem = why or (problem_of(nbytes, span) if span is not None else "")
        set_look(self.field, wrong="true" if problem else "")
        self._figures.setText("" if why or span is None else size_words(nbytes, span.full))
        self._fidelity.setText(problem or fidelity_words(nbytes, curve))
        set_look(self._fidelity, tone="danger" if problem else "faded")
        for usable, part in ((span is not None, self.slider), (span is not None, self.presets["signs"])):
            part.setEnabled(usable)
            part.setToolTip("" if usable else "Known once the two checkpoints are measured.")
        if span is not None:
            for end, at in zip(self._ends, (span.start, span.largest), strict=True):
                end.setText(size_words(at, span.full).replace(" x smaller", " x"))
            if nbytes is not None:
                with QSignalBlocker(self.slider):
                    self.slider.setValue(round(STEPS * share_of(nbytes, span)))
        self.slider.setAccessibleDescription(f"{self._figures.text()}. {self._fidelity.text()}")
        self.chart.set_marker(nbytes)
        self.chart.setVisible(curve is not None)
        self._unknown.setVisible(curve is None)
        self.predict.setVisible(self._task is None)
        self._progress.setVisible(self._task is not None)
        known = self._request is not None
        self.predict.setText(f"Predict the curve (about {about(self._seconds)})" if known else "Predict the curve")
        self.predict.setEnabled(known)
        self.predict.setToolTip("" if known else "Choose a base and a fine-tune first.")

    # ------------------------------------------------------------------------------------------------- predicting
    def start(self) -> None:
        """Predict the pair's curve in the background."""
        if self._task is not None or self._request is None:
            return
        request, offline = dict(self._request), self._ctx.settings.options.offline
        self._bar.setValue(0)

        def work(task: Task) -> tuple[dict[str, Any], Curve]:
            return _subject(request), predict(request, task.progress, offline=offline or None)
        self._task = self._ctx.tasks.run(self, work, self._predicted, self._failed, self._progressed)
        self._hand_over(self.predict, self.stop)

    def _hand_over(self, focused: QWidget, to: QWidget) -> None:
        # What has the focus is about to be hidden: Qt would pass it to some control further down.
        had = focused.hasFocus()
        self._restate()
        if had and to.isVisible():
            to.setFocus()

    def cancel(self) -> None:
        """Give a prediction up."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._note.setText(_BY_ITSELF)
            self._hand_over(self.stop, self.predict)

    def _progressed(self, share: object) -> None:
        if isinstance(share, float):
            self._bar.setValue(round(1000 * share))
            self._note.setText(f"Predicting the curve: {int(100 * share)} %")

    def _predicted(self, made: tuple[dict[str, Any], Curve]) -> None:
        self._task, self._made = None, made
        self._note.setText(_BY_ITSELF)
        self.chart.set_curve(made[1])
        self._hand_over(self.stop, self.slider)
        self.predicted.emit()

    def _failed(self, failure: Failure) -> None:
        self._task = None
        self._note.setText(f"{failure.what} {failure.remedy}".strip())
        self._hand_over(self.stop, self.predict)

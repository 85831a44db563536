"""What stands below the pickers: what to choose, the measuring, the verdict with the chart, or why two do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app.checkpoints import CheckpointFacts
from app.context import Context
from app.pages.compress.fields import Zoomed
from app.planning import PlanFacts, fit_words
from app.tasks import Failure
from app.widgets.basics import Card, button, label, row
from app.widgets.charts.change_chart import TITLE, ChangeChart
from app.widgets.picker import CheckpointPicker
from app.widgets.states import CardsPicture, ErrorCard, Skeleton, WarningStrip
from app.words import count, plain_tip, size

_TITLES = {"ArchitectureMismatch": "These two checkpoints do not fit", "TensorsMissing": "These two checkpoints do not fit",
           "NotFinite": "A weight is no number", "UnsupportedModel": "This kind of model is not known here"}


def what_to_choose(base: CheckpointPicker, tuned: CheckpointPicker) -> tuple[str, str]:
    """Title and sentence while there is no pair."""
    then = "How much each kind of layer changed is shown here then, and how large the delta will be, before anything is done."
    if "loading" in (base.state, tuned.state):
        return "Reading", then
    if not base.source and not tuned.source:
        return "Choose a base and a fine-tune of it", then
    missing = "base" if base.facts is None else "fine-tune"
    return f"Now choose {'another' if 'failed' in (base.state, tuned.state) else 'a'} {missing}", then


class Outcome(QWidget):
    """Shows one of its parts at a time."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self.strip = WarningStrip(ctx.icons, "faded")
        self.chart = ChangeChart(ctx.theme)
        self._chart_card = Card(gap=0, margins=(16, 10, 16, 8))
        self._chart_card.setAccessibleName(TITLE)
        self._chart_card.add(self.chart)
        self._wait = Card(TITLE)
        self._said = label("", tone="faded", wrap=True)
        self._bar = QProgressBar()
        self._bar.setProperty("look", "thin")
        self._bar.setTextVisible(False)
        self._bar.setAccessibleName("Measuring the change")
        self._skeleton = Skeleton(ctx.theme, 7)
        self._wait.add(self._said, self._bar, 4, self._skeleton, None)
        self._ask = Card()
        self._asked = label("", tone="faded", wrap=True)
        self._asked.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        Zoomed(ctx, self._asked, self._asked.setFixedWidth, 360)
        self._ask_title = label("", "big", 600)
        centre = Qt.AlignmentFlag.AlignHCenter
        self._ask.body.addStretch(1)
        for part in (CardsPicture(ctx.theme), self._ask_title):
            self._ask.body.addWidget(part, 0, centre)
        self._ask.body.addLayout(row(None, self._asked, None))
        self._ask.body.addStretch(1)
        self._error: ErrorCard | None = None
        self._body = QVBoxLayout(self)
        self._body.setContentsMargins(0, 0, 0, 0)
        self._body.setSpacing(12)
        self._body.addWidget(self.strip)
        self._body.addWidget(self._chart_card, 1)
        self._body.addWidget(self._wait, 1)
        self._body.addWidget(self._ask, 1)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.ask("", "")

    def _show(self, part: QWidget, *, with_strip: bool) -> None:
        if self._error is not None and part is not self._error:
            self._body.removeWidget(self._error)
            self._error.hide()
            self._error.deleteLater()
            self._error = None
        self.strip.setVisible(with_strip)
        self._chart_card.setVisible(part is self._chart_card)
        self._wait.setVisible(part is self._wait)
        self._ask.setVisible(part is self._ask)

    def ask(self, title: str, what: str) -> None:
        """Say what has to be chosen before anything can be planned."""
        self._ask_title.setText(title)
        self._asked.setText(what)
        self._ask.setAccessibleName(title)
        self._show(self._ask, with_strip=False)

    def measuring(self, done: int = 0, of: int = 0) -> None:
        """Show how far the measuring is."""
        self._bar.setRange(0, of)
        self._bar.setValue(done)
        self._said.setText(f"Measuring what changed: {done:,} of {count(of, 'tensor')}" if of else "Measuring what changed...")
        self._show(self._wait, with_strip=False)

    def refuse(self, failure: Failure, buttons: Sequence[QPushButton] = ()) -> None:
        """Say why there is no plan."""
        kind = failure.details.partition(":")[0]
        card = ErrorCard(self._ctx.icons, failure, buttons, title=_TITLES.get(kind, "No plan could be made"))
        card.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        card.body.addStretch(1)
        self._show(card, with_strip=False)
        if self._error is not None:
            self._body.removeWidget(self._error)
            self._error.deleteLater()
        self._error = card
        self._body.addWidget(card, 1)

    @property
    def error(self) -> ErrorCard | None:
        """The card that says why there is no plan."""
        return self._error

    def show_plan(self, facts: PlanFacts, base: CheckpointFacts, tuned: CheckpointFacts,
                  choose_folder: Callable[[], object]) -> None:
        """Show a plan's verdict and chart."""
        self._verdict(facts, base, tuned, choose_folder)
        self.chart.set_kinds(facts.kinds, is_open=facts.is_at_most and facts.ahead is None)
        self._show(self._chart_card, with_strip=True)

    def _verdict(self, facts: PlanFacts, base: CheckpointFacts, tuned: CheckpointFacts,
                 choose_folder: Callable[[], object]) -> None:
        if facts.is_short_of_disk:
            words = f"The job needs {size(facts.disk_bytes)} on that disk, {size(facts.disk_free)} are free"
            self.strip.show_words("danger", words, "", [button("Choose folder...", dense=True, clicked=choose_folder)])
            return
        if facts.warnings:
            more = f" And {count(len(facts.warnings) - 1, 'more note')}." if len(facts.warnings) > 1 else ""
            self.strip.show_words("warning", "Fits, with a note", facts.warnings[0] + more)
            self.strip.setToolTip(plain_tip("\n\n".join(facts.warnings)))
            return
        if facts.is_short_of_memory:
            self.strip.show_words("warning", f"Wants {size(facts.memory_bytes)} of memory, {size(facts.memory_free)} are free",
                                  "Close other programs, or take fewer samples.")
            return
        both = bool(base.tokenizer and tuned.tokenizer)
        same = base.tokenizer == tuned.tokenizer if both else None
        own = bool(tuned.template_digest) and tuned.template_digest != base.template_digest
        self.strip.show_words("success", *fit_words(facts, same, own))
        self.strip.setToolTip("")


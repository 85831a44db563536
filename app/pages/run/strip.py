"""The stages of a job left to right, its figures, and one bar for the whole of it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFrame, QProgressBar, QSizePolicy, QWidget

from app.icons import Icons
from app.jobs.queue import QueueItem, State
from app.jobs.runstate import RunState
from app.pages.run.facts import SHOWN, StageWords, clock_text, left_text, rate_words, stage_words, whole_percent
from app.widgets.basics import Card, ElidedLabel, Figure, IconLabel, column, label, row, set_look, upright


class StageView(QWidget):
    """Icon, name, and a faded line of detail."""

    def __init__(self, icons: Icons, name: str) -> None:
        super().__init__()
        self._title = name
        self._icon = IconLabel(icons, "clock", size=18)
        self._name = label(name, weight=500, tone="faded")
        self._text = ElidedLabel()
        self._text.setProperty("step", "small")
        self._text.setProperty("tone", "faded")
        self.setLayout(row(self._icon, column(self._name, self._text, gap=1), gap=8))
        self._shown: StageWords | None = None

    def show_words(self, words: StageWords) -> None:
        """Take over what is new."""
        if words == self._shown:
            return
        before, self._shown = self._shown, words
        if before is None or (before.icon, before.role) != (words.icon, words.role):
            self._icon.set_icon(words.icon, words.role)
        set_look(self._name, weight="600" if words.is_now else "500",
                 tone="faded" if words.icon == "clock" else "text")
        self._text.setText(words.text)
        self.setAccessibleName(f"{self._title}: {words.text}")


class StageStrip(Card):
    """Four stages, four figures, the bar."""

    def __init__(self, icons: Icons) -> None:
        super().__init__(margins=(16, 10, 16, 12), gap=8)
        self.setAccessibleName("Progress")
        self._icons, self._narrow = icons, False
        self.stages = {key: StageView(icons, name) for key, name in SHOWN}
        self._links = [self._link() for _ in SHOWN[1:]]
        line, figures = row(gap=8), row(gap=8)
        for at, made in enumerate(self.stages.values()):
            if at:
                line.addWidget(self._links[at - 1], 0, Qt.AlignmentFlag.AlignVCenter)
            line.addWidget(made, (12, 13, 12, 12)[at])
        self.whole, self.rate = Figure("of the whole job"), Figure("rate")
        self.elapsed, self.left = Figure("elapsed"), Figure("left")
        self._rule = upright()
        for figure in (self.whole, self.rate, self.elapsed, self.left):
            figures.addWidget(figure)
        figures.addStretch(1)
        # Side by side, or the figures below the stages where it is narrow.
        self._both = row(line, self._rule, figures, gap=12)
        self._both.setStretch(0, 1)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Share of the whole job")
        self.add(self._both, self.bar)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    @staticmethod
    def _link() -> QFrame:
        made = QFrame()
        made.setProperty("look", "hairline")
        made.setFixedHeight(1)
        made.setFixedWidth(16)
        return made

    def show_run(self, state: RunState | None, item: QueueItem) -> None:
        """Bring all up to date."""
        for key, view in self.stages.items():
            view.show_words(stage_words(key, state, item))
        fraction = state.fraction if state is not None else item.fraction
        if item.state == State.DONE:
            fraction = 1.0
        self.bar.setValue(round(1000 * fraction))
        self._set(self.whole, whole_percent(fraction))
        value, unit = rate_words(state) if state is not None else ("–", "")
        self._set(self.rate, value, "" if self._narrow else unit)
        self.rate.set_caption(unit if self._narrow and unit else "rate")
        self._set(self.elapsed, clock_text(state.elapsed if state is not None else item.seconds))
        self._set(self.left, "none" if item.state == State.DONE else left_text(state) if state is not None else "–")

    @staticmethod
    def _set(figure: Figure, value: str, unit: str = "") -> None:
        if figure.property("said") != (now := f"{value} {unit}"):
            figure.setProperty("said", now)
            figure.set(value, unit)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The lines between the stages go where it is narrow."""
        super().resizeEvent(event)
        px, stacked = self._icons.theme.px, self.width() < self._icons.theme.px(940)
        self._narrow = not stacked and self.width() < px(1120)
        for link in self._links:
            link.setVisible(self.width() >= px(1120))
        self._rule.setVisible(not stacked)
        self._both.setDirection(QBoxLayout.Direction.TopToBottom if stacked else QBoxLayout.Direction.LeftToRight)
        for figure, width in ((self.whole, 98), (self.rate, 70 if self._narrow else 124), (self.elapsed, 66), (self.left, 72)):
            figure.setFixedWidth(px(width))

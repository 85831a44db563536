"""The head of the Run page: which job, on what, how; and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QPushButton, QWidget

from app.icons import Icons
from app.jobs.queue import QueueItem, State
from app.pages.run.facts import job_choice, method_text
from app.widgets.basics import ElidedLabel, badge, button, label
from app.widgets.queue_strip import LOOKS

_WHY_NOT = {State.DONE: "the job is done", State.FAILED: "the job has failed", State.CANCELLED: "the job was cancelled",
            State.PAUSING: "it pauses after the step that is under way",
            State.CANCELLING: "it stops after the step that is under way"}


class RunHeader(QWidget):
    """Name, base, method; a selector where there are several jobs; Pause or Resume, and Cancel."""

    picked = Signal(str)
    """A job was chosen: its id."""

    def __init__(self, icons: Icons) -> None:
        super().__init__()
        self._icons = icons
        self.name = ElidedLabel()
        self.name.setProperty("step", "title")
        self.name.setProperty("weight", "600")
        self._on = label("on", tone="faded")
        self.base = ElidedLabel()
        self.base.setProperty("weight", "500")
        self.method = badge("", "faded")
        self.place = badge("Ray cluster", "faded")
        self.jobs = QComboBox()
        self.jobs.setAccessibleName("Job to show")
        self.jobs.setToolTip("Show another job of the queue")
        self.jobs.setMinimumContentsLength(18)
        self.jobs.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.jobs.activated.connect(self._activated)
        self.pause = button("Pause", icons=icons, icon="pause")
        self.resume = button("Resume", icons=icons, icon="play")
        self.cancel = button("Cancel...", icons=icons, icon="close", tone="danger", name="Cancel the job")
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(8)
        for made in (self.name, self._on, self.base, self.method, self.place):
            line.addWidget(made)
        line.addSpacing(4)
        line.addStretch(1)
        for control in (self.jobs, self.pause, self.resume, self.cancel):
            line.addWidget(control)
        self.setMinimumHeight(64)

    def show_job(self, item: QueueItem | None, items: Sequence[QueueItem]) -> None:
        """Show a job, and which others there are."""
        for made in (self._on, self.base, self.method, self.pause, self.resume, self.cancel):
            made.setVisible(item is not None)
        self.name.setText(item.name if item is not None else "Run")
        self._list(item, items)
        self.place.setVisible(item is not None and bool(item.where))
        if item is None:
            return
        self.place.setToolTip(f"It runs on the cluster {item.where}")
        self.base.setText(item.base_name or "its base")
        self.method.setText(method_text(item))
        self.resume.setVisible(item.can_resume)
        self.pause.setVisible(not item.can_resume)
        why = _WHY_NOT.get(item.state, "")
        self._allow(self.pause, item.can_pause, why, "Stop after this step; finished layers are kept")
        self._allow(self.resume, item.can_resume, why, "Go on where it stopped")
        self._allow(self.cancel, item.can_cancel, why, "Give this job up; finished layers are kept")

    @staticmethod
    def _allow(made: QPushButton, usable: bool, why: str, tip: str) -> None:
        made.setEnabled(usable)
        made.setToolTip(tip if usable else f"Can't be used: {why}")

    def _list(self, item: QueueItem | None, items: Sequence[QueueItem]) -> None:
        wanted = [(one.id, job_choice(one, LOOKS[one.state][2])) for one in items]
        known = [(self.jobs.itemData(i), self.jobs.itemText(i)) for i in range(self.jobs.count())]
        if wanted != known:
            if [i for i, _ in wanted] == [i for i, _ in known]:
                for at, (_, text) in enumerate(wanted):
                    self.jobs.setItemText(at, text)
            else:
                self.jobs.clear()
                for id, text in wanted:
                    self.jobs.addItem(text, id)
        at = self.jobs.findData(item.id) if item is not None else -1
        if at != self.jobs.currentIndex():
            self.jobs.setCurrentIndex(at)
        self.jobs.setVisible(len(items) > 1)

    def _activated(self, at: int) -> None:
        self.picked.emit(str(self.jobs.itemData(at)))

"""The part of Settings about where jobs run: this computer, or a Ray cluster, which can be tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtWidgets import QLayout, QLineEdit, QWidget

from app.context import Context
from app.fleet_address import EXAMPLE, INSTALL, address_problem, has_ray
from app.tasks import Failure, Task
from app.widgets.basics import Card, Segmented, boxed, button, column, label, row, set_look

_PLACES = (("here", "This computer"), ("ray", "Ray cluster"))
_HERE = "Jobs run one after the other; where there are several NVIDIA GPUs, one on each."
_SHARED = ("Base, fine-tunes and the deltas' folder have to lie on storage that all nodes share under the same path, for "
           "example /mnt/shared; every node needs Deltadeck of the same version.")
_MISSING = f"Ray is not installed here. Install it with: {INSTALL}, then start Deltadeck again."

Look = Callable[[str, str, Callable[[], bool]], dict[str, Any]]
"""Looks at a cluster: (address, the deltas' folder, whether to stop)."""


def _look(address: str, folder: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
    from app import fleet_cluster

    return fleet_cluster.look(address, folder, cancelled)


class ClusterCard(Card):
    """A choice, an address, and a test. `form` lays lines of a form out as the page's other cards have them."""

    def __init__(self, ctx: Context, form: Callable[..., QLayout], look: Look = _look, parent: QWidget | None = None) -> None:
        super().__init__("Where jobs run", parent=parent)
        self._ctx, self._look = ctx, look
        self._task: Task | None = None
        self._tested = ""
        """The address that `outcome` speaks of."""
        self.choice = Segmented(_PLACES, "Where jobs run")
        self.choice.chosen.connect(self._choose)
        self.note = label(size="small", tone="faded", wrap=True)
        self.note.setAccessibleName("About this choice")
        self.address = QLineEdit()
        self.address.setAccessibleName("Address of the Ray cluster")
        self.address.setPlaceholderText(EXAMPLE)
        self.address.textEdited.connect(self._edited)
        self.address.editingFinished.connect(self._set_address)
        self.test = button("Test", icons=ctx.icons, icon="run", clicked=self.run_test, name="Test the Ray cluster")
        self.stop = button("Stop", icons=ctx.icons, icon="close", clicked=self.stop_test, name="Stop the test")
        self.outcome = label(size="small", wrap=True, selectable=True)
        self.outcome.setAccessibleName("Outcome of the test")
        line = row(self.address, self.test, self.stop)
        line.setStretch(0, 1)
        self._place = boxed(column(line, self.outcome, gap=4))
        self._place.setFocusProxy(self.address)
        lines = form(("Address", self._place, ""))
        lines.setContentsMargins(0, 0, 0, 0)
        self._cluster = boxed(lines)
        self.add(form(("New jobs", boxed(column(row(self.choice, None), self.note, gap=4)), "")), self._cluster)
        ctx.settings.changed.connect(self._changed)
        self.address.setText(ctx.settings.options.cluster)
        self.follow()

    @property
    def is_busy(self) -> bool:
        """Whether a test is under way."""
        return self._task is not None

    def _changed(self, name: str) -> None:
        if name in ("runs_on", "cluster"):
            if not self.address.hasFocus():
                self.address.setText(self._ctx.settings.options.cluster)
            self.follow()

    def follow(self) -> None:
        """Show what is chosen, what it needs, and whether it can be tested."""
        chosen = self._ctx.settings.options.runs_on
        self.choice.set_value(chosen)
        self._cluster.setVisible(chosen == "ray")
        is_missing = chosen == "ray" and not has_ray()
        set_look(self.note, tone="warning" if is_missing else "faded")
        self.note.setText(_HERE if chosen == "here" else f"{_MISSING} {_SHARED}" if is_missing else _SHARED)
        self._restate()

    def _restate(self) -> None:
        text = self.address.text().strip()
        problem = address_problem(text)
        is_wrong = bool(text) and bool(problem) and not self.address.hasFocus()
        set_look(self.address, wrong="true" if is_wrong else "")
        why = "Ray is not installed here" if not has_ray() else problem or ("The test is under way" if self.is_busy else "")
        self.test.setEnabled(not why)
        self.test.setToolTip(why or "Ask the cluster for its nodes, and whether they see the deltas' folder")
        self.stop.setVisible(self.is_busy)
        if not self.is_busy and (text != self._tested or not text):
            self._tested = ""
            tone = "danger" if is_wrong else "faded" if text else "warning"
            self._say(tone, " ".join((problem if text else "No address: jobs run on this computer.",
                                      f"Until then jobs {self._until()}." if text else problem)) if problem else "")

    def _until(self) -> str:
        where = self._ctx.settings.where
        return f"go to {where}" if where else "run on this computer"

    def _say(self, tone: str, text: str) -> None:
        set_look(self.outcome, tone=tone)
        self.outcome.setText(text)
        self.outcome.setVisible(bool(text))

    def _choose(self, key: str) -> None:
        self._ctx.settings.set(runs_on=key)
        self.follow()
        if key == "ray" and not self.address.text():
            self.address.setFocus()

    def _edited(self, _: str) -> None:
        self._restate()

    def _set_address(self) -> None:
        text = self.address.text().strip()
        if not text or not address_problem(text):
            self._ctx.settings.set(cluster=text)
        self._restate()

    # ---------------------------------------------------------------------------------------------------- test
    def run_test(self) -> None:
        """Look at the cluster in the background; it takes a minute at most."""
        address, folder = self.address.text().strip(), str(self._ctx.settings.library)
        if self.is_busy or address_problem(address):
            return
        self._set_address()
        look, self._tested = self._look, address

        def work(task: Task) -> dict[str, Any]:
            return look(address, folder, lambda: task.cancelled)
        self._task = self._ctx.tasks.run(self, work, self._seen, self._failed)
        self._say("faded", "Connecting: it takes some seconds, and a minute at most.")
        self._restate()

    def stop_test(self) -> None:
        """Don't wait for the answer."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._tested = ""
            self._restate()
            self._say("faded", "The test was stopped.")

    def _seen(self, seen: dict[str, Any]) -> None:
        from app.fleet_cluster import seen_words

        self._task = None
        kind, text = seen_words(seen)
        self._say("success" if kind == "good" else "warning", text)
        self._restate()

    def _failed(self, failure: Failure) -> None:
        self._task = None
        self._say("danger", " ".join(part for part in ("Not reachable.", failure.what, failure.why, failure.remedy) if part))
        self._restate()

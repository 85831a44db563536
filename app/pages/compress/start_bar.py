"""The one primary button, why it can't be used, and when a job would start."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtWidgets import QWidget

from app.actions import Act
from app.context import Context
from app.jobs.queue import State
from app.pages.compress.fields import Zoomed
from app.pages.compress.recipe import jobs_words
from app.widgets.basics import ElidedLabel, IconLabel, boxed, button, column, key_cap, label, row, set_look
from app.words import about


def when_words(ctx: Context) -> str:
    """When, and where if elsewhere, a job that is added now would start."""
    where = ctx.settings.where
    ahead = sum(item.where == where and (item.state == State.WAITING or item.is_on_worker) for item in ctx.jobs.items())
    if not ahead or ctx.jobs.has_room(where):
        return "Sent to the Ray cluster at once" if where else "Starts at once"
    seconds = ctx.jobs.seconds_ahead(where=where)
    return f"Starts after {jobs_words(ahead)}" + (f", in about {about(seconds)}" if seconds is not None else "")


def where_words(ctx: Context) -> str:
    """Where a job that is added now would run, if that is not plain: the cluster was chosen."""
    if ctx.settings.options.runs_on != "ray":
        return ""
    if where := ctx.settings.where:
        return f"Runs on the Ray cluster {where}."
    return "Runs on this computer: the Ray cluster that is chosen in Settings has no address."


class StartBar(QWidget):
    """Calls `start`; `remedy` does what the offered remedy says."""

    def __init__(self, ctx: Context, start: Callable[[], object], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx, self._reason = ctx, ""
        self.button = button("Compress", "primary", clicked=start)
        self._icon = IconLabel(ctx.icons, "clock", size=16)
        self.words = ElidedLabel("")
        self.words.setProperty("step", "small")
        self.words.setProperty("tone", "faded")
        self.remedy = button("", "ghost", dense=True, tone="accent", name="What helps")
        self.remedy.hide()
        self._remedy_call: Callable[[], object] | None = None
        self.remedy.clicked.connect(self._use_remedy)
        self._caps = [key_cap(k.replace("Return", "Enter")) for k in ctx.actions.keys(Act.START).split("+")]
        line = row(self._icon, self.words, self.remedy, *self._caps, gap=6)
        line.setStretch(1, 1)
        below = boxed(line)
        self.where = label("", size="small", wrap=True)
        self.where.setAccessibleName("Where the job will run")
        self.setLayout(column(self.where, self.button, below, gap=6))
        ctx.settings.changed.connect(self._setting_changed)
        self._setting_changed("runs_on")
        Zoomed(ctx, self.button, self.button.setMinimumHeight, 38)
        Zoomed(ctx, below, below.setMinimumHeight, 28)
        ctx.jobs.queue_changed.connect(self._jobs_changed)
        ctx.jobs.pumped.connect(self._jobs_changed)

    def say(self, reason: str, remedy: str = "", call: Callable[[], object] | None = None) -> None:
        """Why the button can't be used (nothing: it can), and what would help."""
        self._reason, self._remedy_call = reason, call
        self.button.setEnabled(not reason)
        self.button.setToolTip(reason or "Add the job to the queue")
        self._icon.set_icon("info" if reason else "clock")
        self.remedy.setText(remedy)
        self.remedy.setAccessibleName(remedy or "What helps")
        self.remedy.setVisible(bool(remedy))
        for cap in self._caps:
            cap.setVisible(not remedy)
        self._write()

    @property
    def reason(self) -> str:
        """Why the button can't be used."""
        return self._reason

    def _write(self) -> None:
        self.words.setText(self._reason or when_words(self._ctx))

    def _setting_changed(self, name: str) -> None:
        if name in ("runs_on", "cluster"):
            self.where.setText(where_words(self._ctx))
            self.where.setVisible(bool(self.where.text()))
            set_look(self.where, tone="faded" if self._ctx.settings.where else "warning")
            self._jobs_changed()

    def _use_remedy(self) -> None:
        if self._remedy_call is not None:
            self._remedy_call()

    def _jobs_changed(self, *_: object) -> None:
        if not self._reason:
            self._write()

"""The Run page: stages and figures, curves of the current layer and of tuning, the axis map, the events of one job."""

from __future__ import annotations

import time
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, QUrl
from PySide6.QtGui import QDesktopServices, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QMessageBox, QSizePolicy, QVBoxLayout, QWidget

from app.chat.session import Source
from app.context import Context
from app.jobs.queue import QueueItem, State
from app.jobs.runstate import RunState, TuneCurve
from app.models.layers import LayerRow
from app.pages.run.banner import Banner
from app.pages.run.events import EventsCard
from app.pages.run.facts import newest_with_run, tune_start_text
from app.pages.run.header import RunHeader
from app.pages.run.loss_cards import LayerLossCard, TuneCard
from app.pages.run.outside import Outside, Place
from app.pages.run.strip import StageStrip
from app.tasks import Failure
from app.widgets.basics import Card, button, scrolled
from app.widgets.charts.axis_card import AxisMapCard
from app.widgets.states import EmptyState
from core.errors import DeltadeckError

DWELL = 0.35
"""Seconds that a followed layer stays on screen at least: some are fitted in less, and would only flicker."""

STAY = 10.0
"""Seconds that a job which was told to stop stays on screen at least, though another runs."""

DRAW_EVERY = 200
"""Milliseconds between two updates of charts, map and log while a job runs: more would only slow the job down."""


class RunPage(QWidget):
    """One job of the queue: the one that runs, unless the user picked another."""

    name = "run"

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        self.setProperty("look", "page")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setAccessibleName("Run")
        self._ctx = ctx
        self._id = ""
        self._picked = False
        self._tensor: str | None = None
        self._since = 0.0
        self._layer_shown: tuple[object, ...] = ()
        self._tune_shown: tuple[object, ...] = ()
        self._ghost: tuple[str, TuneCurve | None] = ("", None)
        self._question: QMessageBox | None = None
        # Painting the log costs more than all else, and nobody reads fifteen versions of it a second.
        self._rests = QTimer(self, singleShot=True, interval=DRAW_EVERY)
        self._rests.timeout.connect(self._catch_up)
        self._is_late = False
        self._missed: set[str] = set()
        """Layers whose curves changed since they were drawn; "" is the tuning curve."""
        self._acted = 0.0
        icons = ctx.icons
        self._outside = Outside(ctx, self)
        self.header = RunHeader(icons)
        self.strip = StageStrip(icons)
        self.banner = Banner(icons, self.resume, self.retry, self._start, self._show_delta, self._open_chat,
                             self._add, self._open_folder)
        self.loss, self.tune = LayerLossCard(icons), TuneCard(icons)
        self.map, self.events = AxisMapCard(icons), EventsCard(icons)
        self.empty = Card()
        self.empty.add(EmptyState(
            ctx.theme, "Nothing has run yet", "Start a job on the Compress page, and watch it at work here.", (
                button("Try the demo trio", "primary", icons=icons, icon="deltas", clicked=self._open_demo),
                button("Choose checkpoints...", icons=icons, icon="folder", clicked=lambda: ctx.go("compress"))),
            "The demo trio is built in: no network, about a minute."))
        self._build()
        self._wire()

    # ------------------------------------------------------------------------------------------------ building
    def _build(self) -> None:
        # Minimum widths would make the page wider than a narrow window; all of these elide or shrink.
        for card in (self.loss, self.tune, self.map, self.events):
            card.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Expanding)
        upper, lower = QHBoxLayout(), QHBoxLayout()
        self._lines = upper, lower
        for line, pair, shares in ((upper, (self.loss, self.tune), (62, 38)), (lower, (self.map, self.events), (68, 32))):
            line.setSpacing(12)
            for made, share in zip(pair, shares, strict=True):
                line.addWidget(made, share)
        body = QWidget()
        inner = QVBoxLayout(body)
        inner.setContentsMargins(24, 0, 24, 24)
        inner.setSpacing(12)
        inner.addWidget(self.strip)
        inner.addWidget(self.banner)
        inner.addLayout(upper, 11)
        inner.addLayout(lower, 9)
        self._area = scrolled(body, name="The job's progress")
        self._none = QWidget()
        holder = QVBoxLayout(self._none)
        holder.setContentsMargins(24, 0, 24, 24)
        holder.addWidget(self.empty)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        head = QHBoxLayout()
        head.setContentsMargins(24, 0, 24, 0)
        head.addWidget(self.header)
        outer.addLayout(head)
        outer.addWidget(self._area, 1)
        outer.addWidget(self._none, 1)

    def _wire(self) -> None:
        jobs = self._ctx.jobs
        self.header.picked.connect(self.show_job)
        self.header.pause.clicked.connect(self.pause)
        self.header.resume.clicked.connect(lambda *_: self.resume(self._id))
        self.header.cancel.clicked.connect(self.ask_cancel)
        self.loss.followed.connect(self._follow_changed)
        self.map.chosen.connect(self.show_layer)
        self.map.saved.connect(self._saved)
        self.map.failed.connect(self._ctx.show_error)
        for plot in (self.loss.plot, self.tune.plot):
            plot.trouble.connect(self._trouble)
        self._ctx.library.changed.connect(self._refresh)
        self._outside.changed.connect(self._refresh)
        jobs.pumped.connect(self._pumped)
        jobs.queue_changed.connect(self._queue_changed)
        self._refresh()

    # ----------------------------------------------------------------------------------------------- which job
    @property
    def item(self) -> QueueItem | None:
        """The job on screen."""
        return self._ctx.jobs.item(self._id) if self._id else None

    @property
    def state(self) -> RunState | None:
        """What is known of its run."""
        return self._ctx.jobs.run_state(self._id) if self._id else None

    @property
    def tensor(self) -> str | None:
        """The layer whose curves are on screen."""
        return self._tensor

    def show_job(self, id: str) -> None:
        """Show a job, and stay with it unless it is the one that runs."""
        current = self._ctx.jobs.current()
        self._picked, self._acted = current is None or current.id != id, 0.0
        self._turn_to(id)
        self._refresh()

    def _turn_to(self, id: str) -> None:
        if id != self._id:
            self._id, self._tensor, self._since = id, None, 0.0
            self._layer_shown = self._tune_shown = ()
            state = self.state
            self.map.subject = self.item.name if self.item is not None else ""
            self.map.set_rows(state.layers if state is not None else ())
            if self.map.map.mode in ("margin", "codec"):
                # Where a size was asked for, the methods were chosen, and most have no axis.
                self.map.set_mode("codec" if self.item is not None and self.item.asked else "margin")
            self.loss.follow.setChecked(True)

    def _settle(self) -> None:
        """Make sure that the job on screen exists, and is the running one where the user picked none.

        A job that was told to stop stays on screen: the next one must not slip under a second click.
        """
        jobs, item = self._ctx.jobs, self.item
        if item is None or item.state == State.RUNNING or (self._acted and item.is_ended and not self._is_fresh()):
            self._picked, self._acted = False, 0.0
        elif item.state in (State.PAUSING, State.CANCELLING):
            self._picked, self._acted = True, time.monotonic()
        wanted = newest_with_run(jobs.items())
        current = jobs.current()
        if wanted is None:
            self._turn_to("")
        elif self.item is None or (current is not None and not self._picked and not self.item.is_on_worker):
            self._turn_to(wanted.id)                   # of several that run, the one on screen stays

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._acted < STAY

    def shown(self) -> None:
        """The page comes on screen."""
        if self._acted and not self._is_fresh():
            self._picked, self._acted = False, 0.0
        self._refresh()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Where text is large and the window small, cards stand one below the other."""
        super().resizeEvent(event)
        side = QBoxLayout.Direction
        for line in self._lines:
            line.setDirection(side.TopToBottom if self.width() - 48 < self._ctx.theme.px(900) else side.LeftToRight)

    def showEvent(self, event: QShowEvent) -> None:
        """What happened while it was hidden was not drawn."""
        super().showEvent(event)
        self._refresh()

    # ----------------------------------------------------------------------------------------------- bringing up to date
    def _queue_changed(self) -> None:
        if self.isVisible():
            self._refresh()

    def _pumped(self, state: RunState) -> None:
        if not self.isVisible():
            return
        if state.id != self._id:
            if (shown := self.item) is not None and shown.is_on_worker:
                return                                 # another job, which runs beside it
            if not self._picked or (self._acted and not self._is_fresh() and (item := self.item) is not None and item.is_ended):
                self._refresh()
            return
        self._update(state, every=False)

    def _refresh(self) -> None:
        self._settle()
        item, jobs = self.item, self._ctx.jobs
        self._area.setVisible(item is not None)
        self._none.setVisible(item is None)
        self.header.show_job(item, jobs.items())
        place = self._outside.place(Path(item.folder)) if item is not None and item.folder else Place()
        ahead = jobs.seconds_ahead(item.id) if item is not None and item.state == State.WAITING else None
        self.banner.show_job(item, place, ahead, jobs.is_held)
        if item is not None:
            self._update(self.state, every=True)

    def _update(self, state: RunState | None, *, every: bool) -> None:
        if (item := self.item) is None:
            return
        self.strip.show_run(state, item)
        if not every and self._rests.isActive():
            self._missed.update(state.changed_curves if state is not None else ())
            self._is_late = True
            return
        self._missed.update(state.changed_curves if state is not None else ())
        self._is_late = False
        self._rests.start()
        self.events.show_run(state)
        self.map.update_rows(state.layers if state is not None else ())
        self._update_layer(state, every)
        self._update_tune(state, item, every)
        self._missed.clear()

    def _catch_up(self) -> None:
        if self._is_late and self.isVisible():
            self._update(self.state, every=False)

    def _update_layer(self, state: RunState | None, every: bool) -> None:
        if state is not None and self.loss.follow.isChecked():
            self._follow(state)
        row = state.row(self._tensor) if state is not None and self._tensor is not None else None
        key = (self._id, row, state.state if state is not None else None)
        if every or key != self._layer_shown or self._tensor in self._missed:
            self._layer_shown = key
            self.loss.show_layer(state, row)
            self.map.select(row.tensor if row is not None else "")

    def _follow(self, state: RunState) -> None:
        wanted = state.current
        if wanted is None:
            wanted = next((row.tensor for row in reversed(state.layers) if row.state == "done"), None)
        if wanted == self._tensor or (self._tensor is not None and wanted is not None and not _has_curves(state, wanted)):
            return                                     # the last layer's curves stay until the next one has points
        now = time.monotonic()
        if now - self._since >= DWELL or not state.is_running or self._tensor is None:
            self._tensor, self._since = wanted, now

    def _update_tune(self, state: RunState | None, item: QueueItem, every: bool) -> None:
        key = (self._id, state.stage if state is not None else "", item.state, tune_start_text(state, item))
        if every or key != self._tune_shown or "" in self._missed:
            self._tune_shown = key
            if every:
                self._ghost = (self._id, self._ctx.jobs.last_tune_curve(self._id))
            self.tune.show_run(state, self._ghost[1], key[3])

    # ---------------------------------------------------------------------------------------------------- layers
    def show_layer(self, row: LayerRow) -> None:
        """Show a layer's curves and losses, and no longer follow the work."""
        self._tensor = row.tensor
        self.loss.follow.setChecked(False)
        self._update_layer(self.state, every=True)

    def _follow_changed(self, on: bool) -> None:
        if on and (state := self.state) is not None:
            self._since = 0.0
            if state.current is None:
                self._tensor = None
            self._update_layer(state, every=True)

    # ------------------------------------------------------------------------------------------------- commands
    def pause(self) -> None:
        """Pause the job on screen."""
        self._ctx.jobs.pause(self._id)

    def resume(self, id: str) -> None:
        """Go on with a job; it stays on screen, also where it has to wait."""
        self._picked, self._acted = True, 0.0
        self._ctx.jobs.resume(id)

    def retry(self, id: str) -> None:
        """Queue a job again."""
        self._picked, self._acted = True, 0.0
        try:
            self._ctx.jobs.retry(id, self._ctx.settings.where)
        except DeltadeckError as e:
            self._ctx.show_error(Failure.of(e))

    def _start(self, id: str) -> None:
        self._ctx.jobs.hold(False)

    def ask_cancel(self) -> None:
        """Ask once whether to give the job up."""
        if (item := self.item) is None or not item.can_cancel or self._question is not None:
            return
        box = QMessageBox(QMessageBox.Icon.Question, "Cancel the job", f"Cancel {item.name}?", parent=self)
        box.setTextFormat(Qt.TextFormat.PlainText)
        after = "It stops after the step that is under way. " if item.is_on_worker else ""
        box.setInformativeText(f"{after}Finished layers are kept: Retry goes on from there.")
        yes = box.addButton("Cancel the job", QMessageBox.ButtonRole.DestructiveRole)
        keep = box.addButton("Keep it running" if item.is_on_worker else "Keep it", QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(keep)
        box.setEscapeButton(keep)
        yes.clicked.connect(lambda *_, id=item.id: self._ctx.jobs.cancel(id))
        box.finished.connect(self._answered)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._question = box
        box.open()

    def _answered(self, _: int) -> None:
        self._question = None

    def question(self) -> QMessageBox | None:
        """The question that is open."""
        return self._question

    def _show_delta(self, id: str) -> None:
        item = self._ctx.jobs.item(id)
        if item is not None and item.folder and (listed := self._outside.place(Path(item.folder)).listed) is not None:
            self._ctx.go("deltas")
            self._ctx.library.select(listed)

    def _add(self, id: str) -> None:
        if (item := self._ctx.jobs.item(id)) is not None and item.folder:
            self._outside.add(Path(item.folder))

    def _open_folder(self, id: str) -> None:
        if (item := self._ctx.jobs.item(id)) is not None and item.folder:
            QDesktopServices.openUrl(QUrl.fromLocalFile(item.folder))

    def _open_chat(self, id: str) -> None:
        item = self._ctx.jobs.item(id)
        if item is not None and item.folder:
            self._ctx.chat.open(str(item.request.get("base", "")), (Source(Path(item.folder)),))

    def _open_demo(self) -> None:
        from app.actions import Act

        self._ctx.go("compress")
        QTimer.singleShot(0, self, self._ctx.actions[Act.DEMO].trigger)

    def _saved(self, path: Path) -> None:
        self._ctx.notify(f"Saved as {path.name}", "success")

    def _trouble(self, text: str) -> None:
        self._ctx.notify(text, "danger")


def _has_curves(state: RunState, tensor: str) -> bool:
    """Whether there is something to draw of a layer, or never will be."""
    row = state.row(tensor)
    return row is None or row.state != "now" or any(len(view.iterations) for view in state.curves_of(tensor))

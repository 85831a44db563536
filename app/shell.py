"""The main window: rail, one page at a time, queue strip, status bar."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PySide6.QtCore import QByteArray, QPoint, QSize, Qt, QTimer
from PySide6.QtGui import QCloseEvent, QGuiApplication, QShowEvent
from PySide6.QtWidgets import (
    QApplication,
    QButtonGroup,
    QFrame,
    QLabel,
    QMainWindow,
    QMessageBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.actions import SPECS, Act, Actions
from app.chat.engine import Engine as ChatEngine
from app.chat.session import ChatSession
from app.context import Context
from app.crash import ErrorDialog
from app.icons import Icons
from app.jobs.manager import JobManager
from app.jobs.queue import QueueItem, State
from app.jobs.worker import Runner
from app.library.store import Library
from app.paths import expanded
from app.qss import style_sheet
from app.rail import RailItem, page_makers
from app.settings import Settings
from app.status_bar import StatusBar
from app.tasks import Engine, Failure, Tasks
from app.theme import Choice, Theme
from app.toast import Toast
from app.widgets.basics import column, label, row
from app.widgets.queue_strip import QueuePanel, QueueStrip, held_jobs
from app.words import count


def ask(parent: QWidget, title: str, text: str, more: str, yes: str, no: str) -> bool:
    """A question with two answers in words; Escape and Enter take the harmless one."""
    box = QMessageBox(QMessageBox.Icon.Question, title, text, parent=parent)
    box.setTextFormat(Qt.TextFormat.PlainText)         # names come from elsewhere and are no mark-up
    box.setInformativeText(more)
    chosen = box.addButton(yes, QMessageBox.ButtonRole.DestructiveRole)
    harmless = box.addButton(no, QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(harmless)
    box.setEscapeButton(harmless)
    box.exec()
    return box.clickedButton() is chosen


RAIL = (Act.COMPRESS, Act.RUN, Act.DELTAS, Act.COMPARE, Act.CHAT)
SMALLEST = QSize(1024, 640)


class Shell(QMainWindow):
    """The window. Owns the services and hands them to the pages. `runner` runs the jobs, the engine's unless given."""

    def __init__(self, settings: Settings, theme: Theme, data: Path, runner: Runner | None = None,
                 chat_engine: ChatEngine | None = None) -> None:
        super().__init__()
        self.setWindowTitle("Deltadeck")
        self.setObjectName("deltadeck")
        self._quitting = False
        icons = Icons(theme)
        tasks = Tasks(parent=self)
        engine = Engine(tasks, self)
        jobs = JobManager(data, runner, self)
        library = Library(settings, tasks, engine, jobs, data, self)
        chat = ChatSession(chat_engine, self)
        self.ctx = Context(settings, theme, icons, Actions(self, icons), tasks, engine, jobs, library, data, self.go,
                           self.notify, self.show_error, chat)
        self.setWindowIcon(icons.icon("deltadeck", "accent", 32))
        self.setMinimumSize(SMALLEST)
        self._dress()
        self._build()
        self._wire()
        self._fit_rail()
        self._restore_place()
        if settings.options.offline:
            self._obey_offline()
        self.go("compress" if settings.options.page not in page_makers() else settings.options.page)
        if (centre := self.centralWidget()) is not None:
            centre.setFocus()
        if settings.message:
            QTimer.singleShot(0, self, partial(self.notify, settings.message, "warning"))
        elif jobs.is_held:
            QTimer.singleShot(0, self, self._offer_queue)

    # ---------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        ctx = self.ctx
        rail = QFrame()
        rail.setProperty("look", "rail")
        rail.setAccessibleName("Pages")
        self._rail = rail
        mark = QLabel()
        self._mark = mark
        self._items: dict[str, RailItem] = {}
        group = QButtonGroup(self)
        layout = column(gap=2, margins=(12, 14, 12, 10))
        layout.addLayout(row(mark, label("Deltadeck", size="big", weight=600), None, gap=10, margins=(6, 2, 0, 0)))
        layout.addSpacing(14)
        for act in (*RAIL, Act.SETTINGS):
            if act is Act.SETTINGS:
                layout.addStretch(1)
            page = act.value.removeprefix("go-")
            made = RailItem(ctx.icons, SPECS[act].icon, SPECS[act].text, ctx.actions.keys(act))
            made.clicked.connect(partial(self._rail_clicked, page))
            group.addButton(made)
            layout.addWidget(made)
            self._items[page] = made
        rail.setLayout(layout)
        self._stack = QStackedWidget()
        self._pages: dict[str, QWidget] = {}
        self.strip = QueueStrip(ctx.icons, ctx.jobs)
        self.panel = QueuePanel(ctx.icons, ctx.jobs, self.confirm_cancel, self)
        self.status = StatusBar(ctx)
        right = QVBoxLayout()
        right.setSpacing(0)
        right.addWidget(self._stack, 1)
        right.addWidget(self.strip)
        top = row(rail, gap=0)
        top.addLayout(right, 1)
        outer = column(gap=0)
        outer.addLayout(top, 1)
        outer.addWidget(self.status)
        centre = QWidget()
        centre.setLayout(outer)
        centre.setFocusPolicy(Qt.FocusPolicy.ClickFocus)      # a click on empty ground takes the focus off a control
        self.setCentralWidget(centre)
        self.toast = Toast(ctx.icons, centre, self._items["chat"], self._items["settings"])

    def _wire(self) -> None:
        ctx = self.ctx
        for act in (*RAIL, Act.SETTINGS):
            ctx.actions.on(act, partial(self.go, act.value.removeprefix("go-")))
        ctx.actions.enable(Act.STOP, False, "nothing is being written")
        ctx.actions.on(Act.LARGER, partial(ctx.settings.step_zoom, 1))
        ctx.actions.on(Act.SMALLER, partial(ctx.settings.step_zoom, -1))
        ctx.actions.on(Act.NORMAL, partial(ctx.settings.step_zoom, 0))
        ctx.actions.on(Act.THEME, self._switch_theme)
        ctx.actions.on(Act.SHORTCUTS, self.show_shortcuts)
        ctx.actions.on(Act.QUIT, self.close)
        ctx.actions.on(Act.PAUSE, self._pause_or_resume)
        ctx.actions.on(Act.CANCEL, self._cancel_current)
        ctx.actions.on(Act.DEMO, partial(self._on_page, "compress", "open_demo"))
        ctx.actions.on(Act.START, self._start)
        ctx.actions.on(Act.NEW_CHAT, partial(self._on_page, "chat", "new_chat"))
        ctx.actions.on(Act.CHATS, partial(self._on_page, "chat", "show_history"))
        ctx.actions.on(Act.IMPORT, partial(self._on_page, "deltas", "ask_import"))
        ctx.actions.on(Act.SELF_CHECK, partial(self._on_page, "settings", "self_check"))
        ctx.actions.on(Act.DIAGNOSTICS, partial(self._on_page, "settings", "save_diagnostics"))
        ctx.actions.on(Act.SEARCH, partial(self._on_page, "deltas", "focus_search"))
        ctx.settings.changed.connect(self._setting_changed)
        ctx.settings.problem.connect(partial(self.notify, tone="warning"))
        ctx.theme.changed.connect(self.restyle)
        ctx.jobs.message.connect(partial(self.notify, tone="warning"))
        ctx.jobs.item_changed.connect(self._job_changed)
        ctx.jobs.queue_changed.connect(self._job_changed)
        ctx.jobs.finished.connect(self._job_finished)
        ctx.jobs.failed.connect(self._job_failed)
        ctx.library.changed.connect(self._count_deltas)
        ctx.library.message.connect(self.notify)
        ctx.library.select_asked.connect(lambda *_: self.go("deltas"))
        ctx.library.compare_asked.connect(lambda *_: self.go("compare"))
        ctx.engine.failed.connect(self.show_error)
        ctx.chat.open_asked.connect(partial(self.go, "chat"))
        self.strip.opened.connect(self._open_queue)
        self.panel.picked.connect(self._show_job)
        self.strip.picked.connect(self._show_job)
        self._job_changed()

    # ------------------------------------------------------------------------------------------------ pages
    def _rail_clicked(self, page: str) -> None:
        self.go(page)

    def go(self, page: str) -> None:
        """Show a page, made when it is first asked for."""
        if page not in self._pages:
            made = page_makers()[page](self.ctx)
            self._pages[page] = made
            self._stack.addWidget(made)
        self._stack.setCurrentWidget(self._pages[page])
        self._items[page].setChecked(True)
        self.ctx.settings.set(page=page)
        shown = getattr(self._pages[page], "shown", None)
        if shown is not None:
            shown()
        self._place_strip()

    def page(self, name: str) -> QWidget:
        """A page, made if need be."""
        if name not in self._pages:
            before = self._stack.currentWidget()
            self.go(name)
            if before is not None:
                self._stack.setCurrentWidget(before)
        return self._pages[name]

    def current_page(self) -> str:
        """The name of the page on screen."""
        return next((n for n, p in self._pages.items() if p is self._stack.currentWidget()), "")

    def _on_page(self, page: str, method: str) -> None:
        self.go(page)
        call = getattr(self._pages[page], method, None)
        if call is not None:
            call()

    def _start(self) -> None:
        """Add the job to the queue; on the Chat page, send."""
        if self.current_page() == "chat":
            self._on_page("chat", "send")
        else:
            self._on_page("compress", "start")

    def _place_strip(self) -> None:
        # The Run page shows the running job at length: the strip would say it twice.
        alone = len([i for i in self.ctx.jobs.items() if not i.is_ended]) <= 1
        hidden = self.current_page() in ("run", "settings") and alone
        self.strip.refresh()
        if hidden:
            self.strip.hide()

    def open_paths(self, paths: Sequence[str]) -> None:
        """Open folders given at start: deltas are offered to the library, checkpoints fill the pickers and their list."""
        checkpoints: list[Path] = []
        for text in paths:
            path = expanded(text).absolute()
            if path.name == "delta_config.json" and path.is_file():      # as a file manager opens a delta
                path = path.parent
            if not (path / "delta_config.json").is_file():
                checkpoints.append(path)
                continue
            self.go("deltas")
            if (take := getattr(self._pages["deltas"], "take", None)) is not None:
                take(path)
        if checkpoints:
            self.go("compress")
            if (take_all := getattr(self._pages["compress"], "take_all", None)) is not None:
                take_all(checkpoints)

    def open_demo(self, tiny: bool) -> None:
        """Fill the Compress page with the demo: the real pair, made in the background if need be, or the tiny one."""
        self._on_page("compress", "open_demo" if tiny else "open_real_demo")

    # ------------------------------------------------------------------------------------------------ looks
    def _dress(self) -> None:
        app, theme = QApplication.instance(), self.ctx.theme
        assert isinstance(app, QApplication)
        app.setFont(theme.font())
        app.setPalette(theme.palette())
        app.setStyleSheet(style_sheet(theme, self.ctx.icons.files()))

    def restyle(self) -> None:
        """Palette, style sheet and sizes of the theme in force."""
        self._dress()
        self._fit_rail()

    def _fit_rail(self) -> None:
        theme = self.ctx.theme
        self._rail.setFixedWidth(theme.px(168))
        self._mark.setPixmap(self.ctx.icons.pixmap("deltadeck", "accent", 22))
        for item in self._items.values():
            item.draw()

    def _setting_changed(self, name: str) -> None:
        options = self.ctx.settings.options
        if name in ("theme", "zoom"):
            self.ctx.theme.use(options.theme, options.zoom)
            if name == "zoom":
                self.notify(f"Text size {options.zoom * 100:.0f} %", "faded")
        if name == "offline":
            self._obey_offline()

    def _obey_offline(self) -> None:
        """The engine and the libraries below it ask this variable."""
        if self.ctx.settings.options.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        else:
            os.environ.pop("HF_HUB_OFFLINE", None)

    def _switch_theme(self) -> None:
        wanted: Choice = "light" if self.ctx.theme.dark else "dark"
        self.ctx.settings.set(theme=wanted)

    # ------------------------------------------------------------------------------------------------- jobs
    def _job_changed(self, *_: object) -> None:
        current = self.ctx.jobs.current()
        self._items["run"].set_count(f"{current.fraction * 100:.0f} %" if current else "")
        actions = self.ctx.actions
        paused = next((i for i in self.ctx.jobs.items() if i.can_resume), None)
        actions.enable(Act.PAUSE, current is not None or paused is not None, "no job is running or paused")
        actions.enable(Act.CANCEL, current is not None, "no job is running")
        if not (_ and isinstance(_[0], QueueItem) and not _[0].is_ended):
            self._place_strip()

    def _job_finished(self, item: QueueItem) -> None:
        if not self._is_on_screen(item):
            self.notify(f"{item.name} is ready", "success")
        self.ctx.library.refresh()

    def _job_failed(self, item: QueueItem) -> None:
        if not self._is_on_screen(item):
            self.notify(f"{item.name} failed: {item.error.what if item.error else ''}", "danger")

    def _is_on_screen(self, item: QueueItem) -> bool:
        """Whether the Run page shows a job: it says itself how it ended."""
        shown = getattr(self._pages["run"], "item", None) if self.current_page() == "run" else None
        return isinstance(shown, QueueItem) and shown.id == item.id

    def _pause_or_resume(self) -> None:
        jobs = self.ctx.jobs
        shown = getattr(self._pages["run"], "item", None) if self.current_page() == "run" else None
        if isinstance(shown, QueueItem) and shown.can_resume:  # what is on screen comes before what runs
            jobs.resume(shown.id)
        elif (current := jobs.current()) is not None:
            jobs.pause(current.id)
        elif (paused := next((i for i in jobs.items() if i.can_resume), None)) is not None:
            jobs.resume(paused.id)

    def _cancel_current(self) -> None:
        current = self.ctx.jobs.current()
        if current is not None and self.confirm_cancel(current):
            self.ctx.jobs.cancel(current.id)

    def confirm_cancel(self, item: QueueItem) -> bool:
        """Ask once; finished layers are kept."""
        return ask(self, "Cancel the job", f"Cancel {item.name}?", "It stops after the step that is under way. Finished layers "
                   "are kept: Retry goes on from there.", "Cancel the job", "Keep it running")

    def _offer_queue(self) -> None:
        """Jobs that waited when the program was closed wait until they are wanted."""
        if waiting := held_jobs(self.ctx.jobs):
            self.toast.say(f"{count(waiting, 'job')} from last time {'is' if waiting == 1 else 'are'} waiting", "faded", "Start",
                           partial(self.ctx.jobs.hold, False), 30)

    def _open_queue(self) -> None:
        self.panel.popup(self.strip.mapToGlobal(QPoint(self.strip.width() - 8, -4)))

    def _show_job(self, id: str) -> None:
        self.go("run")
        show = getattr(self._pages["run"], "show_job", None)
        if show is not None:
            show(id)

    def _count_deltas(self) -> None:
        number = len(self.ctx.library.entries())
        self._items["deltas"].set_count(str(number) if number else "")

    # ----------------------------------------------------------------------------------------------- telling
    def notify(self, text: str, tone: str = "faded") -> None:
        """Say something for some seconds."""
        self.toast.say(text, tone)

    def show_error(self, failure: object) -> None:
        """A dialog with a failure and its details."""
        if isinstance(failure, Failure):
            dialog = ErrorDialog(self.ctx.icons, failure, parent=self)
            dialog.finished.connect(dialog.deleteLater)
            dialog.open()

    def show_shortcuts(self) -> None:
        """A table of all keys."""
        from app.pages.settings import ShortcutsDialog
        dialog = ShortcutsDialog(self.ctx, self)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    # ----------------------------------------------------------------------------------------------- place
    def _restore_place(self) -> None:
        try:
            kept = base64.b64decode(self.ctx.settings.options.geometry)
        except ValueError:                             # damaged, or changed by hand
            kept = b""
        if not (kept and self.restoreGeometry(QByteArray(kept))):
            screen = QGuiApplication.primaryScreen().availableGeometry()
            size = QSize(min(1440, screen.width()), min(900, screen.height()))
            self.resize(size)
            self.move(screen.center() - QPoint(size.width() // 2, size.height() // 2))

    def showEvent(self, event: QShowEvent) -> None:
        """Load the engine once the window is on screen."""
        super().showEvent(event)
        QTimer.singleShot(350, self, self.ctx.engine.load)  # first paint, then what stalls the interpreter

    def closeEvent(self, event: QCloseEvent) -> None:
        """Ask once while a job runs; keep what is done; end all threads."""
        if self._quitting:
            event.accept()
            return
        current = self.ctx.jobs.current()
        if current is not None and not self._may_close(current):
            event.ignore()
            return
        geometry = base64.b64encode(self.saveGeometry().data()).decode()
        self.ctx.settings.set(geometry=geometry)
        if current is not None:
            self.setEnabled(False)
            self.notify("Stopping after this step...", "faded")
        else:
            self.hide()                                # what still loads in the background may take a moment to end
        self._quitting = True
        self.ctx.chat.close()
        for page in self._pages.values():
            if (close_down := getattr(page, "close_down", None)) is not None:
                close_down()
        self.ctx.jobs.shutdown()
        self.ctx.tasks.shutdown()
        self.ctx.library.close()
        event.accept()

    def _may_close(self, item: QueueItem) -> bool:
        if item.state not in (State.RUNNING, State.PAUSING):
            return True
        return ask(self, "A job is running", f"{item.name} is at {item.fraction * 100:.0f} %.", "Close Deltadeck? Finished "
                   "layers are kept, and the job can be resumed next time.", "Stop and close", "Keep it running")

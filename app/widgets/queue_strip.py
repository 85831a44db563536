"""The strip above the status bar: what runs, what waits; and the whole queue as a list that can be put in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from PySide6.QtCore import QModelIndex, QPoint, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QListView,
    QMenu,
    QProgressBar,
    QPushButton,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from app.icons import Icons
from app.jobs.manager import JobManager
from app.jobs.queue import ENDED, QueueItem, State
from app.models.queue import OVER, OpenJobs, QueueModel
from app.widgets.basics import ElidedLabel, IconLabel, boxed, button, clear_layout, column, label, row, tool_button, upright
from app.words import about, count
from core.errors import DeltadeckError

LOOKS: dict[State, tuple[str, str, str]] = {
    State.WAITING: ("clock", "text-faded", "waiting"), State.RUNNING: ("run", "accent", "running"),
    State.PAUSING: ("pause", "text-faded", "pausing after this step"), State.PAUSED: ("pause", "text-faded", "paused"),
    State.CANCELLING: ("close", "text-faded", "stopping after this step"),
    State.INTERRUPTED: ("warning", "warning", "interrupted"), State.FAILED: ("error", "danger", "failed"),
    State.CANCELLED: ("close", "text-faded", "cancelled"), State.DONE: ("done", "success", "done")}
"""Icon, its role, and the word for each state."""


def state_words(item: QueueItem) -> str:
    """A job's state as a person says it: "48 %, 16 min left", "paused at block 12 of 32"."""
    word = LOOKS[item.state][2]
    if item.state is State.RUNNING:
        left = f", {about(item.seconds_left)} left" if item.seconds_left is not None else ""
        return f"{item.fraction:.0%}".replace("%", " %") + left
    if item.state in (State.PAUSED, State.INTERRUPTED, State.CANCELLED) and item.blocks:
        return f"{word} at block {item.blocks_done} of {item.blocks}"
    if item.state is State.WAITING and item.estimate:
        return f"{word}, {about(item.estimate)}"
    return word


class _JobCell(QWidget):
    """One job in the strip; a click, Enter or Space picks it."""

    picked = Signal()

    def __init__(self, icons: Icons) -> None:
        super().__init__()
        self._theme = icons.theme
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.setToolTip("Show this job on the Run page")
        self._icon = IconLabel(icons, "clock", size=18)
        self._name, self._base = ElidedLabel(), ElidedLabel()
        self._name.setProperty("weight", "600")
        self._base.setProperty("tone", "faded")
        self._bar = QProgressBar()
        self._bar.setProperty("look", "thin")
        self._bar.setTextVisible(False)
        self._bar.setMaximum(1000)
        self._bar.setFixedWidth(icons.theme.px(110))
        self._words = label(size="small", tone="faded")
        names = row(self._name, self._base, None, gap=8)
        lines = column(names, row(self._bar, self._words, None, gap=10), gap=3)
        self.setLayout(row(self._icon, lines, gap=10, margins=(6, 2, 6, 2)))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click."""
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.picked.emit()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Taken, so that the release comes here, too."""
        event.accept()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter and Space are a click."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.picked.emit()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """A tint under the mouse, an edge with the keyboard's focus."""
        if self.underMouse() or self.hasFocus():
            painter = QPainter(self)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setBrush(self._theme.mixed("text-faded", 0.08) if self.underMouse() else Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(self._theme.color("accent"), 2) if self.hasFocus() else Qt.PenStyle.NoPen)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)
            painter.end()

    def show_item(self, item: QueueItem) -> None:
        icon, role, _ = LOOKS[item.state]
        self._icon.set_icon(icon, role)
        self._name.setText(item.name)
        self._base.setText(item.base_name)
        running = item.state is State.RUNNING
        self._bar.setVisible(running)
        self._bar.setValue(round(item.fraction * 1000))
        self._bar.setAccessibleName(f"Progress of {item.name}")
        self._words.setText(state_words(item))
        self.setAccessibleName(f"{item.name}, {state_words(item)}")


class QueueStrip(QFrame):
    """The jobs that are not over, in one line. `opened` asks for the whole queue, `picked` for a job's page by its id."""

    opened = Signal()
    picked = Signal(str)

    def __init__(self, icons: Icons, jobs: JobManager, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "queue")
        self.setAccessibleName("Job queue")
        self._icons, self._jobs = icons, jobs
        self._cells: dict[str, _JobCell] = {}
        self._shown = 3
        self._counts = label(size="small", tone="faded")
        self._line = row(gap=18)
        self.start = start_button(icons, jobs)
        show_all = button("Show all", "ghost", clicked=self.opened.emit, name="Show the whole queue")
        self.setLayout(row(column(label("Queue", weight=600), self._counts, gap=3), self._line, None, self.start,
                           show_all, gap=18, margins=(24, 8, 16, 8)))
        self.setFixedHeight(icons.theme.px(64))
        jobs.queue_changed.connect(self.refresh)
        jobs.item_changed.connect(self._changed)
        self.refresh()

    def refresh(self) -> None:
        """Build the line anew."""
        items = [i for i in self._jobs.items() if i.state not in ENDED or i.state is State.FAILED]
        self.setVisible(bool(items))
        self.start.setVisible(bool(held_jobs(self._jobs)))
        words: list[str] = []
        for states, word in (((State.RUNNING, State.PAUSING, State.CANCELLING), "running"), ((State.WAITING,), "waiting"),
                             ((State.PAUSED, State.INTERRUPTED), "paused"), ((State.FAILED,), "failed")):
            if number := sum(i.state in states for i in items):
                words.append(f"{number} {word}")
        self._counts.setText(", ".join(words))
        focused = next((id for id, cell in self._cells.items() if cell.hasFocus()), "")
        clear_layout(self._line)
        self._cells = {}
        self._shown = self._room()
        for item in items[:self._shown]:
            cell = _JobCell(self._icons)
            cell.show_item(item)
            cell.picked.connect(partial(self.picked.emit, item.id))
            self._cells[item.id] = cell
            self._line.addWidget(upright())
            self._line.addWidget(cell)
            if item.id == focused:
                cell.setFocus()
        if len(items) > self._shown:
            self._line.addWidget(label(f"and {len(items) - self._shown} more", tone="faded"))

    def _room(self) -> int:
        """How many jobs have room beside the buttons, with their words whole."""
        px, taken = self._icons.theme.px, 330 if self.start.isHidden() else 495
        return max(1, min(3, (self.width() - px(taken)) // px(205)))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrow strip names fewer jobs."""
        super().resizeEvent(event)
        if self._room() != self._shown:
            self.refresh()

    def _changed(self, item: QueueItem) -> None:
        if item.id in self._cells:
            self._cells[item.id].show_item(item)


def held_jobs(jobs: JobManager) -> int:
    """How many jobs wait only because nobody has said that they may start."""
    return sum(item.state is State.WAITING for item in jobs.items()) if jobs.is_held else 0


def held_words(number: int) -> str:
    """Why jobs wait though nothing is before them."""
    return f"{count(number, 'job')} from last time {'waits' if number == 1 else 'wait'} until you start the queue."


def start_button(icons: Icons, jobs: JobManager) -> QPushButton:
    """Lets jobs go that are held; to be shown only while there are such."""
    return button("Start the queue", icons=icons, icon="play", dense=True, clicked=lambda: jobs.hold(False),
                  tip="Start the jobs that wait from last time")


@dataclass(frozen=True)
class _Offer:
    """Something that can be done with a job."""

    text: str
    icon: str
    call: Callable[[], object]


class _RowDelegate(QStyledItemDelegate):
    """A job as two lines with its state's icon."""

    def __init__(self, icons: Icons, parent: QWidget) -> None:
        super().__init__(parent)
        self._icons = icons

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:  # type: ignore[override]
        return QSize(200, self._icons.theme.px(48))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:  # type: ignore[override]
        item = index.data(Qt.ItemDataRole.UserRole)
        if not isinstance(item, QueueItem):
            super().paint(painter, option, index)
            return
        t = self._icons.theme
        painter.save()
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(option.rect, t.mixed("accent", 0.11))
        rect = option.rect.adjusted(t.px(10), t.px(6), -t.px(10), -t.px(6))
        icon, role, _ = LOOKS[item.state]
        pixmap = self._icons.pixmap(icon, role, 18)
        painter.drawPixmap(rect.left(), rect.center().y() - t.px(9), pixmap)
        text = rect.adjusted(t.px(28), 0, 0, 0)
        painter.setFont(t.font("text", 600))
        painter.setPen(t.color("text"))
        painter.drawText(text, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft, item.name)
        painter.setFont(t.font("small"))
        painter.setPen(t.color("text-faded"))
        painter.drawText(text, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignRight, item.base_name)
        painter.drawText(text, Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignLeft, state_words(item))
        painter.restore()


class QueuePanel(QFrame):
    """The whole queue: order by dragging or with the arrow buttons, pause, resume, retry, cancel, remove."""

    picked = Signal(str)

    def __init__(self, icons: Icons, jobs: JobManager, confirm: Callable[[QueueItem], bool],
                 parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setProperty("look", "float")
        self._icons, self._jobs, self._confirm = icons, jobs, confirm
        self.model = OpenJobs(QueueModel(jobs, self), self)
        self.view = QListView()
        self.view.setAccessibleName("Jobs, in the order in which they run")
        self.view.setModel(self.model)
        self.view.setItemDelegate(_RowDelegate(icons, self.view))
        self.view.setDragDropMode(QAbstractItemView.DragDropMode.InternalMove)
        self.view.setDefaultDropAction(Qt.DropAction.MoveAction)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.customContextMenuRequested.connect(self._menu)
        self.view.doubleClicked.connect(self._open)
        self.view.activated.connect(self._open)
        self.view.selectionModel().currentChanged.connect(self._update)
        self._up = tool_button(icons, "up", "Earlier", clicked=lambda: self._shift(-1))
        self._down = tool_button(icons, "down", "Later", clicked=lambda: self._shift(1))
        self._act = button("Pause", dense=True, clicked=self._first_offer)
        self._more = tool_button(icons, "more", "More for this job", clicked=lambda: self._menu(None))
        self._ended = button("", "ghost", clicked=lambda: self._show_ended(not self.model.has_ended))
        clear = button("Remove finished", "ghost", clicked=self._clear)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.setSpacing(8)
        layout.addLayout(row(label("Queue", weight=600), label("runs from the top", tone="faded"), None, self._ended, clear))
        self._held = label("", size="small", wrap=True)
        self.start = start_button(icons, jobs)
        line = row(self._held, self.start, gap=10)
        line.setStretch(0, 1)
        self._waits = boxed(line)
        layout.addWidget(self._waits)
        layout.addWidget(self.view)
        layout.addLayout(row(self._up, self._down, None, self._act, self._more))
        self.resize(icons.theme.px(460), icons.theme.px(380))
        jobs.item_changed.connect(self._update)
        jobs.queue_changed.connect(self._update)
        self._update()

    def popup(self, corner: QPoint) -> None:
        """Show it with its lower right corner at `corner` (global)."""
        self.move(corner - QPoint(self.width(), self.height()))
        self._show_ended(all(i.is_ended for i in self._jobs.items()))
        self.show()
        self.view.setFocus()
        self.view.setCurrentIndex(self.model.index(self.model.first_open(), 0))

    def _show_ended(self, on: bool) -> None:
        self.model.show_ended(on)
        self._update()

    def _item(self) -> QueueItem | None:
        found = self.view.currentIndex().data(Qt.ItemDataRole.UserRole)
        return found if isinstance(found, QueueItem) else None

    def _offers(self, item: QueueItem) -> list[_Offer]:
        jobs, found = self._jobs, []
        if item.state in (State.RUNNING, State.WAITING):
            found.append(_Offer("Pause", "pause", lambda: jobs.pause(item.id)))
        if item.state in (State.PAUSED, State.INTERRUPTED):
            found.append(_Offer("Resume", "play", lambda: jobs.resume(item.id)))
        if item.state in (State.FAILED, State.CANCELLED):
            found.append(_Offer("Retry", "reload", lambda: jobs.retry(item.id)))
        if item.state not in ENDED and item.state is not State.CANCELLING:
            found.append(_Offer("Cancel...", "close", lambda: self._cancel(item)))
        if item.state in ENDED:
            found.append(_Offer("Remove from the list", "trash", lambda: jobs.remove(item.id)))
        return found

    def _cancel(self, item: QueueItem) -> None:
        if self._confirm(item):
            self._jobs.cancel(item.id)

    def _update(self, *_: object) -> None:
        item = self._item()
        offers = self._offers(item) if item else []
        held = held_jobs(self._jobs)
        self._waits.setVisible(bool(held))
        self._held.setText(held_words(held))
        over = sum(i.state in OVER for i in self._jobs.items())
        self._ended.setText("Hide finished" if self.model.has_ended else f"Show {over:,} finished")
        self._ended.setVisible(bool(over))
        self._act.setText(offers[0].text if offers else "Pause")
        self._act.setAccessibleName(self._act.text())
        self._act.setEnabled(bool(offers))
        self._act.setToolTip("" if offers else "Choose a job first.")
        self._more.setEnabled(bool(offers))
        movable = item is not None and item.state is State.WAITING
        for made in (self._up, self._down):
            made.setEnabled(movable)
            made.setToolTip(made.accessibleName() if movable else "Only jobs that wait can be moved.")

    def _do(self, offer: _Offer) -> None:
        try:
            offer.call()
        except DeltadeckError as e:                    # a menu may stand open while the queue goes on
            self._jobs.message.emit(str(e))

    def _first_offer(self) -> None:
        if (item := self._item()) and (offers := self._offers(item)):
            self._do(offers[0])

    def _menu(self, at: QPoint | None) -> None:
        item = self._item()
        if item is None:
            return
        menu = QMenu(self)
        menu.addAction(self._icons.icon("run"), "Show on the Run page", lambda: self.picked.emit(item.id))
        for offer in self._offers(item):
            menu.addAction(self._icons.icon(offer.icon), offer.text, partial(self._do, offer))
        where = self.view.viewport().mapToGlobal(at) if at is not None else self._more.mapToGlobal(QPoint(0, 0))
        menu.exec(where)
        menu.deleteLater()

    def _open(self, index: QModelIndex) -> None:
        item = index.data(Qt.ItemDataRole.UserRole)
        if isinstance(item, QueueItem):
            self.picked.emit(item.id)
            self.hide()

    def _shift(self, step: int) -> None:
        if (item := self._item()) is None:
            return
        next_to = self.model.index(self.view.currentIndex().row() + step, 0).data(Qt.ItemDataRole.UserRole)
        if isinstance(next_to, QueueItem):             # jobs between the two may be hidden
            self._jobs.move(item.id, [i.id for i in self._jobs.items()].index(next_to.id))

    def _clear(self) -> None:
        for item in self._jobs.items():
            if item.state in ENDED:
                self._jobs.remove(item.id)


def waiting_words(jobs: JobManager) -> str:
    """What a new job would wait for: "Starts at once", "Starts after two jobs, in about 24 min"."""
    ahead = [i for i in jobs.items() if i.state in (State.RUNNING, State.PAUSING, State.CANCELLING, State.WAITING)]
    if not ahead:
        return "Starts at once"
    seconds = jobs.seconds_ahead()
    return f"Starts after {count(len(ahead), 'job')}" + (f", in about {about(seconds)}" if seconds else "")

"""What stands over the charts when a job is not simply running: it waits, has stopped, has failed, or is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QPushButton, QVBoxLayout, QWidget

from app.icons import Icons
from app.jobs.queue import Failure as JobFailure
from app.jobs.queue import QueueItem, State
from app.library.entry import DeltaEntry
from app.pages.run.outside import Place
from app.tasks import Failure
from app.widgets.basics import Tone, button, clear_layout
from app.widgets.charts.plot_ticks import loss_text
from app.widgets.states import DoneCard, ErrorCard, WarningStrip
from app.words import about, count, duration, size

_TITLES = {"NoSpace": "The disk is full", "OutputExists": "The output is there already"}


def error_title(item: QueueItem) -> str:
    """The error card's headline."""
    kind = item.error.kind if item.error is not None else ""
    return _TITLES.get(kind, f"{item.name} has failed")


def failure_of(found: JobFailure | None) -> Failure:
    """A job's failure as an error card takes it."""
    if found is None:
        return Failure("The job ended without saying why.", "", "Try again. Finished layers are kept.", "")
    return Failure(found.what, found.why, found.remedy or "Try again. Finished layers are kept.", found.details)


def done_text(item: QueueItem, entry: DeltaEntry | None) -> str:
    """`13.9 MB, 19.3 times smaller. KL 0.0041, base alone 0.339.`; less where less is known."""
    nbytes = entry.bytes if entry is not None and entry.bytes else item.weights_bytes
    text = size(nbytes) if nbytes else "The delta is written"
    if entry is None:
        return f"{text}."
    if entry.ratio > 0:
        text += f", {entry.ratio:.1f} times smaller"
    if entry.kl is None:
        return f"{text}."
    base = f", base alone {loss_text(entry.base_kl)}" if entry.base_kl is not None else ""
    return f"{text}. KL {loss_text(entry.kl)}{base}."


def waiting_text(ahead: float | None, held: bool) -> tuple[str, str]:
    """Title and explanation of a waiting job."""
    if held:
        return "Waiting", "It is from last time, and such jobs do not start by themselves."
    if ahead is None:
        return "Waiting", "It starts after the jobs before it."
    return "Waiting", f"It starts in about {about(ahead)}, after the jobs before it." if ahead > 0 else "It starts next."


class Banner(QWidget):
    """Holds one card or strip, or nothing. The callbacks are told the item's id."""

    def __init__(self, icons: Icons, resume: Callable[[str], None], retry: Callable[[str], None], start: Callable[[str], None],
                 show_delta: Callable[[str], None], chat: Callable[[str], None], add: Callable[[str], None],
                 open_folder: Callable[[str], None]) -> None:
        super().__init__()
        self._icons = icons
        self._calls = {"resume": resume, "retry": retry, "start": start, "show": show_delta, "chat": chat,
                       "add": add, "folder": open_folder}
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._key: tuple[object, ...] = ()
        self.hide()

    def hasHeightForWidth(self) -> bool:
        """No: a page that scrolls would take the preferred height of its charts, too. The height is set in `_fit`."""
        return False

    def event(self, event: QEvent) -> bool:
        """Details were opened, or the words wrap elsewhere: another height."""
        found = super().event(event)
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            self._fit()
        return found

    def _fit(self) -> None:
        if self._layout.count():
            layout = self._layout
            self.setFixedHeight(layout.totalHeightForWidth(self.width()) if layout.hasHeightForWidth() else
                                layout.totalSizeHint().height())

    def show_job(self, item: QueueItem | None, place: Place, ahead: float | None, held: bool) -> None:
        """Show what fits a job's state."""
        wait = waiting_text(ahead, held) if item is not None and item.state == State.WAITING else ()
        key = (item.id, item.state, item.error, place, wait, item.weights_bytes, item.blocks_done) if item is not None else ()
        if item is not None and item.state == State.RUNNING:
            key = ()
        if key == self._key:
            return
        self._key = key
        clear_layout(self._layout)
        made = self._made(item, place, ahead, held) if item is not None and key else None
        if made is not None:
            self._layout.addWidget(made)
            self._fit()
        self.setVisible(made is not None)

    def _button(self, text: str, call: str, item: QueueItem, icon: str, *, primary: bool = False) -> QPushButton:
        run = self._calls[call]
        return button(text, "primary" if primary else "", icons=self._icons, icon=icon, dense=not primary,
                      clicked=lambda: run(item.id))

    def _strip(self, tone: Tone, title: str, text: str, *buttons: QPushButton) -> WarningStrip:
        made = WarningStrip(self._icons, tone)
        made.show_words(tone, title, text, buttons)
        return made

    def _done(self, item: QueueItem, place: Place) -> DoneCard:
        chat = self._button("Open in Chat", "chat", item, "chat")
        if place.listed is not None:
            buttons = [self._button("Show delta", "show", item, "deltas", primary=True), chat]
        else:
            add = self._button("Add to library", "add", item, "import", primary=True)
            buttons = [add, self._button("Open folder", "folder", item, "folder"), chat]
        is_there = Path(item.folder).is_dir() if item.folder else False
        for made in buttons:
            made.setEnabled(is_there)
            made.setToolTip("" if is_there else f"The folder '{item.folder}' is not there any more")
        if is_there:
            chat.setToolTip("Load its base and talk to it")
        if is_there and place.listed is None:
            buttons[0].setEnabled(not place.adding)
            buttons[0].setToolTip(place.adding or f"It was saved in '{Path(item.folder).parent}': copy it into the library")
        title = f"{item.name} is ready" + ("" if place.listed is not None else ", outside the library")
        return DoneCard(self._icons, title, done_text(item, place.entry), buttons, duration(item.seconds))

    def _made(self, item: QueueItem, place: Place, ahead: float | None, held: bool) -> QWidget | None:
        at = f" at block {item.blocks_done} of {item.blocks}" if item.blocks else \
            f" after {count(item.blocks_done, 'finished block')}" if item.blocks_done else ""
        kept = "Finished layers are kept."
        if item.state == State.DONE:
            return self._done(item, place)
        if item.state == State.FAILED:
            return ErrorCard(self._icons, failure_of(item.error), [self._button("Retry", "retry", item, "reload", primary=True)],
                             title=error_title(item))
        if item.state == State.PAUSED:
            return self._strip("warning", f"Paused{at}", kept, self._button("Resume", "resume", item, "play"))
        if item.state == State.INTERRUPTED:
            return self._strip("warning", f"Interrupted{at}", f"The program was closed while it ran. {kept}",
                               self._button("Resume", "resume", item, "play"))
        if item.state == State.CANCELLED:
            return self._strip("faded", f"Cancelled{at}", f"{kept} Retry goes on from there.",
                               self._button("Retry", "retry", item, "reload"))
        if item.state == State.WAITING:
            buttons = [self._button("Start the queue", "start", item, "play")] if held else []
            return self._strip("faded", *waiting_text(ahead, held), *buttons)
        if item.state == State.PAUSING:
            return self._strip("faded", "Pausing", f"It stops after the step that is under way. {kept}")
        if item.state == State.CANCELLING:
            return self._strip("faded", "Stopping", f"It stops after the step that is under way. {kept}")
        return None

"""The card in which a checkpoint is picked: by a list, a dialog, a dropped folder or a pasted name; then what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from PySide6.QtCore import QMimeData, QPoint, Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent
from PySide6.QtWidgets import QFileDialog, QWidget

from app.checkpoints import PLACES, CheckpointFacts, cleaned, folder_of, is_hub_id, name_of, read_facts, shown_place, source_of
from app.context import Context
from app.tasks import Failure, Task
from app.widgets.basics import Card, IconLabel, label, set_look
from app.widgets.picker_choose import ChoosePopup, Shelf
from app.widgets.picker_states import EmptyPick, FactsView, FailedPick, LoadingPick

Role = Literal["base", "fine-tune"]
State = Literal["empty", "loading", "facts", "failed"]
TITLES: dict[Role, str] = {"base": "Base", "fine-tune": "Fine-tune"}


def dropped_folders(data: QMimeData) -> tuple[Path, ...]:
    """The folders that a drag brings, each once: local ones, and those of local files."""
    paths = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
    return tuple(dict.fromkeys(folder_of(p) for p in paths if os.path.exists(p)))      # False for a name that no disk can hold


def dropped_folder(data: QMimeData) -> Path | None:
    """The first folder that a drag brings; None for anything else."""
    return next(iter(dropped_folders(data)), None)


class CheckpointPicker(Card):
    """Picks one checkpoint. `changed` comes when its facts are there or gone; `picked` when a source was given; `several` with
    a tuple of folders when more than one was dropped on a fine-tune's card."""

    changed = Signal()
    picked = Signal(str)
    several = Signal(object)

    def __init__(self, ctx: Context, shelf: Shelf, role: Role, parent: QWidget | None = None) -> None:
        super().__init__(gap=4, margins=(16, 10, 16, 12), parent=parent)
        self._ctx, self.role = ctx, role
        self.state: State = "empty"
        self.source = ""
        self.facts: CheckpointFacts | None = None
        self.failure: Failure | None = None
        self._task: Task | None = None
        title = TITLES[role]
        self.setAccessibleName(title)
        self._place_icon = IconLabel(ctx.icons, "folder", size=16)
        self._place = label("", size="small", tone="faded")
        self.head.insertWidget(0, label(title, size="small", tone="faded"))
        self.head.addStretch(1)
        self.head.addWidget(self._place_icon)
        self.head.addWidget(self._place)
        self.body.addLayout(self.head)
        self._popup = ChoosePopup(ctx, shelf, f"Choose the {role}", self)
        self._popup.chosen.connect(self.choose)
        self._popup.browse_asked.connect(self.browse)
        self._popup.clear_asked.connect(self.clear)
        ctx.engine.ready.connect(self._engine_ready)
        ctx.engine.failed.connect(self._engine_failed)
        self.setAcceptDrops(True)
        self._content: QWidget | None = None
        self._show_state("empty")

    # ------------------------------------------------------------------------------------------- what can be done
    def choose(self, text: str) -> None:
        """Take a folder or hub id and read what it is."""
        text = cleaned(text)
        if not text:
            return
        self._stop()
        self.source, self.facts, self.failure = source_of(text), None, None
        self._show_state("loading")
        self.changed.emit()
        self.picked.emit(self.source)
        if self._ctx.engine.is_ready:
            self._read()
        else:
            self._ctx.engine.load()

    def set_facts(self, facts: CheckpointFacts | None) -> None:
        """Take a checkpoint whose facts are known already, or none."""
        self._stop()
        self.facts, self.failure = facts, None
        self.source = facts.source if facts else ""
        self._show_state("facts" if facts else "empty")
        self.changed.emit()

    def clear(self) -> None:
        """Go back to nothing chosen."""
        self.set_facts(None)

    def again(self) -> None:
        """Read the same source anew."""
        if self.source:
            self.choose(self.source)

    def open_chooser(self) -> None:
        """Show the list of checkpoints at hand."""
        place = self.mapToGlobal(QPoint(0, self._ctx.theme.px(70)))
        self._popup.open_at(place, self.width(), can_clear=self.state != "empty")

    def browse(self) -> None:
        """Let a folder be chosen in the system's dialog."""
        start = str(Path(self.source).parent) if self.source and Path(self.source).is_dir() else str(Path.home())
        found = QFileDialog.getExistingDirectory(self, f"Choose the {self.role}'s folder", start)
        if found:
            self.choose(found)

    # --------------------------------------------------------------------------------------------------- reading
    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _engine_ready(self) -> None:
        if self.state == "loading" and self._task is None:
            self._show_state("loading")
            self._read()

    def _engine_failed(self, failure: Failure) -> None:
        if self.state == "loading":
            self._failed(failure)

    def _read(self) -> None:
        source, offline = self.source, self._ctx.settings.options.offline
        self._task = self._ctx.tasks.run(self, lambda task: read_facts(source, offline=offline), self._read_done, self._failed)

    def _read_done(self, facts: CheckpointFacts) -> None:
        self._task = None
        self.facts = facts
        self._show_state("facts")
        self.changed.emit()

    def _failed(self, failure: Failure) -> None:
        self._task = None
        self.failure = failure
        self._show_state("failed")
        self.changed.emit()

    # --------------------------------------------------------------------------------------------------- showing
    def _show_state(self, state: State) -> None:
        self.state = state
        ctx = self._ctx
        had_focus = self._content is not None and self._content.isAncestorOf(self.focusWidget() or self)
        content: QWidget
        if state == "facts" and self.facts is not None:
            content = FactsView(ctx, self.facts, shown_place(self.facts), self.open_chooser)
        elif state == "loading":
            content = LoadingPick(ctx, name_of(self.source), self._loading_words(), self.clear)
        elif state == "failed" and self.failure is not None:
            content = FailedPick(ctx, name_of(self.source), self.failure, self.open_chooser, self.again)
        else:
            content = EmptyPick(ctx, TITLES[self.role], self.choose, self.open_chooser, self.browse)
        place = PLACES[self.facts.place] if self.facts else None
        self._place_icon.setVisible(place is not None)
        self._place.setVisible(place is not None)
        if place is not None:
            self._place_icon.set_icon(place[0])
            self._place.setText(place[1])
        if self._content is not None:
            self._content.hide()
            self.body.removeWidget(self._content)
            self._content.deleteLater()
        self._content = content
        self.body.addWidget(content, 1)
        if had_focus:
            content.setFocus()

    def _loading_words(self) -> str:
        if not self._ctx.engine.is_ready:
            return "Starting the engine..."
        if is_hub_id(self.source) and not Path(self.source).exists():
            return "Looking in the hub cache, else downloading..."
        return "Reading its headers and tokenizer..."

    # -------------------------------------------------------------------------------------------------- dropping
    def highlight(self, on: bool) -> None:
        """Mark the card as where a drop goes."""
        set_look(self, dropping="true" if on else "")

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """A folder may be dropped here."""
        if dropped_folder(event.mimeData()) is not None:
            self.highlight(True)
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        """It went on."""
        self.highlight(False)

    def dropEvent(self, event: QDropEvent) -> None:
        """Take the folder."""
        self.highlight(False)
        if folders := dropped_folders(event.mimeData()):
            event.acceptProposedAction()
            if len(folders) > 1 and self.role == "fine-tune":
                self.several.emit(folders)
            else:
                self.choose(str(folders[0]))

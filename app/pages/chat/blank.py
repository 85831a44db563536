"""The Chat page without a loaded base: choose one, watch it load, or see why it could not be."""

from __future__ import annotations

import time
from collections.abc import Sequence

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QProgressBar, QPushButton, QSizePolicy, QStackedWidget, QWidget

from app.chat.session import ChatSession
from app.context import Context
from app.pages.chat.bases import BaseChoice
from app.tasks import Failure
from app.widgets.basics import Card, boxed, button, clear_layout, column, hairline, label, row, scrolled
from app.widgets.states import CardsPicture, ErrorCard, Skeleton
from app.words import about, size

_MOST = 6


class BaseList(Card):
    """Bases in rows, each with its button."""

    chosen = Signal(object)
    """A BaseChoice."""

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__("Load a base", "kept in memory once; its variants are switched onto it in milliseconds", parent=parent)
        self._ctx = ctx
        self._rows = column(gap=0)
        self._waiting = Skeleton(ctx.theme, 3)
        self.more = button("Choose a folder...", "ghost", dense=True, icons=ctx.icons, icon="folder")
        self.at_right(self.more)
        self.add(self._waiting, self._rows)
        self.buttons: list[QPushButton] = []

    def show_bases(self, bases: Sequence[BaseChoice]) -> None:
        """Show these; the first has the primary button."""
        self._waiting.hide()
        clear_layout(self._rows)
        self.buttons = []
        for number, base in enumerate(bases[:_MOST]):
            if number:
                self._rows.addWidget(hairline())
            load = button("Load", "primary" if not number else "", dense=True, name=f"Load {base.name}")
            load.clicked.connect(lambda *_, base=base: self.chosen.emit(base))
            self.buttons.append(load)
            note = label(base.note, size="small", tone="faded", elide=True)
            words = column(label(base.name, weight=600, elide=True), note, gap=1)
            line = row(words, label(size(base.bytes) if base.bytes else "", tone="faded"), load, gap=16, margins=(0, 6, 0, 6))
            line.setStretch(0, 1)
            self._rows.addWidget(boxed(line))
        if not bases:
            self._rows.addWidget(label("No checkpoint was found on this machine. Choose a folder, or open the demo on the "
                                       "Compress page.", tone="faded", wrap=True))


class LoadingView(QWidget):
    """What is read, how far, for how long."""

    def __init__(self, ctx: Context, session: ChatSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._title, self._step = label(size="big", weight=600), label(tone="faded")
        self._time = label(size="small", tone="faded")
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setAccessibleName("Progress of loading")
        self.cancel = button("Cancel", dense=True, clicked=session.cancel_load)
        card = Card()
        card.add(self._title, self._step, self._bar, row(self._time, None, self.cancel))
        card.setFixedWidth(ctx.theme.px(480))
        self._card = card
        ctx.theme.changed.connect(lambda: card.setFixedWidth(ctx.theme.px(480)))
        self.setLayout(column(None, row(None, card, None), None, None, gap=0))
        self._began = 0.0
        self._timer = QTimer(self, interval=1000)
        self._timer.timeout.connect(self._tick)

    def show_step(self) -> None:
        """Where it stands."""
        step = self._session.step
        if not self._timer.isActive():
            self._began = time.monotonic()
            self._timer.start()
        unloading = self._session.state == "unloading"
        self._title.setText(f"{'Unloading' if unloading else 'Loading'} {self._session.base_name}")
        text = "Its memory is given back." if unloading else step.text + "." if step is not None else ""
        self._step.setText("Stopping after this step..." if self._session.is_cancelling else text)
        self._bar.setRange(0, step.total if step is not None and step.done else 0)
        self._bar.setValue(step.done if step is not None else 0)
        self.cancel.setVisible(not unloading)
        self.cancel.setEnabled(not self._session.is_cancelling)
        self.cancel.setToolTip("It stops after the step that is under way" if self._session.is_cancelling else "")
        self._tick()

    def rest(self) -> None:
        """Nothing is loaded any more."""
        self._timer.stop()

    def _tick(self) -> None:
        self._time.setText(f"for {about(time.monotonic() - self._began)}")


class BlankView(QStackedWidget):
    """The three, one at a time."""

    load_asked = Signal(object)
    """A BaseChoice."""
    folder_asked = Signal()
    again_asked = Signal()
    other_asked = Signal()

    def __init__(self, ctx: Context, session: ChatSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx, self._session = ctx, session
        self.bases = BaseList(ctx)
        self.bases.chosen.connect(self.load_asked)
        self.bases.more.clicked.connect(self.folder_asked)
        self.bases.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Maximum)
        self.bases.setMaximumWidth(ctx.theme.px(720))
        said = label("Load a base once, then flip through its variants: alone, or side by side on the same prompt.", tone="faded",
                     wrap=True)
        said.setAlignment(Qt.AlignmentFlag.AlignCenter)
        middle = row(None, self.bases, None)
        middle.setStretch(1, 100)
        empty = QWidget()
        empty.setLayout(column(None, row(None, CardsPicture(ctx.theme), None),
                               row(None, label("Talk to a variant", size="title", weight=600), None), said, 8, middle, None,
                               gap=8, margins=(0, 8, 0, 8)))
        self.loading = LoadingView(ctx, session)
        self._failed = QWidget()
        self._failed_layout = column(gap=0)
        self._failed.setLayout(self._failed_layout)
        self._empty = scrolled(empty, name="Choose a base")
        for page in (self._empty, self.loading, self._failed):
            self.addWidget(page)
        self._shown_failure: Failure | None = None

    def show_state(self) -> None:
        """Show what the session is at."""
        state = self._session.state
        if state in ("loading", "unloading"):
            self.loading.show_step()
            self.setCurrentWidget(self.loading)
            return
        self.loading.rest()
        if state == "failed" and self._session.failure is not None:
            self._show_failure(self._session.failure)
            self.setCurrentWidget(self._failed)
        else:
            self.setCurrentWidget(self._empty)

    def _show_failure(self, failure: Failure) -> None:
        if failure is self._shown_failure:
            return
        self._shown_failure = failure
        clear_layout(self._failed_layout)
        again = button("Try again", "primary", icons=self._ctx.icons, icon="reload", clicked=self.again_asked.emit)
        other = button("Choose another base", clicked=self.other_asked.emit)
        card = ErrorCard(self._ctx.icons, failure, (again, other), title=f"{self._session.base_name} could not be loaded")
        self._failed_layout.addSpacing(16)
        self._failed_layout.addWidget(card)
        self._failed_layout.addStretch(1)

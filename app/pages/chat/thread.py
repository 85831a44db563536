"""The turns of a conversation, one below the other, in a page that stays at its end while an answer grows."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from app.chat.talk import Talk
from app.icons import Icons
from app.pages.chat.turn import TurnView
from app.widgets.basics import button, row, set_look

GUTTER = 10
"""Width of the scroll bar, which other parts of the page leave free at their right."""
SHOWN = 30
"""Turns that are shown at first; earlier ones on request."""


class _Turns(QWidget):
    """What is scrolled: exactly as high as its turns are at its width."""

    def minimumSizeHint(self) -> QSize:
        """None of its own: texts need most height where they are narrowest, and an area would grant that at any width."""
        return QSize(0, 0)


class ThreadView(QScrollArea):
    """Shows a `Talk`. `asked(turn, what, letter)`, `edited(turn, text)`, `deleted(turn)` tell what is wanted."""

    asked = Signal(int, str, str)
    edited = Signal(int, str)
    deleted = Signal(int)
    link_wanted = Signal(str)

    def __init__(self, icons: Icons, talk: Talk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons, self._talk = icons, talk
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName("The conversation")
        self.viewport().setAutoFillBackground(False)
        inside = _Turns()
        inside.setProperty("look", "body")
        self._layout = QVBoxLayout(inside)
        self._layout.setContentsMargins(0, 12, 0, 0)
        self._layout.setSpacing(0)
        self._earlier = button("Show earlier turns", "ghost", icons=icons, icon="chevron-up", dense=True,
                               clicked=self._show_earlier)
        self._earlier.hide()
        self._layout.addLayout(row(None, self._earlier, None))
        self._layout.addStretch(1)
        self.setWidget(inside)
        self._first = 0
        """The first turn that is shown."""
        self._views: list[TurnView] = []
        self._at_end = True
        self._blocked = ""
        self.differ = False
        # The bar always has its place, so that columns stay below their heads; it is seen only where there is more to see.
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        bar = self.verticalScrollBar()
        bar.setFixedWidth(GUTTER)
        set_look(bar, idle="true")
        bar.rangeChanged.connect(self._range_changed)
        bar.actionTriggered.connect(self._scrolled)
        bar.sliderReleased.connect(self._scrolled)
        icons.theme.changed.connect(self._restyle)
        talk.opened.connect(self.show_all)
        talk.turn_changed.connect(self.show_turn)
        talk.streamed.connect(self._streamed)
        talk.sides_changed.connect(self.show_sides)

    # ------------------------------------------------------------------------------------------------ showing
    def _sides(self) -> Mapping[str, str]:
        return dict(zip(self._talk.letters, self._talk.now.sides, strict=True))

    def show_all(self) -> None:
        """Another conversation."""
        self._at_end = True
        self._first = max(0, len(self._talk.now.turns) - SHOWN)
        self._rebuild()

    def _show_earlier(self) -> None:
        self._at_end = False
        bar = self.verticalScrollBar()
        from_end = bar.maximum() - bar.value()
        self._first = max(0, self._first - SHOWN)
        self._rebuild(anew=True)
        QTimer.singleShot(0, self, lambda: bar.setValue(bar.maximum() - from_end))

    def _rebuild(self, *, anew: bool = False) -> None:
        wanted = len(self._talk.now.turns) - self._first
        while self._views and (anew or len(self._views) > wanted):
            gone = self._views.pop()
            self._layout.removeWidget(gone)
            gone.hide()
            gone.deleteLater()
        self._earlier.setVisible(self._first > 0)
        for index in range(self._first, len(self._talk.now.turns)):
            self._show(index)

    def show_turn(self, index: int) -> None:
        """A turn is new or has changed."""
        if index >= self._first:
            if index - self._first >= len(self._views):
                self._at_end = True
            self._show(index)
            if index and index - self._first >= 1:     # the one before it has a turn more after it
                self._show_prompt(index - 1)

    def show_sides(self) -> None:
        """Other columns."""
        for index in range(self._first, self._first + len(self._views)):
            self._show(index)

    def set_blocked(self, reason: str) -> None:
        """Why nothing can be asked now; empty when it can."""
        if reason != self._blocked:
            self._blocked = reason
            for view in self._views:
                view.set_blocked(reason)

    def set_differ(self, wanted: bool) -> None:
        """Mark differing words, or no more."""
        self.differ = wanted
        for view in self._views:
            view.show_differing(wanted)

    def views(self) -> tuple[TurnView, ...]:
        """The turns on screen."""
        return tuple(self._views)

    def _later(self, index: int) -> int:
        return len(self._talk.now.turns) - 1 - index

    def _show_prompt(self, index: int) -> None:
        self._views[index - self._first].prompt.show_prompt(self._talk.now.turns[index].prompt, self._later(index))

    def _show(self, index: int) -> None:
        at = index - self._first
        while len(self._views) <= at:
            made = TurnView(self._icons)
            made.asked.connect(self._asked)
            made.edited.connect(self._edited)
            made.deleted.connect(self._deleted)
            made.link_wanted.connect(self.link_wanted)
            self._layout.insertWidget(1 + len(self._views), made)
            self._views.append(made)
        live = self._talk.live if index == self._talk.live_turn else {}
        self._views[at].show_turn(self._talk.now.turns[index], self._sides(), live, self._later(index), self._blocked,
                                  differ=self.differ)

    def _streamed(self, index: int) -> None:
        at = index - self._first
        if 0 <= at < len(self._views):
            self._views[at].show_live(self._talk.live, self._sides())

    def _restyle(self) -> None:
        for view in self._views:
            view.restyle()

    # ------------------------------------------------------------------------------------------------ telling
    def _index(self) -> int:
        view = self.sender()
        return self._first + self._views.index(view) if isinstance(view, TurnView) and view in self._views else -1

    def _asked(self, what: str, letter: str) -> None:
        if (index := self._index()) >= 0:
            self.asked.emit(index, what, letter)

    def _edited(self, text: str) -> None:
        if (index := self._index()) >= 0:
            self.edited.emit(index, text)

    def _deleted(self) -> None:
        if (index := self._index()) >= 0:
            self.deleted.emit(index)

    # ---------------------------------------------------------------------------------------------- scrolling
    def _range_changed(self, low: int, high: int) -> None:
        set_look(self.verticalScrollBar(), idle="" if high > low else "true")
        if self._at_end:
            self.verticalScrollBar().setValue(high)

    def _scrolled(self, *_: object) -> None:
        QTimer.singleShot(0, self, self._note_place)

    def _note_place(self) -> None:
        bar = self.verticalScrollBar()
        self._at_end = bar.value() >= bar.maximum() - 24

    def wheelEvent(self, event: object) -> None:
        """Whoever scrolls up stays there."""
        super().wheelEvent(event)  # type: ignore[arg-type]
        self._note_place()

    def to_end(self) -> None:
        """Scroll to the end, and stay there."""
        self._at_end = True
        self.verticalScrollBar().setValue(self.verticalScrollBar().maximum())

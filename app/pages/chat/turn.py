"""A turn: the prompt across all columns, to be edited in place, and an answer in each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QFrame, QPlainTextEdit, QSizePolicy, QVBoxLayout, QWidget

from app.chat.conversations import Turn
from app.chat.talk import Live
from app.chat.text import differing
from app.icons import Icons
from app.pages.chat.answer import AnswerView
from app.widgets.basics import button, column, label, row, tool_button

GAP = 12
"""Between columns."""
_LONG, _LINES = 1500, 12
"""Characters and lines of a prompt that are shown until all of it is asked for."""


def beginning(text: str) -> str:
    """The part of a prompt that is shown at first; all of it where it is not much longer."""
    lines = text.split("\n")
    found = text if len(lines) <= _LINES + 4 else "\n".join(lines[:_LINES])
    found = found if len(found) <= _LONG * 5 // 4 else found[:_LONG]
    return found if found == text else found.rstrip() + "\u2026"


class PromptBar(QFrame):
    """What the user said. `sent(text)` after an edit, `delete_asked` for the whole turn."""

    sent = Signal(str)
    delete_asked = Signal()

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "prompt")
        self._icons = icons
        self._you = label("You", size="small", weight=600, tone="faded")
        self.text = label(weight=500, wrap=True, selectable=True)
        self.edit = tool_button(icons, "edit", "Edit and send again", size=16, clicked=self.begin)
        self.trash = tool_button(icons, "trash", "Delete this prompt and its answers", size=16, clicked=self.delete_asked.emit)
        self._editor: QPlainTextEdit | None = None
        self._whole = ""
        self.all = button("", "ghost", dense=True, clicked=self._turn_long)
        self.all.hide()
        self._later = 0
        self._blocked = ""
        said = column(self.text, row(self.all, None), gap=2)
        line = row(self._you, 4, said, self.trash, self.edit, gap=8, margins=(12, 6, 8, 6))
        line.setStretch(2, 1)
        line.setAlignment(self._you, Qt.AlignmentFlag.AlignVCenter)
        self._shown = QWidget()
        self._shown.setLayout(line)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(self._shown)
        self.setMinimumHeight(icons.theme.px(38))

    def show_prompt(self, text: str, later: int) -> None:
        """Show a prompt; `later` turns come after it."""
        self._later = later
        if self._whole != text:
            self._whole = text
            self.text.setText(beginning(text))
            self.setAccessibleName(f"You: {text[:200]}")
            self._name_all()

    def _name_all(self) -> None:
        short = beginning(self._whole)
        self.all.setVisible(short != self._whole)
        self.all.setText(f"Show all {len(self._whole):,} characters" if self.text.text() == short else "Show less")

    def _turn_long(self) -> None:
        short = beginning(self._whole)
        self.text.setText(self._whole if self.text.text() == short else short)
        self._name_all()

    def set_blocked(self, reason: str) -> None:
        """Whether something else keeps the model busy, and what."""
        self._blocked = reason
        self.trash.setEnabled(not reason)
        self.edit.setEnabled(not reason)
        self.edit.setToolTip(f"Edit and send again. {reason}" if reason else "Edit and send again")

    def begin(self) -> None:
        """Edit in place."""
        if self._editor is not None or self._blocked:
            return
        editor = self._editor = QPlainTextEdit(self._whole)
        editor.setAccessibleName("The prompt")
        editor.setTabChangesFocus(True)
        lines = min(8, max(2, self._whole.count("\n") + 1 + len(self._whole) // 90))
        editor.setFixedHeight(editor.fontMetrics().lineSpacing() * lines + self._icons.theme.px(20))
        editor.installEventFilter(self)
        said = "" if not self._later else "The turn after it is removed." if self._later == 1 else \
            f"The {self._later} turns after it are removed."
        send = button("Send again", icons=self._icons, icon="up", dense=True, clicked=self._send)
        cancel = button("Cancel", "ghost", dense=True, clicked=self.leave)
        self._editing = QWidget()
        self._editing.setLayout(column(editor, row(label(said, size="small", tone="faded"), None, cancel, send, gap=8),
                                       gap=6, margins=(10, 8, 10, 8)))
        self._shown.hide()
        layout = self.layout()
        assert layout is not None
        layout.addWidget(self._editing)
        editor.setFocus(Qt.FocusReason.OtherFocusReason)
        editor.selectAll()

    def leave(self) -> None:
        """Give up editing."""
        if self._editor is not None:
            self._editor = None
            self._editing.hide()
            self._editing.deleteLater()
            self._shown.show()
            self.edit.setFocus(Qt.FocusReason.OtherFocusReason)

    def _send(self) -> None:
        if self._editor is not None and (text := self._editor.toPlainText().strip()):
            self.leave()
            self.sent.emit(text)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Enter sends, Escape gives up."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress and watched is self._editor:
            if event.key() == Qt.Key.Key_Escape:
                self.leave()
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
                self._send()
                return True
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            event.accept()                             # Escape is ours here, and stops no answer
            return True
        return False


class TurnView(QWidget):
    """One turn. `asked(what, letter)` tells what is wanted of an answer."""

    asked = Signal(str, str)
    edited = Signal(str)
    deleted = Signal()
    link_wanted = Signal(str)

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons = icons
        self.prompt = PromptBar(icons)
        self.prompt.sent.connect(self.edited)
        self.prompt.delete_asked.connect(self.deleted)
        self.answers: dict[str, AnswerView] = {}
        self._columns = row(gap=GAP)
        outer = column(self.prompt, self._columns, gap=10, margins=(0, 0, 0, 16))
        self.setLayout(outer)
        self._turn: Turn | None = None
        self._shown_differing = False

    def show_turn(self, turn: Turn, sides: Mapping[str, str], live: Mapping[str, Live], later: int, blocked: str, *,
                  differ: bool) -> None:
        """Show a turn: `sides` are the variants of the columns by letter."""
        self._turn = turn
        self.prompt.show_prompt(turn.prompt, later)
        self._fit(tuple(sides))
        for letter, view in self.answers.items():
            if letter in live:
                view.show_live(live[letter], sides[letter])
            else:
                others = sum(x != letter for x in turn.answers)
                view.show_answers(turn.answers.get(letter), sides[letter], leads=turn.lead == letter and others > 0,
                                  others=others, blocked=blocked)
        self.set_blocked(blocked)
        self.show_differing(differ and not live)

    def show_live(self, live: Mapping[str, Live], sides: Mapping[str, str]) -> None:
        """There is more text."""
        for letter, one in live.items():
            if letter in self.answers and letter in sides:
                self.answers[letter].show_live(one, sides[letter])

    def set_blocked(self, reason: str) -> None:
        """Whether something else keeps the model busy, and what."""
        self.prompt.set_blocked(reason)
        for view in self.answers.values():
            view.set_blocked(reason)

    def show_differing(self, wanted: bool) -> None:
        """Mark the words in which the answers of this turn differ, or no more."""
        if not wanted and not self._shown_differing:
            return
        self._shown_differing = wanted
        views = [v for letter, v in self.answers.items() if self._turn is not None and letter in self._turn.answers]
        texts = [v.body.texts() for v in views]
        found = differing(["\n".join(parts) for parts in texts]) if wanted and len(views) > 1 else [[] for _ in views]
        for view, parts, spans in zip(views, texts, found, strict=True):
            start, by_part = 0, []
            for part in parts:
                end = start + len(part)
                by_part.append([(a - start, b - start) for a, b in spans if start <= a and b <= end])
                start = end + 1
            view.mark(by_part)

    def restyle(self) -> None:
        """Fonts and colours of the theme in force."""
        for view in self.answers.values():
            view.body.restyle()

    def _fit(self, letters: Sequence[str]) -> None:
        if tuple(self.answers) == tuple(letters):
            return
        for letter in [x for x in self.answers if x not in letters]:
            gone = self.answers.pop(letter)
            self._columns.removeWidget(gone)
            gone.hide()
            gone.deleteLater()
        for letter in letters:
            if letter not in self.answers:
                made = self.answers[letter] = AnswerView(self._icons, letter)
                made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
                made.asked.connect(self._asked)
                made.link_wanted.connect(self.link_wanted)
                self._columns.addWidget(made, 1)

    def _asked(self, what: str) -> None:
        view = self.sender()
        if isinstance(view, AnswerView):
            self.asked.emit(what, view.letter)

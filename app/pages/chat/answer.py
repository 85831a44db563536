"""One answer in its column: the text, how fast it came, its versions, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QMenu, QSizePolicy, QVBoxLayout, QWidget

from app.chat.conversations import Answers, Version, milliseconds
from app.chat.talk import Live
from app.icons import Icons
from app.pages.chat.markdown import MarkdownView
from app.widgets.basics import IconLabel, boxed, button, label, row, tool_button
from app.widgets.flow import FlowLayout
from app.words import count, plain_tip


class AnswerView(QWidget):
    """Shows the `Answers` of one side, or the one that is being written. `asked(what)` tells what is wanted."""

    asked = Signal(str)
    """regenerate, carry-on, lead, delete, previous, next."""
    link_wanted = Signal(str)

    def __init__(self, icons: Icons, letter: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.letter = letter
        self._text = ""
        self._spoke = label(size="small", weight=600)
        self._leads = label("goes on from here", size="small", tone="accent")
        self._note = row(self._spoke, self._leads, None, gap=8)
        self.body = MarkdownView(icons, f"Answer {letter}")
        self.body.link_wanted.connect(self.link_wanted)
        self._none = button("Answer here too", "ghost", icons=icons, icon="play", dense=True,
                            tip="Nothing was asked in this column. Ask now", clicked=lambda: self.asked.emit("regenerate"))
        self._problem = label(size="small", tone="danger", wrap=True, selectable=True)
        self._problem_line = boxed(row(IconLabel(icons, "error", "danger", 16), self._problem, gap=8))
        self._problem_line.layout().setStretch(1, 1)  # type: ignore[union-attr]
        self._tokens, self._first = label(size="small", tone="faded"), label(size="small", tone="faded")
        self._rate = label(size="small", weight=600)
        self._dots = [label("\u00b7", size="small", tone="faded") for _ in range(2)]
        self._extra = label(size="small", tone="faded")
        self.copy = tool_button(icons, "copy", "Copy the answer", size=16, clicked=self._copy)
        self.again = tool_button(icons, "reload", "Regenerate: another version", size=16,
                                 clicked=lambda: self.asked.emit("regenerate"))
        self.previous = tool_button(icons, "chevron-left", "Previous version", size=14,
                                    clicked=lambda: self.asked.emit("previous"))
        self.next = tool_button(icons, "chevron-right", "Next version", size=14, clicked=lambda: self.asked.emit("next"))
        self._number = label(size="small", tone="faded")
        self.versions = boxed(row(self.previous, self._number, self.next, gap=2))
        self.go_on = button("Continue", "ghost", icons=icons, icon="play", dense=True, tip="Go on where it was cut",
                            clicked=lambda: self.asked.emit("carry-on"))
        self.more = tool_button(icons, "more", "More for this answer", size=16)
        menu = QMenu(self.more)
        menu.setAccessibleName("More for this answer")
        self.lead = menu.addAction(icons.icon("flag"), "Continue with this answer")
        self.lead.setCheckable(True)
        self.lead.triggered.connect(lambda *_: self.asked.emit("lead"))
        self.delete = menu.addAction(icons.icon("trash"), "Delete this answer")
        self.delete.triggered.connect(lambda *_: self.asked.emit("delete"))
        self.more.setMenu(menu)
        self.more.setPopupMode(self.more.ToolButtonPopupMode.InstantPopup)
        self.more.setStyleSheet("QToolButton::menu-indicator { image: none; width: 0; }")
        # These wrap together. A drop of its own for each would leave one of them behind the figures and the rest below.
        self._tools = boxed(row(self.copy, self.again, self.more, gap=6))
        self._buttons = (self._tools, self.versions, self.go_on)
        self._foot = QWidget()
        self._foot.setSizePolicy(self._tall())
        flow = FlowLayout(self._foot, gap=6)
        for part in (self._tokens, self._dots[0], self._rate, self._dots[1], self._first, self._extra, *self._buttons):
            flow.addWidget(part)
        inside = QVBoxLayout(self)
        inside.setContentsMargins(12, 0, 4, 0)
        inside.setSpacing(6)
        self._head = boxed(self._note)
        for part in (self._head, self.body, self._problem_line, self._foot):
            inside.addWidget(part)
        inside.addLayout(row(self._none, None))
        inside.addStretch(1)

    @staticmethod
    def _tall() -> QSizePolicy:
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        return policy

    # ------------------------------------------------------------------------------------------------ showing
    def show_answers(self, answers: Answers | None, variant: str, *, leads: bool, others: int, blocked: str) -> None:
        """Show the version that counts. `variant`: the column's now; `others`: answers of the turn beside it.

        `blocked`: why nothing can be asked now, empty when it can.
        """
        version = answers.current if answers is not None else None
        self._none.setVisible(version is None)
        self._foot.setVisible(version is not None)
        self.body.setVisible(version is not None)
        self._problem_line.setVisible(bool(version is not None and version.problem))
        self._head.setVisible(version is not None and (version.variant != variant or leads))
        if version is None or answers is None:
            self.set_blocked(blocked)
            return
        self._text = version.text
        self.body.show_text(version.text)
        self._spoke.setText(version.variant if version.variant != variant else "")
        self._spoke.setVisible(version.variant != variant)
        self._leads.setVisible(leads)
        self._problem.setText(version.problem)
        self._facts(count(version.tokens, "token"), version.tokens_per_second, version.first_token_seconds)
        extra = extra_words(version)
        self._extra.setText(f"·  {extra}" if extra else "")
        self._extra.setVisible(bool(extra))
        for part in (self._tokens, self._rate, self._first, self._extra):
            part.setToolTip(plain_tip(details(version)))
        self._tools.show()
        many = len(answers.versions)
        self.versions.setVisible(many > 1)
        self._number.setText(f"{answers.chosen + 1}/{many}")
        self.previous.setEnabled(answers.chosen > 0)
        self.next.setEnabled(answers.chosen < many - 1)
        self.go_on.setVisible(version.is_cut)
        self.lead.setVisible(others > 0)
        self.lead.setChecked(leads)
        self.set_blocked(blocked)
        self.setAccessibleName(f"Answer {self.letter}, {version.variant}: {version.text[:200]}")

    def set_blocked(self, reason: str) -> None:
        """Whether something else keeps the model busy, and what."""
        for made, tip in ((self.again, "Regenerate: another version"), (self.go_on, "Go on where it was cut"),
                          (self._none, "Nothing was asked in this column. Ask now")):
            if made.isEnabled() != (not reason):
                made.setEnabled(not reason)
            made.setToolTip(f"{tip}. {reason}" if reason else tip)
        self.delete.setEnabled(not reason)

    def show_live(self, live: Live, variant: str) -> None:
        """Show what has come so far."""
        self._none.hide()
        self._problem_line.hide()
        for part in self._buttons:
            part.hide()
        self._tokens.setMinimumHeight(self._tools.sizeHint().height())     # as high as with its buttons: nothing jumps at the end
        self._extra.hide()
        self.body.show()
        self._head.setVisible(live.variant != variant)
        self._spoke.setText(live.variant)
        self._spoke.show()
        self._leads.hide()
        self._text = live.whole
        self.body.show_text(live.whole, growing=True)
        self._foot.setVisible(live.tokens > 0)
        if live.tokens:
            self._facts(f"{count(live.tokens, 'token')} so far", live.rate, live.first or 0.0)

    def _facts(self, tokens: str, rate: float, first: float) -> None:
        for shown, text in ((self._tokens, tokens), (self._rate, f"{rate:.1f} tokens/s" if rate else ""),
                            (self._first, f"first token {milliseconds(first)}" if first else "")):
            if shown.text() != text:
                shown.setText(text)
            shown.setVisible(bool(text))
        self._dots[0].setVisible(bool(rate))
        self._dots[1].setVisible(bool(first))

    def mark(self, spans: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Show where it differs."""
        self.body.mark(spans)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._text)


def extra_words(version: Version) -> str:
    """How it ended, where that is not as usual, and what was left out."""
    found = []
    if version.ended == "stopped":
        found.append("stopped")
    elif version.ended == "length":
        found.append("cut at the longest answer")
    if version.dropped:
        found.append(f"{count(version.dropped, 'oldest message')} left out")
    return ", ".join(found)


def details(version: Version) -> str:
    """Everything that is known of how it came about, in lines."""
    lines = [f"{version.variant}, {version.how or 'not said how'}: {version.reason}" if version.reason else version.variant,
             f"{version.tokens:,} tokens in {version.seconds:.1f} s"]
    if version.switch_seconds:
        lines.append(f"Switched on in {milliseconds(version.switch_seconds)}")
    if version.prompt_tokens:
        of = f" of {version.context:,}" if version.context else ""
        known = f", {version.reused:,} of them known from the turn before" if version.reused else ""
        lines.append(f"Prompt of {version.prompt_tokens:,}{of} tokens{known}")
    return "\n".join((*lines, f"Seed {version.seed}"))



"""The Chat page: variants of one loaded base, alone or side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QApplication, QStackedWidget, QWidget

from app.actions import SWITCHES, Act
from app.chat.conversations import SIDES
from app.chat.engine import Messages
from app.chat.store import Conversations
from app.chat.talk import Talk
from app.context import Context
from app.pages.chat import facts
from app.pages.chat.blank import BlankView
from app.pages.chat.chips import SideHeaders, SwitchNote, VariantBar, shown_name
from app.pages.chat.columns import Columns
from app.pages.chat.composer import Composer
from app.pages.chat.desk import Desk
from app.pages.chat.drawer import Drawer
from app.pages.chat.head import ChatHeader
from app.pages.chat.loading import Loading
from app.pages.chat.thread import GUTTER, ThreadView
from app.widgets.basics import button, column, row
from app.widgets.states import WarningStrip

_NARROW = 940
"""Width of the page (at zoom 1) below which the drawer stays closed until it is asked for."""


class ChatPage(QWidget):
    """Conversations with what is on the deck. The deck is `ctx.chat`'s; conversations are this page's."""

    name = "chat"

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("look", "page")
        self._ctx = ctx
        self.session = ctx.chat
        self.store = Conversations(ctx.data / "chats", ctx.tasks, self)
        self.talk = Talk(self.session, self.store, self)
        self._drawer_wanted = False
        self._build()
        self.desk = Desk(ctx, self)
        self.columns = Columns(self)
        self.loading = Loading(ctx, self)
        self._wire()
        self._last = ctx.settings.options.chat_last
        self.store.load(self._restore)
        self.talk.opened.emit()
        self._show_drawer_as_kept()
        self.refresh()

    # ------------------------------------------------------------------------------------------------ building
    def _build(self) -> None:
        icons = self._ctx.icons
        self.header = ChatHeader(self._ctx)
        self.bar = VariantBar(icons)
        self.note = SwitchNote(icons)
        self.sides = SideHeaders(icons)
        self.thread_view = ThreadView(icons, self.talk)
        self.composer = Composer(icons)
        self.absent = WarningStrip(icons, "faded")
        self.undo = WarningStrip(icons, "faded")
        self.undo.hide()
        self._undo_timer = QTimer(self, singleShot=True, interval=10_000)
        self._undo_timer.timeout.connect(self.undo.hide)
        self.blank = BlankView(self._ctx, self.session)
        top = row(self.bar, self.note, gap=16)
        top.setStretch(0, 1)
        talking = QWidget()
        talking.setLayout(column(column(top, 4, self.sides, gap=4, margins=(0, 0, GUTTER, 0)), self.thread_view,
                                 column(self.undo, self.absent, self.composer, gap=4, margins=(0, 0, GUTTER, 0)), gap=4))
        self._talking = talking
        self._stack = QStackedWidget()
        self._stack.addWidget(self.blank)
        self._stack.addWidget(talking)
        self.drawer = Drawer(self._ctx)
        main = column(self._stack, margins=(24, 0, 24 - GUTTER, 16))
        body = row(gap=0)
        body.addLayout(main, 1)
        body.addWidget(self.drawer)
        self.setLayout(column(row(self.header, margins=(24, 0, 24, 0)), body, gap=0))
        self.drawer.hide()

    def _wire(self) -> None:
        session, talk, ctx = self.session, self.talk, self._ctx
        session.changed.connect(self.refresh)
        session.counted.connect(self._counted)
        session.answered.connect(self.count_soon)
        session.failed.connect(ctx.show_error)
        talk.opened.connect(self._opened)
        talk.sides_changed.connect(self.refresh)
        talk.turn_changed.connect(self.refresh)
        self.store.message.connect(ctx.notify)
        self.header.new.clicked.connect(self.new_chat)
        self.header.sampling.clicked.connect(self._toggle_drawer)
        self.header.history.clicked.connect(self.show_history)
        self.header.differ.toggled.connect(self.thread_view.set_differ)
        self.bar.add_asked.connect(self.desk.show_add_menu)
        self.thread_view.asked.connect(self._asked)
        self.thread_view.edited.connect(self._edited)
        self.thread_view.deleted.connect(self._delete_turn)
        self.thread_view.link_wanted.connect(self._link)
        self.composer.send_asked.connect(self.send)
        self.composer.stop_asked.connect(self.stop)
        self.composer.count_asked.connect(self._count)
        self.drawer.changed.connect(self._sampling_changed)
        self.drawer.close_asked.connect(self._toggle_drawer)
        ctx.jobs.item_changed.connect(self._job_changed)
        ctx.actions.on(Act.STOP, self.stop)
        for number, act in enumerate(SWITCHES):
            ctx.actions.on(act, partial(self.columns.pick_number, number))

    # -------------------------------------------------------------------------------------------------- showing
    def shown(self) -> None:
        """The page comes on screen: what somebody wants on the deck is loaded."""
        if self.session.wanted is not None:
            (base, sources), self.session.wanted = self.session.wanted, None
            self.loading.open_deck(base, sources)
        elif self.session.state == "empty":
            self.loading.gather()
        if self.session.state == "ready":
            self.composer.edit.setFocus(Qt.FocusReason.OtherFocusReason)

    def _restore(self) -> None:
        kept = self.store.all()
        if kept and not self.talk.now.turns and self.session.state == "empty" and self.session.wanted is None:
            last = self.store.get(self._last)
            if last is not None:
                self.talk.open(last)

    def _opened(self) -> None:
        now = self.talk.now
        self.drawer.show_choice(now.sampling, now.system)
        self._ctx.settings.set(chat_last=now.id if now.turns else "")
        self.columns.switch()
        self.count_soon()
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Show what state, variants and conversation are now."""
        session, talk = self.session, self.talk
        ready, loading = session.state == "ready", session.state in ("loading", "unloading", "failed")
        here = ready or (bool(talk.now.turns) and not loading)
        if session.state != "empty" or not here:
            self.blank.show_state()
        self._stack.setCurrentWidget(self._talking if here else self.blank)
        self.drawer.setVisible(self._drawer_wanted and here)
        if not ready:
            self.note.hide()
        self._fit_note()
        self.header.show_state(session.base_name if ready or loading else talk.now.base_name, len(talk.now.sides),
                               loaded=ready, talking=here)
        names = [v.name for v in session.variants] if ready else []
        self.bar.setVisible(ready)
        self.bar.show_variants(names, talk.now.sides, {v.name: facts.chip_tip(v, self._ctx.library) for v in session.variants})
        about = {v.name: facts.side_words(v, self._ctx.library) for v in session.variants}
        self.sides.show_sides(talk.now.sides, talk.now.selected, about)
        self.thread_view.set_blocked(session.why_silent)
        self._show_composer(ready, names)
        self.drawer.show_deck(facts.deck_facts(session, len(set(talk.now.sides))) if ready else {},
                              session.in_the_way if ready else "", session.facts.reason if session.facts is not None else "")
        completion = [v.name for v in session.variants if v.mode == "completion" and v.name in talk.now.sides]
        self.drawer.set_completion(bool(completion) and len(completion) == len(set(talk.now.sides)))
        actions = self._ctx.actions
        actions.enable(Act.STOP, session.is_answering, "nothing is being written")

    def _show_composer(self, ready: bool, names: Sequence[str]) -> None:
        session, talk = self.session, self.talk
        self.composer.setVisible(ready)
        self.absent.setVisible(not ready)
        if not ready and talk.now.turns and self.absent.property("base") != talk.now.base:
            self.absent.setProperty("base", talk.now.base)
            name = talk.now.base_name or "The base"
            self.absent.show_words("faded", f"{name} is not loaded", "Load it to go on with this conversation.", (
                button(f"Load {name}", "primary", dense=True, clicked=self.loading.load_for_talk),
                button("Other base", dense=True, clicked=self.loading.other_base)))
        sides = [shown_name(s) for s in dict.fromkeys(talk.now.sides)]
        completion = any(v.mode == "completion" and v.name in talk.now.sides for v in session.variants)
        self.composer.show_sides(sides, len(names), SIDES[talk.now.selected], completion=completion)
        hint = ""
        if completion:
            who = [shown_name(v.name) for v in session.variants if v.mode == "completion" and v.name in talk.now.sides]
            hint = f"{' and '.join(who)}: no chat template, so texts are completed"
        elif (job := self._ctx.jobs.current()) is not None:
            hint = f"{job.name} is being compressed, so answers take longer"
        many = len(talk.now.sides) > 1
        writing = [x for x in talk.live if many]
        doing = session.in_the_way if session.doing not in ("", "answer", "switch") else ""
        self.composer.show_state(writing, session.why_silent, hint, doing, stopping=session.is_stopping,
                                 answering=session.is_answering)

    def _job_changed(self, *_: object) -> None:
        if self.isVisible() and self.session.state == "ready":
            self._show_composer(True, [v.name for v in self.session.variants])

    # ------------------------------------------------------------------------------------------------- talking
    def send(self) -> None:
        """Send what is written to all columns."""
        self.drawer.flush()
        text = self.composer.text()
        if not self.composer.why_not() and self.talk.send(text):
            self.undo.hide()                           # it would take back this turn too
            self.composer.clear()
            self._ctx.settings.set(chat_last=self.talk.now.id)
            self.thread_view.to_end()
        self.refresh()

    def refuse(self, what: str, why: str = "") -> None:
        """Say what can't be done and why: by default, what keeps the model busy."""
        why = why or self.session.in_the_way
        self.note.say(what, why, tone="warning")
        if not self.note.says_all:
            self._ctx.notify(f"{what}: {why[:1].lower()}{why[1:]}" if why else what, "warning")

    def stop(self) -> None:
        """End the answers after the current token."""
        self.session.stop()

    def new_chat(self) -> None:
        """Begin a new conversation with the same columns."""
        if self.session.is_answering:
            self.refuse("A new chat can't begin now", "Stop the answer first.")
            return
        self.drawer.flush()
        self.talk.start()
        self.composer.edit.setFocus(Qt.FocusReason.OtherFocusReason)

    def _asked(self, index: int, what: str, letter: str) -> None:
        talk = self.talk
        before = talk.now.turns
        self.undo.hide()                               # it would take back this too
        if what in ("regenerate", "carry-on"):
            self.composer.edit.setFocus(Qt.FocusReason.OtherFocusReason)   # the button gives way to the text
            done = talk.regenerate(index, (letter,)) if what == "regenerate" else talk.carry_on(index, letter)
            if not done:
                self.refuse("That is not possible now", self.session.why_silent)
        elif what == "lead":
            talk.lead(index, letter)
        elif what == "delete":
            talk.delete_answer(index, letter)
            self._offer_undo("The answer is deleted", partial(talk.restore, before))
        else:
            talk.cycle(index, letter, 1 if what == "next" else -1)

    def _edited(self, index: int, text: str) -> None:
        before = self.talk.now.turns
        if self.talk.edit(index, text) and len(before) > index + 1:
            self._offer_undo("Later turns are removed", partial(self.talk.restore, before))

    def _delete_turn(self, index: int) -> None:
        before = self.talk.now.turns
        self.talk.delete_turn(index)
        self._offer_undo("The prompt and its answers are deleted", partial(self.talk.restore, before))

    def _offer_undo(self, text: str, call: Callable[[], object]) -> None:
        id = self.talk.now.id

        def undo() -> None:
            if self.talk.now.id == id and not self.session.is_answering:
                call()
        self._show_undo(text, undo)

    def offer_undo_of_chat(self, title: str) -> None:
        """A conversation was deleted."""
        def undo() -> None:
            for id in self.store.undo():
                if (found := self.store.get(id)) is not None and not self.talk.now.turns:
                    self.talk.open(found)
        self._show_undo(f"\u201c{title}\u201d is deleted", undo)

    def _show_undo(self, text: str, call: Callable[[], object]) -> None:
        def undo() -> None:
            self.undo.hide()
            call()
        self.undo.show_words("faded", text, "", (button("Undo", dense=True, icons=self._ctx.icons, icon="undo", clicked=undo),))
        self.undo.show()
        self._undo_timer.start()

    def _link(self, url: str) -> None:
        QGuiApplication.clipboard().setText(url)
        self._ctx.notify(f"The link was copied and not opened: {url}", "faded")

    # ------------------------------------------------------------------------------------------------- counting
    def count_soon(self, *_: object) -> None:
        """Count the tokens of what is written, once nothing else goes on."""
        self._count(self.composer.text())

    def _count(self, text: str) -> None:
        if self.session.state != "ready":
            return
        messages: Messages = self.talk.now.messages(SIDES[self.talk.now.selected], len(self.talk.now.turns))
        if text.strip():
            messages = (*messages, ("user", text.strip()))
        whole = self.session.facts.context if self.session.facts is not None else 0
        if messages:
            self.session.count(self.talk.side_of(SIDES[self.talk.now.selected]), messages)
        else:
            self.composer.show_context(0, whole)

    def _counted(self, tokens: int) -> None:
        self.composer.show_context(tokens, self.session.facts.context if self.session.facts is not None else 0)

    # -------------------------------------------------------------------------------------------------- drawer
    def _sampling_changed(self) -> None:
        self.talk.choose_sampling(self.drawer.choice(), self.drawer.system_prompt())
        self.count_soon()

    def _show_drawer_as_kept(self) -> None:
        wide = self.width() >= self._ctx.theme.px(_NARROW)
        self.show_drawer(self._ctx.settings.options.chat_drawer and wide)

    def _fit_note(self) -> None:
        """The note of the last switch takes what the chips leave on their line."""
        width = self.width() - 48 - (self.drawer.width() if not self.drawer.isHidden() else 0)
        self.note.set_room(max(self._ctx.theme.px(84), width - self.bar.one_line() - 20))

    def show_drawer(self, wanted: bool) -> None:
        """Open or close the drawer."""
        self._drawer_wanted = wanted
        self.drawer.setVisible(wanted and self._stack.currentWidget() is self._talking)
        self.header.sampling.setChecked(wanted)

    def _toggle_drawer(self) -> None:
        wanted = not self._drawer_wanted
        if not wanted and self.drawer.isAncestorOf(QApplication.focusWidget() or self):
            self.composer.edit.setFocus(Qt.FocusReason.OtherFocusReason)
        self.show_drawer(wanted)
        self._ctx.settings.set(chat_drawer=wanted)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """In a narrow window the drawer gives way to the conversation."""
        super().resizeEvent(event)
        self._fit_note()
        limit = self._ctx.theme.px(_NARROW)
        if (event.oldSize().width() < limit) != (event.size().width() < limit):
            self._show_drawer_as_kept()

    # -------------------------------------------------------------------------------------------------- history
    def show_history(self) -> None:
        """All conversations, to search, open, export or delete."""
        self.desk.show_history()

    def close_down(self) -> bool:
        """Write what waits; False if that takes too long."""
        self.drawer.flush()
        self._undo_timer.stop()
        return self.store.close()

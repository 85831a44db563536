"""The Chat page: variants of one loaded base, alone or side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QFileDialog, QStackedWidget, QWidget

from app.actions import SWITCHES, Act
from app.chat.conversations import SIDES
from app.chat.engine import BASE, Messages, Switch
from app.chat.session import Source
from app.chat.store import Conversations
from app.chat.talk import Talk
from app.context import Context
from app.pages.chat import facts
from app.pages.chat.bases import BaseChoice, deltas_of, gather, sources_of
from app.pages.chat.blank import BlankView
from app.pages.chat.chips import SideHeaders, SwitchNote, VariantBar, shown_name
from app.pages.chat.composer import Composer
from app.pages.chat.desk import Desk
from app.pages.chat.drawer import Drawer
from app.pages.chat.head import ChatHeader
from app.pages.chat.thread import ThreadView
from app.tasks import Failure, Task
from app.widgets.basics import button, column, row
from app.widgets.states import WarningStrip
from app.words import size

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
        self._gathering: Task | None = None
        self._gathered = False
        self._switch_again = self._drawer_wanted = False
        self._after_load: tuple[str, ...] = ()
        """Variants of which the first is to answer once the base is loaded."""
        self._sources: tuple[Source, ...] = ()
        self._build()
        self.desk = Desk(ctx, self)
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
        talking.setLayout(column(top, 4, self.sides, self.thread_view, self.undo, self.absent, self.composer, gap=4))
        self._talking = talking
        self._stack = QStackedWidget()
        self._stack.addWidget(self.blank)
        self._stack.addWidget(talking)
        self.drawer = Drawer(self._ctx)
        main = column(self._stack, margins=(24, 0, 24, 16))
        body = row(gap=0)
        body.addLayout(main, 1)
        body.addWidget(self.drawer)
        self.setLayout(column(row(self.header, margins=(24, 0, 24, 0)), body, gap=0))
        self.drawer.hide()

    def _wire(self) -> None:
        session, talk, ctx = self.session, self.talk, self._ctx
        session.changed.connect(self.refresh)
        session.switched.connect(self._switched)
        session.counted.connect(self._counted)
        session.answered.connect(self._count_soon)
        session.failed.connect(ctx.show_error)
        session.released.connect(self._released)
        talk.opened.connect(self._opened)
        talk.sides_changed.connect(self.refresh)
        talk.turn_changed.connect(self.refresh)
        self.store.message.connect(ctx.notify)
        self.header.mode_chosen.connect(self._mode_chosen)
        self.header.new.clicked.connect(self.new_chat)
        self.header.sampling.clicked.connect(self._toggle_drawer)
        self.header.history.clicked.connect(self.show_history)
        self.header.differ.toggled.connect(self.thread_view.set_differ)
        self.bar.picked.connect(self.pick)
        self.bar.removed.connect(self._remove)
        self.bar.add_asked.connect(self.desk.show_add_menu)
        self.sides.selected.connect(self._select)
        self.sides.close_asked.connect(self._close_column)
        self.sides.add_asked.connect(self._add_column)
        self.thread_view.asked.connect(self._asked)
        self.thread_view.edited.connect(self._edited)
        self.thread_view.deleted.connect(self._delete_turn)
        self.thread_view.link_wanted.connect(self._link)
        self.composer.send_asked.connect(self.send)
        self.composer.stop_asked.connect(self.stop)
        self.composer.count_asked.connect(self._count)
        self.drawer.changed.connect(self._sampling_changed)
        self.drawer.close_asked.connect(self._toggle_drawer)
        self.drawer.unload_asked.connect(self._unload)
        self.blank.load_asked.connect(self._load_choice)
        self.blank.folder_asked.connect(self._choose_base)
        self.blank.again_asked.connect(self._load_again)
        self.blank.other_asked.connect(self._other_base)
        ctx.jobs.item_changed.connect(self._job_changed)
        ctx.library.changed.connect(self._library_changed)
        ctx.actions.on(Act.STOP, self.stop)
        for number, act in enumerate(SWITCHES):
            ctx.actions.on(act, partial(self._switch_key, number))

    # -------------------------------------------------------------------------------------------------- showing
    def shown(self) -> None:
        """The page comes on screen: what somebody wants on the deck is loaded."""
        if self.session.wanted is not None:
            (base, sources), self.session.wanted = self.session.wanted, None
            self.open_deck(base, sources)
        elif self.session.state == "empty":
            self._gather()
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
        self._switch_to_sides()
        self._count_soon()
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
                button(f"Load {name}", "primary", dense=True, clicked=self._load_for_talk),
                button("Other base", dense=True, clicked=self._other_base)))
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

    def _library_changed(self) -> None:
        if self.session.state == "empty" and self.isVisible():
            self._gather()

    # ------------------------------------------------------------------------------------------------- loading
    def _gather(self) -> None:
        if self._gathering is None and self._ctx.engine.is_ready:
            recent, entries = self._ctx.settings.options.recent, self._ctx.library.entries()
            self._gathering = self._ctx.tasks.run(self, lambda task: gather(task, recent, entries), self._got_bases,
                                                  self._no_bases)
        elif not self._ctx.engine.is_ready and not self._gathered:
            self._gathered = True
            self._ctx.engine.ready.connect(self._gather)

    def _got_bases(self, bases: tuple[BaseChoice, ...]) -> None:
        self._gathering = None
        self.blank.bases.show_bases(bases)

    def _no_bases(self, failure: Failure) -> None:
        self._gathering = None
        self.blank.bases.show_bases(())
        self._ctx.notify(failure.what, "warning")

    def _load_choice(self, choice: BaseChoice) -> None:
        self.open_deck(choice.source, choice.sources)

    def _choose_base(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Choose the folder of a base")
        if folder:
            self.open_deck(folder, sources_of(deltas_of(self._ctx.library.entries(), folder)))

    def _load_for_talk(self) -> None:
        now = self.talk.now
        self._load(now.base, tuple(Source(Path(path), name) for name, path in now.variants), ())

    def _load_again(self) -> None:
        if self.session.base:
            self._load(self.session.base, self._sources, self._after_load)

    def _other_base(self) -> None:
        self.session.forget_failure()
        if self.talk.now.turns:
            self.talk.start()
        self._gather()
        self.refresh()

    def open_deck(self, base: str, sources: Sequence[Source]) -> None:
        """Have a base with these variants on the deck, and the first of them answer; what is there is kept."""
        session = self.session
        if session.state == "ready" and session.base == base:
            there = {v.path: v.name for v in session.variants}
            new = [s for s in sources if s.path not in there]
            if not new and sources:
                self.pick(there[sources[0].path])
            for source in new:
                if not session.add(source.path, source.name):
                    self.note.say("It can't be put on the deck now", session.in_the_way, tone="warning")
            if new:
                self._after_load = (new[0].name or new[0].path.name,)
            return
        if session.in_the_way:
            self._ctx.notify(f"Another base can't be loaded now. {session.in_the_way}", "warning")
            return
        if self.talk.now.turns and self.talk.now.base != base:
            self.talk.start()
        self._load(base, tuple(sources), tuple(s.name or s.path.name for s in sources))

    def _load(self, base: str, sources: tuple[Source, ...], first: tuple[str, ...]) -> None:
        self._sources, self._after_load = sources, first
        options = self._ctx.settings.options
        if self.session.load(base, sources, options.device, offline=options.offline):
            self.session.changed.connect(self._when_loaded)

    def _when_loaded(self) -> None:
        if self.session.state == "loading":
            return
        self.session.changed.disconnect(self._when_loaded)
        if self.session.state != "ready":
            self._gather()
            return
        self._ctx.settings.remember(self.session.base)
        self.talk.take_deck()
        names = [v.name for v in self.session.variants]
        wanted = next((n for n in self._after_load if n in names), "")
        if wanted and not self.talk.now.turns and wanted not in self.talk.now.sides:
            self._set_side(self.talk.now.selected, wanted)
        else:
            self._switch_to_sides()
        self._after_load = ()
        self.refresh()
        self._count_soon()
        self.composer.edit.setFocus(Qt.FocusReason.OtherFocusReason)

    def _unload(self) -> None:
        self.session.unload()

    def _released(self, nbytes: int) -> None:
        self._ctx.notify(f"Unloaded: {size(nbytes)} of memory given back" if nbytes else "Unloaded", "success")
        self._gather()
        self.absent.setProperty("base", None)

    # ------------------------------------------------------------------------------------------------ variants
    def _switch_key(self, number: int) -> None:
        if self.isVisible() and number < len(self.session.variants):
            self.pick(self.session.variants[number].name)

    def pick(self, name: str) -> None:
        """Let a variant answer in the selected column."""
        if self.session.doing not in ("", "switch"):
            self.note.say(f"{shown_name(name)} can't be switched on now", self.session.in_the_way, tone="warning")
            self.refresh()
            return
        self._set_side(self.talk.now.selected, name)

    def _set_side(self, index: int, name: str) -> None:
        sides = list(self.talk.now.sides)
        if sides[index] == name:
            self._switch_to_sides()
            return
        sides[index] = name
        self.talk.set_sides(sides, index)
        self._switch_to_sides()

    def _switch_to_sides(self) -> None:
        if self.session.state != "ready":
            return
        if self.session.doing == "switch":
            self._switch_again = True
        elif not self.session.in_the_way:
            known = {v.name for v in self.session.variants}
            self.session.switch([s if s in known else BASE for s in self.talk.now.sides])

    def _switched(self, switch: Switch) -> None:
        if self._switch_again:
            self._switch_again = False
            self._switch_to_sides()
            return
        name = self.talk.side_of(SIDES[self.talk.now.selected])
        self.note.say(*facts.switch_words(shown_name(name), self.session.variant(name), switch))
        self.note.setToolTip(f"{self.note.accessibleName()}\n{switch.reason}")
        self._count_soon()

    def _remove(self, name: str) -> None:
        if not self.session.remove(name):
            self.note.say(f"{name} can't be taken off now", self.session.in_the_way, tone="warning")
            return
        sides = [BASE if s == name else s for s in self.talk.now.sides]
        self.talk.set_sides(sides, self.talk.now.selected)

    def _mode_chosen(self, mode: str) -> None:
        now = self.talk.now
        if self._columns_blocked():
            return
        if mode == "one":
            self.talk.set_sides((now.sides[now.selected],), 0)
        elif len(now.sides) == 1:
            mine = now.sides[0]
            other = next((v.name for v in self.session.variants if v.name not in (mine, BASE)), BASE)
            self.talk.set_sides((BASE, other if mine == BASE else mine), 1)
        self._switch_to_sides()

    def _columns_blocked(self) -> bool:
        """Whether columns have to stay as they are, which is said."""
        if self.session.doing in ("", "switch"):
            return False
        self.note.say("The columns stay as they are for now", self.session.in_the_way, tone="warning")
        self.refresh()
        return True

    def _select(self, index: int) -> None:
        self.talk.set_sides(self.talk.now.sides, index)

    def _close_column(self, index: int) -> None:
        now = self.talk.now
        if len(now.sides) > 1 and not self._columns_blocked():
            self.talk.set_sides([s for i, s in enumerate(now.sides) if i != index], now.selected - (index <= now.selected))
            self._switch_to_sides()

    def _add_column(self) -> None:
        now = self.talk.now
        if len(now.sides) < len(SIDES) and not self._columns_blocked():
            new = next((v.name for v in self.session.variants if v.name not in now.sides), BASE)
            self.talk.set_sides((*now.sides, new), len(now.sides))
            self._switch_to_sides()

    # ------------------------------------------------------------------------------------------------- talking
    def send(self) -> None:
        """Send what is written to all columns."""
        self.drawer.flush()
        text = self.composer.text()
        if not self.composer.why_not() and self.talk.send(text):
            self.composer.clear()
            self._ctx.settings.set(chat_last=self.talk.now.id)
            self.thread_view.to_end()
        self.refresh()

    def stop(self) -> None:
        """End the answers after the current token."""
        self.session.stop()

    def new_chat(self) -> None:
        """Begin a new conversation with the same columns."""
        if self.session.is_answering:
            self.note.say("A new chat can't begin now", "Stop the answer first.", tone="warning")
            return
        self.drawer.flush()
        self.talk.start()
        self.composer.edit.setFocus(Qt.FocusReason.OtherFocusReason)

    def _asked(self, index: int, what: str, letter: str) -> None:
        talk = self.talk
        before = talk.now.turns
        if what in ("regenerate", "carry-on"):
            done = talk.regenerate(index, (letter,)) if what == "regenerate" else talk.carry_on(index, letter)
            if not done:
                self.note.say("That is not possible now", self.session.why_silent, tone="warning")
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
    def _count_soon(self, *_: object) -> None:
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
        self._count_soon()

    def _show_drawer_as_kept(self) -> None:
        wide = self.width() >= self._ctx.theme.px(_NARROW)
        self.show_drawer(self._ctx.settings.options.chat_drawer and wide)

    def _fit_note(self) -> None:
        """The note of the last switch takes what the chips leave on their line."""
        width = self.width() - 48 - (self.drawer.width() if not self.drawer.isHidden() else 0)
        self.note.setMaximumWidth(max(self._ctx.theme.px(150), width - self.bar.one_line() - 20))

    def show_drawer(self, wanted: bool) -> None:
        """Open or close the drawer."""
        self._drawer_wanted = wanted
        self.drawer.setVisible(wanted and self._stack.currentWidget() is self._talking)
        self.header.sampling.setChecked(wanted)

    def _toggle_drawer(self) -> None:
        wanted = not self._drawer_wanted
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

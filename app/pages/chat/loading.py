"""How a base comes on the deck and leaves it: choices of bases, loading for a conversation, unloading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt
from PySide6.QtWidgets import QFileDialog

from app.chat.session import Source
from app.context import Context
from app.pages.chat.bases import BaseChoice, deltas_of, gather, sources_of
from app.tasks import Failure, Task
from app.words import size

if TYPE_CHECKING:
    from app.pages.chat.page import ChatPage


class Loading(QObject):
    """Loads what a `ChatPage` is to talk to."""

    def __init__(self, ctx: Context, page: ChatPage) -> None:
        super().__init__(page)
        self._ctx, self._page = ctx, page
        self._gathering: Task | None = None
        self._waits_for_engine = False
        self._after_load: tuple[str, ...] = ()
        """Variants of which the first is to answer once the base is loaded."""
        self._after_add: Path | None = None
        """The one that is to answer once it is on the deck."""
        self._sources: tuple[Source, ...] = ()
        blank = page.blank
        blank.load_asked.connect(self._load_choice)
        blank.folder_asked.connect(self._choose_base)
        blank.again_asked.connect(self._load_again)
        blank.other_asked.connect(self.other_base)
        page.drawer.unload_asked.connect(self._unload)
        page.session.added.connect(self._added)
        page.session.released.connect(self._released)
        ctx.library.changed.connect(self._library_changed)

    # ------------------------------------------------------------------------------------------ choice of bases
    def gather(self) -> None:
        """Look for bases that can be loaded, once the engine is there."""
        if self._gathering is None and self._ctx.engine.is_ready:
            recent, entries = self._ctx.settings.options.recent, self._ctx.library.entries()
            self._gathering = self._ctx.tasks.run(self, lambda task: gather(task, recent, entries), self._got_bases,
                                                  self._no_bases)
        elif not self._ctx.engine.is_ready and not self._waits_for_engine:
            self._waits_for_engine = True
            self._ctx.engine.ready.connect(self.gather)

    def _got_bases(self, bases: tuple[BaseChoice, ...]) -> None:
        self._gathering = None
        self._page.blank.bases.show_bases(bases)

    def _no_bases(self, failure: Failure) -> None:
        self._gathering = None
        self._page.blank.bases.show_bases(())
        self._ctx.notify(failure.what, "warning")

    def _library_changed(self) -> None:
        if self._page.session.state == "empty" and self._page.isVisible():
            self.gather()

    def _load_choice(self, choice: BaseChoice) -> None:
        self.open_deck(choice.source, choice.sources)

    def _choose_base(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._page, "Choose the folder of a base")
        if folder:
            self.open_deck(folder, sources_of(deltas_of(self._ctx.library.entries(), folder)))

    def other_base(self) -> None:
        """Leave the conversation that wants another base, and choose."""
        self._page.session.forget_failure()
        if self._page.talk.now.turns:
            self._page.talk.start()
        self.gather()
        self._page.refresh()

    # ------------------------------------------------------------------------------------------------- loading
    def load_for_talk(self) -> None:
        """Load what the conversation on screen was held on."""
        now = self._page.talk.now
        self._load(now.base, tuple(Source(Path(path), name) for name, path in now.variants), ())

    def _load_again(self) -> None:
        if self._page.session.base:
            self._load(self._page.session.base, self._sources, self._after_load)

    def open_deck(self, base: str, sources: Sequence[Source]) -> None:
        """Have a base with these variants on the deck, and the first of them answer; what is there is kept."""
        page, session = self._page, self._page.session
        if session.state == "ready" and session.base == base:
            there = {v.path: v.name for v in session.variants}
            new = [s for s in sources if s.path not in there]
            if not new and sources:
                page.columns.pick(there[sources[0].path])
            if new:
                self._after_add = new[0].path
                if not session.add(new):
                    page.refuse("It can't be put on the deck now")
            return
        if session.in_the_way:
            self._ctx.notify(f"Another base can't be loaded now. {session.in_the_way}", "warning")
            return
        if page.talk.now.turns and page.talk.now.base != base:
            page.talk.start()
        self._load(base, tuple(sources), tuple(s.name or s.path.name for s in sources))

    def _load(self, base: str, sources: tuple[Source, ...], first: tuple[str, ...]) -> None:
        self._sources, self._after_load = sources, first
        options, session = self._ctx.settings.options, self._page.session
        if session.load(base, sources, options.device, offline=options.offline):
            session.changed.connect(self._when_loaded)
            # Not left to the button that comes next, Cancel: who begins to type would press it with the first space.
            self._page.blank.loading.setFocus(Qt.FocusReason.OtherFocusReason)

    def _when_loaded(self) -> None:
        page, session = self._page, self._page.session
        if session.state == "loading":
            return
        session.changed.disconnect(self._when_loaded)
        if session.state != "ready":
            self.gather()
            return
        self._ctx.settings.remember(session.base)
        page.talk.take_deck()
        names = [v.name for v in session.variants]
        wanted = next((n for n in self._after_load if n in names), "")
        self._after_load = ()
        if wanted and not page.talk.now.turns and wanted not in page.talk.now.sides:
            page.columns.set_side(page.talk.now.selected, wanted)
        else:
            page.columns.switch()
        page.refresh()
        page.count_soon()
        page.composer.edit.setFocus(Qt.FocusReason.OtherFocusReason)

    def _added(self) -> None:
        wanted, self._after_add = self._after_add, None
        name = next((v.name for v in self._page.session.variants if wanted is not None and v.path == wanted), "")
        if name:
            self._page.columns.pick(name)

    def _unload(self) -> None:
        self._page.session.unload()

    def _released(self, nbytes: int) -> None:
        self._ctx.notify(f"Unloaded: {size(nbytes)} of memory given back" if nbytes else "Unloaded", "success")
        self.gather()
        self._page.absent.setProperty("base", None)

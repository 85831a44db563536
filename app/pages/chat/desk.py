"""What the page does beside talking: variants to add, conversations to open, export and delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QPoint
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFileDialog, QMenu

from app.chat.conversations import as_json, as_markdown
from app.chat.session import Source
from app.context import Context
from app.jobs.files import write_atomic
from app.models.library import short_size
from app.pages.chat.bases import deltas_of
from app.pages.chat.history import HistoryPopup
from app.tasks import Failure

if TYPE_CHECKING:
    from app.pages.chat.page import ChatPage

_MOST = 12


class Desk(QObject):
    """Menus, popups and files of a `ChatPage`."""

    def __init__(self, ctx: Context, page: ChatPage) -> None:
        super().__init__(page)
        self._ctx, self._page = ctx, page
        self._popup: HistoryPopup | None = None

    # ------------------------------------------------------------------------------------------------ variants
    def candidates(self) -> tuple[list[tuple[Source, str]], list[tuple[Source, str]], list[tuple[Source, str]]]:
        """(deltas of this base, full fine-tunes, other deltas) that are not on the deck; each with a few words."""
        session, entries = self._page.session, self._ctx.library.entries()
        there = {v.path for v in session.variants}
        mine = deltas_of(entries, session.base)
        own = [(Source(e.path, e.name), short_size(e.bytes)) for e in mine if e.path not in there]
        whole: dict[Path, tuple[Source, str]] = {}
        for entry in mine:
            if entry.fine_tuned_path and (path := Path(entry.fine_tuned_path)).is_dir() and path not in there:
                whole[path] = (Source(path, path.name), f"full, {short_size(entry.full_bytes)}")
        base = Path(session.base)
        for path in sorted(base.parent.iterdir()) if base.is_dir() else ():
            if path != base and (path / "config.json").is_file() and path not in there \
                    and not (path / "delta_config.json").exists() and any(path.glob("*.safetensors")):
                whole.setdefault(path, (Source(path, path.name), "full, beside the base"))
        others = [(Source(e.path, e.name), e.base_name or "unknown base") for e in entries
                  if e.usable and e.path not in there and e not in mine]
        return own[:_MOST], list(whole.values())[:_MOST], others[:_MOST]

    def show_add_menu(self) -> None:
        """What can be put on the deck."""
        menu = self.add_menu()
        button = self._page.bar.add
        menu.popup(button.mapToGlobal(QPoint(0, button.height())))

    def add_menu(self) -> QMenu:
        """The menu of it."""
        page, icons = self._page, self._ctx.icons
        menu = QMenu(page)
        menu.setAccessibleName("Add a variant")
        menu.setToolTipsVisible(True)
        menu.aboutToHide.connect(menu.deleteLater)
        menu.triggered.connect(self._add)
        own, whole, others = self.candidates()
        reason = page.session.in_the_way

        def put(where: QMenu, found: list[tuple[Source, str]], icon: str) -> None:
            for source, words in found:
                action = where.addAction(icons.icon(icon), f"{source.name or source.path.name}   {words}".replace("&", "&&"))
                action.setData(source)
                action.setEnabled(not reason)
                action.setToolTip(reason or str(source.path))
        if reason:
            menu.addAction(reason).setEnabled(False)
            menu.addSeparator()
        put(menu, own, "deltas")
        if not own:
            menu.addAction("No other delta of this base in the library").setEnabled(False)
        if whole:
            menu.addSeparator()
            put(menu, whole, "cube")
        menu.addSeparator()
        if others:
            put(menu.addMenu("Deltas of other bases"), others, "deltas")
        folder = menu.addAction(icons.icon("folder"), "Choose a folder...")
        folder.setData("folder")
        folder.setEnabled(not reason)
        return menu

    def _add(self, action: QAction) -> None:
        what = action.data()
        if what == "folder":
            chosen = QFileDialog.getExistingDirectory(self._page, "Choose a delta or a full fine-tune",
                                                      str(self._ctx.library.root))
            what = Source(Path(chosen)) if chosen else None
        if isinstance(what, Source) and not self._page.session.add((what,)):
            self._page.refuse("It can't be put on the deck now")

    # --------------------------------------------------------------------------------------------- conversations
    def show_history(self) -> None:
        """The popup with all conversations."""
        page = self._page
        popup = self._popup = HistoryPopup(self._ctx, page.store, page)
        popup.opened.connect(self.open)
        popup.deleted.connect(self.delete)
        popup.export_asked.connect(self.ask_export)
        page.store.changed.connect(popup.fill)
        button = page.header.history
        popup.popup(button.mapToGlobal(QPoint(button.width() + 120, button.height() + 4)))

    def open(self, id: str) -> None:
        """Go on with a conversation."""
        page = self._page
        found = page.store.get(id)
        if found is None:
            return
        if page.session.is_answering:
            page.refuse("Another chat can't be opened now", "Stop the answer first.")
            return
        page.drawer.flush()
        page.absent.setProperty("base", None)
        page.talk.open(found)
        if page.session.state == "ready":
            page.talk.take_deck()
            if found.base and found.base != page.session.base:
                self._ctx.notify(f"This was held on {found.base_name or 'another base'}. {page.session.base_name} is loaded and "
                                 "answers from here on.", "faded")

    def delete(self, id: str) -> None:
        """Delete a conversation; it can be brought back for some seconds."""
        page = self._page
        found = page.store.get(id)
        if found is None:
            return
        if page.talk.now.id == id:
            if page.session.is_answering:
                page.refuse("This chat can't be deleted now", "Stop the answer first.")
                return
            page.talk.start()
        page.store.delete(id)
        page.offer_undo_of_chat(found.title)

    def ask_export(self, id: str, kind: str) -> None:
        """Ask where to, and write."""
        found = self._page.store.get(id)
        if found is None:
            return
        ending = "md" if kind == "markdown" else "json"
        name = "".join(c if c.isalnum() or c in " -_" else " " for c in found.title).strip()[:50] or "chat"
        path, _ = QFileDialog.getSaveFileName(self._page, "Export the conversation", str(Path.home() / f"{name}.{ending}"),
                                              "Markdown (*.md)" if kind == "markdown" else "JSON (*.json)")
        if path:
            self.export(id, kind, Path(path))

    def export(self, id: str, kind: str, path: Path) -> None:
        """Write a conversation as Markdown or JSON."""
        found = self._page.store.get(id)
        if found is None:
            return
        text = as_markdown(found) if kind == "markdown" else as_json(found)
        self._ctx.tasks.run(self, lambda task: write_atomic(path, text.encode()), lambda _: self._exported(path), self._failed)

    def _exported(self, path: Path) -> None:
        self._ctx.notify(f"Exported to {path.name}", "success")

    def _failed(self, failure: Failure) -> None:
        self._ctx.show_error(failure)

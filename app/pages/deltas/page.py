"""The Deltas page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PySide6.QtCore import QEvent, QObject, QPoint, Qt
from PySide6.QtGui import (
    QAction,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDropEvent,
    QFontMetrics,
    QHideEvent,
    QKeyEvent,
    QKeySequence,
    QShortcut,
)
from PySide6.QtWidgets import QComboBox, QFrame, QLineEdit, QMenu, QStackedWidget, QWidget

from app.actions import Act
from app.chat.session import Source
from app.context import Context
from app.library.entry import DeltaEntry
from app.models.library import LibraryFilter, LibraryModel
from app.pages.deltas.desk import Desk
from app.pages.deltas.detail import DetailPane
from app.pages.deltas.table import DeltaTable
from app.widgets.basics import Card, IconLabel, PageHeader, boxed, button, clear_layout, column, hairline, label, row, set_look
from app.widgets.states import EmptyState, ErrorCard, Skeleton
from app.words import count, size

LOADING, EMPTY, LIST, FAILED = range(4)
_STEPS = (("Compress", "A base and a fine-tune of it become a delta in your library."),
          ("Keep", "Search, verify, note and compare what you have made."),
          ("Share", "Export a small folder, or the whole checkpoint again."))
_WHAT = ("A delta holds what a fine-tune changed, in a small part of its size. "
         "Every delta that you make or import is listed here.")


class DeltasPage(QWidget):
    """Every delta of the library, and what can be done with it."""

    name = "deltas"

    def __init__(self, ctx: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._ctx, self._library = ctx, ctx.library
        self._wanted: Path | None = ctx.library.wanted
        self.setAcceptDrops(True)
        self.desk = Desk(ctx, self)
        self.model = LibraryModel(self._note_changed, self)
        self.proxy = LibraryFilter(self)
        self.proxy.setSourceModel(self.model)
        self.table = DeltaTable(ctx.icons, self.proxy)
        self.detail = DetailPane(ctx)
        self.header = PageHeader("Deltas")
        self._build_header()
        self._stack = QStackedWidget()
        self._failed = column()
        for made in (self._loading(), self._empty(), self._list(), boxed(self._failed)):
            self._stack.addWidget(made)
        page = column(self.header, self._stack, gap=0, margins=(24, 0, 24, 24))
        page.setStretch(1, 1)
        self.setLayout(page)
        self._wire()
        self._update()

    # ------------------------------------------------------------------------------------------------- building
    def _build_header(self) -> None:
        ctx = self._ctx
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search name, base, note")
        self.search.setAccessibleName("Search deltas")
        self.search.setToolTip(f"Search ({ctx.actions.keys(Act.SEARCH)})")
        self.search.setFixedWidth(ctx.theme.px(230))
        self._glass = QAction(self.search)
        self._glass.setText("Search")
        self._clear = QAction(self.search)
        self._clear.setText("Clear the search")
        self._clear.setToolTip("Clear the search (Esc)")
        self._clear.triggered.connect(self.search.clear)
        self.search.addAction(self._glass, QLineEdit.ActionPosition.LeadingPosition)
        self.search.addAction(self._clear, QLineEdit.ActionPosition.TrailingPosition)
        self._clear.setVisible(False)
        self.search.installEventFilter(self)
        self.bases = QComboBox()
        self.bases.setAccessibleName("Show deltas of one base")
        self.bases.setToolTip("Show deltas of one base")
        self.bases.addItem("All bases", "")
        self.bases.setFixedWidth(ctx.theme.px(150))
        self._import_tip = f"Copy a delta folder into the library ({ctx.actions.keys(Act.IMPORT)})"
        self.import_button = button("Import...", icons=ctx.icons, icon="import", tip=self._import_tip, clicked=self.ask_import)
        self.verify_button = button("Verify all", icons=ctx.icons, icon="shield", clicked=self._verify_all)
        self.header.at_right(self.bases, self.search, self.import_button, self.verify_button)
        self._dress()

    def _dress(self) -> None:
        self._glass.setIcon(self._ctx.icons.icon("search", "text-faded", 16))
        self._clear.setIcon(self._ctx.icons.icon("close", "text-faded", 14))

    def _loading(self) -> QWidget:
        self._loading_title = label(weight=600)
        self._loading_text = label(tone="faded", wrap=True)
        card = Card()
        card.add(self._loading_title, self._loading_text, 8, Skeleton(self._ctx.theme, 8), None)
        return card

    def _empty(self) -> QWidget:
        ctx = self._ctx
        go = button("Compress a fine-tune", "primary", icons=ctx.icons, icon="compress", clicked=partial(ctx.go, "compress"))
        demo = button("Try the demo trio", icons=ctx.icons, icon="deltas", clicked=ctx.actions[Act.DEMO].trigger)
        bring = button("Import a delta...", icons=ctx.icons, icon="import", clicked=self.ask_import)
        state = EmptyState(ctx.theme, "Your library is empty", _WHAT, (go, demo, bring), "", _STEPS)
        self._folder_note = label(size="small", tone="faded", elide=True)
        drop = QFrame()
        drop.setProperty("look", "drop")
        hint = label("Or drop a delta folder anywhere on this page", tone="faded")
        drop.setLayout(row(None, IconLabel(ctx.icons, "folder"), hint, None, margins=(12, 14, 12, 14)))
        self._empty_card = Card(margins=(24, 16, 24, 16))
        self._empty_card.add(state, drop, row(None, self._folder_note, None))
        self._empty_card.body.setStretch(0, 1)
        return self._empty_card

    def _list(self) -> QWidget:
        icons = self._ctx.icons
        self._match_text = label(size="big", weight=600, wrap=True)
        self._match_text.setAlignment(Qt.AlignmentFlag.AlignCenter)
        clear = button("Show all deltas", icons=icons, icon="close", clicked=self._show_all)
        where = label("Words are looked for in names, bases, methods and notes.", tone="faded")
        where.setAlignment(Qt.AlignmentFlag.AlignCenter)
        nothing = boxed(column(None, self._match_text, where, 4, row(None, clear, None), None, gap=8))
        self._rows = QStackedWidget()
        self._rows.addWidget(self.table)
        self._rows.addWidget(nothing)
        self._shown = label(size="small", tone="faded")
        hint = label("Drop a delta folder here to import it", size="small", tone="faded", elide=True)
        footer = row(IconLabel(icons, "import", size=16), hint, self._shown, gap=8, margins=(16, 0, 16, 0))
        footer.setStretch(1, 1)
        foot = QWidget()
        foot.setLayout(footer)
        foot.setFixedHeight(self._ctx.theme.px(40))
        self._card = Card(margins=(1, 1, 1, 1), gap=0)
        self._card.setAccessibleName("Library")
        strips = column(self.desk.undo_bar, self.desk.activity, self.desk.notice, gap=6, margins=(10, 0, 10, 8))
        table = column(self._rows, margins=(9, 0, 9, 0))
        self._card.add(table, strips, hairline(), foot)
        self._card.body.setStretch(0, 1)
        made = QWidget()
        both = row(self._card, self.detail, gap=12)
        both.setStretch(0, 1)
        made.setLayout(both)
        return made

    def _wire(self) -> None:
        library, table = self._library, self.table
        library.changed.connect(self._update)
        library.select_asked.connect(self.select)
        self.desk.select.connect(self.select)
        self.desk.changed.connect(self._set_usable)
        self.detail.asked.connect(self._asked)
        self.search.textChanged.connect(self._searched)
        self.bases.currentIndexChanged.connect(self._base_chosen)
        table.picked.connect(self._picked)
        table.opened.connect(self.detail.focus_first)
        table.removal_asked.connect(self._remove_chosen)
        table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        table.customContextMenuRequested.connect(self._context_menu)
        self.proxy.rowsInserted.connect(self._count)
        self.proxy.rowsRemoved.connect(self._count)
        self._ctx.theme.changed.connect(self._dress)
        undo = QShortcut(QKeySequence(QKeySequence.StandardKey.Undo), self, context=Qt.ShortcutContext.WidgetWithChildrenShortcut)
        undo.activated.connect(self.desk.undo)

    # -------------------------------------------------------------------------------------------------- showing
    def shown(self) -> None:
        """The page comes on screen: look whether anything changed."""
        if self._library.wanted is not None:
            self.select(self._library.wanted)
        self._library.refresh()
        self._update()

    def hideEvent(self, event: QHideEvent) -> None:
        """Leaving the page ends the time for Undo."""
        super().hideEvent(event)
        if not event.spontaneous():
            self._library.trash.commit()

    def _update(self) -> None:
        library = self._library
        entries = library.entries()
        self.model.sync(entries)
        self._update_bases(entries)
        if library.failure is not None and not entries:
            self._show_failure()
        elif library.loading:
            self._show_loading()
        else:
            self._stack.setCurrentIndex(LIST if entries or library.trash.pending() or self.desk.busy else EMPTY)
            if library.failure is not None:
                self.desk.warn_unread(library.failure)
        self._folder_note.setText(f"The library is the folder {library.root}; Settings choose another.")
        self._header_words(entries)
        if self._wanted is not None and self.table.choose(self._wanted):
            self._wanted = library.wanted = None
        self.table.choose_first()
        self._picked(self.table.current())
        self._count()
        self._set_usable()

    def _header_words(self, entries: Sequence[DeltaEntry]) -> None:
        good = [e for e in entries if e.usable]
        if not entries:
            self.header.caption.setText("")
            return
        bases = len({e.base_name for e in good})
        on = f" on {count(bases, 'base')}, {size(sum(e.bytes for e in good))} in place of {size(sum(e.full_bytes for e in good))}"
        self.header.caption.setText(f"{count(len(entries), 'delta')}{on if good else ''}")

    def _show_loading(self) -> None:
        done, total = self._library.progress
        if not self._ctx.engine.is_ready:
            self._loading_title.setText("Starting the engine")
            self._loading_text.setText("It is loaded in the background once; deltas are read right after.")
        else:
            self._loading_title.setText("Reading the library")
            far = f"{done} of {count(total, 'delta')} in " if total else ""
            self._loading_text.setText(f"{far}{self._library.root}")
        self._stack.setCurrentIndex(LOADING)

    def _show_failure(self) -> None:
        failure = self._library.failure
        assert failure is not None
        again = button("Try again", "primary", icons=self._ctx.icons, icon="reload", clicked=self._library.refresh)
        clear_layout(self._failed)
        self._failed.addWidget(ErrorCard(self._ctx.icons, failure, (again,), title="The library could not be read"))
        self._failed.addStretch(1)
        self._stack.setCurrentIndex(FAILED)

    def _update_bases(self, entries: Sequence[DeltaEntry]) -> None:
        names = sorted({e.base_name for e in entries if e.base_name}, key=str.lower)
        wanted = ["", *names]
        if wanted == [self.bases.itemData(i) for i in range(self.bases.count())]:
            return
        before = self.bases.currentData()
        self.bases.blockSignals(True)
        self.bases.clear()
        for base in wanted:
            self.bases.addItem(base or "All bases", base)
        self.bases.setCurrentIndex(max(0, wanted.index(before) if before in wanted else 0))
        self.bases.blockSignals(False)
        metrics = QFontMetrics(self._ctx.theme.font())
        widest = max(metrics.horizontalAdvance(b or "All bases") for b in wanted)
        self.bases.view().setMinimumWidth(widest + self._ctx.theme.px(40))
        self._base_chosen()

    def _count(self, *_: object) -> None:
        shown, total = self.proxy.rowCount(), self.model.rowCount()
        self._shown.setText(f"{shown:,} of {total:,} shown")
        none = total > 0 and shown == 0
        self._rows.setCurrentIndex(1 if none else 0)
        if none:
            words = f"No delta matches '{self.search.text().strip()}'" if self.search.text().strip() else "No delta is shown"
            base = self.bases.currentData()
            self._match_text.setText(f"{words} on {base}" if base else words)
            self.detail.show_entry(None, "Nothing is selected: no delta matches.")

    def _set_usable(self) -> None:
        busy, entries = self.desk.busy, self._library.entries()
        reason = f"{busy} is under way" if busy else "" if entries else "There is no delta yet"
        self.verify_button.setEnabled(not reason)
        self.verify_button.setToolTip(reason or "Read every byte of every delta, and of the bases that are known")
        self.import_button.setEnabled(not busy)
        self.import_button.setToolTip(reason if busy else self._import_tip)

    # ---------------------------------------------------------------------------------------------- search, select
    def focus_search(self) -> None:
        """Go to the search field."""
        self.search.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.search.selectAll()

    def _searched(self, text: str) -> None:
        self._clear.setVisible(bool(text))
        self.proxy.search(text)
        self._filtered()

    def _base_chosen(self, *_: object) -> None:
        self.proxy.show_base(self.bases.currentData() or "")
        self._filtered()

    def _filtered(self) -> None:
        self._count()
        self.table.choose_first()
        self.table.fit_columns()

    def _show_all(self) -> None:
        self.search.clear()
        self.bases.setCurrentIndex(0)

    def select(self, path: object) -> None:
        """Show a delta, now or as soon as it has been read."""
        if isinstance(path, Path):
            self._wanted = path
            if self._library.entry(path) is not None:
                if not self.table.choose(path):
                    self._show_all()
                if self.table.choose(path):
                    self._wanted = self._library.wanted = None

    def _picked(self, entry: object) -> None:
        if isinstance(entry, DeltaEntry) and entry != self.detail.entry():
            self.detail.show_entry(entry)
        elif entry is None and self.proxy.rowCount():
            self.detail.show_entry(None)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """In the search field: Down and Enter go to the table, Escape clears."""
        if watched is self.search and event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent):
            if event.key() in (Qt.Key.Key_Down, Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self.table.setFocus(Qt.FocusReason.TabFocusReason)
                return True
            if event.key() == Qt.Key.Key_Escape and self.search.text():
                self.search.clear()
                return True
        return super().eventFilter(watched, event)

    # ------------------------------------------------------------------------------------------------- operations
    def _note_changed(self, entry: DeltaEntry, note: str) -> None:
        self._library.set_note(entry, note)

    def _verify_all(self) -> None:
        self.desk.verify(self._library.entries())

    def _remove_chosen(self) -> None:
        self.desk.remove(self.table.chosen())

    def ask_import(self) -> None:
        """Ask for a delta folder and copy it into the library."""
        self.desk.ask_import()

    def take(self, path: Path) -> None:
        """A delta folder from outside: shown where it is in the library, else imported."""
        if path.resolve().parent == self._library.root.resolve():
            self.select(self._library.root / path.name)
        else:
            self.desk.import_from((path,))

    def _asked(self, what: str) -> None:
        entry = self.detail.entry()
        if entry is None:
            return
        desk = self.desk
        calls: dict[str, Callable[[], object]] = {
            "chat": partial(self._open_chat, entry),
            "verify": partial(desk.verify, self.table.chosen() or (entry,)), "export-merged": partial(desk.export_merged, entry),
            "export-folder": partial(desk.export_folder, entry), "report": partial(desk.report, entry),
            "compare": self._compare, "rename": partial(desk.rename, entry), "note": self.table.edit_note,
            "reveal": partial(desk.reveal, entry), "trash": self._remove_chosen, "measure": partial(desk.measure, entry),
            "base": partial(desk.choose_base, entry), "fine-tune": partial(desk.choose_fine_tune, entry)}
        calls[what]()

    def _open_chat(self, entry: DeltaEntry) -> None:
        if entry.base_path:
            self._ctx.chat.open(entry.base_path, (Source(entry.path, entry.name),))

    def _compare(self) -> None:
        """The selected ones; with a single one, others of its base too, so that there is something to compare."""
        chosen = [e for e in self.table.chosen() if e.usable]
        if len(chosen) == 1:
            one = chosen[0]
            chosen += [e for e in self._library.entries() if e.usable and e.base_name == one.base_name and e.path != one.path][:3]
        self._library.compare(e.path for e in chosen)

    def _context_menu(self, at: QPoint) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for action in self.detail.more.menu().actions():
            menu.addAction(action)
        menu.popup(self.table.viewport().mapToGlobal(at))

    # ------------------------------------------------------------------------------------------------- drag and drop
    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take folders."""
        if _folders(event):
            event.acceptProposedAction()
            self._mark(True)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        """They are gone again."""
        self._mark(False)

    def dropEvent(self, event: QDropEvent) -> None:
        """Import them."""
        self._mark(False)
        if folders := _folders(event):
            event.acceptProposedAction()
            self.desk.import_from(folders)

    def _mark(self, on: bool) -> None:
        for card in (self._card, self._empty_card):
            set_look(card, dropping="true" if on else "")


def _folders(event: QDropEvent) -> tuple[Path, ...]:
    return tuple(Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile())

"""All conversations in a popup: search, open, export, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QPoint,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QFrame,
    QLineEdit,
    QListView,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from app.chat.conversations import Conversation
from app.chat.store import Conversations
from app.context import Context
from app.pages.chat.chips import shown_name
from app.widgets.basics import button, column, label, row
from app.words import count

FACTS = Qt.ItemDataRole.UserRole + 1
_Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


def day_words(seconds: float, now: float) -> str:
    """`14:05`, `Yesterday`, `3 March`, `3 March 2025`."""
    then, today = datetime.fromtimestamp(seconds), datetime.fromtimestamp(now)
    days = (today.date() - then.date()).days
    if days == 0:
        return then.strftime("%H:%M")
    if days == 1:
        return "Yesterday"
    return f"{then.day} {then.strftime('%B')}" + ("" if then.year == today.year else f" {then.year}")


class ConversationModel(QAbstractListModel):
    """Conversations, the last changed first; title, and in a second line when, where and with whom."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._shown: tuple[Conversation, ...] = ()
        self._now = 0.0

    def show(self, found: Sequence[Conversation], now: float) -> None:
        """Show these."""
        self.beginResetModel()
        self._shown, self._now = tuple(found), now
        self.endResetModel()

    def conversation(self, index: _Index) -> Conversation | None:
        """The one in a row."""
        return self._shown[index.row()] if index.isValid() and index.row() < len(self._shown) else None

    def row_of(self, id: str) -> int:
        """Where one is; -1 if it is not shown."""
        return next((i for i, c in enumerate(self._shown) if c.id == id), -1)

    def rowCount(self, parent: _Index = _ROOT) -> int:
        """How many."""
        return 0 if parent.isValid() else len(self._shown)

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Title, facts, and both for screen readers."""
        found = self.conversation(index)
        if found is None:
            return None
        who = ", ".join(dict.fromkeys(shown_name(s) for s in found.sides))
        facts = f"{day_words(found.changed, self._now)}, {count(len(found.turns), 'turn')}, {found.base_name}: {who}"
        if role == Qt.ItemDataRole.DisplayRole:
            return found.title
        if role == FACTS:
            return facts
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleTextRole):
            return f"{found.title}\n{facts}"
        return None


class TwoLines(QStyledItemDelegate):
    """Title over its facts."""

    def __init__(self, ctx: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = ctx.theme

    def sizeHint(self, option: QStyleOptionViewItem, index: _Index) -> QSize:
        """Two lines."""
        return QSize(100, self._theme.px(48))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        """Draw it."""
        t, o = self._theme, option
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(o.rect).adjusted(2, 1, -2, -1)
        state = o.state
        if state & (QStyle.StateFlag.State_Selected | QStyle.StateFlag.State_MouseOver):
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(t.mixed("accent", 0.11) if state & QStyle.StateFlag.State_Selected else t.mixed("text-faded", 0.08))
            painter.drawRoundedRect(area, 6, 6)
        inner = area.adjusted(10, t.px(5), -10, -t.px(5))
        for role, font, colour, top in ((Qt.ItemDataRole.DisplayRole, t.font("text", 500), "text", True),
                                        (FACTS, t.font("small"), "text-faded", False)):
            metrics = QFontMetricsF(font)
            painter.setFont(font)
            painter.setPen(t.color(colour))
            text = metrics.elidedText(str(index.data(role)), Qt.TextElideMode.ElideRight, inner.width())
            flag = Qt.AlignmentFlag.AlignTop if top else Qt.AlignmentFlag.AlignBottom
            painter.drawText(inner, int(flag | Qt.AlignmentFlag.AlignLeft), text)
        painter.restore()


class HistoryPopup(QFrame):
    """`opened(id)`, `deleted(id)`, `export_asked(id, kind)` with markdown or json."""

    opened = Signal(str)
    deleted = Signal(str)
    export_asked = Signal(str, str)

    def __init__(self, ctx: Context, store: Conversations, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self._ctx, self._store = ctx, store
        self.setProperty("look", "float")
        self.setAccessibleName("Conversations")
        t = ctx.theme
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search all conversations")
        self.search.setAccessibleName("Search all conversations")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self.fill)
        self.search.installEventFilter(self)
        self.model = ConversationModel(self)
        self.list = QListView()
        self.list.setModel(self.model)
        self.list.setItemDelegate(TwoLines(ctx, self.list))
        self.list.setAccessibleName("Conversations")
        self.list.setMouseTracking(True)
        self.list.setFrameShape(QFrame.Shape.NoFrame)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.clicked.connect(self._open)
        self.list.activated.connect(self._open)
        self.list.selectionModel().currentChanged.connect(self._usable)
        self._none = label(tone="faded", wrap=True)
        self._none.setAlignment(Qt.AlignmentFlag.AlignCenter)
        # It has all the room that the list leaves: the search stays in its place.
        self._none.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        icons = ctx.icons
        self.markdown = button("Markdown", "ghost", dense=True, icons=icons, icon="export", tip="Export as Markdown",
                               clicked=lambda: self._export("markdown"), name="Export as Markdown")
        self.json = button("JSON", "ghost", dense=True, icons=icons, icon="export", tip="Export as JSON",
                           clicked=lambda: self._export("json"), name="Export as JSON")
        self.trash = button("Delete", "ghost", dense=True, icons=icons, icon="trash", clicked=self._delete)
        self.setLayout(column(self.search, self.list, self._none, row(self.markdown, self.json, None, self.trash, gap=2), gap=8,
                              margins=(10, 10, 10, 8)))
        self.setFixedSize(t.px(420), t.px(460))
        self.fill()

    def fill(self, *_: object) -> None:
        """Show what the search finds."""
        import time

        before = self.current()
        found = self._store.search(self.search.text())
        self.model.show(found, time.time())
        place = self.model.row_of(before.id) if before is not None else -1
        if found:
            self.list.setCurrentIndex(self.model.index(max(0, place)))
        self.list.setVisible(bool(found))
        self._none.setVisible(not found)
        self._none.setText("No conversation holds all of these words." if self.search.text().strip() else
                           "Conversations appear here once something was said." if self._store.loaded else
                           "The conversations are being read.")
        self._usable()

    def current(self) -> Conversation | None:
        """The chosen one."""
        return self.model.conversation(self.list.currentIndex())

    def _usable(self, *_: object) -> None:
        for made in (self.markdown, self.json, self.trash):
            made.setEnabled(self.current() is not None)

    def _open(self, index: QModelIndex) -> None:
        if (found := self.model.conversation(index)) is not None:
            self.close()
            self.opened.emit(found.id)

    def _delete(self) -> None:
        if (found := self.current()) is not None:
            self.deleted.emit(found.id)
            self.fill()

    def _export(self, kind: str) -> None:
        if (found := self.current()) is not None:
            self.close()
            self.export_asked.emit(found.id, kind)

    def popup(self, right: QPoint) -> None:
        """Open with its upper right corner there."""
        self.move(right.x() - self.width(), right.y())
        self.show()
        self.search.setFocus(Qt.FocusReason.PopupFocusReason)
        self.search.selectAll()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Arrows and Enter go to the list while one types."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            if event.key() in (Qt.Key.Key_Down, Qt.Key.Key_Up):
                step = 1 if event.key() == Qt.Key.Key_Down else -1
                to = min(max(0, self.list.currentIndex().row() + step), self.model.rowCount() - 1)
                self.list.setCurrentIndex(self.model.index(to))
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self._open(self.list.currentIndex())
                return True
        return False

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Delete deletes; Escape closes."""
        if event.key() == Qt.Key.Key_Delete:
            self._delete()
        elif event.key() == Qt.Key.Key_Escape:
            self.close()
        else:
            super().keyPressEvent(event)

"""The list from which a checkpoint is chosen: recent ones, the hub's cache, the demo models; searched as one types."""

from __future__ import annotations

import os
from collections.abc import Sequence

from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QPoint,
    QRect,
    QRectF,
    QSize,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from PySide6.QtGui import QFontMetrics, QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QLineEdit,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolButton,
    QWidget,
)

from app.checkpoints import Choice, cleaned, is_hub_id, list_choices
from app.context import Context
from app.paths import expanded
from app.tasks import Failure
from app.theme import Theme
from app.widgets.basics import button, column, hairline, label, row
from app.words import size

_ROOT = QModelIndex()
CHOICE_ROLE = int(Qt.ItemDataRole.UserRole)
"""Gives the `Choice`."""


class Shelf(QObject):
    """The checkpoints at hand, read in the background. `changed` comes after they were."""

    changed = Signal()

    def __init__(self, ctx: Context, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._ctx = ctx
        self.choices: tuple[Choice, ...] = ()
        self.is_loading = False

    def refresh(self) -> None:
        """Look again, unless it is being looked."""
        if not self.is_loading:
            self.is_loading = True
            recent = self._ctx.settings.options.recent
            self._ctx.tasks.run(self, lambda task: list_choices(recent), self._found, self._missed)

    def _found(self, choices: tuple[Choice, ...]) -> None:
        self.is_loading, self.choices = False, choices
        self.changed.emit()

    def _missed(self, failure: Failure) -> None:
        self._found(self.choices)


class ChoiceModel(QAbstractListModel):
    """Choices as a list."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._choices: tuple[Choice, ...] = ()

    def set_choices(self, choices: Sequence[Choice]) -> None:
        """Show others."""
        if tuple(choices) != self._choices:
            self.beginResetModel()
            self._choices = tuple(choices)
            self.endResetModel()

    def rowCount(self, parent: QModelIndex | QPersistentModelIndex = _ROOT) -> int:
        """How many there are."""
        return 0 if parent.isValid() else len(self._choices)

    def data(self, index: QModelIndex | QPersistentModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """The choice itself, or its words."""
        if not index.isValid() or index.row() >= len(self._choices):
            return None
        choice = self._choices[index.row()]
        if role == CHOICE_ROLE:
            return choice
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{choice.name} {choice.note} {choice.group}"
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{choice.name}, {size(choice.bytes) if choice.bytes else 'size unknown'}, {choice.group}"
        return choice.source if role == Qt.ItemDataRole.ToolTipRole else None


class _Painter(QStyledItemDelegate):
    """Name and size over where it lies and which list it is from."""

    def __init__(self, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(self._theme.px(240), self._theme.px(46))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        choice: Choice = index.data(CHOICE_ROLE)
        t, rect = self._theme, QRect(option.rect)
        state = option.state
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if state & QStyle.StateFlag.State_Selected or state & QStyle.StateFlag.State_MouseOver:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(t.mixed("accent", 0.11) if state & QStyle.StateFlag.State_Selected else t.mixed("text-faded", 0.08))
            painter.drawRoundedRect(QRectF(rect).adjusted(2, 1, -2, -1), 6, 6)
        inner = rect.adjusted(t.px(10), t.px(5), -t.px(10), -t.px(5))
        upper = QRect(inner.left(), inner.top(), inner.width(), inner.height() // 2)
        lower = QRect(inner.left(), upper.bottom(), inner.width(), inner.height() - upper.height())
        self._line(painter, upper, choice.name, size(choice.bytes) if choice.bytes else "", ("text", 500), "text")
        self._line(painter, lower, choice.note, choice.group, ("small", 400), "text-faded")
        painter.restore()

    def _line(self, painter: QPainter, rect: QRect, left: str, right: str, font: tuple[str, int], role: str) -> None:
        painter.setFont(self._theme.font("small" if right and role == "text-faded" else "text", 400))
        painter.setPen(self._theme.color("text-faded" if role == "text-faded" else "text"))
        taken = QFontMetrics(painter.font()).horizontalAdvance(right)
        painter.drawText(rect, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, right)
        painter.setFont(self._theme.font(*font))
        painter.setPen(self._theme.color(role))
        left = QFontMetrics(painter.font()).elidedText(left, Qt.TextElideMode.ElideMiddle, rect.width() - taken - 12)
        painter.drawText(rect, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, left)


class ChoosePopup(QFrame):
    """A floating list with a search field that takes a path or hub id too. It tells the source that was chosen."""

    chosen = Signal(str)
    browse_asked = Signal()
    clear_asked = Signal()

    def __init__(self, ctx: Context, shelf: Shelf, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Popup | Qt.WindowType.FramelessWindowHint)
        self.setProperty("look", "float")
        self.setAccessibleName(name)
        self._ctx, self._shelf = ctx, shelf
        self._model = ChoiceModel(self)
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSourceModel(self._model)
        self._proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.field = QLineEdit()
        self.field.setPlaceholderText("Search, or paste a folder or hub id")
        self.field.setAccessibleName("Search checkpoints, or paste a folder or hub id")
        self.field.setClearButtonEnabled(True)
        self.field.addAction(ctx.icons.icon("search", "text-faded", 16), QLineEdit.ActionPosition.LeadingPosition)
        for made in self.field.findChildren(QToolButton):       # Qt's own clear button, and the picture of a lens
            made.setAccessibleName("Clear the search" if made.isEnabled() else "Search")
        self.field.installEventFilter(self)
        self.field.textChanged.connect(self._filter)
        self.view = QListView()
        self.view.setModel(self._proxy)
        self.view.setItemDelegate(_Painter(ctx.theme, self.view))
        self.view.setAccessibleName("Checkpoints at hand")
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.view.setMouseTracking(True)
        self.view.setUniformItemSizes(True)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.clicked.connect(self._pick)
        self.view.activated.connect(self._pick)
        self._hint = label("", size="small", tone="faded", wrap=True)
        browse = button("Browse...", icons=ctx.icons, icon="folder", dense=True, clicked=self._browse)
        self._clear = button("Clear", "ghost", dense=True, clicked=self._empty, name="Clear this choice")
        self.setLayout(column(self.field, self.view, self._hint, hairline(), row(browse, None, self._clear), gap=8,
                              margins=(10, 10, 10, 10)))
        shelf.changed.connect(self._fill)
        self._fill()

    def open_at(self, place: QPoint, width: int, *, can_clear: bool) -> None:
        """Show the list at a place of the screen, looking again what lies at hand."""
        self._clear.setVisible(can_clear)
        self.field.clear()
        self._shelf.refresh()
        self._fill()
        t = self._ctx.theme
        self.resize(max(width, t.px(380)), t.px(360))
        room = self.screen().availableGeometry() if self.screen() else QRect(0, 0, 10_000, 10_000)
        x = max(room.left(), min(place.x(), room.right() - self.width()))
        y = max(room.top(), min(place.y(), room.bottom() - self.height()))
        self.move(x, y)
        self.show()
        self.field.setFocus()

    def _fill(self) -> None:
        self._model.set_choices(self._shelf.choices)
        self._say()

    def _filter(self, text: str) -> None:
        self._proxy.setFilterFixedString(cleaned(text))
        if self._proxy.rowCount() and text:
            self.view.setCurrentIndex(self._proxy.index(0, 0))
        self._say()

    def typed(self) -> str:
        """What the field holds, if it can be a folder or a hub id; else nothing."""
        text = cleaned(self.field.text())
        return text if text and (is_hub_id(text) or os.path.exists(expanded(text))) else ""

    def _say(self) -> None:
        typed, found = self.typed(), self._proxy.rowCount()
        if typed:
            self._hint.setText(f"Enter takes {typed}." if not found else f"Enter takes the marked one, Ctrl+Enter {typed}.")
        elif not found:
            self._hint.setText("Looking for checkpoints..." if self._shelf.is_loading else "Nothing by that name is at hand. "
                               "A hub id is written org/name.")
        self._hint.setVisible(bool(typed or not found))

    def _pick(self, index: QModelIndex) -> None:
        choice: Choice | None = index.data(CHOICE_ROLE)
        if choice is not None:
            self.hide()
            self.chosen.emit(choice.source)

    def _browse(self) -> None:
        self.hide()
        self.browse_asked.emit()

    def _empty(self) -> None:
        self.hide()
        self.clear_asked.emit()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Arrow keys in the search field walk the list; Enter takes what is marked, or what was typed."""
        if watched is self.field and isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            key, at = event.key(), self.view.currentIndex()
            if key in (Qt.Key.Key_Down, Qt.Key.Key_Up) and self._proxy.rowCount():
                step = 1 if key == Qt.Key.Key_Down else -1
                new = 0 if not at.isValid() else max(0, min(self._proxy.rowCount() - 1, at.row() + step))
                self.view.setCurrentIndex(self._proxy.index(new, 0))
                return True
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                wants_typed = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier) or not at.isValid()
                if self.typed() and wants_typed:
                    text = self.typed()
                    self.hide()
                    self.chosen.emit(text)
                elif at.isValid():
                    self._pick(at)
                return True
        return super().eventFilter(watched, event)


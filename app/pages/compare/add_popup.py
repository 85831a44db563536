"""The popup that lists the library's deltas, to choose from."""

from __future__ import annotations

from collections.abc import Sequence
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
from PySide6.QtGui import QFontMetricsF, QKeyEvent, QPainter, QPainterPath, QPen, QRegion, QResizeEvent
from PySide6.QtWidgets import QFrame, QLineEdit, QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from app import words
from app.context import Context
from app.icons import Icons
from app.library.entry import STATE_ICONS, STATE_TONES, DeltaEntry
from app.pages.compare.facts import kl_text, pair
from app.widgets.basics import column, label

MOST = 8
"""Deltas at once: as many as there are marks."""
ENTRY = Qt.ItemDataRole.UserRole
FACTS = Qt.ItemDataRole.UserRole + 1
_Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()
_TOGGLE = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)


class ChoiceModel(QAbstractListModel):
    """The library's deltas that match a search; a check mark says which are chosen. Deltas of the shown pair come first."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._all: tuple[DeltaEntry, ...] = ()
        self._shown: list[DeltaEntry] = []
        self._chosen: tuple[DeltaEntry, ...] = ()
        self._search = ""

    def show_entries(self, entries: Sequence[DeltaEntry], chosen: Sequence[DeltaEntry]) -> None:
        """Take the library's entries and those that are chosen."""
        again = tuple(e for e in entries if e.usable)
        if again == self._all:
            self._chosen = tuple(chosen)
            if self._shown:
                self.dataChanged.emit(self.index(0), self.index(len(self._shown) - 1))
            return
        self._all, self._chosen = again, tuple(chosen)
        self._filter()

    def search(self, text: str) -> None:
        """Show those whose name, base, fine-tune or method have every word of it."""
        self._search = text
        self._filter()

    def _filter(self) -> None:
        wanted = self._search.lower().split()
        first = pair(self._chosen[0]) if self._chosen else None
        self.beginResetModel()
        found = [e for e in self._all if all(w in f"{e.name} {e.base_name} {e.fine_tuned} {e.method}".lower() for w in wanted)]
        self._shown = sorted(found, key=lambda e: (pair(e) != first, e.name.lower()))
        self.endResetModel()

    def entry(self, index: _Index) -> DeltaEntry:
        """The delta of a row."""
        return self._shown[index.row()]

    def is_chosen(self, entry: DeltaEntry) -> bool:
        """Whether a delta is among the chosen."""
        return any(c.path == entry.path for c in self._chosen)

    def chosen(self) -> tuple[DeltaEntry, ...]:
        """Those that are compared now."""
        return self._chosen

    def is_full(self) -> bool:
        """Whether no more can be added."""
        return len(self._chosen) >= MOST

    def facts_of(self, entry: DeltaEntry) -> str:
        """The second line: method, size, KL, and whether the base is another one."""
        fidelity = f"KL {kl_text(entry)}" if entry.kl is not None else "no KL"
        said = [entry.method or "Unknown method", words.size(entry.bytes), fidelity]
        others = {pair(c)[0] for c in self._chosen if c.path != entry.path}
        if others and pair(entry)[0] not in others:
            said.append(f"another base: {entry.base_name or 'unknown'}")
        elif entry.fine_tuned:
            said.append(f"of {entry.fine_tuned}")
        return ", ".join(said)

    def rowCount(self, parent: _Index = _ROOT) -> int:
        """Deltas that match."""
        return 0 if parent.isValid() else len(self._shown)

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Name, facts, check mark."""
        if not index.isValid() or index.row() >= len(self._shown):
            return None
        entry = self._shown[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return entry.name
        if role == ENTRY:
            return entry
        if role == FACTS:
            return self.facts_of(entry)
        if role == Qt.ItemDataRole.CheckStateRole:
            return Qt.CheckState.Checked if self.is_chosen(entry) else Qt.CheckState.Unchecked
        if role in (Qt.ItemDataRole.AccessibleTextRole, Qt.ItemDataRole.ToolTipRole):
            return f"{entry.name}: {self.facts_of(entry)}{', chosen' if self.is_chosen(entry) else ''}"
        return None

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Rows that can't be added any more are disabled."""
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        entry = self._shown[index.row()]
        if self.is_full() and not self.is_chosen(entry):
            return Qt.ItemFlag.ItemIsSelectable
        return Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled


class _TwoLines(QStyledItemDelegate):
    """Name over facts, a check mark before both."""

    def __init__(self, icons: Icons, parent: QWidget) -> None:
        super().__init__(parent)
        self._icons, self._theme = icons, icons.theme

    def sizeHint(self, option: QStyleOptionViewItem, index: _Index) -> QSize:
        """Two lines."""
        return QSize(self._theme.px(300), self._theme.px(46))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        """Draw a row."""
        t, rect = self._theme, QRectF(option.rect).adjusted(2, 1, -2, -1)
        state = option.state
        entry: DeltaEntry = index.data(ENTRY)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        if state & QStyle.StateFlag.State_Selected:
            painter.setBrush(t.mixed("accent", 0.11))
            painter.drawRoundedRect(rect, 6, 6)
        elif state & QStyle.StateFlag.State_MouseOver:
            painter.setBrush(t.mixed("text-faded", 0.08))
            painter.drawRoundedRect(rect, 6, 6)
        side = t.px(16)
        box = QRectF(rect.left() + t.px(8), rect.center().y() - side / 2, side, side)
        if index.data(Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked:
            painter.setBrush(t.color("accent"))
            painter.drawRoundedRect(box, 4, 4)
            painter.drawPixmap(box.topLeft().toPoint() + QPoint(t.px(1), t.px(1)), self._icons.pixmap("check", "accent-text", 14))
        else:
            painter.setPen(QPen(t.color("line-strong"), 1))
            painter.setBrush(t.color("surface-raised"))
            painter.drawRoundedRect(box.adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
        usable = bool(index.flags() & Qt.ItemFlag.ItemIsEnabled)
        left = box.right() + t.px(10)
        right = rect.right() - t.px(30)
        icon = self._icons.pixmap(STATE_ICONS[entry.state], STATE_TONES[entry.state], 16)
        painter.drawPixmap(QPoint(round(rect.right() - t.px(24)), round(rect.center().y() - t.px(8))), icon)
        for text, font, role, top in ((entry.name, t.font(weight=500), "text" if usable else "text-faded", 0.0),
                                      (index.data(FACTS), t.font("small"), "text-faded", 0.5)):
            painter.setFont(font)
            painter.setPen(t.color(role))
            shown = QFontMetricsF(font).elidedText(text, Qt.TextElideMode.ElideRight, right - left)
            half = rect.height() / 2
            place = QRectF(left, rect.top() + top * rect.height() + (3 if not top else -3), right - left, half)
            painter.drawText(place, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, shown)
        painter.restore()


class AddPopup(QFrame):
    """Search, list, and how many are chosen. `toggled(path)` adds or takes out; Escape or a click outside closes it."""

    toggled = Signal(object)

    def __init__(self, ctx: Context, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup | Qt.WindowType.FramelessWindowHint)
        self.setProperty("look", "float")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setAccessibleName("Choose deltas")
        self._theme = ctx.theme
        self.model = ChoiceModel(self)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search name, method, base")
        self.search.setAccessibleName("Search deltas")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._searched)
        self.list = QListView()
        self.list.setModel(self.model)
        self.list.setItemDelegate(_TwoLines(ctx.icons, self.list))
        self.list.setMouseTracking(True)
        self.list.setAccessibleName("Deltas of the library")
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.clicked.connect(self._toggle)
        self.list.installEventFilter(self)
        self._said = label(size="small", tone="faded", wrap=True)
        self.setLayout(column(self.search, self.list, self._said, gap=8, margins=(10, 10, 10, 10)))

    def show_entries(self, entries: Sequence[DeltaEntry], chosen: Sequence[DeltaEntry]) -> None:
        """Take what the library has and what is chosen."""
        self.model.show_entries(entries, chosen)
        self._say(chosen)

    def _say(self, chosen: Sequence[DeltaEntry]) -> None:
        if self.model.rowCount() == 0:
            said = "No delta matches." if self.search.text() else "The library has no delta that can be read."
        elif len(chosen) >= MOST:
            said = f"{MOST} chosen, which is the most. Take one out to add another."
        else:
            said = f"{len(chosen)} chosen, {MOST} at most. Fidelity compares within one base only."
        self._said.setText(said)

    def open_below(self, place: QPoint) -> None:
        """Open with its corner there, within the screen."""
        self.search.clear()
        px = self._theme.px
        self.resize(px(400), min(px(400), px(112) + max(1, self.model.rowCount()) * px(46)))
        room = self.screen().availableGeometry()
        self.move(max(room.left(), min(place.x(), room.right() - self.width())),
                  max(room.top(), min(place.y(), room.bottom() - self.height())))
        self.show()
        self.search.setFocus()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Round corners, also where windows can't be translucent."""
        super().resizeEvent(event)
        outline = QPainterPath()
        outline.addRoundedRect(QRectF(self.rect()), 8, 8)
        self.setMask(QRegion(outline.toFillPolygon().toPolygon()))

    def _searched(self, text: str) -> None:
        self.model.search(text)
        self.list.setCurrentIndex(self.model.index(0) if self.model.rowCount() and text else QModelIndex())
        self._say(self.model.chosen())

    def _toggle(self, index: QModelIndex) -> None:
        if index.isValid() and self.model.flags(index) & Qt.ItemFlag.ItemIsEnabled:
            self.toggled.emit(self.model.entry(index).path)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The list would take Enter and Space for itself."""
        pressed = event.key() if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress else None
        if watched is self.list and pressed in _TOGGLE:
            self._toggle(self.list.currentIndex())
            return True
        return super().eventFilter(watched, event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go to the list, Enter and Space toggle."""
        count, at = self.model.rowCount(), self.list.currentIndex().row()
        if event.key() in (Qt.Key.Key_Down, Qt.Key.Key_Up) and count:
            step = 1 if event.key() == Qt.Key.Key_Down else -1
            self.list.setCurrentIndex(self.model.index(min(count - 1, max(0, at + step))))
            self.list.setFocus(Qt.FocusReason.OtherFocusReason)
        elif event.key() in _TOGGLE and at >= 0:
            self._toggle(self.list.currentIndex())
        else:
            super().keyPressEvent(event)

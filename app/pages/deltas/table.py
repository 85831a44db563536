"""The table of deltas: painted rows, columns that never cut a number, keys."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QItemSelectionModel, QModelIndex, QPersistentModelIndex, QRect, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QFont, QFontMetrics, QGuiApplication, QHelpEvent, QKeyEvent, QKeySequence, QPainter, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QHeaderView,
    QLineEdit,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QToolTip,
    QWidget,
)

from app.icons import Icons
from app.library.entry import STATE_ICONS, STATE_TONES, DeltaEntry
from app.models.library import (
    BASE,
    COLUMNS,
    DATE,
    ENTRY_ROLE,
    METHOD,
    NAME,
    NOTE,
    RATIO,
    LibraryFilter,
    header_text,
    row_text,
    trouble,
)
from app.words import plain_tip

AnyIndex = QModelIndex | QPersistentModelIndex
_STEPS = ({NAME: 104, BASE: 70, METHOD: 60, NOTE: 56}, {NAME: 140}, {METHOD: 140}, {NAME: 170}, {BASE: 130, NOTE: 110},
          {BASE: 180, NOTE: 160}, {NAME: 280, BASE: 260}, {NOTE: 400})
"""How wide columns of words may get, in the order in which they are given room; none gets more than its text needs."""
_GO_FIRST = (RATIO, METHOD, BASE)
"""Columns that go where even the least does not fit, in this order: the pane says the same."""
_PAD = 6
_ICON = 16


class RowPainter(QStyledItemDelegate):
    """Paints a delta's cells: state icon and name, quiet facts, numbers at the right, trouble in the note's column."""

    def __init__(self, icons: Icons, parent: QWidget) -> None:
        super().__init__(parent)
        self._icons, self._theme = icons, icons.theme

    def sizeHint(self, option: QStyleOptionViewItem, index: AnyIndex) -> QSize:
        """Rows of 40."""
        return QSize(self._theme.px(60), self._theme.px(40))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: AnyIndex) -> None:
        """One cell."""
        t, rect, view = self._theme, option.rect, option.widget
        entry: DeltaEntry = index.data(ENTRY_ROLE)
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        over = bool(option.state & QStyle.StateFlag.State_MouseOver)
        painter.save()
        ground = t.mixed("accent", 0.11) if selected else t.mixed("text-faded", 0.05) if over else t.color("surface-raised")
        painter.fillRect(rect, ground)
        painter.fillRect(QRect(rect.left(), rect.bottom(), rect.width(), 1), t.color("line"))
        if index.column() == NAME and selected and view is not None and view.hasFocus():
            painter.fillRect(QRect(rect.left(), rect.top(), 2, rect.height()), t.color("accent"))
        self._words(painter, rect.adjusted(t.px(_PAD), 0, -t.px(_PAD), -1), index, entry, selected)
        painter.restore()

    def _words(self, painter: QPainter, place: QRect, index: AnyIndex, entry: DeltaEntry, selected: bool) -> None:
        t, column, text = self._theme, index.column(), str(index.data() or "")
        if column == NAME:
            side = t.px(_ICON)
            painter.drawPixmap(place.left(), place.center().y() - side // 2 + 1,
                               self._icons.pixmap(STATE_ICONS[entry.state], STATE_TONES[entry.state], _ICON))
            place = place.adjusted(side + t.px(8), 0, 0, 0)
        elif column == NOTE and (problem := trouble(entry)):
            font = t.font("small", 600)
            self._draw(painter, place, problem, font, STATE_TONES[entry.state], Qt.AlignmentFlag.AlignLeft)
            place = place.adjusted(QFontMetrics(font).horizontalAdvance(problem) + t.px(10), 0, 0, 0)
        quiet = column in (BASE, DATE, NOTE) and not selected
        side_of = Qt.AlignmentFlag.AlignRight if COLUMNS[column].is_number else Qt.AlignmentFlag.AlignLeft
        self._draw(painter, place, text, self.font_of(column), "text-faded" if quiet else "text", side_of)

    def font_of(self, column: int) -> QFont:
        """Names stand out, quiet columns are small."""
        if column == NAME:
            return self._theme.font(weight=600)
        return self._theme.font("small" if column in (BASE, METHOD, DATE, NOTE) else "text")

    def _draw(self, painter: QPainter, place: QRect, text: str, font: QFont, role: str, side: Qt.AlignmentFlag) -> None:
        if place.width() <= 0 or not text:
            return
        painter.setFont(font)
        painter.setPen(self._theme.color(role))
        shown = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, place.width())
        painter.drawText(place, side | Qt.AlignmentFlag.AlignVCenter | Qt.TextFlag.TextSingleLine, shown)

    def natural(self, entry: DeltaEntry, column: int) -> int:
        """How wide a cell would have to be for all of its text."""
        t = self._theme
        wide = QFontMetrics(self.font_of(column)).horizontalAdvance(COLUMNS[column].shown(entry)) + 2 * t.px(_PAD) + 2
        if column == NAME:
            wide += t.px(_ICON) + t.px(8)
        return wide + self.trouble_width(entry) if column == NOTE else wide

    def trouble_width(self, entry: DeltaEntry) -> int:
        """Room for what is wrong with it: that is never cut."""
        t, problem = self._theme, trouble(entry)
        return QFontMetrics(t.font("small", 600)).horizontalAdvance(problem) + t.px(2 * _PAD + 2) if problem else 0

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: AnyIndex) -> QWidget:
        """A line to write the note in."""
        editor = QLineEdit(parent)
        editor.setAccessibleName(f"Note of {index.data(ENTRY_ROLE).name}")
        editor.setMaxLength(500)
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: AnyIndex) -> None:
        """At least 170 wide, within the table."""
        wide = max(option.rect.width(), self._theme.px(170))
        right = option.rect.right() - 2
        editor.setGeometry(right - wide, option.rect.top() + 3, wide, option.rect.height() - 6)

    def helpEvent(self, event: QHelpEvent, view: QAbstractItemView, option: QStyleOptionViewItem, index: AnyIndex) -> bool:
        """The whole text where it is cut, and what there is to say beyond it."""
        if event.type() == QEvent.Type.ToolTip and index.isValid():
            whole, more = str(index.data() or ""), index.data(Qt.ItemDataRole.ToolTipRole)
            cut = self.natural(index.data(ENTRY_ROLE), index.column()) > option.rect.width()
            lines = [*(whole.split("\n") if cut else ()), *(more or "").split("\n")]
            QToolTip.showText(event.globalPos(), plain_tip("\n".join(dict.fromkeys(filter(None, lines)))), view)
            return True
        return super().helpEvent(event, view, option, index)


def name_corner(table: QTableView) -> None:
    """Name the button that Qt puts where the two headers meet, for screen readers."""
    corner = table.findChild(QAbstractButton)
    if isinstance(corner, QAbstractButton):
        corner.setAccessibleName("Select all rows")


class DeltaTable(QTableView):
    """The rows of the library. Keys: Delete removes, F2 edits the note, Enter opens the pane, Ctrl+C copies."""

    picked = Signal(object)
    """The current DeltaEntry, or None."""
    opened = Signal()
    removal_asked = Signal()

    def __init__(self, icons: Icons, proxy: LibraryFilter, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons, self._proxy = icons, proxy
        self.painter = RowPainter(icons, self)
        self.setAccessibleName("Deltas")
        self.setModel(proxy)
        self.setItemDelegate(self.painter)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setMouseTracking(True)
        self.setTabKeyNavigation(False)
        self.setCornerButtonEnabled(False)
        name_corner(self)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head = self.horizontalHeader()
        head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head.setHighlightSections(False)
        head.setMinimumSectionSize(20)
        head.setSectionsClickable(True)
        self.setSortingEnabled(True)
        self.sortByColumn(DATE, Qt.SortOrder.DescendingOrder)
        self.selectionModel().currentRowChanged.connect(self._current_changed)
        self._fit_soon = QTimer(self, singleShot=True, interval=0)
        self._fit_soon.timeout.connect(self.fit_columns)
        for change in (proxy.rowsInserted, proxy.rowsRemoved, proxy.dataChanged, proxy.modelReset, proxy.layoutChanged):
            change.connect(self._changed)
        icons.theme.changed.connect(self._restyle)
        self._restyle()

    def _restyle(self) -> None:
        t = self._icons.theme
        self.verticalHeader().setDefaultSectionSize(t.px(40))
        self.horizontalHeader().setFixedHeight(t.px(36))
        self.fit_columns()
        self.viewport().update()

    def _changed(self, *_: object) -> None:
        self._fit_soon.start()                         # once for many rows: it measures every text of the table
        self.picked.emit(self.current())

    def _current_changed(self, now: QModelIndex, before: QModelIndex) -> None:
        self.picked.emit(self.current())

    # ------------------------------------------------------------------------------------------------- columns
    def fit_columns(self) -> None:
        """Give numbers and dates all they need, and share out the rest among the words."""
        t, widths = self._icons.theme, {}
        entries = [self._proxy.index(i, 0).data(ENTRY_ROLE) for i in range(self._proxy.rowCount())]
        head = QFontMetrics(t.font("small"))
        for i, column in enumerate(COLUMNS):
            heading = head.horizontalAdvance(column.name) + t.px(12) + t.px(18 if i == self._sorted() else 4)
            widths[i] = max([heading, *(self.painter.natural(e, i) for e in entries)])
        room = self.viewport().width()
        natural = {i: widths[i] for i in _STEPS[0]}
        least = {i: min(natural[i], t.px(wide)) for i, wide in _STEPS[0].items()}
        least[NOTE] = max([least[NOTE], *(self.painter.trouble_width(e) for e in entries)])
        widths.update(least)
        for i in _GO_FIRST:
            hidden = sum(widths.values()) > room
            self.setColumnHidden(i, hidden)
            if hidden:
                widths.pop(i)
        for step in _STEPS[1:]:
            for i, most in ((i, most) for i, most in step.items() if i in widths):
                more = min(natural[i], t.px(most)) - widths[i]
                widths[i] += max(0, min(more, room - sum(widths.values())))
        widths[NOTE] += max(0, room - sum(widths.values()))
        for i, wide in widths.items():
            if self.columnWidth(i) != wide:
                self.setColumnWidth(i, wide)

    def _sorted(self) -> int:
        return self.horizontalHeader().sortIndicatorSection()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Share out the width anew."""
        super().resizeEvent(event)
        self.fit_columns()

    # ----------------------------------------------------------------------------------------------- selection
    def current(self) -> DeltaEntry | None:
        """The delta that the pane shows."""
        index = self.currentIndex()
        found = index.data(ENTRY_ROLE) if index.isValid() else None
        return found if isinstance(found, DeltaEntry) else None

    def chosen(self) -> tuple[DeltaEntry, ...]:
        """All selected deltas, from the top."""
        rows = sorted(self.selectionModel().selectedRows(), key=lambda i: i.row())
        return tuple(index.data(ENTRY_ROLE) for index in rows)

    def choose(self, path: object) -> bool:
        """Select the delta in a folder; whether it is shown."""
        for i in range(self._proxy.rowCount()):
            index = self._proxy.index(i, 0)
            if index.data(ENTRY_ROLE).path == path:
                flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
                self.selectionModel().setCurrentIndex(index, flags)
                self.scrollTo(index)
                return True
        return False

    def choose_first(self) -> None:
        """Select the first row, if none is."""
        if not self.currentIndex().isValid() and self._proxy.rowCount():
            self.choose(self._proxy.index(0, 0).data(ENTRY_ROLE).path)

    def edit_note(self) -> None:
        """Write the current delta's note in place."""
        index = self.currentIndex()
        if index.isValid():
            note = index.siblingAtColumn(NOTE)
            self.scrollTo(note)
            self.setFocus()
            if self.model().flags(note) & Qt.ItemFlag.ItemIsEditable:
                self.edit(note)

    def copy_rows(self) -> None:
        """Put the selected rows on the clipboard, with the headings where there are several."""
        lines = [row_text(e) for e in self.chosen()]
        if lines:
            QGuiApplication.clipboard().setText("\n".join(([header_text()] if len(lines) > 1 else []) + lines))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """The table's own keys."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy_rows()
        elif event.key() == Qt.Key.Key_Delete:
            self.removal_asked.emit()
        elif event.key() == Qt.Key.Key_F2:
            self.edit_note()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.opened.emit()
        else:
            super().keyPressEvent(event)

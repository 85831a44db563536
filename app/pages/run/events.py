"""The event log of a run: newest first, long lines wrapped, all of it or warnings alone, to be copied."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt, QTimer
from PySide6.QtGui import QFontMetrics, QGuiApplication, QKeySequence, QPainter, QPaintEvent, QResizeEvent, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
)

from app.icons import Icons
from app.jobs.runlog import LogEntry
from app.jobs.runstate import RunState
from app.models.events import ENTRY_ROLE, EventFilter, EventModel, as_line
from app.widgets.basics import Card, Segmented, tool_button

AnyIndex = QModelIndex | QPersistentModelIndex
LOOKS = {"info": ("info", "text-faded"), "done": ("done", "success"), "step": ("flag", "text-faded"),
         "warning": ("warning", "warning"), "error": ("error", "danger")}
_STRONG = ("warning", "error")
_WRAP = Qt.TextFlag.TextWordWrap | Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_COPY = "Copy the selected lines, or all (Ctrl+C)"
_ICON = 26
"""Pixels for the icon before a line, at zoom 1."""


def took_text(seconds: float | None) -> str:
    """A duration in few letters: `0.03 s`, `6.9 s`, `5 min`, `2.2 h`. The tooltip and the copied line have it in full."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3570 else f"{seconds / 3600:.1f} h"


class _LineDelegate(QStyledItemDelegate):
    """Paints one cell: time and duration faded, the event with its icon, wrapped."""

    def __init__(self, icons: Icons, view: QTableView) -> None:
        super().__init__(view)
        self._icons, self._view = icons, view

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: AnyIndex) -> None:
        """Draw it."""
        theme = self._icons.theme
        entry: LogEntry = index.data(ENTRY_ROLE)
        rect: QRect = option.rect
        state: QStyle.StateFlag = option.state
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(rect, theme.mixed("accent", 0.11))
        if index.column() == 1:
            name, role = LOOKS.get(entry.level, LOOKS["info"])
            side = theme.px(15)
            picture = self._icons.pixmap(name, role, 15)
            painter.drawPixmap(rect.left() + theme.px(4), rect.top() + (rect.height() - side) // 2, picture)
            painter.setFont(theme.font("small", 600 if entry.level in _STRONG else 400))
            painter.setPen(theme.color("text"))
            painter.drawText(rect.adjusted(theme.px(_ICON), 0, -4, 0), _WRAP, entry.text)
        else:
            painter.setFont(theme.font("small"))
            painter.setPen(theme.color("text-faded"))
            side_flag = Qt.AlignmentFlag.AlignLeft if index.column() == 0 else Qt.AlignmentFlag.AlignRight
            words = took_text(entry.seconds) if index.column() == 2 else str(index.data())
            painter.drawText(rect, side_flag | Qt.AlignmentFlag.AlignVCenter, words)
        if state & QStyle.StateFlag.State_HasFocus and self._view.hasFocus():
            painter.fillRect(QRect(rect.left(), rect.bottom() - 1, rect.width(), 2), theme.color("accent"))


class EventTable(QTableView):
    """The lines; only those too long for one line are higher than the others."""

    def __init__(self, icons: Icons, model: EventFilter) -> None:
        super().__init__()
        self._icons, self._message = icons, ""
        self.setModel(model)
        self.setItemDelegate(_LineDelegate(icons, self))
        self.setAccessibleName("Events, newest first")
        self.setShowGrid(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.horizontalHeader().hide()
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setMinimumSectionSize(1)
        self._later = QTimer(self, singleShot=True, interval=120)
        self._later.timeout.connect(self.fit_rows)
        model.rowsInserted.connect(self._inserted)
        model.modelReset.connect(self.fit_rows)
        icons.theme.changed.connect(self._restyle)
        self._restyle()

    def _restyle(self) -> None:
        theme = self._icons.theme
        self.setMinimumHeight(theme.px(90))
        metrics = QFontMetrics(theme.font("small"))
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(1)
        self.setColumnWidth(0, metrics.horizontalAdvance("00:00:00") + theme.px(6))
        self.setColumnWidth(2, metrics.horizontalAdvance("00.00 s") + theme.px(6))
        self.verticalHeader().setDefaultSectionSize(theme.px(23))
        self.fit_rows()

    def _inserted(self, _: QModelIndex, first: int, last: int) -> None:
        self._fit(first, last)

    def fit_rows(self) -> None:
        """Give every line the height that its words need."""
        self._fit(0, self.model().rowCount() - 1)

    def _fit(self, first: int, last: int) -> None:
        theme, width = self._icons.theme, self.columnWidth(1) - self._icons.theme.px(_ICON) - 4
        if width < 40:
            return
        usual = self.verticalHeader().defaultSectionSize()
        plain, strong = (QFontMetrics(theme.font("small", w)) for w in (400, 600))
        for at in range(first, last + 1):
            entry: LogEntry = self.model().index(at, 0).data(ENTRY_ROLE)
            metrics = strong if entry.level in _STRONG else plain
            wanted = usual
            if len(entry.text) > 12 and metrics.horizontalAdvance(entry.text) > width:
                wanted = metrics.boundingRect(QRect(0, 0, width, 10_000), int(_WRAP), entry.text).height() + theme.px(8)
            if self.rowHeight(at) != wanted:
                self.setRowHeight(at, wanted)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Other widths break lines elsewhere; once the size is settled."""
        super().resizeEvent(event)
        self._later.start()

    def set_message(self, text: str) -> None:
        """What to say in place of lines."""
        if text != self._message:
            self._message = text
            self.viewport().update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The lines, or the message."""
        super().paintEvent(event)
        if self._message:
            painter = QPainter(self.viewport())
            painter.setFont(self._icons.theme.font("small"))
            painter.setPen(self._icons.theme.color("text-faded"))
            painter.drawText(self.viewport().rect(), Qt.AlignmentFlag.AlignCenter, self._message)
            painter.end()

    def sizeHint(self) -> QSize:
        """Whatever is left."""
        return QSize(self._icons.theme.px(330), self._icons.theme.px(200))


class EventsCard(Card):
    """The log with its filter and a copy button."""

    def __init__(self, icons: Icons) -> None:
        super().__init__("Events", gap=6)
        self.model = EventModel(self)
        self.shown = EventFilter(self.model, self)
        self.table = EventTable(icons, self.shown)
        self.filter = Segmented((("all", "All"), ("warnings", "Warnings 0")), "Events to show")
        self.filter.chosen.connect(self.show_only)
        self.copy_button = tool_button(icons, "copy", "Copy the events", tip=_COPY, clicked=self.copy)
        self.caption.hide()
        self.head.addStretch(1)
        self.at_right(self.copy_button, self.filter)
        self.add(self.table)
        self.body.setStretch(1, 1)
        keys = QShortcut(QKeySequence(QKeySequence.StandardKey.Copy), self.table)
        keys.setContext(Qt.ShortcutContext.WidgetShortcut)
        keys.activated.connect(self.copy)
        self.shown.rowsInserted.connect(self._say)
        self.shown.modelReset.connect(self._say)
        self._say()

    def show_run(self, state: RunState | None) -> None:
        """Take over what is new of a run."""
        self.model.sync(state)
        number = state.warnings if state is not None else 0
        self.filter.set_text("warnings", f"Warnings {number}")
        self._say()

    def show_only(self, key: str) -> None:
        """`all` lines or `warnings` (errors too)."""
        self.filter.set_value(key)
        self.shown.show_only_warnings(key == "warnings")
        self.table.fit_rows()
        self._say()

    def _say(self) -> None:
        empty = self.shown.rowCount() == 0
        self.table.set_message(("No warnings" if self.filter.value() == "warnings" else "No events yet") if empty else "")
        self.copy_button.setEnabled(not empty)
        self.copy_button.setToolTip("There is nothing to copy" if empty else _COPY)

    def copy(self) -> None:
        """Put the selected lines, or all that are shown, on the clipboard, oldest first."""
        chosen = sorted({index.row() for index in self.table.selectionModel().selectedRows()})
        rows = chosen or range(self.shown.rowCount())
        lines = [as_line(self.shown.index(row, 0).data(ENTRY_ROLE)) for row in rows]
        QGuiApplication.clipboard().setText("\n".join(reversed(lines)))

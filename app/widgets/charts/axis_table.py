"""The table twin of the axis map: the same layers and facts, sortable."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QItemSelection, QModelIndex, QPersistentModelIndex, QRectF, QSortFilterProxyModel, Qt, Signal
from PySide6.QtGui import QFontMetrics, QPainter
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QStyledItemDelegate, QStyleOptionViewItem, QTableView, QWidget

from app.models.layers import COLUMNS, ROW_ROLE, SORT_ROLE, LayerModel, LayerRow
from app.theme import Theme
from app.widgets.charts.axis_data import letter_of
from app.widgets.charts.axis_paint import paint_swatch
from app.widgets.charts.axis_scale import Inks

AXIS_COLUMN = next(i for i, column in enumerate(COLUMNS) if column.name == "Axis")
CODEC_COLUMN = next(i for i, column in enumerate(COLUMNS) if column.name == "Codec")
_WIDEST = ("126", "gate_up", "Row x column", "Some entries", "DeltaMix, error", "16.0", "30 %",
           "0.123", "0.123", "0.71 %", "42.62 kB  ", "59.9 s")


class _AxisDelegate(QStyledItemDelegate):
    """A swatch with the letter of the axis, or of the codec, before the word."""

    def __init__(self, theme: Theme, parent: QWidget, key: Callable[[LayerRow], str]) -> None:
        super().__init__(parent)
        self._key = key
        self._theme, self._inks = theme, Inks(theme)
        theme.changed.connect(self._inks.forget)

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().initStyleOption(option, index)
        if self._key(index.data(ROW_ROLE)):
            option.text = "      " + option.text

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().paint(painter, option, index)
        row: LayerRow = index.data(ROW_ROLE)
        if key := self._key(row):
            side, rect = self._theme.px(14), QRectF(option.rect)
            at = QRectF(rect.left() + 6, rect.center().y() - side / 2, side, side)
            painter.save()
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            paint_swatch(painter, self._theme, at, letter_of(key), *self._inks.swatch(key))
            painter.restore()


class AxisTable(QTableView):
    """Layers as rows, sorted by a click on a heading; one row is selected at a time."""

    chosen = Signal(object)
    """A row was selected by the user: its `LayerRow`."""

    def __init__(self, theme: Theme, model: LayerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._layers, self._is_telling = theme, model, True
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSortRole(SORT_ROLE)
        self._proxy.setSourceModel(model)
        self.setModel(self._proxy)
        self.setAccessibleName("Table of layers")
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setSortingEnabled(True)
        self.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.setItemDelegateForColumn(AXIS_COLUMN, _AxisDelegate(theme, self, lambda r: r.winner))
        self.setItemDelegateForColumn(CODEC_COLUMN, _AxisDelegate(theme, self, lambda r: r.coding))
        self.horizontalHeader().setHighlightSections(False)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.horizontalHeader().setStretchLastSection(True)
        self.selectionModel().selectionChanged.connect(self._selection_changed)
        theme.changed.connect(self._measure)
        self._measure()

    def _measure(self) -> None:
        px = self._theme.px
        text, heading = QFontMetrics(self._theme.font("text")), QFontMetrics(self._theme.font("small"))
        self.verticalHeader().setDefaultSectionSize(px(28))
        for i, (column, widest) in enumerate(zip(COLUMNS, _WIDEST, strict=True)):
            wide = max(heading.horizontalAdvance(column.name) + px(14), text.horizontalAdvance(widest))
            self.setColumnWidth(i, wide + px(12) + (px(20) if i in (AXIS_COLUMN, CODEC_COLUMN) else 0))

    def select(self, tensor: str) -> None:
        """Select a layer's row and scroll to it, without telling; nothing for an empty or unknown name."""
        self._is_telling = False
        at = self._layers.row_of(tensor)
        if at < 0:
            self.clearSelection()
        else:
            index = self._proxy.mapFromSource(self._layers.index(at, 0))
            self.setCurrentIndex(index)
            self.scrollTo(index)
        self._is_telling = True

    def selected(self) -> LayerRow | None:
        """The selected layer."""
        found = self.selectionModel().selectedRows()
        return found[0].data(ROW_ROLE) if found else None

    def _selection_changed(self, selected: QItemSelection, _: QItemSelection) -> None:
        if self._is_telling and (row := self.selected()) is not None and not selected.isEmpty():
            self.chosen.emit(row)


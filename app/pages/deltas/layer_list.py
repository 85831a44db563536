"""The layers of a delta in a narrow table: layer, axis with its letter, margin, recovery, bytes."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QRectF, QSize, QSortFilterProxyModel, Qt, Signal
from PySide6.QtGui import QPainter, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from app.codings import coding_letter, coding_role, quiet
from app.icons import Icons
from app.models.layers import AXIS_WORDS, COLUMNS, ROW_ROLE, SORT_ROLE, LayerModel, LayerRow
from app.models.library import short_size
from app.pages.deltas.table import name_corner
from app.widgets.painting import LETTERS, axis_colour

AnyIndex = QModelIndex | QPersistentModelIndex
_AT = {column.name: i for i, column in enumerate(COLUMNS)}
SHOWN = (("Layer", 54), ("Axis", 66), ("Won by", 50), ("Recovery", 64), ("Size", 56))
"""Columns and their share of the width."""
_SHORT = {"column": "col."}
"""What is said where there is no room for more."""


class _InOrder(QSortFilterProxyModel):
    """Sorted by the raw values; by layer means in the order in which data meets them."""

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What is listed as an axis may be another codec, too: that is how a layer's change is stored."""
        if orientation == Qt.Orientation.Horizontal and section == _AT["Axis"]:
            if role == Qt.ItemDataRole.DisplayRole:
                return "How"
            if role == Qt.ItemDataRole.ToolTipRole:
                return "How the change is stored. Row: one scale per output. Column: one per input"
        return super().headerData(section, orientation, role)

    def lessThan(self, left: AnyIndex, right: AnyIndex) -> bool:
        if left.column() == _AT["Layer"]:
            return left.row() < right.row()
        a, b = left.data(SORT_ROLE), right.data(SORT_ROLE)
        if isinstance(a, str) != isinstance(b, str):
            return isinstance(b, str)
        return bool(a < b) if a != b else left.row() < right.row()


class _CellPainter(QStyledItemDelegate):
    """Small rows with a swatch for the axis."""

    def __init__(self, icons: Icons, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = icons.theme

    def sizeHint(self, option: QStyleOptionViewItem, index: AnyIndex) -> QSize:
        """Rows of 25."""
        return QSize(40, self._theme.px(25))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: AnyIndex) -> None:
        """One cell."""
        t, rect = self._theme, option.rect
        row: LayerRow = index.data(ROW_ROLE)
        name = COLUMNS[index.column()].name
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        chosen = bool(option.state & QStyle.StateFlag.State_Selected)
        painter.fillRect(rect, t.mixed("accent", 0.11) if chosen else t.color("surface-raised"))
        painter.fillRect(QRect(rect.left(), rect.bottom(), rect.width(), 1), t.color("line"))
        place = rect.adjusted(4, 0, -4, -1)
        text, side = str(index.data() or ""), Qt.AlignmentFlag.AlignRight
        painter.setFont(t.font("small"))
        painter.setPen(t.color("text"))
        if name == "Layer":
            text, side = short_title(row), Qt.AlignmentFlag.AlignLeft
            painter.setFont(t.font("small", 500))
        elif name == "Size":
            text = short_size(row.bytes) if row.bytes else ""
        elif name == "Axis":
            text, side = how_words(row), Qt.AlignmentFlag.AlignLeft
            place = self._swatch(painter, place, "planes" if row.coding == "planes" else row.winner)
            if painter.fontMetrics().horizontalAdvance(text) > place.width():        # the swatch's letter says the rest
                text = f"× {row.planes}" if row.coding == "planes" else _SHORT.get(text, text)
        shown = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, place.width())
        painter.drawText(place, side | Qt.AlignmentFlag.AlignVCenter, shown)
        painter.restore()

    def _swatch(self, painter: QPainter, place: QRect, axis: str) -> QRect:
        """The axis's colour with its letter; what has none, its codec's. Returns what is left of the place."""
        t, side = self._theme, self._theme.px(14)
        if axis:
            colour = axis_colour(t, axis) if axis in LETTERS else t.mixed(coding_role(axis), 0.6)
            box = QRectF(place.left(), place.center().y() - side / 2 + 0.5, side, side)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            painter.drawRoundedRect(box, 3, 3)
            font = t.font("tick", 600)
            font.setPixelSize(t.px(9))
            painter.setFont(font)
            painter.setPen(t.ink_on(colour))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, LETTERS.get(axis) or coding_letter(axis))
            painter.setFont(t.font("small"))
            painter.setPen(t.color("text"))
        return place.adjusted(side + t.px(6), 0, 0, 0)


def short_title(row: LayerRow) -> str:
    """`16 down`."""
    return row.kind if row.block is None else f"{row.block} {row.kind}"


def how_words(row: LayerRow) -> str:
    """`row`, `3 planes`, `left out`: as the codec map names it where the axis is not all there is to say."""
    if row.coding == "planes":
        return f"{row.planes} planes" if row.planes > 1 else "planes"
    return quiet(AXIS_WORDS.get(row.winner, row.winner))


class LayerList(QTableView):
    """Five columns of the layer model. `pointed` tells the LayerRow that was selected."""

    pointed = Signal(object)

    def __init__(self, icons: Icons, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icons = icons
        self.layers = LayerModel(self)
        self._proxy = _InOrder(self)
        self._proxy.setSourceModel(self.layers)
        self.setAccessibleName("Layers")
        self.setProperty("look", "tight")
        self.setModel(self._proxy)
        self.setItemDelegate(_CellPainter(icons, self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setCornerButtonEnabled(False)
        name_corner(self)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalHeader().hide()
        head = self.horizontalHeader()
        head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head.setMinimumSectionSize(20)
        head.setHighlightSections(False)
        for i, column in enumerate(COLUMNS):
            self.setColumnHidden(i, column.name not in dict(SHOWN))
        self.setSortingEnabled(True)
        self.sortByColumn(_AT["Layer"], Qt.SortOrder.AscendingOrder)
        self.layers.modelReset.connect(self._choose_columns)
        self.selectionModel().currentRowChanged.connect(self._pointed)
        icons.theme.changed.connect(self._restyle)
        self._restyle()

    def _restyle(self) -> None:
        t = self._icons.theme
        self.verticalHeader().setDefaultSectionSize(t.px(25))
        self.horizontalHeader().setFixedHeight(t.px(28))
        self.setMinimumHeight(t.px(28 + 7 * 25))
        self._fit()
        self.viewport().update()

    def _fit(self) -> None:
        room, shares = self.viewport().width(), sum(w for _, w in SHOWN)
        hidden = self.isColumnHidden(_AT["Won by"])
        for name, wide in SHOWN:
            more = dict(SHOWN)["Won by"] if hidden and name == "Axis" else 0
            self.setColumnWidth(_AT[name], room * (wide + more) // shares)

    def _choose_columns(self) -> None:
        """Without a contest between row and column its column gives its room to the words for codecs."""
        self.setColumnHidden(_AT["Won by"], not any(r.margin is not None for r in self.layers.rows()))
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Share out the width anew."""
        super().resizeEvent(event)
        self._fit()

    def _pointed(self, now: QModelIndex, before: QModelIndex) -> None:
        if now.isValid():
            self.pointed.emit(now.data(ROW_ROLE))

    def choose(self, tensor: str) -> None:
        """Select a layer without telling."""
        at = self._proxy.mapFromSource(self.layers.index(self.layers.row_of(tensor), 0))
        blocked = self.blockSignals(True)
        self.selectRow(at.row()) if at.isValid() else self.clearSelection()
        self.blockSignals(blocked)
        if at.isValid():
            self.scrollTo(at.siblingAtColumn(_AT["Layer"]))

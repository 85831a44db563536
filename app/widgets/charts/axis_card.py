"""The axis map as a card: legend, what to colour by, the table twin, saving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PySide6.QtCore import QModelIndex, QSize, QStandardPaths, Signal
from PySide6.QtGui import QPainter, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QComboBox, QMenu, QSizePolicy, QStackedWidget, QToolButton, QWidget

from app.icons import Icons
from app.models.layers import LayerModel, LayerRow
from app.tasks import Failure
from app.widgets.basics import Card, Segmented, tool_button
from app.widgets.charts.axis_facts import CSV_HEADER, csv_rows
from app.widgets.charts.axis_legend import AxisLegend
from app.widgets.charts.axis_map import AxisMap
from app.widgets.charts.axis_scale import MODES
from app.widgets.charts.axis_table import AxisTable
from app.widgets.charts.exporting import CSV, PNG, SVG, ask_path, file_name, save_widget, write_csv

CAPTION = "blocks across, click a cell for its curves"


class AxisMapCard(Card):
    """Map and table of the layers of one `LayerModel`; both share the selection.

    The model may be the card's own (`set_rows`, `update_rows`) or one that others keep up to date: the card follows it.
    """

    chosen = Signal(object)
    """A layer was chosen on the map or in the table: its `LayerRow`."""
    pointed = Signal(object)
    saved = Signal(object)
    """A file was written: its path."""
    failed = Signal(object)
    """A file could not be written: a `Failure`."""

    def __init__(self, icons: Icons, model: LayerModel | None = None, *, title: str = "Axis map", caption: str = CAPTION,
                 parent: QWidget | None = None) -> None:
        super().__init__(title, caption, parent=parent)
        theme = icons.theme
        self._theme, self._title_text, self._caption_text = theme, title, caption
        self.subject = ""
        """What the map is of (a job's or a delta's name), for titles and file names."""
        self.model = model if model is not None else LayerModel(self)
        self.map = AxisMap(theme)
        self.table = AxisTable(theme, self.model)
        self.legend = AxisLegend(theme)
        self.modes = QComboBox()
        self.modes.setProperty("dense", "true")
        self.modes.setAccessibleName("Colour the cells by")
        self.modes.setToolTip("Colour the cells by")
        for mode in MODES:
            self.modes.addItem(mode.name, mode.key)
        self.view = Segmented((("map", "Map"), ("table", "Table")), "View")
        self.more = self._menu_button(icons)
        self.head.setStretch(1, 0)
        self.head.addStretch(1)
        self.at_right(self.legend, self.modes, self.view, self.more)
        self.head.insertSpacing(self.head.indexOf(self.modes), 6)
        self.caption.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._pages = QStackedWidget()
        self._pages.setProperty("look", "clear")
        self._pages.addWidget(self.map)
        self._pages.addWidget(self.table)
        self.add(self._pages)
        self.body.setStretchFactor(self._pages, 1)
        self._connect()
        self._follow_all()

    def _menu_button(self, icons: Icons) -> QToolButton:
        made = tool_button(icons, "more", "Save the axis map", tip="Save as picture or table")
        menu = QMenu(made)
        for text, kind in (("Save as PNG…", PNG), ("Save as SVG…", SVG), ("Save as CSV…", CSV)):
            action = menu.addAction(text)
            action.setData(kind[1])
        menu.triggered.connect(lambda action: self.save(action.data()))
        made.setMenu(menu)
        made.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        made.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        return made

    def _connect(self) -> None:
        self.modes.currentIndexChanged.connect(self._mode_changed)
        self.view.chosen.connect(self.show_view)
        self.map.chosen.connect(self._chosen_on_map)
        self.map.pointed.connect(self.pointed)
        self.map.counted.connect(self._count)
        self.table.chosen.connect(self._chosen_in_table)
        self.model.modelReset.connect(self._follow_all)
        self.model.rowsRemoved.connect(self._follow_all)
        self.model.rowsInserted.connect(self._follow_inserted)
        self.model.dataChanged.connect(self._follow_changed)
        self._theme.changed.connect(self._fit_caption)

    # ------------------------------------------------------------------------------------------- data
    def set_rows(self, rows: Iterable[LayerRow]) -> None:
        """Show other layers."""
        self.model.show(rows)

    def update_rows(self, rows: Sequence[LayerRow]) -> None:
        """A newer version of the same layers, all of them; only what changed is shown anew."""
        self.model.sync(rows)

    def _follow_all(self) -> None:
        self.map.set_rows(self.model.rows())

    def _follow_inserted(self, _: QModelIndex, first: int, last: int) -> None:
        self.map.update_rows(self.model.rows()[first:last + 1])

    def _follow_changed(self, first: QModelIndex, last: QModelIndex) -> None:
        self.map.update_rows(self.model.rows()[first.row():last.row() + 1])

    def _count(self) -> None:
        by_codec = self.map.mode == "codec"
        self.legend.set_counts(self.map.codings() if by_codec else self.map.counts(), by_codec=by_codec)
        self._fit_caption()

    # ------------------------------------------------------------------------------------------- choosing
    def select(self, tensor: str) -> None:
        """Mark a layer in both views, without telling."""
        self.map.select(tensor)
        self.table.select(tensor)

    def _chosen_on_map(self, row: LayerRow) -> None:
        self.table.select(row.tensor)
        self.chosen.emit(row)

    def _chosen_in_table(self, row: LayerRow) -> None:
        self.map.select(row.tensor)
        self.chosen.emit(row)

    def _mode_changed(self, at: int) -> None:
        self.map.set_mode(self.modes.itemData(at))
        self.title.setText("Codec map" if self.map.mode == "codec" else self._title_text)
        self._count()

    def set_mode(self, mode: str) -> None:
        """Colour the cells by something: margin, codec, recovery, loss, change or bytes."""
        self.modes.setCurrentIndex([m.key for m in MODES].index(mode))

    def show_view(self, view: str) -> None:
        """Show the `map` or the `table`."""
        self.view.set_value(view)
        self._pages.setCurrentIndex(0 if view == "map" else 1)
        self.modes.setEnabled(view == "map")
        self.modes.setToolTip("Colour the cells by" if view == "map" else "Colours the cells of the map, not of the table")
        if view == "table" and (row := self.map.selected()) is not None:
            self.table.select(row.tensor)

    # ------------------------------------------------------------------------------------------- saving
    def save(self, ending: str) -> None:
        """Ask where, and save the map as png or svg, or the facts of all layers as csv."""
        kind = {k[1]: k for k in (PNG, SVG, CSV)}[ending]
        folder = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
        what = self.title.text().lower()
        name = file_name(f"{self.subject} {what}".strip())
        path = ask_path(self, f"Save the {what} as {ending.upper()}", Path(folder) / f"{name}.{ending}", [kind])
        if path is not None:
            self.save_to(path)

    def save_to(self, path: Path) -> None:
        """Save by the path's ending; `saved` or `failed` tells how it ended."""
        try:
            if path.suffix.lower() == ".csv":
                write_csv(path, CSV_HEADER, csv_rows(self.model.rows()))
            else:
                save_widget(self._figure, path, size=self.map.figure_size(), title=self._figure_title())
        except OSError as e:
            self.failed.emit(Failure.of(e))
        else:
            self.saved.emit(path)

    def _figure_title(self) -> str:
        return f"{self.title.text()}, {self.subject}" if self.subject else self.title.text()

    def _figure(self, painter: QPainter) -> None:
        self.map.paint_figure(painter, self._figure_title())

    # ------------------------------------------------------------------------------------------- the title line
    def _fit_caption(self) -> None:
        """The explanation is there whole or not at all: a few letters of it explain nothing. The legend has the room of both."""
        fixed = sum(w.sizeHint().width() for w in (self.title, self.modes, self.view, self.more)) + 8 * 7 + 6
        self.legend.fit(self.width() - 32 - fixed)
        wanted = self.caption.sizeHint().width()
        fits = self.width() - 32 - fixed - self.legend.sizeHint().width() >= wanted
        self.caption.setFixedWidth(wanted if fits else 0)
        self.title.setToolTip("" if fits else self._caption_text)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """See whether the explanation has room."""
        super().resizeEvent(event)
        self._fit_caption()

    def showEvent(self, event: QShowEvent) -> None:
        """Styles are known now, so sizes are."""
        super().showEvent(event)
        self._fit_caption()

    def minimumSizeHint(self) -> QSize:
        """The title line without its explanation, and a small map."""
        least = super().minimumSizeHint()
        return QSize(least.width(), max(least.height(), self.map.minimumSizeHint().height() + 64))


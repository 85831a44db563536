"""The picture of an axis map: its layers, where their cells lie, and how it is kept and painted. No pointer, no keys."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QFontMetricsF, QPainter, QPaintEvent, QPixmap, QResizeEvent
from PySide6.QtWidgets import QScrollBar, QSizePolicy, QWidget

from app.models.layers import LayerRow
from app.theme import Theme
from app.widgets.charts.axis_data import Grid, Key
from app.widgets.charts.axis_geometry import Geometry, Lengths, lay_out
from app.widgets.charts.axis_paint import (
    Picture,
    bar_width,
    coding_items,
    legend_items,
    legend_width,
    paint,
    paint_cells,
    paint_legend,
    values_of,
)
from app.widgets.charts.axis_scale import BY_KEY, Inks, Scale, scale_of


class AxisView(QWidget):
    """Cells of layers, kept ready in a pixmap of which only what changed is painted anew."""

    counted = Signal()
    """`counts()` is another."""

    def __init__(self, theme: Theme, *, compact: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._compact = theme, compact
        self._inks, self._mode, self._grid = Inks(theme), BY_KEY["margin"], Grid()
        self._picture: Picture | None = None
        self._pixmap: QPixmap | None = None
        self._stale: set[Key] = set()
        self._bar = QScrollBar(Qt.Orientation.Horizontal, self)
        self._bar.setAccessibleName("Scroll the blocks")
        self._bar.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._bar.hide()
        self._bar.valueChanged.connect(self._scrolled)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed if compact else QSizePolicy.Policy.Expanding)
        theme.changed.connect(self._restyle)

    # ------------------------------------------------------------------------------------------- data
    def set_rows(self, rows: Iterable[LayerRow]) -> None:
        """Show other layers, in any order."""
        shape = (len(self._grid.blocks), self._grid.kinds, self._grid.outer)
        self._grid = Grid(rows)
        if shape != (len(self._grid.blocks), self._grid.kinds, self._grid.outer):
            self.updateGeometry()
        self._forget()
        self._rows_changed(None)
        self.counted.emit()

    def update_rows(self, rows: Iterable[LayerRow]) -> None:
        """Take over newer versions of some layers; only their cells are painted anew."""
        news = list(rows)
        touched = self._grid.update(news)
        if touched is None:
            self.set_rows([*self._grid.rows(), *news])
            return
        if not touched:
            return
        if self._picture is not None:
            if self._scale() != self._picture.scale:
                self._forget()
            else:
                self._stale |= touched
                for key in touched:
                    self.update(self._picture.rect(key).toAlignedRect().adjusted(-3, -3, 4, 4))
        self._rows_changed(touched)
        self.counted.emit()

    def _rows_changed(self, touched: set[Key] | None) -> None:
        """For those who point and select: these cells changed, or (None) all did."""

    def rows(self) -> list[LayerRow]:
        """The layers on the map; vectors (norms, biases) are left out."""
        return self._grid.rows()

    def counts(self) -> dict[str, int]:
        """How many layers chose what; `todo` for those that are not finished."""
        return dict(self._grid.counts())

    def codings(self) -> dict[str, int]:
        """How many layers are stored how; `todo` for those that are not finished."""
        return dict(self._grid.codings())

    def _legend(self) -> list[tuple[str, str]]:
        return coding_items(self._grid.codings()) if self._mode.key == "codec" else legend_items(self._grid.counts())

    @property
    def mode(self) -> str:
        """What cells are coloured by: margin, codec, recovery, loss, change or bytes."""
        return self._mode.key

    def set_mode(self, mode: str) -> None:
        """Colour by something else. Raises KeyError for an unknown mode."""
        if BY_KEY[mode] is not self._mode:
            self._mode = BY_KEY[mode]
            self._forget()

    # ------------------------------------------------------------------------------------------- layout
    def sizeHint(self) -> QSize:
        """Comfortable cells: wide enough for letters, unless compact."""
        return self._hint(16 if self._compact else 28)

    def minimumSizeHint(self) -> QSize:
        """Cells that can still be told apart."""
        return QSize(self._theme.px(180), self._hint(13 if self._compact else 16).height())

    def _hint(self, pitch: float) -> QSize:
        at, px = self._lengths(), self._theme.px
        lines = max(1, len(self._grid.kinds))
        below = at.outer if self._grid.outer and self._compact else 0
        return QSize(px(320) if self._compact else px(640), round(lines * px(pitch) + at.tick + at.bar + below))

    def _lengths(self) -> Lengths:
        px, small = self._theme.px, self._compact
        metrics = QFontMetricsF(self._theme.font("tick" if small else "small"))
        widest = max((metrics.horizontalAdvance(kind) for kind in self._grid.kinds), default=0.0)
        label = min(max(widest, px(28)), px(88)) + px(10)
        tick = metrics.height() + px(4)
        if small:
            return Lengths(label, tick, px(48), px(18), px(4), px(9), 1, 0, px(22), px(12))
        return Lengths(label, tick, px(48), px(38), px(6), px(9), 2, px(40), px(24), px(12))

    def _outer_widths(self) -> tuple[float, ...]:
        metrics = QFontMetricsF(self._theme.font("tick"))
        side = self._lengths().outer - 6
        return tuple(side + 6 + metrics.horizontalAdvance(kind) + self._theme.px(14) for kind in self._grid.outer)

    def geometry_now(self, width: float | None = None, height: float | None = None) -> Geometry:
        """Where cells lie at the present size, or at another."""
        wide = 0.0 if self._compact else bar_width(self._theme, self._mode)
        return lay_out(self.width() - 2 if width is None else width, self.height() - 2 if height is None else height,
                       len(self._grid.blocks), len(self._grid.kinds), self._outer_widths(), float(self._bar.value()),
                       self._lengths(), wide)

    def _scale(self) -> Scale:
        if self._mode.key in ("margin", "codec"):
            return Scale()
        inner = values_of((cell for cell in self._grid.cells.values() if cell.block is not None), self._mode)
        return scale_of(inner or values_of(self._grid.cells.values(), self._mode))

    def picture(self) -> Picture:
        """All that is painted, laid out for the present size."""
        if self._picture is None:
            geometry = self.geometry_now()
            scrolls = geometry.scroll_top > 0
            self._bar.blockSignals(True)
            if scrolls:
                self._bar.setRange(0, round(geometry.width - geometry.view))
                self._bar.setPageStep(round(geometry.view))
                self._bar.setSingleStep(round(geometry.pitch_x))
                self._bar.setGeometry(round(geometry.left), round(geometry.scroll_top), round(geometry.view), self._theme.px(10))
            else:
                self._bar.setRange(0, 0)
            self._bar.blockSignals(False)
            self._bar.setVisible(scrolls)
            self._picture = Picture(self._theme, self._inks, self._grid, geometry, self._mode, self._scale(), self._compact)
        return self._picture

    def _forget(self) -> None:
        self._picture = self._pixmap = None
        self._stale.clear()
        self.update()

    def _restyle(self) -> None:
        self._inks.forget()
        self.updateGeometry()
        self._forget()

    def _scrolled(self) -> None:
        self._forget()

    # ------------------------------------------------------------------------------------------- painting
    def paintEvent(self, event: QPaintEvent) -> None:
        """The pixmap, then what is painted over it."""
        picture = self.picture()
        painter = QPainter(self)
        if not self._grid.cells:
            painter.setFont(self._theme.font("text"))
            painter.setPen(self._theme.color("text-faded"))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "No layers yet")
            painter.end()
            return
        painter.drawPixmap(QPointF(1, 1), self._static(picture))
        painter.translate(1, 1)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._paint_over(painter, picture)
        painter.end()

    def _paint_over(self, painter: QPainter, picture: Picture) -> None:
        """For those who point and select: paint what marks cells, in the picture's coordinates."""

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Lay out anew."""
        self._forget()
        super().resizeEvent(event)

    def _static(self, picture: Picture) -> QPixmap:
        ratio = self.devicePixelRatioF()
        if self._pixmap is None or self._pixmap.devicePixelRatio() != ratio:
            self._pixmap = QPixmap(self.size() * ratio)
            self._pixmap.setDevicePixelRatio(ratio)
            self._pixmap.fill(Qt.GlobalColor.transparent)
            self._stale.clear()
            painter = QPainter(self._pixmap)
            paint(painter, picture)
            painter.end()
        elif self._stale:
            geometry = picture.geometry
            painter = QPainter(self._pixmap)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            for key in self._stale:
                is_outer = key[0] is None
                view = QRectF(self.rect()) if is_outer else QRectF(geometry.left - 1, 0, geometry.view + 2, geometry.foot + 1)
                rect = picture.rect(key).intersected(view)
                if not rect.isEmpty():
                    painter.setClipRect(view)
                    painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_Clear)
                    painter.fillRect(rect, Qt.GlobalColor.transparent)
                    painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_SourceOver)
                    paint_cells(painter, picture, (key,))
            painter.end()
            self._stale.clear()
        return self._pixmap

    def figure_size(self) -> QSize:
        """Size of `paint_figure`: all blocks, however the map is scrolled, under a title line."""
        px = self._theme.px
        geometry = self.geometry_now(max(self.width(), self._lengths().label + len(self._grid.blocks) * px(9)), self.height())
        title = px(240) + legend_width(self._theme, self._legend())
        wide = max(title, geometry.left + max(geometry.view, geometry.width))
        return QSize(round(wide) + px(32), round(geometry.height) + px(32 + 24))

    def paint_figure(self, painter: QPainter, title: str = "Axis map") -> None:
        """The map as a figure of its own: title, counts, all blocks; nothing is pointed at."""
        px, theme, size = self._theme.px, self._theme, self.figure_size()
        painter.fillRect(QRect(0, 0, size.width(), size.height()), theme.color("surface-raised"))
        painter.setFont(theme.font("text", 600))
        painter.setPen(theme.color("text"))
        line = QRectF(px(16), px(8), size.width() - px(32), px(28))
        painter.drawText(line, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, title)
        wide = QFontMetricsF(painter.font()).horizontalAdvance(title) + px(24)
        paint_legend(painter, theme, self._inks, self._legend(), line.adjusted(wide, 0, 0, 0))
        painter.translate(px(16), px(32 + 12))
        geometry = self.geometry_now(size.width() - px(32), size.height() - px(56))
        paint(painter, Picture(theme, self._inks, self._grid, geometry, self._mode, self._scale(), self._compact))

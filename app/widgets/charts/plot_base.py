"""A plot in the program's look: quiet grid, few ticks, series that follow the theme, a cross-hair, zoom and a small menu.

Drawing curves, panning and mapping are pyqtgraph's; ticks, labels and cross-hair are painted here. A logarithmic axis holds
log10 of the values, so everything that maps values goes through `PlainPlot.mapped`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import ArrayLike
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QContextMenuEvent, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPen, QResizeEvent, QWheelEvent
from PySide6.QtWidgets import QAbstractScrollArea, QGraphicsView, QScrollArea, QWidget

from app.theme import Theme
from app.widgets.basics import button
from app.widgets.charts.plot_paint import draw_axes, draw_cross, draw_labels, draw_marks, draw_message, draw_now
from app.widgets.charts.plot_series import EndLabel, Line, Series, Values
from app.widgets.charts.plot_ticks import log_ticks, plain_ticks

pg.setConfigOptions(antialias=True, imageAxisOrder="row-major", useOpenGL=False)


class PlainPlot(pg.PlotWidget):  # type: ignore[misc]
    """Curves over one x axis. Wheel zooms (with Ctrl where the page itself scrolls), drag pans, double click fits.

    Keys: Left and Right move the cross-hair, + and - zoom, F fits, L switches the y axis. The menu has the same, and saves.
    """

    scale_changed = Signal(bool)
    """The y axis became logarithmic, or plain again."""
    trouble = Signal(str)
    """A file could not be saved: a sentence."""

    def __init__(self, theme: Theme, name: str, *, x_name: str = "", log: bool = False, message: str = "",
                 parent: QWidget | None = None) -> None:
        super().__init__(parent, background=None, enableMenu=False)
        self.theme, self.x_name, self.message = theme, x_name, message
        self.is_log = log
        self.series: list[Series] = []
        self.listed: list[Series] = []
        """Series that the cross-hair reads and a CSV file holds."""
        self.labels: Sequence[EndLabel] = ()
        self.label_caption = ""
        self.now: float | None = None
        self.cross: float | None = None
        """Where the cross-hair stands."""
        self.is_zoomed = False
        self.dense = 1.0
        """Pixels of the device per pixel of ours: of the screen, or of the picture that is being saved."""
        self._x_span: tuple[float, float] | None = None
        self._ring = self.is_saving = False
        self.setAccessibleName(name)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setViewportUpdateMode(QGraphicsView.ViewportUpdateMode.FullViewportUpdate)
        self.setCacheMode(QGraphicsView.CacheModeFlag.CacheNone)      # the grid moves with the points
        self.setMinimumSize(120, 90)
        self.setFrameShape(self.Shape.NoFrame)
        self.box = self.plotItem.getViewBox()
        self.box.setDefaultPadding(0)
        self.box.disableAutoRange()
        self.box.sigRangeChangedManually.connect(self._moved)
        self.plotItem.hideButtons()
        for side in ("left", "bottom"):
            self.plotItem.hideAxis(side)
            self.plotItem.getAxis(side).unlinkFromView()               # else it lays out ticks that nobody sees
        self._fit_button = button("Fit", dense=True, tip="Show all points again (double click, or F)", name="Fit the curves",
                                  clicked=self.fit)
        self._scale_button = button("", "ghost", dense=True, clicked=self.toggle_scale)
        for over in (self._fit_button, self._scale_button):
            over.setParent(self)
        self._fit_button.hide()
        theme.changed.connect(self._dress)
        self._dress()

    def sizeHint(self) -> QSize:
        """Room for some ticks; a page gives it more."""
        return QSize(320, 200)

    # ----------------------------------------------------------------------------------------------- data
    def add(self, name: str, line: Line, *, listed: bool = True) -> Series:
        """A new, empty series."""
        made = Series(self, name, line)
        self.series.append(made)
        if listed:
            self.listed.append(made)
        return made

    def mapped(self, values: ArrayLike) -> Values:
        """Values as they lie on the y axis: log10 where it is logarithmic (NaN for what has none)."""
        plain = np.asarray(values, dtype=np.float64)
        if not self.is_log:
            return plain
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(plain > 0, np.log10(plain), np.nan)

    def finish(self, *, labels: Sequence[EndLabel] = (), caption: str = "", now: float | None = None,
               x_span: tuple[float, float] | None = None) -> None:
        """After series were set: labels at the right, the line of now, the least span of x; fits unless the user zoomed."""
        self.labels, self.label_caption, self.now, self._x_span = labels, caption, now, x_span
        if not self.is_zoomed:
            self._fit_range()
        self.viewport().update()

    def set_log(self, on: bool) -> None:
        """Use a logarithmic y axis, or a plain one."""
        if on != self.is_log:
            self.is_log = on
            for one in self.series:
                one.apply()
            self.fit()
            self._name_scale()
            self.scale_changed.emit(on)

    def toggle_scale(self) -> None:
        """The other kind of y axis."""
        self.set_log(not self.is_log)

    # ---------------------------------------------------------------------------------------------- range
    def fit(self) -> None:
        """Show everything."""
        self.is_zoomed = False
        self._fit_button.hide()
        self._fit_range()
        self.viewport().update()

    def _fit_range(self) -> None:
        xs = [s.x[[0, -1]] for s in self.series if len(s.x)]
        if self._x_span is not None:
            xs.append(np.asarray(self._x_span, dtype=np.float64))
        ys = [self.mapped(s.y) for s in self.series if len(s.y)]
        joined = np.concatenate(ys) if ys else np.empty(0)
        joined = joined[np.isfinite(joined)]
        low, high = (float(joined.min()), float(joined.max())) if len(joined) else (-1.0, 0.0) if self.is_log else (0.0, 1.0)
        room = max(0.07 * (high - low), 0.02 if self.is_log else 0.02 * abs(high) or 0.02)
        first, last = (float(min(x[0] for x in xs)), float(max(x[-1] for x in xs))) if xs else (0.0, 1.0)
        span = (last - first) or 1.0
        width = max(60.0, self.plot_rect().width())
        left, right = 8.0, self.label_width() if self.labels or self.now is not None else 12.0
        per_pixel = span / max(30.0, width - left - right)
        self.box.setRange(xRange=(first - left * per_pixel, first + span + right * per_pixel), yRange=(low - room, high + room),
                          padding=0)

    def label_width(self) -> float:
        """Pixels that the labels at the right need."""
        texts = [one.text for one in self.labels] + [self.label_caption, "now"]
        return self.theme.px(8) * max(len(t) for t in texts) + 24.0

    def plot_rect(self) -> QRectF:
        """Where curves are drawn, in pixels of the viewport."""
        return QRectF(self.viewportTransform().mapRect(self.box.sceneBoundingRect()))

    def pixel(self, x: float, y: float) -> QPointF:
        """The place of a point; `y` is a plain value."""
        mapped = float(self.mapped(y))
        there = self.box.mapViewToScene(QPointF(x, mapped if math.isfinite(mapped) else -1e9))
        return QPointF(self.viewportTransform().map(there))

    def pixels(self, x: Values, y: Values) -> list[QPointF]:
        """The places of many points."""
        (x0, x1), (y0, y1) = self.box.viewRange()
        first, last = (self.viewportTransform().map(self.box.mapViewToScene(QPointF(*at))) for at in ((x0, y0), (x1, y1)))
        left = first.x() + (x - x0) / (x1 - x0) * (last.x() - first.x())
        top = first.y() + (self.mapped(y) - y0) / (y1 - y0) * (last.y() - first.y())
        return [QPointF(a, b) for a, b in zip(left.tolist(), top.tolist(), strict=True)]

    def x_at(self, pixel: float) -> float:
        """The x value at a pixel."""
        return float(self.box.mapSceneToView(self.mapToScene(round(pixel), 0)).x())

    @property
    def has_points(self) -> bool:
        """Whether anything is drawn."""
        return any(len(s.x) for s in self.series)

    def y_ticks(self) -> list[float]:
        """Plain values of the y axis's ticks."""
        if not self.has_points:
            return []
        low, high = self.box.viewRange()[1]
        most = max(2, min(5, int(self.plot_rect().height() / self.theme.px(26))))
        return log_ticks(10.0 ** low, 10.0 ** high, most) if self.is_log else plain_ticks(low, high, most)

    def x_ticks(self) -> list[float]:
        """Whole values of the x axis's ticks; none beside the points unless the user zoomed."""
        if not self.has_points and self._x_span is None:
            return []
        low, high = self.box.viewRange()[0]
        if not self.is_zoomed:
            ends = [*(float(x) for s in self.series if len(s.x) for x in s.x[[0, -1]]), *(self._x_span or ())]
            low, high = max(low, min(ends)), min(high, max(ends))
        return plain_ticks(low, high, whole=True)

    def _moved(self, *_: object) -> None:
        self.is_zoomed = True
        self._fit_button.show()
        self._place()

    def zoom(self, factor: float, at: QPointF | None = None, *, x: bool = True, y: bool = True) -> None:
        """Magnify by a factor around a pixel, or around the middle."""
        (x0, x1), (y0, y1) = self.box.viewRange()
        spans = [float(s.x[-1] - s.x[0]) for s in self.series if len(s.x) > 1]
        if (x1 - x0) / factor > 6 * max([*spans, 1.0]) or min(x1 - x0, y1 - y0) / factor < 1e-9:
            return
        place = self.plot_rect().center() if at is None else at
        centre = self.box.mapSceneToView(self.mapToScene(place.toPoint()))
        self.box.scaleBy(x=1 / factor if x else None, y=1 / factor if y else None, center=centre)
        self._moved()
        self.viewport().update()

    # --------------------------------------------------------------------------------------------- looks
    def set_dense(self, ratio: float) -> None:
        """Draw for another density."""
        if ratio != self.dense:
            self.dense = ratio
            for one in self.series:
                one.dress()

    def event(self, event: QEvent) -> bool:
        """Another screen may be denser."""
        if event.type() in (QEvent.Type.DevicePixelRatioChange, QEvent.Type.Show) and hasattr(self, "dense"):
            self.set_dense(self.devicePixelRatioF())
        return bool(super().event(event))

    def _dress(self) -> None:
        px = self.theme.px
        self.plotItem.layout.setContentsMargins(px(56), px(8), 2, px(40))
        for one in self.series:
            one.dress()
        for over in (self._fit_button, self._scale_button):
            over.setFont(self.theme.font("tick", 500))
        self._name_scale()
        self.viewport().update()

    def _name_scale(self) -> None:
        name = "log scale" if self.is_log else "linear scale"
        self._scale_button.setText(name)
        self._scale_button.setAccessibleName(f"Vertical axis: {name}")
        self._scale_button.setToolTip(f"Switch to a {'linear' if self.is_log else 'logarithmic'} axis (L)")
        self._place()

    def _place(self) -> None:
        rect = self.plot_rect()
        self._scale_button.setStyleSheet(f"font-size: {self.theme.px(11)}px; font-weight: 400; padding: 0 6px; min-height: "
                                         f"{self.theme.px(18)}px;")
        self._scale_button.adjustSize()
        self._fit_button.adjustSize()
        self._scale_button.move(int(rect.left()) - 6, self.height() - self._scale_button.height())
        self._fit_button.move(int(rect.left()) + 8, int(rect.bottom()) - self._fit_button.height() - 8)

    def drawBackground(self, painter: QPainter, rect: QRectF | Any) -> None:
        """Ground, grid and ticks."""
        painter.save()
        painter.resetTransform()
        painter.fillRect(self.viewport().rect(), self.theme.color("surface-raised"))
        draw_axes(painter, self)
        painter.restore()

    def drawForeground(self, painter: QPainter, rect: QRectF | Any) -> None:
        """What lies over the curves."""
        painter.save()
        painter.resetTransform()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        draw_now(painter, self)
        draw_marks(painter, self)
        draw_labels(painter, self)
        draw_message(painter, self)
        if not self.is_saving:
            draw_cross(painter, self)
        if self._ring and not self.is_saving:
            painter.setPen(QPen(self.theme.color("accent"), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.viewport().rect()).adjusted(1, 1, -1, -1), 6, 6)
        painter.restore()

    # -------------------------------------------------------------------------------------------- mouse, keys
    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit anew: labels keep their width in pixels."""
        super().resizeEvent(event)
        if hasattr(self, "_fit_button"):
            if not self.is_zoomed:
                self._fit_range()
            self._place()

    def read_at(self, x: float | None) -> None:
        """Put the cross-hair to the point nearest to `x`, or away."""
        known = [s.x for s in self.listed if len(s.x)]
        near = None
        if x is not None and known:
            every = np.unique(np.concatenate(known))
            near = float(every[np.abs(every - x).argmin()])
        if near != self.cross:
            self.cross = near
            self.viewport().update()

    def readings(self) -> list[tuple[Series, float]]:
        """Series with a value where the cross-hair stands."""
        if self.cross is None:
            return []
        found = []
        for one in self.listed:
            at = np.flatnonzero((one.x == self.cross) & np.isfinite(one.y))
            if len(at):
                found.append((one, float(one.y[at[0]])))
        return found

    def _step(self, by: int) -> None:
        known = [s.x for s in self.listed if len(s.x)]
        if known:
            every = np.unique(np.concatenate(known))
            at = (len(every) - 1 if by < 0 else 0) if self.cross is None else int(np.searchsorted(every, self.cross)) + by
            self.read_at(float(every[min(len(every) - 1, max(0, at))]))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Cross-hair, and pyqtgraph's panning."""
        super().mouseMoveEvent(event)
        inside = self.plot_rect().contains(event.position()) and event.buttons() == Qt.MouseButton.NoButton
        self.read_at(self.x_at(event.position().x()) if inside else None)

    def leaveEvent(self, event: QEvent) -> None:
        """No cross-hair without the pointer."""
        super().leaveEvent(event)
        self.read_at(None)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Fit."""
        self.fit()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Zoom; over an axis only along it. A page that scrolls gets the wheel, unless Ctrl is held or the plot has the focus."""
        with_ctrl = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        if not (with_ctrl or self.hasFocus()) and self._page_scrolls():
            event.ignore()
            return
        rect, at = self.plot_rect(), event.position()
        self.zoom(1.15 ** (event.angleDelta().y() / 120), at, x=at.x() >= rect.left(), y=at.y() <= rect.bottom())
        event.accept()

    def _page_scrolls(self) -> bool:
        above = self.parentWidget()
        while above is not None:
            if isinstance(above, (QScrollArea, QAbstractScrollArea)) and above.verticalScrollBar().maximum() > 0:
                return True
            above = above.parentWidget()
        return False

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """See the class."""
        key = event.key()
        if event.modifiers() & (Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier):
            event.ignore()
        elif key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            self._step(-1 if key == Qt.Key.Key_Left else 1)
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal, Qt.Key.Key_Minus):
            self.zoom(1 / 1.3 if key == Qt.Key.Key_Minus else 1.3)
        elif key in (Qt.Key.Key_F, Qt.Key.Key_Home):
            self.fit()
        elif key == Qt.Key.Key_L:
            self.toggle_scale()
        elif key == Qt.Key.Key_Escape and self.cross is not None:
            self.read_at(None)
        else:
            event.ignore()

    def keyReleaseEvent(self, event: QKeyEvent) -> None:
        """Not pyqtgraph's."""
        event.ignore()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """The edge shows where the keyboard is, not where one clicked."""
        super().focusInEvent(event)
        self._ring = event.reason() != Qt.FocusReason.MouseFocusReason
        self.viewport().update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """No edge."""
        super().focusOutEvent(event)
        self._ring = False
        self.viewport().update()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Our menu in place of pyqtgraph's."""
        from app.widgets.charts.plot_menu import open_menu

        open_menu(self, event.globalPos())
        event.accept()

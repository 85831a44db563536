"""The four charts as pictures: one alone, or all on a sheet, with their titles and without the page's controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QImage, QPainter, QPen

from app.theme import Theme
from app.widgets.charts.painted import LEFT, RIGHT, PaintedChart

SHEET = QSize(1240, 860)
_MARGIN, _GAP, _TITLE = 24, 16, 52


@dataclass(frozen=True)
class Figure:
    """A chart with what stands over it: title, caption, and a legend of colours at the right."""

    key: str
    title: str
    caption: str
    chart: PaintedChart
    legend: tuple[tuple[QColor, str], ...] = ()
    note: str = ""


def figure_size(figure: Figure, theme: Theme) -> QSize:
    """As large as on the screen, but not smaller than reads well."""
    seen = figure.chart.size()
    return QSize(max(seen.width(), theme.px(560)) + 2 * _MARGIN, max(seen.height(), theme.px(280)) + theme.px(_TITLE) + _MARGIN)


def figure_painter(figure: Figure, theme: Theme, size: QSize) -> Callable[[QPainter], None]:
    """Paints a figure alone, for `exporting.save_widget`."""
    def paint(painter: QPainter) -> None:
        _figure(painter, figure, theme, QRectF(0, 0, size.width(), size.height()))
    return paint


def sheet_painter(figures: Sequence[Figure], theme: Theme, title: str, caption: str) -> Callable[[QPainter], None]:
    """Paints all figures on `SHEET`, two by two, under a title."""
    def paint(painter: QPainter) -> None:
        width, height = SHEET.width(), SHEET.height()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(QRectF(0, 0, width, height), theme.color("surface"))
        head = QRectF(_MARGIN, 10, width - 2 * _MARGIN, _TITLE - 10)
        _line(painter, theme, head, title, caption, "title")
        split = 0.575 * (width - 2 * _MARGIN - _GAP)
        upper = 0.55 * (height - _TITLE - _MARGIN - _GAP)
        lower = height - _TITLE - _MARGIN - _GAP - upper
        rest = width - 2 * _MARGIN - _GAP - split
        right, below = split + _GAP, upper + _GAP
        places = ((0.0, 0.0, split, upper), (right, 0.0, rest, upper), (0.0, below, split, lower), (right, below, rest, lower))
        whole = ((0.0, 0.0, width - 2.0 * _MARGIN, height - _TITLE - _MARGIN),)
        for figure, (x, y, w, h) in zip(figures, places if len(figures) > 1 else whole, strict=True):
            place = QRectF(_MARGIN + x, _TITLE + y, w, h)
            painter.setPen(QPen(theme.color("line"), 1))
            painter.setBrush(theme.color("surface-raised"))
            painter.drawRoundedRect(place, 8, 8)
            _figure(painter, figure, theme, place)
    return paint


def picture(paint: Callable[[QPainter], None], size: QSize, ground: QColor, scale: float = 2.0) -> QImage:
    """What a function paints, as an image with `scale` pixels per unit."""
    image = QImage(round(size.width() * scale), round(size.height() * scale), QImage.Format.Format_RGB32)
    image.setDevicePixelRatio(scale)
    image.fill(ground)
    painter = QPainter(image)
    paint(painter)
    painter.end()
    image.setDevicePixelRatio(1.0)                  # programs that it is pasted into take pixels
    return image


def _figure(painter: QPainter, figure: Figure, theme: Theme, place: QRectF) -> None:
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    head = QRectF(place.left() + 16, place.top() + 8, place.width() - 32, theme.px(26))
    right = _legend(painter, theme, head, figure.legend, figure.note)
    _line(painter, theme, head.adjusted(0, 0, -right, 0), figure.title, figure.caption, "text")
    body = QRectF(place.left() + 16, head.bottom() + 8, place.width() - 32, place.bottom() - head.bottom() - 18)
    figure.chart.paint_still(painter, body)


def _line(painter: QPainter, theme: Theme, place: QRectF, title: str, caption: str, size: str) -> None:
    painter.setFont(theme.font(size, 600))
    painter.setPen(theme.color("text"))
    painter.drawText(place, LEFT, title)
    at = QFontMetricsF(theme.font(size, 600)).horizontalAdvance(title) + 10
    metrics = QFontMetricsF(theme.font())
    painter.setFont(theme.font())
    painter.setPen(theme.color("text-faded"))
    rest = place.adjusted(at, 0, 0, 0)
    painter.drawText(rest, LEFT, metrics.elidedText(caption, Qt.TextElideMode.ElideRight, max(0.0, rest.width())))


def _legend(painter: QPainter, theme: Theme, place: QRectF, legend: Sequence[tuple[QColor, str]], note: str) -> float:
    """Draw swatches with words, or a note, flush right; the width that they take."""
    metrics = QFontMetricsF(theme.font("small"))
    painter.setFont(theme.font("small"))
    right = place.right()
    for colour, words in reversed(legend):
        width = metrics.horizontalAdvance(words)
        painter.setPen(theme.color("text-faded"))
        painter.drawText(QRectF(right - width - 2, place.top(), width + 2, place.height()), RIGHT, words)
        right -= width + theme.px(19)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawRoundedRect(QRectF(right, place.center().y() - theme.px(6), theme.px(13), theme.px(13)), 3, 3)
        right -= theme.px(14)
    if note:
        width = metrics.horizontalAdvance(note)
        painter.setPen(theme.color("text-faded"))
        painter.drawText(QRectF(right - width - 2, place.top(), width + 2, place.height()), RIGHT, note)
        right -= width + theme.px(14)
    return place.right() - right

"""Marks of different shape, so that series are told apart without colour."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPaintEvent, QPen
from PySide6.QtWidgets import QWidget

from app.theme import Theme

Shape = Literal["circle", "triangle", "square", "diamond", "star", "wedge", "cross", "hexagon"]
SHAPES: tuple[Shape, ...] = ("circle", "triangle", "square", "diamond", "star", "wedge", "cross", "hexagon")

_SIZE = {"square": 0.84, "circle": 0.94, "diamond": 1.12, "star": 1.28, "triangle": 1.1, "wedge": 1.1, "cross": 1.06,
         "hexagon": 1.02}
"""Factors that make shapes of the same nominal size look alike."""


def mark_path(shape: str, centre: QPointF, size: float) -> QPainterPath:
    """The outline of a mark, `size` pixels across."""
    path = QPainterPath()
    r = size / 2 * _SIZE[shape]
    x, y = centre.x(), centre.y()
    if shape == "circle":
        path.addEllipse(centre, r, r)
        return path
    if shape == "square":
        path.addRect(x - r, y - r, 2 * r, 2 * r)
        return path
    if shape == "cross":
        t = r * 0.36
        corners = [(-t, -r), (t, -r), (t, -t), (r, -t), (r, t), (t, t), (t, r), (-t, r), (-t, t), (-r, t), (-r, -t), (-t, -t)]
    elif shape == "star":
        radii = [r if i % 2 == 0 else r * 0.44 for i in range(10)]
        corners = [(q * math.sin(math.pi * i / 5), -q * math.cos(math.pi * i / 5)) for i, q in enumerate(radii)]
    elif shape in ("triangle", "wedge"):
        sign = -1 if shape == "triangle" else 1
        corners = [(0, sign * r), (r * 0.92, -sign * r * 0.72), (-r * 0.92, -sign * r * 0.72)]
    else:
        sides = 4 if shape == "diamond" else 6
        corners = [(r * math.sin(2 * math.pi * i / sides), -r * math.cos(2 * math.pi * i / sides)) for i in range(sides)]
    path.moveTo(x + corners[0][0], y + corners[0][1])
    for dx, dy in corners[1:]:
        path.lineTo(x + dx, y + dy)
    path.closeSubpath()
    return path


def draw_mark(painter: QPainter, shape: str, centre: QPointF, size: float, colour: QColor, halo: QColor | None = None) -> None:
    """Draw a filled mark; a `halo` in the ground's colour keeps it clear of lines and neighbours."""
    path = mark_path(shape, centre, size)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    if halo is not None:
        painter.strokePath(path, QPen(halo, 2.5, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin))
    painter.fillPath(path, colour)


class _Small(QWidget):
    """A square of the height of small letters, which grows with the font."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        theme.changed.connect(self._fit)
        self._fit()

    def _fit(self) -> None:
        self.setFixedSize(self._theme.px(13), self._theme.px(13))
        self.update()


class MarkLabel(_Small):
    """A mark as in the charts, for chips and legends."""

    def __init__(self, theme: Theme, shape: str, accent: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(theme, parent)
        self._shape, self._accent = shape, accent

    def show_mark(self, shape: str, accent: bool) -> None:
        """Show another."""
        self._shape, self._accent = shape, accent
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        painter = QPainter(self)
        colour = self._theme.color("accent" if self._accent else "text-faded")
        draw_mark(painter, self._shape, QPointF(self.width() / 2, self.height() / 2), self._theme.px(11), colour)
        painter.end()


class ColourKey(_Small):
    """A square of a colour that is asked for anew at each drawing: a legend's swatch."""

    def __init__(self, theme: Theme, colour: Callable[[], QColor], parent: QWidget | None = None) -> None:
        super().__init__(theme, parent)
        self._colour = colour

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._colour())
        painter.drawRoundedRect(QRectF(self.rect()), 3, 3)
        painter.end()

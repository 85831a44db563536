"""Small drawings that several widgets share."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPen
from PySide6.QtWidgets import QWidget

from app.theme import Theme, blend

LETTERS = {"row": "R", "column": "C", "both": "B", "scalar": "S"}
FULL_MARGIN = 0.30
"""The margin from which on a cell has the full colour of its axis."""


def no_picture() -> QImage:
    """What stands for a picture that a text from elsewhere names. It must be one: for none at all Qt opens the file itself."""
    nothing = QImage(1, 1, QImage.Format.Format_ARGB32)
    nothing.fill(Qt.GlobalColor.transparent)
    return nothing


def axis_colour(theme: Theme, axis: str, margin: float = FULL_MARGIN) -> QColor:
    """The colour of a cell of the axis map: the axis's own, as strong as its margin says (0 to `FULL_MARGIN`).

    Row x column and scalar have no colour of their own: they are grey.
    """
    strength = 0.14 + 0.86 * min(1.0, max(0.0, margin) / FULL_MARGIN)
    role = axis if axis in ("row", "column") else "text-faded"
    return blend(theme.color(role), theme.color("surface-raised"), strength if axis in ("row", "column") else strength * 0.6)


def draw_axis_cell(widget: QWidget, theme: Theme, axis: str) -> None:
    """Fill a widget with a legend's cell: the axis's colour and letter, or the outline of what is to do."""
    painter = QPainter(widget)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    rect = QRectF(widget.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
    if axis == "todo":
        painter.setPen(QPen(theme.color("line-strong"), 1))
        painter.drawRoundedRect(rect, 3, 3)
    else:
        colour = axis_colour(theme, axis)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawRoundedRect(rect, 3, 3)
        font = theme.font("tick", 600)
        font.setPixelSize(theme.px(9))
        painter.setFont(font)
        painter.setPen(theme.ink_on(colour))
        painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, LETTERS.get(axis, ""))
    painter.end()

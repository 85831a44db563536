"""Where everything on the axis map lies, in pixels. Pure arithmetic: no widget, no painting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from PySide6.QtCore import QPointF, QRectF


class Lengths(NamedTuple):
    """Lengths that follow the font, in pixels."""

    label: float
    """Width of the kinds' column, its gap to the grid included."""
    tick: float
    """Height of a line of tick labels."""
    pitch_x: float
    """Widest pitch of blocks."""
    pitch_y: float
    """Highest pitch of kinds."""
    least_x: float
    """Narrowest pitch: below it, the map scrolls."""
    least_y: float
    gap: float
    bar: float
    """Height of the line with the colour bar, its gap above included; 0 for none."""
    outer: float
    """Height of one line of cells outside the blocks, gap included."""
    scroll: float
    """Height of the scroll bar, where one is needed."""


@dataclass(frozen=True)
class Geometry:
    """The grid begins at (`left`, `top`); cells are a pitch apart, edges rounded to whole pixels so that gaps are even."""

    columns: int
    lines: int
    left: float
    top: float
    pitch_x: float
    pitch_y: float
    gap: float
    view: float
    """Width of the visible part of the grid."""
    offset: float
    """How far it is scrolled, in pixels."""
    foot: float
    """Where the grid ends and tick labels begin."""
    scroll_top: float
    """Where the scroll bar lies; 0 where all blocks fit."""
    bar_top: float
    outer: tuple[QRectF, ...]
    """Cells outside the blocks; their names stand at the right of them."""
    height: float
    """Height of all."""

    @property
    def width(self) -> float:
        """Width of the whole grid, visible or not."""
        return self.columns * self.pitch_x

    @property
    def has_letters(self) -> bool:
        """Whether cells are large enough for a letter."""
        return min(self.pitch_x, self.pitch_y) - self.gap >= 12

    def cell(self, column: int, line: int) -> QRectF:
        """The rectangle of a cell."""
        x0, x1 = round(column * self.pitch_x), round((column + 1) * self.pitch_x)
        y0, y1 = round(line * self.pitch_y), round((line + 1) * self.pitch_y)
        return QRectF(self.left + x0 - self.offset, self.top + y0, x1 - x0 - self.gap, y1 - y0 - self.gap)

    def hit(self, point: QPointF) -> tuple[int, int] | None:
        """Column and line at a point (gaps belong to the cell before them), (-1, number) for an outer cell, or None."""
        for i, rect in enumerate(self.outer):
            if rect.contains(point):
                return -1, i
        x, y = point.x() - self.left, point.y() - self.top
        if not (0 <= x < min(self.view, self.width) and 0 <= y < self.lines * self.pitch_y):
            return None
        column = _place(x + self.offset, self.pitch_x, self.columns)
        return column, _place(y, self.pitch_y, self.lines)

    def shown_columns(self) -> range:
        """Columns that are at least partly visible."""
        if not self.columns:
            return range(0)
        return range(int(self.offset // self.pitch_x), min(self.columns, math.ceil((self.offset + self.view) / self.pitch_x)))


def _place(length: float, pitch: float, count: int) -> int:
    """The cell whose rounded edges enclose a length."""
    at = min(int(length / pitch), count - 1)
    if length < round(at * pitch):
        return at - 1
    return min(at + 1, count - 1) if length >= round((at + 1) * pitch) else at


def lay_out(width: float, height: float, columns: int, lines: int, outer: tuple[float, ...], offset: float, at: Lengths,
            bar_width: float = 0) -> Geometry:
    """Fit a grid of `columns` x `lines` into a widget.

    `outer` has the width of each cell outside the blocks together with its name; they stand at the right of the colour
    bar, which takes `bar_width`, or below where there is no room.
    """
    left = float(math.ceil(at.label) + 1)
    view = max(0.0, width - left)
    pitch_x = min(at.pitch_x, max(at.least_x, view / columns)) if columns else at.pitch_x
    scrolls = columns * pitch_x > view + 0.5
    offset = min(max(0.0, offset), columns * pitch_x - view) if scrolls else 0.0
    is_beside = bool(outer) and bar_width > 0 and bar_width + 24 + sum(outer) <= view
    ticks = at.tick + (at.scroll if scrolls else 0.0)
    below = 0.0 if is_beside or not outer else at.outer * _lines_of(outer, view)
    pitch_y = min(at.pitch_y, max(at.least_y, (height - ticks - at.bar - below) / lines)) if lines else at.pitch_y
    foot = round(lines * pitch_y)
    bar_top = foot + ticks
    ends = max(min(view, columns * pitch_x), bar_width + 24 + sum(outer))
    x, y = (left + ends - sum(outer), bar_top + at.bar - at.outer - 2) if is_beside else (left, bar_top + at.bar + 4)
    cells: list[QRectF] = []
    for wide in outer:
        if not is_beside and x > left and x + wide > left + view:
            x, y = left, y + at.outer
        cells.append(QRectF(round(x), round(y), at.outer - 6, at.outer - 6))
        x += wide
    return Geometry(columns, lines, left, 0.0, pitch_x, pitch_y, at.gap, view, offset, foot, foot + at.tick if scrolls else 0.0,
                    bar_top, tuple(cells), foot + ticks + at.bar + below)


def _lines_of(widths: tuple[float, ...], view: float) -> int:
    lines, x = 1, 0.0
    for wide in widths:
        if x and x + wide > view:
            lines, x = lines + 1, 0.0
        x += wide
    return lines

"""Painting the axis map: cells, labels, colour bar and legend, on a widget, a pixmap or a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen

from app.codings import coding_word, in_order, strength
from app.theme import Theme
from app.widgets.charts.axis_data import AXES, Cell, Grid, Key, letter_of
from app.widgets.charts.axis_geometry import Geometry
from app.widgets.charts.axis_scale import STEPS, Inks, Mode, Scale
from app.widgets.painting import FULL_MARGIN
from app.words import percent

_CENTRE = Qt.AlignmentFlag.AlignCenter
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_STEP, _BAR = 22, 12
"""Width and height of one step of the colour bar."""
_LEGEND = (("row", "Row"), ("column", "Column"), ("both", "Both"), ("scalar", "Scalar"))
MOST = 5
"""Ways to store that a legend names."""
_BITS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Steps of the bar of bits per weight."""


@dataclass(frozen=True)
class Picture:
    """All that is painted but what the pointer adds."""

    theme: Theme
    inks: Inks
    grid: Grid
    geometry: Geometry
    mode: Mode
    scale: Scale
    compact: bool

    def rect(self, key: Key) -> QRectF:
        """Where a cell lies."""
        column, line = self.grid.place(key)
        return self.geometry.outer[line] if column < 0 else self.geometry.cell(column, line)


def radius_of(rect: QRectF) -> float:
    """Corners of 3 px, smaller on small cells."""
    return min(3.0, min(rect.width(), rect.height()) / 5)


def letter_font(theme: Theme, side: float) -> QFont:
    """The font of a letter in a cell of a size."""
    font = theme.font("tick", 600)
    font.setPixelSize(max(7, min(theme.px(13), max(font.pixelSize(), round(side * 0.4)), round(side * 0.7))))
    return font


def paint(painter: QPainter, picture: Picture) -> None:
    """Everything."""
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    geometry, grid = picture.geometry, picture.grid
    _paint_kinds(painter, picture)
    _paint_ticks(painter, picture)
    if not picture.compact and grid.cells:
        paint_bar(painter, picture, QPointF(geometry.left, geometry.bar_top), geometry.view)
    columns = geometry.shown_columns()
    painter.save()
    painter.setClipRect(QRectF(geometry.left - 1, 0, geometry.view + 2, geometry.foot + 1))
    lines = range(len(grid.kinds))
    paint_cells(painter, picture, (key for c in columns for line in lines if (key := grid.at(c, line)) is not None))
    painter.restore()
    paint_cells(painter, picture, ((None, kind) for kind in grid.outer))
    painter.setFont(picture.theme.font("tick"))
    painter.setPen(picture.theme.color("text-faded"))
    for kind, rect in zip(grid.outer, geometry.outer, strict=True):
        painter.drawText(QRectF(rect.right() + 6, rect.top(), 200, rect.height()), _LEFT, kind)


def paint_cells(painter: QPainter, picture: Picture, keys: Iterable[Key]) -> None:
    """Some cells, on a ground that is clean."""
    theme, has_letters = picture.theme, picture.geometry.has_letters and not picture.compact
    todo, accent = QPen(theme.mixed("line-strong", 0.4), 1), theme.color("accent")
    side = min(picture.geometry.pitch_x, picture.geometry.pitch_y) - picture.geometry.gap
    grid_font = letter_font(theme, side)
    painter.setFont(grid_font)
    for key in keys:
        cell, rect = picture.grid.cells[key], picture.rect(key)
        radius = radius_of(rect)
        if cell.state == "todo":
            painter.setPen(todo)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(rect.adjusted(0.5, 0.5, -0.5, -0.5), radius, radius)
        elif cell.state == "now":
            _paint_now(painter, rect, radius, accent)
        else:
            ground, ink = picture.inks.of(cell, picture.mode, picture.scale)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(ground)
            painter.drawRoundedRect(rect, radius, radius)
            if has_letters or (key[0] is None and rect.height() >= 12):
                painter.setPen(ink)
                letter = cell.coding_letter if picture.mode.key == "codec" else cell.letter
                wide = painter.fontMetrics().horizontalAdvance(letter) <= rect.width()
                painter.drawText(rect, _CENTRE, letter if wide else letter[:1])


def _paint_now(painter: QPainter, rect: QRectF, radius: float, accent: QColor) -> None:
    thick = 2.0 if min(rect.width(), rect.height()) >= 12 else 1.5
    painter.setPen(QPen(accent, thick))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    inset = thick / 2
    painter.drawRoundedRect(rect.adjusted(inset, inset, -inset, -inset), radius, radius)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(accent)
    dot = min(2.6, rect.width() / 9)
    for i in (-1, 0, 1):
        painter.drawEllipse(rect.center() + QPointF(i * dot * 1.9, 0), dot / 2 + 0.2, dot / 2 + 0.2)


def outline(painter: QPainter, rect: QRectF, colour: QColor, ground: QColor, width: float = 2.0) -> None:
    """Frame a cell: a line around it, set off from its neighbours by a hair of the ground."""
    painter.setBrush(Qt.BrushStyle.NoBrush)
    radius = radius_of(rect) + 0.5
    for line, grown in ((QPen(ground, 1.0), width / 2 + 0.5), (QPen(colour, width), 0.0)):
        painter.setPen(line)
        painter.drawRoundedRect(rect.adjusted(-grown, -grown, grown, grown), radius + grown, radius + grown)


def _paint_kinds(painter: QPainter, picture: Picture) -> None:
    theme, geometry = picture.theme, picture.geometry
    font = theme.font("tick" if picture.compact else "small")
    metrics = QFontMetricsF(font)
    painter.setFont(font)
    painter.setPen(theme.color("text-faded"))
    room = geometry.left - theme.px(10)
    fits = max(1, -(-int(metrics.ascent()) // max(1, int(geometry.pitch_y))))
    for line, kind in enumerate(picture.grid.kinds):
        if line % fits:
            continue
        top = round(line * geometry.pitch_y)
        rect = QRectF(0, top - 8, room, geometry.pitch_y - geometry.gap + 16)
        painter.drawText(rect, _RIGHT, metrics.elidedText(kind, Qt.TextElideMode.ElideMiddle, room))


def _paint_ticks(painter: QPainter, picture: Picture) -> None:
    theme, geometry, blocks = picture.theme, picture.geometry, picture.grid.blocks
    if not blocks:
        return
    font = theme.font("tick" if picture.compact else "small")
    metrics = QFontMetricsF(font)
    painter.setFont(font)
    painter.setPen(theme.color("text-faded"))
    room = metrics.horizontalAdvance(str(blocks[-1])) + theme.px(8)
    for column in tick_columns(blocks, geometry.pitch_x, room):
        centre = geometry.cell(column, 0).center().x()
        if not geometry.left <= centre <= geometry.left + geometry.view:
            continue
        wide = metrics.horizontalAdvance(str(blocks[column]))
        x = min(max(centre - wide / 2, geometry.left), geometry.left + geometry.view - wide)
        painter.drawText(QRectF(x, geometry.foot, wide + 1, metrics.height() + 4), _CENTRE, str(blocks[column]))


def tick_columns(blocks: Sequence[int], pitch: float, room: float) -> list[int]:
    """Columns that get a label: blocks by fives (or tens and so on where labels of `room` px would touch), and the last."""
    every = next((n for n in (5, 10, 20, 50, 100) if n * pitch >= room), 200) if len(blocks) > 6 else 1
    if every == 1 and pitch < room:
        every = 5
    found = [i for i, block in enumerate(blocks) if block % every == 0]
    last = len(blocks) - 1
    return [i for i in found if i == last or (last - i) * pitch >= room] + ([] if last in found else [last])


# --------------------------------------------------------------------------------------------------- colour bar
def bar_width(theme: Theme, mode: Mode) -> float:
    """Width of the colour bar with its caption."""
    steps = 2 * 5 + 1 if mode.key == "margin" else 2 * len(_BITS) if mode.key == "codec" else STEPS
    return QFontMetricsF(theme.font("small")).horizontalAdvance(mode.caption) + theme.px(12) + steps * theme.px(_STEP)


def paint_bar(painter: QPainter, picture: Picture, at: QPointF, room: float) -> None:
    """The colour bar with its caption and numbers. Its ends carry the letters of the axes, so that it reads without colour."""
    theme, mode, scale = picture.theme, picture.mode, picture.scale
    metrics = QFontMetricsF(theme.font("small"))
    caption, high, top = metrics.horizontalAdvance(mode.caption), theme.px(_BAR), at.y() + theme.px(8)
    is_margin = mode.key == "margin"
    if mode.key == "codec":
        _paint_bits(painter, picture, QPointF(at.x(), top), room)
        return
    if not is_margin and scale.high == scale.low == 0:
        painter.setFont(theme.font("small"))
        painter.setPen(theme.color("text-faded"))
        painter.drawText(QRectF(at.x(), top - 4, room, high + 8), _LEFT, f"{mode.name}: known once a layer is finished")
        return
    if is_margin:
        shares = [abs(i) / 5 for i in range(-5, 6)]
    else:
        shares = [i / (STEPS - 1) for i in range(STEPS)] if scale.high > scale.low else [0.5]
    x, step = at.x(), float(theme.px(_STEP))
    if caption + theme.px(12) + len(shares) * step <= room:
        painter.setFont(theme.font("small"))
        painter.setPen(theme.color("text-faded"))
        painter.drawText(QRectF(x, top - 4, caption + 2, high + 8), _LEFT, mode.caption)
        x += caption + theme.px(12)
    step = min(step, room / len(shares))
    painter.setFont(letter_font(theme, high))
    for i, share in enumerate(shares):
        rect = QRectF(x + round(i * step), top, round((i + 1) * step) - round(i * step) - 1, high)
        winner = "row" if i < len(shares) // 2 else "column"
        if is_margin and share == 0:
            painter.setPen(QPen(theme.color("line"), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(rect.adjusted(0.5, 0.5, -0.5, -0.5))
            continue
        ground, ink = picture.inks.axis(winner, round(100 * share)) if is_margin else picture.inks.tint(round(100 * share))
        painter.fillRect(rect, ground)
        if is_margin and share == 1:
            painter.setPen(ink)
            painter.drawText(rect, _CENTRE, letter_of(winner))
    _paint_numbers(painter, picture, x, top + high, step, len(shares))


def only_coding(codings: Iterable[str]) -> str:
    """The way to store that all cells have which hold anything; empty for several, and before the first."""
    found = set(codings) - {"todo", "same", "left-out"}
    return found.pop() if len(found) == 1 else ""


def _paint_bits(painter: QPainter, picture: Picture, at: QPointF, room: float) -> None:
    """Bits per weight as strengths of one colour: that of the map's cells, or grey where they have several."""
    theme, caption, high = picture.theme, picture.mode.caption, picture.theme.px(_BAR)
    metrics, tick = QFontMetricsF(theme.font("small")), QFontMetricsF(theme.font("tick"))
    wide, step, x = metrics.horizontalAdvance(caption) + theme.px(12), 2.0 * theme.px(_STEP), at.x()
    painter.setFont(theme.font("small"))
    painter.setPen(theme.color("text-faded"))
    if wide + len(_BITS) * step <= room:
        painter.drawText(QRectF(x, at.y() - 4, wide, high + 8), _LEFT, caption)
        x += wide
    step, key = min(step, room / len(_BITS)), only_coding(picture.grid.codings())
    for i, bits in enumerate(_BITS):
        rect = QRectF(x + round(i * step), at.y(), round((i + 1) * step) - round(i * step) - 1, high)
        painter.fillRect(rect, picture.inks.coding(key, round(100 * strength(bits)))[0])
        painter.setFont(theme.font("tick"))
        painter.setPen(theme.color("text-faded"))
        said = f"{bits:g}" + ("+" if bits == _BITS[-1] else "")
        painter.drawText(QRectF(rect.left(), at.y() + high + 1, rect.width(), tick.height() + 4), _CENTRE, said)


def _paint_numbers(painter: QPainter, picture: Picture, x: float, top: float, step: float, steps: int) -> None:
    theme, mode, scale = picture.theme, picture.mode, picture.scale
    painter.setFont(theme.font("tick"))
    painter.setPen(theme.color("text-faded"))
    metrics = QFontMetricsF(theme.font("tick"))
    total = steps * step
    if mode.key == "margin":
        full, half = percent(FULL_MARGIN, 0), f"{50 * FULL_MARGIN:.0f}"
        labels = [(0.0, full), (2.5 * step, half), (total / 2, "0"), (total - 2.5 * step, half), (total, full)]
    elif scale.high == scale.low:
        labels = [(0.0, mode.write(scale.low))]
    else:
        first, last = "≤ " if scale.has_below else "", "≥ " if scale.has_above else ""
        labels = [(0.0, first + mode.write(scale.low)), (total / 2, mode.write((scale.low + scale.high) / 2)),
                  (total, last + mode.write(scale.high))]
    for place, text in labels:
        wide = metrics.horizontalAdvance(text) + 1
        left = x + (0 if place == 0 else place - wide if place == total else place - wide / 2)
        painter.drawText(QRectF(left, top + 1, wide, metrics.height() + 4), _CENTRE, text)


# ------------------------------------------------------------------------------------------------------- legend
def legend_items(counts: Counter[str]) -> list[tuple[str, str]]:
    """Keys and words of a legend of axes: row and column always, the others where there are any; then what has no axis."""
    found = [(axis, f"{word} {counts[axis]:,}") for axis, word in _LEGEND if counts[axis] or axis in AXES[:2]]
    others = sum(n for key, n in counts.items() if key not in (*AXES, "todo"))
    found += [("other", f"Other {others:,}")] if others else []
    return found + _todo(counts)


def coding_items(counts: Counter[str], most: int = MOST) -> list[tuple[str, str]]:
    """Keys and words of a legend of ways to store: of more than `most`, the rarest are counted together."""
    keys = in_order(k for k, n in counts.items() if n and k != "todo")
    kept = set(sorted(keys, key=lambda k: -counts[k])[:most if len(keys) > most else len(keys)])
    found = [(k, f"{coding_word(k)} {counts[k]:,}") for k in keys if k in kept]
    others = sum(counts[k] for k in keys if k not in kept)
    return found + ([("other", f"Others {others:,}")] if others else []) + _todo(counts)


def _todo(counts: Counter[str]) -> list[tuple[str, str]]:
    return [("todo", f"To do {counts['todo']:,}")] if counts["todo"] else []


def legend_width(theme: Theme, items: Sequence[tuple[str, str]]) -> float:
    """Width of a legend."""
    metrics = QFontMetricsF(theme.font("text", 500))
    return sum(theme.px(14 + 7) + metrics.horizontalAdvance(text) for _, text in items) + theme.px(14) * max(0, len(items) - 1)


def paint_legend(painter: QPainter, theme: Theme, inks: Inks, items: Sequence[tuple[str, str]], at: QRectF,
                 shades: Mapping[str, int] | None = None) -> None:
    """Swatches with letters, and words with counts, in a line from the left of a rectangle; `shades` (0 to 100) by way to store
    are those of the cells."""
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    metrics = QFontMetricsF(theme.font("text", 500))
    x, side = at.x(), theme.px(14)
    for axis, text in items:
        rect = QRectF(x, round(at.center().y() - side / 2), side, side)
        if axis == "todo":
            painter.setPen(QPen(theme.color("line-strong"), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(rect.adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)
        else:
            paint_swatch(painter, theme, rect, "" if axis == "other" else letter_of(axis),
                         *(inks.coding(axis, shades[axis]) if shades and axis in shades else inks.swatch(axis)))
        painter.setFont(theme.font("text", 500))
        painter.setPen(theme.color("text"))
        wide = metrics.horizontalAdvance(text)
        painter.drawText(QRectF(x + side + theme.px(7), at.y(), wide + 2, at.height()), _LEFT, text)
        x += side + theme.px(7) + wide + theme.px(14)


def paint_swatch(painter: QPainter, theme: Theme, rect: QRectF, letter: str, ground: QColor, ink: QColor) -> None:
    """A small cell with its letter."""
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(ground)
    painter.drawRoundedRect(rect, 3, 3)
    painter.setFont(letter_font(theme, rect.height()))
    painter.setPen(ink)
    painter.drawText(rect, _CENTRE, letter)


def values_of(cells: Iterable[Cell], mode: Mode) -> list[float]:
    """The values of finished cells that have one."""
    return [v for cell in cells if cell.state == "done" and (v := mode.value(cell)) is not None]

"""A report as a PDF: painted page by page, in points, on A4."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QMarginsF, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontDatabase, QFontMetricsF, QPageLayout, QPageSize, QPainter, QPdfWriter, QPen

from app.report.content import Band, BarLine, MapCell, Report, Table, footer, ink_on, legend_colour, mixed, roles
from app.widgets.charts.axis_data import letter_of

_MARGIN, _DPI = 40.0, 720
_FINE = _DPI / 72
_LONGEST = 1000
"""Letters of a warning: one from elsewhere must not fill pages."""
_WIDE, _HIGH = 595.0, 842.0
LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
CENTRE = Qt.AlignmentFlag.AlignCenter


def to_pdf(report: Report) -> bytes:
    """The whole file."""
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    writer = QPdfWriter(buffer)
    writer.setPageSize(QPageSize(QPageSize.PageSizeId.A4))
    writer.setPageMargins(QMarginsF(0, 0, 0, 0), QPageLayout.Unit.Point)
    writer.setResolution(_DPI)
    writer.setTitle(f"{report.title}: delta report")
    writer.setCreator("Deltadeck")
    painter = QPainter(writer)
    painter.scale(_FINE, _FINE)
    _Sheet(painter, writer, report).fill()
    painter.end()
    buffer.close()
    return bytes(data.data())


def _finer(place: QRectF) -> QRectF:
    return QRectF(place.x() * _FINE, place.y() * _FINE, place.width() * _FINE, place.height() * _FINE)


class _Sheet:
    """Where on the page the next thing goes; a new page begins where it does not fit."""

    def __init__(self, painter: QPainter, writer: QPdfWriter, report: Report) -> None:
        self._painter, self._writer, self._report = painter, writer, report
        self._family = "Inter" if "Inter" in QFontDatabase.families() else QFont().family()
        self._colours = roles()
        self._y, self._page = _MARGIN, 1
        self._foot()

    # ----------------------------------------------------------------------------------------------- drawing
    def font(self, points: float, weight: int = 400) -> QFont:
        """A font by its size in points, in the writer's own dots: at the painter's unit letters would be set unevenly."""
        font = QFont(self._family)
        font.setPixelSize(max(1, round(points * _FINE)))
        font.setWeight(QFont.Weight(weight))
        font.setFeature(QFont.Tag("tnum"), 1)
        return font

    def text(self, place: QRectF, words: str, points: float = 9, weight: int = 400, role: str = "text",
             side: Qt.AlignmentFlag = LEFT) -> None:
        """One line, ending in dots where it is too long."""
        font = self.font(points, weight)
        self._painter.setFont(font)
        self._painter.setPen(QColor(self._colours.get(role, role)))
        shown = QFontMetricsF(font).elidedText(words, Qt.TextElideMode.ElideRight, place.width() * _FINE)
        self._painter.save()
        self._painter.scale(1 / _FINE, 1 / _FINE)
        self._painter.drawText(_finer(place), int(side), shown)
        self._painter.restore()

    def width(self, words: str, points: float, weight: int = 400) -> float:
        """How wide a text is, in points."""
        return QFontMetricsF(self.font(points, weight)).horizontalAdvance(words) / _FINE

    def box(self, place: QRectF, colour: str, radius: float = 1.5) -> None:
        """A filled rectangle."""
        self._painter.setPen(Qt.PenStyle.NoPen)
        self._painter.setBrush(QColor(colour))
        self._painter.drawRoundedRect(place, radius, radius)

    def rule(self, y: float, left: float = _MARGIN, right: float = _WIDE - _MARGIN) -> None:
        """A hairline."""
        self._painter.setPen(QPen(QColor(self._colours["line"]), 0.6))
        self._painter.drawLine(QPointF(left, y), QPointF(right, y))

    def room(self, high: float) -> None:
        """Begin a new page unless there is room for so much."""
        if self._y + high > _HIGH - _MARGIN - 14:
            self._writer.newPage()
            self._page += 1
            self._y = _MARGIN
            self._foot()

    def _foot(self) -> None:
        place = QRectF(_MARGIN, _HIGH - _MARGIN, _WIDE - 2 * _MARGIN, 12)
        self.text(place, f"{self._report.title}. {footer()}", 7, role="text-faded")
        self.text(place, str(self._page), 7, role="text-faded", side=RIGHT)

    def title(self, words: str, after: float = 0) -> None:
        """A section's title, kept together with `after` points of what follows."""
        self.room(24 + after)
        self._y += 10
        self.text(QRectF(_MARGIN, self._y, 400, 14), words, 11, 600)
        self._y += 18

    # ----------------------------------------------------------------------------------------------- sections
    def fill(self) -> None:
        """Everything."""
        r = self._report
        self.text(QRectF(_MARGIN, self._y, _WIDE - 2 * _MARGIN, 24), r.title, 20, 600)
        self._y += 26
        line = ", ".join(x for x in (r.line, r.date) if x)
        self.text(QRectF(_MARGIN, self._y, _WIDE - 2 * _MARGIN, 13), line, 9, role="text-faded")
        self._y += 16
        if r.note:
            self.text(QRectF(_MARGIN, self._y, _WIDE - 2 * _MARGIN, 13), r.note, 9)
            self._y += 16
        self._figures()
        if r.bands or r.outer:
            self._map()
        self.title("Size", 30)
        self._bars(r.sizes)
        self.title("Load time", 60)
        for name, lines in r.times:
            self.room(16 + 14 * len(lines))
            self.text(QRectF(_MARGIN, self._y, 400, 12), name, 8, role="text-faded")
            self._y += 14
            self._bars(lines)
        self._paragraph(r.times_note)
        self.title("Fidelity", 60)
        self._table(r.fidelity, (0.6, 0.22, 0.18))
        self.title("By kind of layer", 28 + 14 * min(len(r.kinds.rows), 24))
        self._table(r.kinds, (0.12, 0.36, 0.11, 0.14, 0.15, 0.12))
        self.title("What it is", 40)
        self._facts(r.facts)
        self.title("How it was made", 40)
        self._facts(r.settings)
        if r.warnings:
            self.title("Warnings", 20)
            for words in r.warnings:
                cut = words if len(words) <= _LONGEST else words[:_LONGEST] + "..."
                self._paragraph(f"\N{BULLET} {cut}", "text")
        self._layers()

    def _figures(self) -> None:
        self._y += 4
        wide = (_WIDE - 2 * _MARGIN) / max(1, len(self._report.figures))
        for i, (value, caption) in enumerate(self._report.figures):
            x = _MARGIN + i * wide
            self.text(QRectF(x, self._y, wide - 8, 20), value, 16, 600)
            self.text(QRectF(x, self._y + 20, wide - 8, 11), caption, 7.5, role="text-faded")
        self._y += 38

    def _map(self) -> None:
        bands = self._report.bands
        label = 40.0
        pitch = min(16.0, (_WIDE - 2 * _MARGIN - label) / max((len(b.blocks) for b in bands), default=1))
        first = (len(bands[0].kinds) * pitch if bands else 0) + 40
        self.title("Axis map", first)
        x = _MARGIN
        for axis, words, number in self._report.counts:
            ground = legend_colour(axis)
            self.box(QRectF(x, self._y, 10, 10), ground, 2)
            self.text(QRectF(x, self._y, 10, 10), letter_of(axis), 7, 600, ink_on(ground), CENTRE)
            self.text(QRectF(x + 14, self._y - 1, 90, 12), f"{words} {number:,}", 8.5, 500)
            x += 28 + self.width(f"{words} {number:,}", 8.5, 500)
        self._y += 18
        for band in bands:
            self._band(band, pitch, label)
        x = _MARGIN + label
        for cell in self._report.outer:
            self._cell(cell, QRectF(x, self._y, 11, 11))
            self.text(QRectF(x + 15, self._y - 0.5, 60, 12), cell.title, 8, role="text-faded")
            x += 70
        self._y += 16 if self._report.outer else 0
        self._paragraph("Blocks across, kinds of layers down. The stronger the colour, the more clearly that axis won, "
                        "up to 30 %; of other codecs, the more bits they take.")

    def _band(self, band: Band, pitch: float, label: float) -> None:
        self.room(len(band.kinds) * pitch + 16)
        for line, kind in enumerate(band.kinds):
            self.text(QRectF(_MARGIN, self._y + line * pitch, label - 6, pitch - 1.5), kind, 7.5, role="text-faded", side=RIGHT)
        for cell in band.cells:
            self._cell(cell, QRectF(_MARGIN + label + cell.column * pitch, self._y + cell.line * pitch, pitch - 1.5, pitch - 1.5))
        foot = self._y + len(band.kinds) * pitch
        for i, block in enumerate(band.blocks):
            if block % 5 == 0 or i == len(band.blocks) - 1:
                place = QRectF(_MARGIN + label + i * pitch - 10, foot, pitch + 18.5, 10)
                self.text(place, str(block), 7, role="text-faded", side=CENTRE)
        self._y = foot + 14

    def _cell(self, cell: MapCell, place: QRectF) -> None:
        self.box(place, cell.ground)
        if place.height() >= 7:
            self.text(place.adjusted(-2, 0, 2, 0), cell.letter, min(8.0, place.height() * 0.62), 600, cell.ink, CENTRE)

    def _bars(self, lines: Sequence[BarLine]) -> None:
        label, value = 160.0, 60.0
        begin, room = _MARGIN + label, _WIDE - 2 * _MARGIN - label - value
        for bar in lines:
            self.text(QRectF(_MARGIN, self._y, label - 8, 12), bar.name, 8.5, role="text-faded")
            colour = self._colours["accent"] if bar.accent else mixed("text-faded", 0.42)
            self.box(QRectF(begin, self._y + 2.5, max(1.5, room * bar.share), 7), colour)
            if bar.low is not None and bar.high is not None:
                low, high, middle = begin + room * bar.low, begin + room * bar.high, self._y + 6
                self._painter.setPen(QPen(QColor(self._colours["text"]), 0.7))
                self._painter.drawLine(QPointF(low, middle), QPointF(high, middle))
                for x in (low, high):
                    self._painter.drawLine(QPointF(x, middle - 2.5), QPointF(x, middle + 2.5))
            self.text(QRectF(_MARGIN, self._y, _WIDE - 2 * _MARGIN, 12), bar.text, 8.5, 600, side=RIGHT)
            self._y += 14

    def _paragraph(self, words: str, role: str = "text-faded") -> None:
        font = self.font(8)
        wrap = int(Qt.TextFlag.TextWordWrap | Qt.TextFlag.TextWrapAnywhere | Qt.AlignmentFlag.AlignLeft)
        wide = _WIDE - 2 * _MARGIN
        high = QFontMetricsF(font).boundingRect(QRectF(0, 0, wide * _FINE, 1e6), wrap, words).height() / _FINE
        self.room(high + 4)
        self._painter.save()
        self._painter.setFont(font)
        self._painter.setPen(QColor(self._colours[role]))
        self._painter.scale(1 / _FINE, 1 / _FINE)
        self._painter.drawText(_finer(QRectF(_MARGIN, self._y, wide, high + 2)), wrap, words)
        self._painter.restore()
        self._y += high + 5

    def _facts(self, facts: Sequence[tuple[str, str]]) -> None:
        for name, value in facts:
            self.room(13)
            self.text(QRectF(_MARGIN, self._y, 130, 12), name, 8.5, role="text-faded")
            self.text(QRectF(_MARGIN + 136, self._y, _WIDE - 2 * _MARGIN - 136, 12), value, 8.5)
            self._y += 13

    def _table(self, table: Table, shares: Sequence[float]) -> None:
        whole = _WIDE - 2 * _MARGIN
        self._line(table.heads, shares, table.words, whole, 7.5, "text-faded", _MARGIN, 12)
        for cells in table.rows:
            self.room(14)
            self._line(cells, shares, table.words, whole, 8.5, "text", _MARGIN, 13)

    def _line(self, cells: Sequence[str], shares: Sequence[float], words: int, whole: float, points: float, role: str,
              left: float, high: float) -> None:
        x = left
        for i, (cell, share) in enumerate(zip(cells, shares, strict=True)):
            self.text(QRectF(x + 2, self._y, whole * share - 4, high), cell, points, role=role, side=LEFT if i < words else RIGHT)
            x += whole * share
        self.rule(self._y + high, left, left + whole)
        self._y += high + 1

    def _layers(self) -> None:
        """Three columns a page: layer, axis, margin, recovery, size."""
        table = self._report.layers
        keep = [table.heads.index(name) for name in ("Layer", "Axis", "Won by", "Recovery", "Size")]
        shares, gap, high = (0.22, 0.20, 0.17, 0.21, 0.20), 14.0, 9.4
        whole = (_WIDE - 2 * _MARGIN - 2 * gap) / 3
        if not table.rows:
            return
        rows, at = [tuple(r[i] for i in keep) for r in table.rows], 0
        while at < len(rows):
            self.room(160 if at == 0 else 1e9)
            self.title("Layers" if at == 0 else "Layers, continued")
            top = self._y
            per = max(1, int((_HIGH - _MARGIN - 20 - top - 12) / (high + 1)))
            # The last page is filled evenly, so that its columns end together.
            per = min(per, -(-(len(rows) - at) // 3))
            end = top
            for column in range(3):
                self._y = top
                left = _MARGIN + column * (whole + gap)
                part = rows[at:at + per]
                at += len(part)
                if part:
                    self._line([table.heads[i] for i in keep], shares, 2, whole, 6.5, "text-faded", left, 10)
                for cells in part:
                    self._line(cells, shares, 2, whole, 7, "text", left, high)
                end = max(end, self._y)
            self._y = end

"""How many matrices of each layer kind took their scales by row or by column: stacked bars, as in figure 2 of the paper.

Where most are stored in another way than by signs, as in a delta of a small size, the bars tell how instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PySide6.QtCore import QPointF, QRectF, QSize
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen
from PySide6.QtWidgets import QWidget

from app import words
from app.codings import coding_letter, coding_role, coding_word, in_order, quiet
from app.theme import Theme
from app.widgets.charts.painted import CENTRE, LEFT, RIGHT, Facts, PaintedChart, Rows
from app.widgets.charts.scales import Scale, digits, linear_ticks


class Counts(Protocol):
    """What `app.library.entry.KindCount` has."""

    @property
    def kind(self) -> str: ...
    @property
    def row(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def other(self) -> int: ...
    @property
    def codings(self) -> tuple[tuple[str, int], ...]: ...


@dataclass(frozen=True)
class Part:
    """A part of the bars: its name, the letter beside its counts, its colour, and how many matrices of all kinds."""

    key: str
    name: str
    letter: str
    colour: QColor
    count: int


class StackedAxes(PaintedChart):
    """A bar per layer kind: R and C with their counts inside, beside the bar where there is no room; others grey."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, "Axis by layer kind", parent)
        self._kinds: tuple[Counts, ...] = ()
        self.other_name = "Other"

    def set_kinds(self, kinds: Sequence[Counts], other_name: str = "Other") -> None:
        """Show these, from the top down; `other_name` is what those have in common that are neither by row nor by column."""
        self.other_name = other_name
        self._kinds = tuple(k for k in kinds if k.row + k.column + k.other)
        self.tell()

    def totals(self) -> tuple[int, int, int]:
        """Rows, columns and others of all kinds."""
        return sum(k.row for k in self._kinds), sum(k.column for k in self._kinds), sum(k.other for k in self._kinds)

    @property
    def by_codec(self) -> bool:
        """Whether the bars tell how matrices are stored: most of them have no axis."""
        stored = [pair for k in self._kinds for pair in k.codings]
        return 2 * sum(n for key, n in stored if key != "sign") > sum(n for _, n in stored)

    def parts(self) -> tuple[Part, ...]:
        """What the bars are made of, from the left; all kinds together."""
        t = self.theme
        if self.by_codec:
            totals: dict[str, int] = {}
            for key, count in (pair for k in self._kinds for pair in k.codings):
                totals[key] = totals.get(key, 0) + count
            return tuple(Part(key, coding_word(key), _letter(key), self._colour(key), totals[key])
                         for key in in_order(totals))
        rows, columns, others = self.totals()
        return (Part("row", "Row", "R", t.color("row"), rows), Part("column", "Column", "C", t.color("column"), columns),
                *([Part("other", self.other_name, "", self.other_colour(), others)] if others else []))

    def _colour(self, key: str) -> QColor:
        role = coding_role(key)
        if role != "text-faded":
            return self.theme.color(role)
        return self.theme.mixed(role, 0.2 if key in ("left-out", "same") else 0.42)

    def colour_of(self, key: str) -> QColor:
        """The colour of a part in the theme as it is now."""
        return next((part.colour for part in self.parts() if part.key == key), self.other_colour())

    def _counted(self, kind: Counts) -> dict[str, int]:
        """Matrices of a kind by the keys of the parts."""
        return dict(kind.codings) if self.by_codec else {"row": kind.row, "column": kind.column, "other": kind.other}

    def other_colour(self) -> QColor:
        """Of what has no axis."""
        return self.theme.mixed("text-faded", 0.42)

    def table(self) -> tuple[tuple[str, ...], Rows]:
        """Kind and counts."""
        if self.by_codec:
            parts = self.parts()
            return ("Layer kind", *(p.name for p in parts)), [
                (k.kind, *(str(self._counted(k).get(p.key, 0)) for p in parts)) for k in self._kinds]
        titles = ("Layer kind", "Row", "Column", self.other_name)
        return titles, [(k.kind, str(k.row), str(k.column), str(k.other)) for k in self._kinds]

    def facts(self, index: int) -> Facts | None:
        """Counts and shares of a kind."""
        k = self._kinds[index]
        whole = k.row + k.column + k.other
        other = "Stored in another way" if self.other_name == "Other" else self.other_name
        parts = [("Row (per output)", k.row), ("Column (per input)", k.column), (other, k.other)]
        if self.by_codec:
            parts = [(p.name, self._counted(k).get(p.key, 0)) for p in self.parts()]
        return Facts(f"{k.kind}, {words.count(whole, 'matrix', 'matrices')}",
                     tuple((name, f"{count}, {words.percent(count / whole, 0)}") for name, count in parts if count))

    def sizeHint(self) -> QSize:
        """Seven kinds at 40."""
        return QSize(self.theme.px(360), self.theme.px(40 * max(1, len(self._kinds)) + 48))

    def minimumSizeHint(self) -> QSize:
        """Rows of 24."""
        return QSize(self.theme.px(220), self.theme.px(24 * max(1, len(self._kinds)) + 48))

    def paint(self, painter: QPainter, rect: QRectF) -> None:
        """Draw the bars."""
        if not self._kinds:
            return
        t = self.theme
        metrics = QFontMetricsF(t.font("small"))
        names = min(max(metrics.horizontalAdvance(k.kind) for k in self._kinds) + 2, rect.width() * 0.3)
        beside = QFontMetricsF(t.font("small", 600)).horizontalAdvance(" C 000 ")
        begin, end = rect.left() + max(names, t.px(36)) + t.px(10), rect.right() - beside
        most = max(k.row + k.column + k.other for k in self._kinds)
        scale = Scale(0, most, begin, max(begin + 20, end))
        foot = t.px(42)
        height = min((rect.height() - foot) / len(self._kinds), t.px(64))
        bottom = rect.top() + height * len(self._kinds)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        painter.setPen(QPen(t.color("line"), 1))
        painter.drawLine(QPointF(begin, bottom), QPointF(rect.right(), bottom))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        ticks = [v for v in linear_ticks(most, 5) if v == int(v)] if most >= 4 else [0.0, float(most)]
        for value in ticks:
            self.text(painter, QRectF(scale.at(value) - 40, bottom + t.px(4), 80, t.px(16)), digits(value), t.font("tick"),
                      t.color("text-faded"), CENTRE)
        self.text(painter, QRectF(begin, bottom + t.px(22), scale.at(most) - begin, t.px(16)), "layers", t.font("tick"),
                  t.color("text-faded"), CENTRE)
        for i, kind in enumerate(self._kinds):
            y = rect.top() + i * height
            whole = QRectF(rect.left(), y, rect.width(), height)
            if self.is_over(self.area(whole)):
                painter.fillRect(whole, t.mixed("text-faded", 0.07))
            self.text(painter, QRectF(rect.left(), y, begin - rect.left() - t.px(10), height), kind.kind, t.font("small"),
                      t.color("text-faded"), RIGHT)
            thick = min(t.px(23), height * 0.62)
            self._bar(painter, scale, QRectF(begin, y + (height - thick) / 2, rect.right() - begin, thick), kind)

    def _bar(self, painter: QPainter, scale: Scale, place: QRectF, kind: Counts) -> None:
        t = self.theme
        font = t.font("small", 600)
        metrics = QFontMetricsF(font)
        left, outside = 0, []
        counted = self._counted(kind)
        for part in self.parts():
            letter, count, colour = part.letter, counted.get(part.key, 0), part.colour
            if not count:
                continue
            body = QRectF(scale.at(left), place.top(), scale.at(left + count) - scale.at(left), place.height())
            if left:
                body.adjust(1.5, 0, 0, 0)                   # a gap in the ground's colour between two parts
            painter.fillRect(body, colour)
            said = f"{letter} {count}".strip()
            if metrics.horizontalAdvance(said) + t.px(12) <= body.width():
                inside = body.adjusted(t.px(8), 0, -t.px(8), 0)
                self.text(painter, inside, said, font, t.ink_on(colour), LEFT if letter == "R" else RIGHT)
            else:
                outside.append(said if letter else f"{count} {quiet(part.name)}")
            left += count
        if outside:
            at = scale.at(left) + t.px(6)
            beside = QRectF(at, place.top(), max(t.px(20), place.right() - at), place.height())
            self.text(painter, beside, "  ".join(outside), font, t.color("text"), LEFT)


def _letter(key: str) -> str:
    """The letter beside counts; a dash would make them look negative."""
    letter = coding_letter(key)
    return letter if letter.isalpha() else ""

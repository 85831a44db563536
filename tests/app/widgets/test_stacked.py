"""Counts of axes per layer kind."""

from __future__ import annotations

from typing import Any

import pytest
from PySide6.QtCore import QRectF
from PySide6.QtGui import QImage, QPainter

from app.library.entry import KindCount
from app.theme import Theme
from app.widgets.charts.stacked import StackedAxes


@pytest.fixture
def chart(qtbot: Any) -> StackedAxes:
    made = StackedAxes(Theme("light"))
    qtbot.addWidget(made)
    made.set_kinds([KindCount("q", 19, 11, 0), KindCount("down", 0, 29, 1), KindCount("norm", 0, 0, 0)])
    return made


def row_of_colours(chart: StackedAxes, y: int, width: int = 400, height: int = 200) -> list[str]:
    image = QImage(width, height, QImage.Format.Format_RGB32)
    image.fill(chart.theme.color("surface-raised"))
    painter = QPainter(image)
    chart.paint(painter, QRectF(0, 0, width, height))
    painter.end()
    return [image.pixelColor(x, y).name() for x in range(width)]


def test_bars_are_as_long_as_their_counts(chart: StackedAxes) -> None:
    colours = row_of_colours(chart, 22)                 # the upper edge of the first bar, above its letters
    rows = colours.count(chart.theme.color("row").name())
    columns = colours.count(chart.theme.color("column").name())
    assert rows / (rows + columns) == pytest.approx(19 / 30, abs=0.03)


def test_empty_kinds_are_left_out_and_totals_told(chart: StackedAxes) -> None:
    assert chart.totals() == (19, 40, 1)
    assert [r[0] for r in chart.table()[1]] == ["q", "down"]
    assert "q, 19, 11, 0" in chart.accessibleDescription()


def test_facts_give_counts_and_shares(chart: StackedAxes) -> None:
    facts = chart.facts(1)
    assert facts is not None
    assert facts.title == "down, 30 matrices"
    assert facts.rows == (("Column (per input)", "29, 97 %"), ("Stored in another way", "1, 3 %"))


@pytest.mark.parametrize("size", [(30, 20), (200, 80), (1600, 900)])
def test_any_size_can_be_drawn(chart: StackedAxes, size: tuple[int, int]) -> None:
    assert len(row_of_colours(chart, 0, *size)) == size[0]


def test_nothing_is_drawn_of_nothing(chart: StackedAxes) -> None:
    chart.set_kinds([])
    assert set(row_of_colours(chart, 50)) == {chart.theme.color("surface-raised").name()}
    assert chart.accessibleDescription() == "Nothing to show"


def test_what_is_neither_by_row_nor_by_column_has_a_name(chart: StackedAxes) -> None:
    chart.set_kinds([KindCount("q", 0, 0, 7)], "Row x column")
    facts = chart.facts(0)
    assert facts is not None and facts.rows == (("Row x column", "7, 100 %"),)
    assert chart.table()[0][-1] == "Row x column"

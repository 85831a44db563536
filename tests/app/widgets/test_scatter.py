"""Fidelity against size: places, labels, zoom, picking."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from PySide6.QtCore import QPoint, QPointF, QRectF, QSizeF, Qt
from PySide6.QtTest import QTest

from app.theme import Theme
from app.widgets.charts.label_layout import Wanted, place_labels
from app.widgets.charts.marks import SHAPES, mark_path
from app.widgets.charts.scatter import FidelityScatter, Level, Point
from app.widgets.charts.scatter_legend import lay_out_legend

POINTS = [Point("a", "Per-axis", 13.9e6, 0.0041, 0.0003, "circle", True),
          Point("b", "Chosen signs, row", 13.9e6, 0.0032, 0.0003, "triangle"),
          Point("c", "BitDelta", 13.6e6, 0.012, 0.02, "square"),
          Point("d", "Low rank 22", 13.5e6, 0.0089, None, "diamond", line="low"),
          Point("e", "Low rank 4", 2.4e6, 0.12, None, "diamond", aside=True, line="low"),
          Point("f", "Low rank 64", 39e6, 0.0013, None, "diamond", aside=True, line="low", label="64")]


@pytest.fixture
def chart(qtbot: Any) -> FidelityScatter:
    made = FidelityScatter(Theme("light"))
    qtbot.addWidget(made)
    made.set_points(POINTS, [Level("base alone", 0.339)])
    made.resize(640, 360)
    made.show()
    made.grab()
    return made


def overlapping(rects: list[QRectF]) -> list[tuple[QRectF, QRectF]]:
    found = []
    for a, b in combinations(rects, 2):
        common = a.intersected(b)
        if common.width() > 2 and common.height() > 3:
            found.append((a, b))
    return found


def test_larger_lies_to_the_right_and_worse_above(chart: FidelityScatter) -> None:
    small, large = chart.mark_at("e"), chart.mark_at("f")
    assert small.x() < large.x()
    assert small.y() < large.y()
    with pytest.raises(KeyError):
        chart.mark_at("?")


@pytest.mark.parametrize("size", [(640, 360), (420, 250), (1100, 500)])
def test_labels_do_not_overlap(chart: FidelityScatter, size: tuple[int, int]) -> None:
    chart.resize(*size)
    chart.grab()
    rects = chart.label_rects()
    assert len(rects) >= 4                              # all chosen ones; others may go where it is crowded
    assert overlapping(rects) == []


def test_labels_of_many_marks_at_one_place_stand_apart() -> None:
    wanted = [Wanted(QPointF(200, 150), 5, QSizeF(80, 15)) for _ in range(8)]
    placed = place_labels(wanted, QRectF(0, 0, 400, 300))
    assert all(p is not None for p in placed)
    assert overlapping([p.rect for p in placed if p is not None]) == []
    assert all(QRectF(0, 0, 400, 300).contains(p.rect) for p in placed if p is not None)


def test_a_label_that_may_go_goes_where_there_is_no_room() -> None:
    blocked = [QRectF(0, 0, 400, 300)]
    assert place_labels([Wanted(QPointF(200, 150), 5, QSizeF(80, 15), may_go=True)], blocked[0], blocked) == [None]


def test_a_click_on_a_mark_picks_it(chart: FidelityScatter) -> None:
    told: list[str] = []
    chart.picked.connect(told.append)
    QTest.mouseClick(chart, Qt.MouseButton.LeftButton, pos=chart.mark_at("c").toPoint())
    QTest.mouseClick(chart, Qt.MouseButton.LeftButton, pos=QPoint(600, 60))
    assert told == ["c"]


def test_dragging_zooms_and_a_double_click_shows_all_again(chart: FidelityScatter) -> None:
    told: list[bool] = []
    chart.zoomed.connect(told.append)
    before = chart.mark_at("a")
    QTest.mousePress(chart, Qt.MouseButton.LeftButton, pos=QPoint(200, 100))
    QTest.mouseMove(chart, QPoint(300, 200))
    QTest.mouseRelease(chart, Qt.MouseButton.LeftButton, pos=QPoint(450, 290))
    chart.grab()
    assert chart.is_zoomed
    assert chart.mark_at("a") != before
    QTest.mouseDClick(chart, Qt.MouseButton.LeftButton, pos=QPoint(300, 200))
    chart.grab()
    assert not chart.is_zoomed
    assert chart.mark_at("a") == before
    assert told == [True, False]


def test_keys_zoom_around_the_middle_and_home_ends_it(chart: FidelityScatter) -> None:
    x0, x1, y0, y1 = chart.whole()
    QTest.keyClick(chart, Qt.Key.Key_Plus)
    assert chart.is_zoomed
    chart.grab()
    assert chart.mark_at("e").x() < 60                  # pushed out at the left
    QTest.keyClick(chart, Qt.Key.Key_Home)
    assert not chart.is_zoomed
    assert chart.whole() == (x0, x1, y0, y1)


def test_another_accent_keeps_the_zoom_and_other_data_ends_it(chart: FidelityScatter) -> None:
    chart.zoom(0.5)
    chart.set_points([Point(p.key, p.name, p.size, p.kl, accent=p.key == "b") for p in POINTS])
    assert chart.is_zoomed
    chart.set_points(POINTS[:2])
    assert not chart.is_zoomed


def test_the_whole_view_holds_marks_errors_and_yardsticks(chart: FidelityScatter) -> None:
    x0, x1, y0, y1 = chart.whole()
    assert x0 < 2.4e6 < 39e6 < x1
    assert y0 < 0.0013
    assert y1 > 0.339
    chart.set_points(POINTS[2:3])
    assert chart.whole()[3] > 0.032                     # KL and its error


def test_what_has_no_logarithm_is_refused(chart: FidelityScatter) -> None:
    with pytest.raises(ValueError, match="above 0"):
        chart.set_points([Point("z", "exact", 1e6, 0.0)])


def test_table_and_card_give_the_figures(chart: FidelityScatter) -> None:
    header, rows = chart.table()
    assert rows[-1] == ("base alone", "", "0.339", "", "", "")
    assert ("Per-axis", "13900000", "0.0041", "0.0003", "yes", "") in rows
    assert all(len(r) == len(header) for r in rows)
    index = list(chart.keys()).index("a")
    facts = chart.facts(index)
    assert facts is not None
    assert ("KL to the fine-tune", "0.0041 ± 0.0003") in facts.rows


def test_pointing_shows_the_card_and_leaving_hides_it(chart: FidelityScatter) -> None:
    QTest.mouseMove(chart, chart.mark_at("c").toPoint())
    index = list(chart.keys()).index("c")
    assert chart.is_over(index)
    chart.hide()
    chart.show()
    chart.point_at(-1)
    assert not chart.is_over(index)


def test_every_mark_has_a_shape_of_its_own() -> None:
    paths = [mark_path(s, QPointF(0, 0), 20) for s in SHAPES]
    assert all(a != b for a, b in combinations(paths, 2))
    assert all(0.6 * 20 < max(p.boundingRect().width(), p.boundingRect().height()) < 1.4 * 20 for p in paths)


def test_lines_with_names_have_a_legend_above_the_plot(chart: FidelityScatter) -> None:
    top = chart._plot.top()
    named = [replace(p, legend="Low rank", role="success") if p.line else p for p in POINTS]
    more = [Point(f"b{i}", "x", 2e6 * i, 0.1 / i, 0.004 / i, "square", aside=True, line=f"line {i % 9}",
                  legend=f"Method number {i % 9}", role="warning", is_unnamed=True) for i in range(1, 30)]
    chart.set_points([*named, *more])
    chart.grab()
    entries = chart.legend()
    assert [e.name for e in entries] == ["Low rank", *(f"Method number {i}" for i in range(9))]
    assert {e.shape for e in entries} == {"diamond", "square"} and chart._plot.top() > top + 30
    assert len(chart.label_rects()) <= len(POINTS), "what has no name on the chart has no label"
    placed, high = lay_out_legend(entries, 300, chart.theme)
    assert all(rect.right() <= 301 and rect.bottom() <= high for _, rect in placed) and overlapping([r for _, r in placed]) == []

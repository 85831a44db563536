"""The chart of changes per layer kind: its figures, scale, and what is pointed at."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, QPointF, QRectF, Qt
from PySide6.QtGui import QImage, QPainter
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.planning import Dot, KindFacts
from app.theme import Theme
from app.widgets.charts.change_chart import ChangeChart, unchanged_words


def kind(name: str, *changes: float, stored: str = "sign, axis by layer") -> KindFacts:
    dots = tuple(Dot(f"{name}.{i}", i, c) for i, c in enumerate(changes))
    return KindFacts(name, dots, sorted(changes)[len(changes) // 2], 0.52, stored, 67_000_000, 1_070_000_000)


@pytest.fixture
def chart(qtbot: QtBot) -> ChangeChart:
    made = ChangeChart(Theme("light"))
    qtbot.addWidget(made)
    made.resize(800, 400)
    made.set_kinds([kind("q", 0.004, 0.006, 0.009), kind("down", 0.012, 0.013, 0.018),
                    kind("embed", 0.0021, stored="sign, by row")])
    return made


def drawn(chart: ChangeChart) -> QImage:
    return chart.grab().toImage()


def test_the_table_twin_has_every_row(chart: ChangeChart) -> None:
    head, rows = chart.table()
    assert head == ("kind", "median change", "unchanged", "stored as", "delta")
    assert rows[0] == ("q", "0.60 %", "52 %", "sign, axis by layer", "67.00 MB")
    assert "down, 1.30 %" in chart.accessibleDescription() and chart.accessibleName()


def test_what_a_size_decides_on_is_not_called_signs(chart: ChangeChart) -> None:
    chart.set_kinds([kind("q", 0.004), kind("norm", 0.001, stored="7 whole")], is_open=True)
    assert [row[3:] for row in chart.table()[1]] == [("not chosen yet", "\N{EN DASH}"), ("7 whole", "67.00 MB")]
    facts = chart.facts(0)
    assert facts is not None and "sign" not in str(facts)


def test_dots_are_explained_whatever_room_there_is(chart: ChangeChart, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[float] = []
    paint = ChangeChart._paint_legend

    def seen(self: ChangeChart, painter: QPainter, rect: QRectF) -> None:
        places.append(rect.top())
        assert rect.right() <= self.width() and rect.bottom() <= self.height()
        paint(self, painter, rect)
    monkeypatch.setattr(ChangeChart, "_paint_legend", seen)
    chart.resize(636, 330)
    chart.set_kinds([kind(name, 0.004, 0.006, stored="DeltaMix, error feedback and more of it") for name in ("q", "k", "v")])
    drawn(chart)
    chart.resize(1000, 330)
    drawn(chart)
    assert len(places) == 2 and places[0] > 0 == places[1]     # below the table, then in the title's line


@pytest.mark.parametrize(("changes", "top", "shown"), [
    ((0.004, 0.006, 0.0178), 2, "0.60 %"), ((0.3, 0.45, 0.6), 80, "45.0 %"), ((0.00006, 0.0001, 0.00012), 0.0125, "0.010 %"),
    ((0.0, 0.0, 0.0), 1, "0 %")])
def test_the_scale_follows_the_changes(chart: ChangeChart, changes: tuple[float, ...], top: float, shown: str) -> None:
    chart.set_kinds([kind("q", *changes)])
    assert chart.top() == pytest.approx(top) and chart.table()[1][0][1] == shown
    assert chart.top() / 100 >= max(changes)
    drawn(chart)


def test_pointing_near_a_dot_tells_its_block(chart: ChangeChart) -> None:
    drawn(chart)
    place, index, dot = chart._dots[1]
    assert chart.dot_at(place + QPointF(2, 1)) == (index, dot) and dot.block == 1
    assert chart.dot_at(QPointF(-50, -50)) is None
    chart.point_at(index, place.toPoint())
    told = chart.facts(index)
    assert told is not None and told.title == "Block 1, q" and ("Change", "0.60 %") in told.rows
    chart.point_at(index, QPoint(780, round(place.y())))
    told = chart.facts(index)
    assert told is not None and told.title == "q, 3 tensors" and ("Change", "0.40 % to 0.90 %") in told.rows
    chart.hide_card()


def test_keys_walk_the_kinds(chart: ChangeChart) -> None:
    chart.show()
    drawn(chart)
    QTest.keyClick(chart, Qt.Key.Key_Down)
    QTest.keyClick(chart, Qt.Key.Key_Down)
    assert chart.is_over(1)
    QTest.keyClick(chart, Qt.Key.Key_Escape)
    assert not any(chart.is_over(i) for i in range(3))


def test_dots_lie_where_they_lay_before(chart: ChangeChart) -> None:
    assert drawn(chart) == drawn(chart)


def test_bars_are_drawn_in_the_accent(chart: ChangeChart) -> None:
    picture, accent = drawn(chart), chart.theme.color("accent").rgb()
    columns = {x for x in range(picture.width()) for y in range(30, 360, 4) if picture.pixel(x, y) == accent}
    assert len(columns) >= 3                                    # a tick at each kind's median


def test_many_kinds_make_it_higher_and_none_are_fine(chart: ChangeChart) -> None:
    few = chart.minimumSizeHint().height()
    chart.set_kinds([kind(f"kind-{i}", 0.01, 0.02) for i in range(40)])
    assert chart.minimumSizeHint().height() > few + 30 * 20
    chart.set_kinds([])
    drawn(chart)
    assert chart.accessibleDescription() == "Nothing to show"


def test_all_and_nothing_are_never_rounded_to() -> None:
    assert [unchanged_words(s) for s in (0.0, 0.0001, 0.52, 0.9999, 1.0)] == ["0 %", "1 %", "52 %", "99 %", "100 %"]

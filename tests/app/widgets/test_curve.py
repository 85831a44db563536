"""The predicted curve: where the marker stands, what is pointed at and picked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pytestqt.qtbot import QtBot

from app.forecasting import FLOOR, Curve, curve_of
from app.theme import Choice, Theme
from app.widgets.charts.curve import STOPS, CurveChart

CURVE = Curve(tuple((10_000 * (i + 1), 0.8 / (i + 1) ** 1.5) for i in range(120)), 1.0, 2_000_000)


def test_a_curve_answers_for_sizes_between_its_points() -> None:
    assert CURVE.at(9_999) == 1.0 and CURVE.at(10_000) == CURVE.at(19_999) == 0.8
    assert CURVE.recovery(10_000) == pytest.approx(0.2)
    assert CURVE.at(CURVE.size_for(0.95)) <= 0.05 < CURVE.at(CURVE.size_for(0.95) - 1)
    assert CURVE.size_for(0.999999) == 1_200_000


@pytest.mark.parametrize("choice", ["light", "dark"])
def test_it_shows_the_curve_and_the_marker(qtbot: QtBot, choice: Choice) -> None:
    chart = CurveChart(Theme(choice))
    qtbot.addWidget(chart)
    chart.resize(340, 170)
    empty = chart.grab().toImage()
    chart.set_curve(CURVE)
    chart.show()
    bare = chart.grab().toImage()
    chart.set_marker(200_000)
    marked = chart.grab().toImage()
    assert bare != empty and marked != bare
    chart.set_marker(5_000)
    assert chart.grab().toImage() != marked
    head, rows = chart.table()
    assert head == ("Bytes", "Expected KL", "Expected recovery") and len(rows) == STOPS and rows[0][0] == "10000"


def test_places_can_be_pointed_at_and_picked(qtbot: QtBot) -> None:
    chart = CurveChart(Theme("light"))
    qtbot.addWidget(chart)
    chart.resize(340, 170)
    chart.set_curve(CURVE)
    chart.show()
    chart.grab()
    facts = chart.facts(STOPS - 1)
    assert facts is not None and facts.title == "1.20 MB" and facts.rows[0] == ("Smaller than full", "1.7 times")
    told: list[str] = []
    chart.picked.connect(told.append)
    chart._pick(chart.part_at(chart._areas[3].center()))
    assert told == [chart.keys()[3]]
    chart.set_curve(None)
    assert chart.keys() == [] and chart.table()[1] == []


def test_a_forecast_becomes_a_curve_that_ends_where_rounding_begins() -> None:
    class Found:
        zero = 0.5

        def points(self, records: object) -> list[tuple[int, float]]:
            return [(1000 * i, 0.5 / i**4) for i in range(1, 900)] + [(900_000, 1e-19)]
    plan = SimpleNamespace(records=(), weights_bytes=7, full_bytes=2_000_000)
    made = curve_of(Found(), plan)  # type: ignore[arg-type]
    assert made.points[0] == (1000, 0.5) and made.points[-1][1] == FLOOR * 0.5 and made.points[-1][0] == 18_000
    Found.zero = 0.0
    assert curve_of(Found(), plan).points[-1][1] == pytest.approx(1e-9)  # type: ignore[arg-type]

"""Bars of sizes and load times: figures in words, drawing at any size, picking."""

from __future__ import annotations

from typing import Any

import pytest
from PySide6.QtCore import QPoint, QRectF, QSize, Qt
from PySide6.QtGui import QImage, QPainter
from PySide6.QtTest import QTest

from app.theme import Theme
from app.widgets.charts.bars import LoadBar, LoadBars, SizeBar, SizeBars, spread
from app.widgets.charts.painted import PaintedChart
from app.widgets.charts.scales import linear_ticks, log_ticks, size_tick, time_text

SIZES = [SizeBar("Full checkpoint", 269_000_000), SizeBar("pirate", 13_900_000, 269_000_000, "a", True),
         SizeBar("bard", 40_000_000, 269_000_000, "b")]


@pytest.fixture
def theme(qapp: Any) -> Theme:
    return Theme("light")


def drawn(chart: PaintedChart, width: int = 420, height: int = 240) -> QImage:
    """The chart as a picture."""
    image = QImage(width, height, QImage.Format.Format_RGB32)
    image.fill(chart.theme.color("surface-raised"))
    painter = QPainter(image)
    chart.paint(painter, QRectF(0, 0, width, height))
    painter.end()
    return image


def pixels(image: QImage, colour: str) -> int:
    """How many pixels of every sixth line have a colour."""
    return sum(image.pixelColor(x, y).name() == colour for y in range(0, image.height(), 6) for x in range(image.width()))


@pytest.mark.parametrize(("full", "part", "said"), [
    (269, 13.9, "19.4 times smaller"), (100, 100, "as large"), (100, 150, "1.5 times larger"), (0, 5, ""), (5, 0, "")])
def test_sizes_are_compared_in_words(full: float, part: float, said: str) -> None:
    assert SizeBar("x", int(part * 1e6), int(full * 1e6)).comparison == said


def test_size_bars_are_as_long_as_their_bytes(qtbot: Any, theme: Theme) -> None:
    chart = SizeBars(theme)
    qtbot.addWidget(chart)
    bars = [SizeBar("full", 1000), SizeBar("half", 500, 1000, "h", True)]
    chart.set_bars(bars)
    accent = pixels(drawn(chart), theme.color("accent").name())
    chart.set_bars([bars[0], SizeBar("half", 250, 1000, "h", True)])
    assert pixels(drawn(chart), theme.color("accent").name()) == pytest.approx(accent / 2, rel=0.05)


def test_size_bars_say_their_figures(qtbot: Any, theme: Theme) -> None:
    chart = SizeBars(theme)
    qtbot.addWidget(chart)
    chart.set_bars(SIZES)
    assert "pirate" in chart.accessibleDescription()
    assert "19.4 times smaller" in chart.accessibleDescription()
    header, rows = chart.table()
    assert rows[1] == ("pirate", "13900000", "13.90 MB", "19.4 times smaller")
    assert all(len(r) == len(header) for r in rows)


def test_a_click_picks_a_delta_but_no_yardstick(qtbot: Any, theme: Theme) -> None:
    chart = SizeBars(theme)
    qtbot.addWidget(chart)
    chart.set_bars(SIZES)
    chart.resize(400, 160)
    chart.show()
    chart.grab()
    told: list[str] = []
    chart.picked.connect(told.append)
    row = (160 - 30) // 3
    for at in (row // 2, row * 2 + row // 2):
        QTest.mouseClick(chart, Qt.MouseButton.LeftButton, pos=QPoint(200, at))
    assert told == ["b"]


def test_keys_walk_the_rows_and_pick(qtbot: Any, theme: Theme) -> None:
    chart = SizeBars(theme)
    qtbot.addWidget(chart)
    chart.set_bars(SIZES)
    chart.resize(400, 160)
    chart.show()
    chart.grab()
    told: list[str] = []
    chart.picked.connect(told.append)
    for key in (Qt.Key.Key_Down, Qt.Key.Key_Down, Qt.Key.Key_Return, Qt.Key.Key_Down, Qt.Key.Key_Return, Qt.Key.Key_Escape):
        QTest.keyClick(chart, key)
    assert told == ["a", "b"]


def test_whiskers_leave_out_the_outer_tenths_from_five_runs_on() -> None:
    few = spread({"median": 2.0, "lowest": 1.0, "highest": 9.0, "runs": [1.0, 2.0, 9.0]})
    assert few is not None
    assert (few.low, few.high, few.inner) == (1.0, 9.0, False)
    many = spread({"median": 3.0, "lowest": 1.0, "highest": 100.0, "runs": [1.0, 2.0, 3.0, 4.0, 100.0]})
    assert many is not None
    assert many.inner
    assert many.low == pytest.approx(1.4)
    assert many.high == pytest.approx(61.6)
    assert spread(None) is None


def test_load_bars_say_why_there_are_none(qtbot: Any, theme: Theme) -> None:
    chart = LoadBars(theme)
    qtbot.addWidget(chart)
    chart.set_bars([LoadBar("full", None, spread({"median": 0.3, "lowest": 0.2, "highest": 0.4, "runs": [0.2, 0.3, 0.4]})),
                    LoadBar("pirate", reason="not measured: its fine-tune's folder is not known", key="p")])
    header, rows = chart.table()
    assert rows[0][5] == "0.3000"
    assert rows[1][-1] == "not measured: its fine-tune's folder is not known"
    assert all(len(r) == len(header) for r in rows)
    facts = chart.facts(0)
    assert facts is not None
    assert ("Warm, median of 3", "0.30 s") in facts.rows


@pytest.mark.parametrize("size", [(420, 240), (180, 60), (1600, 900), (40, 10)])
def test_any_size_can_be_drawn(qtbot: Any, theme: Theme, size: tuple[int, int]) -> None:
    times = spread({"median": 0.3, "lowest": 0.2, "highest": 0.4, "runs": [0.2, 0.3, 0.4]})
    loads, sizes = LoadBars(theme), SizeBars(theme)
    for chart in (loads, sizes):
        qtbot.addWidget(chart)
    loads.set_bars([LoadBar("a name that is longer than the chart is wide " * 3, times, times, key="a", accent=True)])
    sizes.set_bars([SizeBar("a name that is longer than the chart is wide " * 3, 5, 10, "a", True)])
    for chart in (loads, sizes):
        assert drawn(chart, *size).size() == QSize(*size)


def test_colours_follow_the_theme(qtbot: Any, theme: Theme) -> None:
    chart = SizeBars(theme)
    qtbot.addWidget(chart)
    chart.set_bars(SIZES)
    light = drawn(chart)
    theme.use("dark", 1.0)
    dark = drawn(chart)
    assert pixels(light, "#5145b5") > 0
    assert pixels(dark, "#5145b5") == 0
    assert pixels(dark, theme.color("accent").name()) > 0


def test_ticks_are_round_and_few() -> None:
    assert linear_ticks(269, 4) == [0, 100, 200]
    assert linear_ticks(2.1, 5) == [0, 0.5, 1, 1.5, 2]
    assert linear_ticks(0) == [0]
    assert log_ticks(2e6, 6e7) == pytest.approx([2e6, 5e6, 1e7, 2e7, 5e7])
    assert len(log_ticks(1e-9, 1e9)) <= 6
    assert [time_text(s) for s in (0.0412, 0.0998, 1.92, 12.34)] == ["41 ms", "0.10 s", "1.92 s", "12.3 s"]
    assert [size_tick(b) for b in (500, 2e6, 1.5e9)] == ["500 B", "2 MB", "1.5 GB"]

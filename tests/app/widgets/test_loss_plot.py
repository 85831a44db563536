from __future__ import annotations

import csv
import math
from array import array
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QPoint, Qt
from PySide6.QtGui import QImage, QMouseEvent
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.jobs.curves import CurveView
from app.jobs.runstate import TuneCurve
from app.models.layers import LayerRow
from app.theme import Theme
from app.widgets.charts.loss_plot import LayerLossPlot, TunePlot, compared, mean_curve, smoothed, tune_sentence
from app.widgets.charts.plot_menu import make_menu, save
from app.widgets.charts.plot_paint import spread
from app.widgets.charts.plot_ticks import log_ticks, loss_text, plain_ticks, tick_text

NAN = math.nan


def view(axis: str, training: list[float], held_out: list[float], piece: int = 0) -> CurveView:
    return CurveView("t", piece, axis, array("i", range(len(training))), array("f", training), array("f", held_out))


ROW = view("row", [0.24, 0.10], [0.25, 0.11])
COLUMN = view("column", [0.34, 0.14, 0.12, 0.115], [0.35, 0.15, 0.13, 0.125])
SCALAR = view("scalar", [0.30, 0.20], [0.31, 0.21])


def tune(training: list[float], held_out: dict[int, float], total: int = 10) -> TuneCurve:
    steps, nothing = array("i", range(1, len(training) + 1)), array("f", [NAN] * len(training))
    none = array("f", [NAN] * len(held_out))
    measured = CurveView("", 0, "held-out", array("i", held_out), none, array("f", held_out.values()))
    return TuneCurve("a", "bard", "kl", total, CurveView("", 0, "training", steps, array("f", training), nothing), measured)


@pytest.fixture
def theme(qtbot: QtBot) -> Theme:
    return Theme("light")


@pytest.fixture
def plot(qtbot: QtBot, theme: Theme) -> LayerLossPlot:
    made = LayerLossPlot(theme)
    qtbot.addWidget(made)
    made.resize(600, 300)
    made.show()
    qtbot.waitExposed(made)
    return made


def shown(plot: LayerLossPlot | TunePlot) -> dict[str, int]:
    """Drawn points by series."""
    found = {}
    for one in plot.series:
        if one.line.width and len(one.x):
            found[one.name] = len(one.x)
    return found


@pytest.mark.parametrize(("low", "high", "wanted"), [
    (0, 15, [0, 5, 10, 15]), (0, 4.7, [0, 1, 2, 3, 4]), (0.2, 0.8, [0.2, 0.4, 0.6, 0.8]), (3, 3, []), (0, math.nan, []),
])
def test_plain_ticks(low: float, high: float, wanted: list[float]) -> None:
    assert plain_ticks(low, high) == pytest.approx(wanted)


def test_whole_ticks_have_no_fractions() -> None:
    assert plain_ticks(0, 1.5, whole=True) == [0, 1]


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.4), (0.65, 0.83), (1e-9, 1.0), (0.004, 0.0045), (1e-5, 3e-3), (0.9, 0.98)])
def test_log_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 5
    assert all(low * 0.999 <= t <= high * 1.001 for t in ticks)
    assert len({tick_text(t, ticks) for t in ticks}) == len(ticks)


def test_numbers_as_they_stand_at_axes_and_curves() -> None:
    assert [tick_text(v, [0.65, 0.7]) for v in (0.65, 0.7)] == ["0.65", "0.70"]
    assert (tick_text(0), tick_text(1e-5), tick_text(150)) == ("0", "1e-5", "150")
    assert (loss_text(0.2191), loss_text(0.0044), loss_text(3.1e-5), loss_text(NAN)) == ("0.219", "0.0044", "3.1e-5", "–")


def test_labels_are_moved_apart_in_their_order() -> None:
    placed = spread([100.0, 98.0, 101.0], 16.0, 0.0, 200.0)
    low, first, high = placed[1], placed[0], placed[2]
    assert first - low >= 15.9 and high - first >= 15.9
    assert min(spread([2.0, 4.0], 16.0, 10.0, 200.0)) >= 10.0


def test_smoothing_keeps_the_level_and_skips_gaps() -> None:
    values = np.array([1.0, 3.0, np.nan, 1.0, 3.0, 1.0])
    assert smoothed(np.array([2.0, 4.0]), 7) == pytest.approx([3.0, 3.0])
    assert smoothed(values, 3) == pytest.approx([2.0, 2.0, 2.0, 2.0, 5 / 3, 2.0])


def test_slices_are_averaged_and_a_shorter_one_keeps_its_end() -> None:
    x, training, held_out = mean_curve([view("row", [0.4, 0.2], [0.5, 0.3], 0), view("row", [0.4, 0.2, 0.1], [0.5, 0.3, 0.1], 1)])
    assert x.tolist() == [0, 1, 2]
    assert training == pytest.approx([0.4, 0.2, 0.15])
    assert held_out == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize(("losses", "live", "chosen", "wanted"), [
    ({"row": 0.219, "column": 0.166}, True, "", "Column leads: held-out loss 24 % below row"),
    ({"row": 0.1, "column": 0.2, "scalar": 0.05}, False, "row", "Row chosen: held-out loss 50 % below column"),
    ({"row": 0.1, "column": 0.09}, False, "row", "Row chosen: held-out loss 11 % above column"),
    ({"row": 0.9, "column": 0.9001}, True, "", "Row and column are level: held-out loss 0.900"),
    ({"row": 0.2, "column": 0.2004}, True, "", "Row leads: held-out loss 0.2 % below column"),
    ({"scalar": 0.3}, True, "", "Scalar: held-out loss 0.300"),
    ({}, True, "", "No points yet"),
])
def test_sentence_under_a_layers_curves(losses: dict[str, float], live: bool, chosen: str, wanted: str) -> None:
    assert compared(losses, live, chosen) == wanted


def test_few_points_have_marks_and_a_guide_to_the_right(plot: LayerLossPlot) -> None:
    plot.show_curves([ROW, COLUMN, SCALAR], live=True)
    assert shown(plot) == {"Row few": 2, "Row, held-out": 2, "Column few": 4, "Column, held-out": 4, "Scalar few": 2,
                           "Scalar, held-out": 2}
    assert [(label.text, label.guide_from) for label in plot.labels] == [("R  0.110", 1.0), ("C  0.125", 3.0), ("S  0.210", 1.0)]
    assert plot.now == 3.0
    assert plot.sentence == "Row leads: held-out loss 12 % below column"
    assert plot.accessibleDescription() == plot.sentence


def test_many_points_are_raw_and_smoothed(plot: LayerLossPlot) -> None:
    noisy = [0.5 + 0.1 * (i % 2) for i in range(100)]
    plot.show_curves([view("row", noisy, noisy)])
    assert shown(plot) == {"Row raw": 100, "Row smoothed": 100, "Row, held-out": 100}
    held_out = next(s for s in plot.series if s.name == "Row, held-out")
    assert len(held_out.marked) <= 14 and held_out.marked[-1] == 99


def test_another_layer_leaves_nothing_of_the_one_before(plot: LayerLossPlot) -> None:
    plot.show_curves([ROW, COLUMN], live=True)
    plot.show_curves([], LayerRow("t", state="todo"))
    assert shown(plot) == {} and plot.labels == [] and plot.now is None
    assert plot.message == "No points yet" and plot.y_ticks() == []
    plot.show_curves([], LayerRow("t", state="done", winner="row", losses=({"row": 0.1, "column": 0.2},)))
    assert plot.sentence == "Row chosen: held-out loss 50 % below column"
    assert plot.message == "Its curves were not kept"


def test_divergence_is_drawn_as_a_gap(plot: LayerLossPlot) -> None:
    plot.show_curves([view("row", [0.5, NAN, math.inf], [0.5, NAN, 0.4])])
    assert not plot.grab().isNull()
    assert all(math.isfinite(v) for pair in plot.box.viewRange() for v in pair)
    plot.set_log(False)
    assert not plot.grab().isNull()


def test_axis_is_named_and_switched(plot: LayerLossPlot, qtbot: QtBot) -> None:
    plot.show_curves([ROW, COLUMN])
    assert plot.is_log and plot.box.viewRange()[1][1] < 0
    with qtbot.waitSignal(plot.scale_changed):
        QTest.keyClick(plot, Qt.Key.Key_L)
    assert not plot.is_log and plot.box.viewRange()[1][1] > 0.3
    assert plot._scale_button.text() == "linear scale"
    QTest.mouseClick(plot._scale_button, Qt.MouseButton.LeftButton)
    assert plot.is_log and plot._scale_button.accessibleName() == "Vertical axis: log scale"


def test_zoom_stays_until_fit(plot: LayerLossPlot) -> None:
    plot.show_curves([ROW, COLUMN])
    whole = plot.box.viewRange()
    QTest.keyClick(plot, Qt.Key.Key_Plus)
    near = plot.box.viewRange()
    assert near[0][1] - near[0][0] < whole[0][1] - whole[0][0]
    assert plot._fit_button.isVisible()
    plot.show_curves([ROW, COLUMN, SCALAR])
    assert plot.box.viewRange() == near
    QTest.mouseDClick(plot.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(200, 100))
    assert not plot.is_zoomed and plot.box.viewRange()[0] == pytest.approx(whole[0])
    assert not plot._fit_button.isVisible()


def test_cross_hair_reads_what_is_there(plot: LayerLossPlot) -> None:
    plot.show_curves([ROW, COLUMN])
    QTest.keyClick(plot, Qt.Key.Key_Right)
    QTest.keyClick(plot, Qt.Key.Key_Right)
    assert plot.cross == 1.0
    assert {s.name: round(v, 3) for s, v in plot.readings()} == {
        "Row, training": 0.1, "Row, held-out": 0.11, "Column, training": 0.14, "Column, held-out": 0.15}
    plot.read_at(2.9)
    assert [s.name for s, _ in plot.readings()] == ["Column, training", "Column, held-out"]
    QTest.keyClick(plot, Qt.Key.Key_Escape)
    assert plot.cross is None and plot.readings() == []


def test_pointer_puts_the_cross_hair(plot: LayerLossPlot) -> None:
    plot.show_curves([ROW, COLUMN])
    for x, wanted in ((2.0, 2.0), (2.6, 3.0)):
        place = plot.pixel(x, 0.12)
        there = plot.viewport().mapToGlobal(place.toPoint()).toPointF()
        none = Qt.MouseButton.NoButton
        QCoreApplication.sendEvent(plot.viewport(), QMouseEvent(QEvent.Type.MouseMove, place, there, none, none,
                                                                Qt.KeyboardModifier.NoModifier))
        assert plot.cross == wanted
    QCoreApplication.sendEvent(plot, QEvent(QEvent.Type.Leave))
    assert plot.cross is None


def test_points_lie_where_their_ticks_say(plot: LayerLossPlot) -> None:
    plot.show_curves([ROW, COLUMN])
    rect = plot.plot_rect()
    assert plot.pixel(0, 0.35).y() < plot.pixel(0, 0.1).y()
    assert rect.contains(plot.pixel(3, 0.125)) and rect.contains(plot.pixel(0, 0.24))
    assert plot.x_at(plot.pixel(2, 0.2).x()) == pytest.approx(2, abs=0.02)
    assert plot.x_ticks() == [0, 1, 2, 3]


def test_theme_and_zoom_are_followed(plot: LayerLossPlot, theme: Theme) -> None:
    plot.show_curves([ROW, COLUMN])
    light = plot.grab().toImage().pixelColor(300, 150)
    theme.use("dark", 1.5)
    dark = plot.grab().toImage().pixelColor(300, 4)
    assert light == theme._files["light"].roles["surface-raised"] or light.lightness() > 200
    assert dark.lightness() < 60


def test_menu_and_saving(plot: LayerLossPlot, tmp_path: Path) -> None:
    menu = make_menu(plot)
    assert [a.text() for a in menu.actions() if a.text()] == ["Fit", "Log scale", "Save as PNG...", "Save as SVG...",
                                                              "Save as CSV..."]
    assert not menu.actions()[-1].isEnabled()
    menu.deleteLater()
    plot.show_curves([ROW, COLUMN])
    for ending in ("png", "svg", "csv"):
        save(plot, tmp_path / f"loss.{ending}")
    assert not QImage(str(tmp_path / "loss.png")).isNull()
    drawn = (tmp_path / "loss.svg").read_text()
    assert "<svg" in drawn and "0.125" in drawn
    with (tmp_path / "loss.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0] == ["iteration", "Row, training", "Row, held-out", "Column, training", "Column, held-out"]
    assert [row[0] for row in table[1:]] == ["0", "1", "2", "3"]
    assert table[4][1:3] == ["", ""] and float(table[4][4]) == pytest.approx(0.125)


def test_a_file_that_cannot_be_saved_is_told(plot: LayerLossPlot, tmp_path: Path, qtbot: QtBot) -> None:
    plot.show_curves([ROW])
    with qtbot.waitSignal(plot.trouble) as told:
        save(plot, tmp_path / "missing" / "loss.png")
    assert "loss.png' could not be saved" in told.args[0]


def test_tuning_before_it_starts_shows_the_last_run(qtbot: QtBot, theme: Theme) -> None:
    plot = TunePlot(theme)
    qtbot.addWidget(plot)
    plot.show_tuning(None, tune([0.008, 0.007, 0.006], {0: 0.008, 3: 0.006}))
    assert shown(plot) == {"Last run": 3}
    assert plot.message == "No steps yet" and plot.sentence == "" and plot.labels == []


def test_tuning_shows_raw_smoothed_and_held_out(qtbot: QtBot, theme: Theme) -> None:
    plot = TunePlot(theme)
    qtbot.addWidget(plot)
    plot.resize(400, 240)
    plot.show_tuning(tune([0.006, 0.005, 0.0045], {0: 0.006}), live=True)
    assert shown(plot) == {"Training raw": 3, "Training smoothed": 3, "Held-out": 1}
    assert plot.now == 3.0 and plot.labels[0].guide_from == 0.0
    assert plot.box.viewRange()[0][1] >= 10
    plot.show_tuning(tune([0.006, 0.005, 0.0045], {0: 0.006, 10: 0.0044}))
    assert plot.sentence == "Held-out 0.0044, 27 % below the start"
    assert [label.text for label in plot.labels] == ["0.0044"]


def test_tuning_that_did_not_help_says_so() -> None:
    worse = tune_sentence(tune([0.1], {0: 0.004, 5: 0.005}))
    assert worse == "Held-out 0.0050, not below the start: the scales before tuning are kept"
    assert tune_sentence(tune([], {0: 0.0044})) == "Held-out 0.0044 at the start, next at the end"

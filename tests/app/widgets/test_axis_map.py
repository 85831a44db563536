"""The axis map: cells, colours, pointing, keys, its table twin, files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, QStandardPaths, Qt
from PySide6.QtGui import QImage, QMouseEvent
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtTest import QAbstractItemModelTester, QTest
from PySide6.QtWidgets import QApplication, QVBoxLayout, QWidget
from pytestqt.qtbot import QtBot

from app.icons import Icons
from app.models.layers import COLUMNS, LayerRow
from app.tasks import Failure
from app.theme import Choice, Theme, contrast
from app.widgets.charts.axis_card import AxisMapCard
from app.widgets.charts.axis_data import Cell, Grid
from app.widgets.charts.axis_facts import CSV_HEADER, hover_facts
from app.widgets.charts.axis_geometry import Lengths, lay_out
from app.widgets.charts.axis_legend import AxisLegend
from app.widgets.charts.axis_map import AxisMap
from app.widgets.charts.axis_paint import only_coding, tick_columns
from app.widgets.charts.axis_scale import MODES, Inks, Scale, nice, scale_of

KINDS = ("down", "q", "o", "k", "gate", "v", "up")


def layer(block: int | None, kind: str, axis: str = "row", margin: float | None = 0.12, state: str = "done",
          name: str = "") -> LayerRow:
    tensor = name or f"{block}.{kind}"
    if state != "done":
        return LayerRow(tensor, block, kind, (64, 32), state=state)
    loss, other = 0.15, 0.15 / (1 - (margin or 0.0))
    losses = {"row": loss if axis == "row" else other, "column": other if axis == "row" else loss, "scalar": 0.3}
    return LayerRow(tensor, block, kind, (64, 32), "sign", (axis,), (losses,), 0.85, 0.15, 0.14, 0.006, 384, 2.5, margin, axis)


def layers(blocks: int = 4) -> list[LayerRow]:
    """All done but the last block: there q is being fitted and the rest is to do. `down` is by column."""
    rows = [layer(b, k, "column" if k == "down" else "row", 0.05 * (b % 6)) for b in range(blocks - 1) for k in KINDS]
    rows += [layer(blocks - 1, k, state="now" if k == "q" else "todo") for k in KINDS]
    return [*rows, LayerRow("norm", None, "norm", (32,), "same", winner="same"),
            LayerRow("embed", None, "embed", (64, 32), "same", winner="same")]


@pytest.fixture
def theme(qapp: QApplication) -> Theme:
    return Theme("light")


@pytest.fixture
def axis_map(qtbot: QtBot, theme: Theme) -> AxisMap:
    made = AxisMap(theme)
    qtbot.addWidget(made)
    made.resize(700, 260)
    made.set_rows(layers())
    made.show()
    return made


@pytest.fixture
def card(qtbot: QtBot, theme: Theme) -> Iterator[AxisMapCard]:
    host = QWidget()
    qtbot.addWidget(host)
    made = AxisMapCard(Icons(theme), parent=host)
    made.resize(760, 310)
    made.set_rows(layers())
    host.resize(800, 360)
    host.show()
    yield made


def point_at(widget: QWidget, at: QPoint) -> None:
    event = QMouseEvent(QEvent.Type.MouseMove, QPointF(at), widget.mapToGlobal(QPointF(at)), Qt.MouseButton.NoButton,
                        Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier)
    QApplication.sendEvent(widget, event)


def click(widget: QWidget, at: QPoint) -> None:
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)


# ----------------------------------------------------------------------------------------------------- cells
def test_kinds_stand_in_the_order_of_the_data_and_vectors_are_left_out() -> None:
    grid = Grid([*layers(), layer(0, "router")])
    assert grid.kinds == ("q", "k", "v", "o", "gate", "up", "down", "router")
    assert grid.blocks == (0, 1, 2, 3) and grid.outer == ("embed",)
    assert grid.key_of("norm") is None
    assert grid.at(1, 7) is None and grid.at(9, 0) is None
    assert grid.counts() == {"row": 19, "column": 3, "todo": 7}, "the embedding is no layer of a block"


def test_the_share_that_is_lost_has_one_name_and_the_fits_loss_another() -> None:
    assert next(mode.name for mode in MODES if mode.key == "loss") == "Lost change"
    assert "Lost change" in [column.name for column in COLUMNS]
    assert "lost change" in CSV_HEADER and "held-out loss of row" in CSV_HEADER and "held-out loss" not in CSV_HEADER
    experts = Cell(0, "gate", (LayerRow("a", 0, "gate", held_out=0.2, winner="row"),
                               LayerRow("b", 0, "gate", held_out=0.4, winner="row")))
    assert ("Lost change, mean", "0.300") in hover_facts(experts, None).rows


def test_a_cell_of_experts_shows_what_most_chose_and_lists_counts() -> None:
    rows = [layer(0, "gate", "row" if i < 5 else "column", 0.1, name=f"e{i}") for i in range(7)]
    cell = Cell(0, "gate", (*rows, layer(0, "gate", state="todo", name="e7")))
    assert (cell.letter, cell.state, cell.title) == ("R", "done", "Block 0, gate: 8 tensors")
    assert cell.verdict == "row in 5 of 8"
    assert dict(hover_facts(cell, None).rows) | {"Row": "5", "Column": "2", "To do": "1", "Recovery, lowest": "0.850"} == dict(
        hover_facts(cell, None).rows)
    assert cell.bytes == 7 * 384 and cell.lead.tensor == "e0"


def test_facts_of_one_layer() -> None:
    facts = hover_facts(Cell(2, "down", (layer(2, "down", "column", 0.19),)), None)
    assert (facts.title, facts.verdict, facts.letter) == ("Block 2, down", "column by 19 %", "C")
    assert dict(facts.rows) == {"Held-out loss, row": "0.185", "Held-out loss, column": "0.150",
                                "Held-out loss, scalar": "0.300",
                                "Recovery": "0.850", "Change": "0.60 %", "Scales": "32", "Stored": "384 bytes",
                                 "Bits per weight": "1.50",
                                "Fitted in": "2.5 s"}
    assert hover_facts(Cell(2, "q", (layer(2, "q", state="todo"),)), None).verdict == "to do"


@pytest.mark.parametrize(("columns", "width", "height"),
                         [(30, 728, 250), (30, 320, 110), (126, 660, 250), (1, 400, 90), (33, 1999, 777)])
def test_every_pixel_of_a_cell_hits_it(columns: int, width: int, height: int) -> None:
    found = lay_out(width, height, columns, 7, (60.0, 70.0), 0, Lengths(44, 18, 48, 34, 6, 9, 2, 40, 24, 12), 380)
    for column in found.shown_columns():
        for line in range(7):
            rect = found.cell(column, line)
            assert found.cell(column + 1, line).left() - rect.right() == 2
            for point in (rect.topLeft(), rect.center(), rect.bottomRight() - QPointF(0.01, 0.01)):
                if point.x() < found.left + found.view:
                    assert found.hit(point) == (column, line)
    assert [found.hit(r.center()) for r in found.outer] == [(-1, 0), (-1, 1)]
    assert found.hit(QPointF(2, 10)) is None and found.hit(QPointF(found.left + 2, found.foot + 3)) is None
    assert not found.outer[0].intersects(found.outer[1])


def test_many_blocks_scroll_and_few_do_not() -> None:
    at = Lengths(44, 18, 48, 34, 6, 9, 2, 40, 24, 12)
    wide = lay_out(660, 250, 126, 7, (), 9999, at, 380)
    assert wide.scroll_top > 0 and wide.offset == wide.width - wide.view
    assert 125 in wide.shown_columns() and 0 not in wide.shown_columns()
    assert lay_out(660, 250, 80, 7, (), 50, at, 380).offset == 0


def test_tick_labels_keep_apart() -> None:
    assert tick_columns(range(30), 24, 24) == [0, 5, 10, 15, 20, 25, 29]
    assert tick_columns(range(31), 8, 22) == [0, 5, 10, 15, 20, 25, 30]
    assert tick_columns(range(126), 6, 34) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 125]
    assert tick_columns(range(4), 40, 20) == [0, 1, 2, 3]


# ----------------------------------------------------------------------------------------------------- colours
@pytest.mark.parametrize("choice", ["light", "dark"])
def test_letters_stand_out_on_every_colour(qapp: QApplication, choice: Choice) -> None:
    inks = Inks(Theme(choice))
    pairs = [inks.axis(w, i) for w in ("row", "column", "both", "scalar", "same", "full", "lowrank") for i in range(101)]
    pairs += [inks.tint(i) for i in range(101)]
    assert min(contrast(ground, ink) for ground, ink in pairs) >= 4.5


def test_a_clearer_win_is_a_stronger_colour(theme: Theme) -> None:
    inks, mode = Inks(theme), MODES[0]
    ground = theme.color("surface-raised")
    cells = [Cell(0, "q", (layer(0, "q", "row", m),)) for m in (0, 0.1, 0.2, 0.3)]
    strengths = [contrast(inks.of(cell, mode, Scale())[0], ground) for cell in cells]
    assert strengths == sorted(strengths) and len(set(strengths)) == 4
    far = inks.of(Cell(0, "q", (layer(0, "q", "row", 0.8),)), mode, Scale())[0]
    assert contrast(far, ground) == strengths[-1]
    assert far == theme.color("row")


def test_scales_have_round_ends_and_leave_far_values_out() -> None:
    assert scale_of([0.91, 0.93, 0.96]) == Scale(0.91, 0.96)
    assert scale_of([]) == Scale() and scale_of([5, 5]) == Scale(5, 5)
    spread = scale_of([0.9 + i / 1000 for i in range(60)] + [-0.8])
    assert 0.89 <= spread.low <= 0.905 and spread.has_below and not spread.has_above
    assert spread.share(-0.8) == 0 and spread.share(99) == 1
    assert [nice(x) for x in (0.013, 0.5, 21, 2.4)] == [0.02, 0.5, 25, 2.5]


@pytest.mark.parametrize("choice", ["light", "dark"])
@pytest.mark.parametrize("size", [(1150, 420), (700, 260), (330, 140), (60, 40)])
@pytest.mark.parametrize("compact", [False, True])
def test_it_paints_in_every_size_theme_and_mode(qtbot: QtBot, choice: Choice, size: tuple[int, int], compact: bool) -> None:
    theme = Theme(choice)
    made = AxisMap(theme, compact=compact)
    qtbot.addWidget(made)
    made.resize(*size)
    seen = []
    for rows in ([], layers(), layers(126)):
        made.set_rows(rows)
        for mode in MODES:
            made.set_mode(mode.key)
            seen.append(made.grab().toImage())
    assert all(not image.isNull() for image in seen)
    if size == (1150, 420):
        # Without a colour bar, values that are all alike look alike.
        assert len({bytes(image.constBits()) for image in seen[6:12]}) == (3 if compact else 6)


def test_a_changed_layer_is_painted_without_painting_all(axis_map: AxisMap) -> None:
    before = axis_map.grab().toImage()
    pixmap = axis_map._pixmap
    axis_map.update_rows([layer(3, "q", "column", 0.3)])
    after = axis_map.grab().toImage()
    assert axis_map._pixmap is pixmap
    inside, elsewhere = axis_map.rect_of("3.q").center() + QPoint(-6, 6), axis_map.rect_of("0.q").center()
    assert before.pixelColor(inside) != after.pixelColor(inside)
    assert before.pixelColor(elsewhere) == after.pixelColor(elsewhere)
    axis_map._forget()
    assert axis_map.grab().toImage() == after


def test_new_layers_make_room(axis_map: AxisMap) -> None:
    axis_map.update_rows([layer(4, "q")])
    assert axis_map.counts()["row"] == 19
    assert not axis_map.rect_of("4.q").isEmpty()


def test_the_theme_and_the_font_zoom_are_followed(axis_map: AxisMap, theme: Theme) -> None:
    light, small = axis_map.grab().toImage(), axis_map.sizeHint()
    theme.use("dark", 1.4)
    assert axis_map.grab().toImage() != light
    assert axis_map.sizeHint().height() > small.height()


# ----------------------------------------------------------------------------------------------------- pointing
def test_pointing_shows_a_card_beside_the_cell(qtbot: QtBot, axis_map: AxisMap) -> None:
    with qtbot.waitSignal(axis_map.pointed) as told:
        point_at(axis_map, axis_map.rect_of("2.down").center())
    assert told.args is not None and told.args[0].tensor == "2.down"
    shown = axis_map.card()
    assert shown is not None and shown.isVisible()
    assert shown.facts.verdict == "column by 10 %" and shown.facts.title == "Block 2, down"
    assert not shown.card_rect().intersects(axis_map.rect_of("2.down"))
    assert axis_map.rect().contains(shown.card_rect())
    with qtbot.waitSignal(axis_map.pointed) as told:
        point_at(axis_map, QPoint(3, 3))
    assert told.args == [None] and not shown.isVisible()


def test_the_card_follows_what_happens_to_its_layer(axis_map: AxisMap) -> None:
    point_at(axis_map, axis_map.rect_of("3.q").center())
    shown = axis_map.card()
    assert shown is not None and shown.facts.verdict == "being fitted"
    axis_map.update_rows([layer(3, "q", "row", 0.3)])
    assert shown.facts.verdict == "row by 30 %"


def test_a_click_chooses(qtbot: QtBot, axis_map: AxisMap) -> None:
    with qtbot.waitSignal(axis_map.chosen) as told:
        click(axis_map, axis_map.rect_of("1.v").center())
    assert told.args is not None and told.args[0].tensor == "1.v"
    selected = axis_map.selected()
    assert selected is not None and selected.tensor == "1.v"
    with qtbot.waitSignal(axis_map.chosen) as told:
        click(axis_map, axis_map.rect_of("embed").center())
    assert told.args is not None and told.args[0].tensor == "embed"


def test_keys_walk_and_choose(qtbot: QtBot, axis_map: AxisMap) -> None:
    axis_map.setFocus(Qt.FocusReason.TabFocusReason)

    def press(*keys: Qt.Key) -> str:
        for key in keys:
            QTest.keyClick(axis_map, key)
        row = axis_map.current()
        assert row is not None
        return row.tensor
    axis_map.select("1.k")
    key = Qt.Key
    assert press(key.Key_Right) == "2.k"
    assert press(key.Key_Down) == "2.v"
    assert press(key.Key_Home) == "0.v"
    assert press(key.Key_Left) == "0.v"
    assert press(key.Key_End) == "3.v"
    assert press(key.Key_Up, key.Key_Up, key.Key_Up) == "3.q"
    assert press(*[key.Key_Down] * 7) == "embed"
    assert press(key.Key_Up) == "3.down"
    assert "Block 3, down: to do" in axis_map.accessibleDescription()
    with qtbot.waitSignal(axis_map.chosen) as told:
        press(key.Key_Return)
    assert told.args is not None and told.args[0].tensor == "3.down"
    shown = axis_map.card()
    assert shown is not None and shown.isVisible()
    press(key.Key_Escape)
    assert not shown.isVisible()


def test_walking_scrolls_to_the_cell(qtbot: QtBot, theme: Theme) -> None:
    made = AxisMap(theme)
    qtbot.addWidget(made)
    made.resize(500, 250)
    made.set_rows(layers(126))
    made.show()
    made.select("0.q")
    made.setFocus()
    QTest.keyClick(made, Qt.Key.Key_End)
    assert made.rect().contains(made.rect_of("125.q"))
    QTest.keyClick(made, Qt.Key.Key_Home)
    assert made.rect().contains(made.rect_of("0.q"))


def test_selection_survives_newer_rows(axis_map: AxisMap) -> None:
    axis_map.select("1.k")
    axis_map.set_rows([*layers(), layer(9, "q")])
    selected = axis_map.selected()
    assert selected is not None and selected.tensor == "1.k"
    axis_map.select("")
    assert axis_map.selected() is None


# ----------------------------------------------------------------------------------------------------- legend and card
def test_the_legend_counts(qtbot: QtBot, theme: Theme) -> None:
    legend = AxisLegend(theme)
    qtbot.addWidget(legend)
    narrow = legend.sizeHint().width()
    legend.set_counts({"row": 1200, "both": 2, "todo": 3, "same": 61})
    assert [text for _, text in legend._items] == ["Row 1,200", "Column 0", "Both 2", "Other 61", "To do 3"]
    assert "Same 61" in legend.toolTip() and "To do 3" in legend.accessibleName()
    assert legend.sizeHint().width() > narrow
    legend.resize(legend.sizeHint())
    image = legend.grab().toImage()
    assert theme.color("row").name() in {image.pixelColor(x, 7).name() for x in range(20)}


def test_the_legend_stays_within_its_room(qtbot: QtBot, theme: Theme) -> None:
    legend = AxisLegend(theme)
    qtbot.addWidget(legend)
    legend.set_counts({"row": 1200, "same": 61, "todo": 3})
    whole = legend.sizeHint().width()
    legend.fit(whole - 1)
    assert [text for _, text in legend._items] == ["Row 1,200", "Other 61", "To do 3"] and "To do 3" in legend.toolTip()
    legend.fit(legend.sizeHint().width() - 1)
    assert [text for _, text in legend._items] == ["Row 1,200", "Other 61"]
    legend.fit(whole)
    assert legend.sizeHint().width() == whole


def test_selection_is_shared_with_the_table(qtbot: QtBot, card: AxisMapCard) -> None:
    QAbstractItemModelTester(card.model, QAbstractItemModelTester.FailureReportingMode.Fatal)
    told: list[str] = []
    card.chosen.connect(lambda row: told.append(row.tensor))
    click(card.map, card.map.rect_of("2.down").center())
    selected = card.table.selected()
    assert selected is not None and selected.tensor == "2.down" and told == ["2.down"]
    card.show_view("table")
    card.table.sortByColumn([c.name for c in COLUMNS].index("Won by"), Qt.SortOrder.DescendingOrder)
    card.table.selectRow(1)
    row, on_map = card.table.selected(), card.map.selected()
    assert row is not None and row == on_map and row.margin == 0.1
    assert told == ["2.down", row.tensor]
    card.select("0.q")
    row, on_map = card.table.selected(), card.map.selected()
    assert row is not None and row.tensor == "0.q" and row == on_map and len(told) == 2
    assert not card.modes.isEnabled() and "table" in card.modes.toolTip()


def test_the_card_follows_its_model(card: AxisMapCard) -> None:
    rows = layers()
    at = next(i for i, row in enumerate(rows) if row.state == "now")
    rows[at] = layer(3, "q", "column", 0.2)
    card.update_rows(rows)
    assert card.map.counts()["column"] == 4
    card.update_rows([*rows, layer(4, "q")])
    assert not card.map.rect_of("4.q").isEmpty()
    card.update_rows(rows[:7])
    assert card.map.rect_of("4.q").isEmpty() and len(card.map.rows()) == 7


def test_modes_are_chosen_by_name(card: AxisMapCard) -> None:
    for number, mode in enumerate(MODES):
        card.modes.setCurrentIndex(number)
        assert card.map.mode == mode.key and card.modes.currentText() == mode.name
    card.set_mode("bytes")
    assert card.map.mode == "bytes"
    with pytest.raises(KeyError):
        card.map.set_mode("colour")


def test_the_explanation_shows_whole_or_not_at_all(qtbot: QtBot, theme: Theme) -> None:
    made = AxisMapCard(Icons(theme))
    qtbot.addWidget(made)
    made.set_rows(layers())
    for width in (640, 760, 1200):
        made.resize(width, 310)
        made.show()
        assert made.caption.width() in (0, made.caption.sizeHint().width())
    assert made.caption.width() > 0
    made.resize(640, 310)
    assert made.caption.width() == 0 and made.title.toolTip() == made.caption.whole_text()  # type: ignore[attr-defined]


def test_all_facts_go_into_the_csv(qtbot: QtBot, card: AxisMapCard, tmp_path: Path) -> None:
    with qtbot.waitSignal(card.saved) as told:
        card.save_to(tmp_path / "map.csv")
    assert told.args == [tmp_path / "map.csv"]
    with (tmp_path / "map.csv").open(encoding="utf-8", newline="") as file:
        found = {line["tensor"]: line for line in csv.DictReader(file)}
    assert tuple(next(iter(found.values()))) == CSV_HEADER
    assert set(found) == {row.tensor for row in layers()}
    wanted = {"block": "2", "axis": "column", "won by": "0.1", "recovery": "0.85", "held-out loss of scalar": "0.3",
              "shape": "64 x 32", "bytes": "384", "seconds": "2.5", "state": "done"}
    assert {name: found["2.down"][name] for name in wanted} == wanted
    assert (found["3.k"]["state"], found["3.k"]["recovery"]) == ("todo", "")


def test_pictures_hold_all_blocks_and_the_title(qtbot: QtBot, card: AxisMapCard, tmp_path: Path) -> None:
    card.subject = "pirate"
    card.set_rows(layers(126))
    card.map.select("0.q")
    card.save_to(tmp_path / "map.png")
    card.save_to(tmp_path / "map.svg")
    image = QImage(str(tmp_path / "map.png"))
    assert image.width() == 2 * card.map.figure_size().width() > 2 * 126 * 8
    text = (tmp_path / "map.svg").read_text(encoding="utf-8")
    assert QSvgRenderer(str(tmp_path / "map.svg")).isValid()
    assert all(word in text for word in ("Axis map, pirate", "Column 125", ">down<", ">125<", "How clearly the axis won"))


def test_a_file_that_cannot_be_written_is_told(qtbot: QtBot, card: AxisMapCard, tmp_path: Path) -> None:
    with qtbot.waitSignal(card.failed) as told:
        card.save_to(tmp_path / "gone" / "map.png")
    assert told.args is not None
    failure = told.args[0]
    assert isinstance(failure, Failure) and "map.png" in failure.what


def test_saving_suggests_a_name(card: AxisMapCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def ask(parent: QWidget, title: str, suggested: Path, kinds: object) -> Path:
        asked.append(suggested)
        return tmp_path / suggested.name
    monkeypatch.setattr("app.widgets.charts.axis_card.ask_path", ask)
    monkeypatch.setattr(QStandardPaths, "writableLocation", staticmethod(lambda _: str(tmp_path)))
    card.subject = "a/b"
    actions = card.more.menu().actions()
    assert [a.text() for a in actions] == ["Save as PNG…", "Save as SVG…", "Save as CSV…"]
    for action in actions:
        action.trigger()
    assert asked == [tmp_path / f"a-b axis map.{ending}" for ending in ("png", "svg", "csv")]
    assert all(path.stat().st_size > 100 for path in asked)


def test_controls_have_names(card: AxisMapCard) -> None:
    for widget in (card.map, card.table, card.modes, card.view, card.more, card.legend):
        assert widget.accessibleName()


def test_ten_thousand_layers_are_held(qtbot: QtBot, theme: Theme) -> None:
    host = QWidget()
    qtbot.addWidget(host)
    made = AxisMapCard(Icons(theme), parent=host)
    QVBoxLayout(host).addWidget(made)
    rows = [layer(b, k, name=f"{b}.{k}.{e}") for b in range(24) for k in ("gate", "up", "down") for e in range(139)]
    made.set_rows(rows)
    host.resize(800, 360)
    host.grab()
    rows[77] = replace(rows[77], recovery=0.5)
    made.update_rows(rows)
    assert sum(made.map.counts().values()) == 24 * 3 * 139


# ------------------------------------------------------------------------------------------------------ codecs
def mixed_layers() -> list[LayerRow]:
    """One of each way to store, and one that nobody knows."""
    ways = [("sign", "", 1, 8192), ("sign", "planes", 3, 24576), ("svdmix", "deltamix", 1, 4096), ("coded", "coded", 1, 2048),
            ("lowrank", "lowrank-h", 1, 9000), ("rows", "", 1, 300), ("sparse", "", 1, 90), ("full", "", 1, 131072),
            ("same", "", 1, 0), ("wavelet", "haar", 1, 5000)]
    rows = [LayerRow(f"{b}.{k}", b, k, (256, 256), codec, ("row",) if codec == "sign" else (), (), 0.9, 0.1, 0.1, 0.01, size, 1.0,
                     None, "row" if codec == "sign" else codec, method=method, planes=planes)
            for b in range(3) for k, (codec, method, planes, size) in zip("abcdefghij", ways, strict=True)]
    return [*rows, replace(rows[8], tensor="3.i", block=3, note="Left out: not worth its bytes", winner="left-out")]


def test_the_bar_of_bits_has_the_colour_of_the_cells() -> None:
    assert only_coding(["svdmix", "left-out", "todo"]) == "svdmix" and only_coding(["sign"]) == "sign"
    assert only_coding(["svdmix", "sign"]) == only_coding(["todo"]) == only_coding([]) == ""     # grey


def test_every_codec_and_an_unknown_one_have_a_letter_a_word_and_bits() -> None:
    from core.codecs import CODECS

    rows = {row.tensor: row for row in mixed_layers()}
    assert set(CODECS) <= {row.codec for row in rows.values()}
    grid = Grid(rows.values())
    letters = {cell.coding: cell.coding_letter for cell in grid.cells.values()}
    assert letters == {"sign": "S", "planes": "P3", "svdmix": "M", "coded": "E", "lowrank": "L", "rows": "r", "sparse": "s",
                       "full": "F", "same": "=", "left-out": "–", "wavelet": "W"}
    assert rows["0.b"].bits == 3.0 and rows["0.h"].bits == 16.0 and rows["0.i"].bits == 0.0
    assert replace(rows["0.a"], state="todo").bits is None
    facts = hover_facts(grid.cells[0, "c"], None, "codec")
    assert facts.verdict == "DeltaMix" and facts.letter == "M"
    assert dict(facts.rows)["Method"] == "DeltaMix" and dict(facts.rows)["Bits per weight"] == "0.50"
    assert hover_facts(grid.cells[0, "j"], None, "codec").verdict == "wavelet"
    shown = {column.name: column.shown(rows["0.c"]) for column in COLUMNS}
    assert (shown["Codec"], shown["Method"], shown["Bits"]) == ("DeltaMix", "DeltaMix", "0.50")


@pytest.mark.parametrize("choice", ["light", "dark"])
def test_the_codec_map_has_colours_and_a_legend_of_its_own(qtbot: QtBot, choice: Choice, tmp_path: Path) -> None:
    host = QWidget()
    qtbot.addWidget(host)
    made = AxisMapCard(Icons(Theme(choice)), parent=host)
    made.resize(1060, 420)
    host.resize(1080, 440)
    made.set_rows(mixed_layers())
    host.show()
    axes = made.grab().toImage()
    assert "Other 25" in [text for _, text in made.legend._items]
    made.set_mode("codec")
    assert made.grab().toImage() != axes
    assert made.legend.accessibleName().startswith("Layers by codec: Signs 3, Sign planes 3, DeltaMix 3")
    assert made.legend._items[-1] == ("other", "Others 16") and len(made.legend._items) == 6
    inks = Inks(Theme(choice))
    assert len({inks.coding(key, 70)[0].name() for key in ("sign", "planes", "svdmix", "coded", "lowrank", "full")}) == 6
    assert all(contrast(ink, ground) >= 4.5 for key in ("sign", "planes", "svdmix", "full", "odd") for n in (0, 40, 100)
               for ground, ink in [inks.coding(key, n)])
    made.show_view("table")
    assert not made.grab().toImage().isNull()
    made.save_to(tmp_path / "codecs.csv")
    with (tmp_path / "codecs.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["codec"]: line["bits per weight"] for line in lines}["svdmix"] == "0.5" and lines[1]["method"] == "planes"
    made.save_to(tmp_path / "codecs.png")
    assert not QImage(str(tmp_path / "codecs.png")).isNull()

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication, QHelpEvent, QTextDocument
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QStyleOptionViewItem, QToolTip
from pytestqt.qtbot import QtBot

from app.codings import strength
from app.context import Context
from app.models.layers import LayerRow
from app.models.library import DATE, KL, NAME, NOTE, RATIO, RECOVERY, SIZE
from app.pages.deltas import DeltasPage
from app.pages.deltas.bits_scale import BitsScale
from app.pages.deltas.card_view import CardView
from app.pages.deltas.layer_list import _AT, LayerList, how_words
from app.pages.deltas.page import EMPTY, FAILED, LIST, LOADING
from app.pages.deltas.rename import RenameDialog
from app.tasks import Failure
from app.theme import Theme
from app.widgets.charts.axis_data import Cell
from app.widgets.charts.axis_legend import AxisLegend
from app.widgets.charts.axis_scale import Inks
from tests.app.library.deltas import GOLDEN, break_weights, make_delta

BASE = str(GOLDEN / "base")
TIMES = {"warm": {"full": {"median": 0.3, "lowest": 0.2, "highest": 0.4, "runs": [0.3]},
                  "switch": {"median": 0.04, "lowest": 0.03, "highest": 0.05, "runs": [0.04]}}, "cold": {}, "repeats": 5,
         "date": "2026-11-22T05:00:00+00:00"}


@pytest.fixture
def deltas(tmp_path: Path) -> Path:
    (tmp_path / "deltas").mkdir()
    return tmp_path / "deltas"


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    made = make_context(recent=(BASE,))
    made.engine.is_ready = made.engine.started = True
    return made


@pytest.fixture
def page(ctx: Context, qtbot: QtBot) -> Callable[[], DeltasPage]:
    """Opens the page and waits until the library has been read."""
    def open_it() -> DeltasPage:
        made = DeltasPage(ctx)
        qtbot.addWidget(made)
        made.resize(1112, 628)
        made.show()
        made.shown()
        qtbot.waitUntil(lambda: not ctx.library.loading)
        quiet(qtbot, ctx)
        return made
    return open_it


def quiet(qtbot: QtBot, ctx: Context) -> None:
    """Wait until nothing is read or written any more."""
    qtbot.waitUntil(lambda: ctx.tasks.busy == 0 and not ctx.library._timer.isActive())


def names(page: DeltasPage) -> list[str]:
    return [page.proxy.index(i, NAME).data() for i in range(page.proxy.rowCount())]


def current(page: DeltasPage) -> str:
    found = page.table.current()
    return found.name if found else ""


# ------------------------------------------------------------------------------------------------------ states
def test_an_empty_library_offers_the_next_step(page: Callable[[], DeltasPage], said: Any) -> None:
    made = page()
    assert made._stack.currentIndex() == EMPTY
    texts = [b.text() for b in made._empty_card.findChildren(QAbstractButton)]
    assert texts == ["Compress a fine-tune", "Try the demo trio", "Import a delta..."]
    made._empty_card.findChildren(QAbstractButton)[0].click()
    assert said.pages == ["compress"]
    assert not made.verify_button.isEnabled() and "no delta" in made.verify_button.toolTip()


def test_loading_says_what_is_read(make_context: Callable[..., Context], qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context()
    monkeypatch.setattr(ctx.engine, "load", lambda: None)
    made = DeltasPage(ctx)
    qtbot.addWidget(made)
    made.shown()
    assert made._stack.currentIndex() == LOADING and made._loading_title.text() == "Starting the engine"
    ctx.engine.is_ready = True
    ctx.library._told((3, 7))
    assert made._loading_title.text() == "Reading the library" and "3 of 7 deltas" in made._loading_text.text()


def test_a_library_that_can_not_be_read_says_why(page: Callable[[], DeltasPage], ctx: Context) -> None:
    made = page()
    ctx.library._read_failed(Failure("The disk is gone.", "", "Plug it in.", "details"))
    assert made._stack.currentIndex() == FAILED
    texts = [b.text() for b in made.findChildren(QAbstractButton) if b.isVisible()]
    assert "Try again" in texts and "Copy details" in texts


def test_the_table_and_the_header_count(deltas: Path, page: Callable[[], DeltasPage]) -> None:
    make_delta(deltas, "old", age=3)
    make_delta(deltas, "new")
    make_delta(deltas, "other", base_name="large", foreign=True, age=1)
    made = page()
    assert made._stack.currentIndex() == LIST
    assert names(made) == ["new", "other", "old"], "the newest first"
    assert made.header.caption.whole_text().startswith("3 deltas on 2 bases, 35.00 kB in place of ")  # type: ignore[attr-defined]
    assert made._shown.text() == "3 of 3 shown"
    assert current(made) == "new" and made.detail.entry() == made.table.current()


def test_no_match_says_so_and_shows_all_again(deltas: Path, page: Callable[[], DeltasPage], qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    made = page()
    made.focus_search()
    QTest.keyClicks(made.search, "nowhere")
    assert made._rows.currentIndex() == 1 and made._match_text.text() == "No delta matches 'nowhere'"
    assert made._shown.text() == "0 of 1 shown" and made.detail._stack.currentIndex() == 0
    QTest.keyClick(made.search, Qt.Key.Key_Escape)
    assert made._rows.currentIndex() == 0 and current(made) == "a" and made.detail._stack.currentIndex() == 1


def test_one_base_can_be_shown(deltas: Path, page: Callable[[], DeltasPage]) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b", base_name="large")
    made = page()
    assert [made.bases.itemText(i) for i in range(made.bases.count())] == ["All bases", "base", "large"]
    made.bases.setCurrentIndex(2)
    assert names(made) == ["b"] and current(made) == "b"


# ------------------------------------------------------------------------------------------------------ pane
def test_the_pane_shows_figures_and_layers(deltas: Path, page: Callable[[], DeltasPage], ctx: Context) -> None:
    make_delta(deltas, "a")
    made = page()
    pane = made.detail
    assert pane.facts.value("Recovery") == "0.975 on 3,840 tokens"
    assert pane.facts.value("KL") == "0.0100, base alone 0.4000"
    assert [b.name for b in pane.sizes.bars()] == ["Full checkpoint", "Delta"]
    assert pane.layers.layers.rowCount() > 3 and pane.layers.layers.rowCount() == len(pane.layers.layers.rows())
    assert not pane.measure.isEnabled() and "a-whole" in pane.measure.toolTip()
    ctx.library.keep_load_times(pane.entry().sha256, TIMES)  # type: ignore[union-attr]
    assert [(b.name, b.text) for b in pane.times.bars()] == [("Full, warm", "0.30 s"), ("Delta, warm", "0.040 s")]
    assert pane._times_caption.text() == "median of 5"


def test_a_missing_base_is_said_and_can_be_chosen(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    make_delta(deltas, "a", base_name="gone")
    made = page()
    pane = made.detail
    assert pane._badge.text() == "base not found" and pane._trouble.isVisible()
    assert made.proxy.index(0, NAME).data(Qt.ItemDataRole.AccessibleTextRole) == "Name: a, base not found"
    asked: list[str] = []

    def choose(parent: object, title: str, start: str) -> str:
        asked.append(title)
        return BASE
    monkeypatch.setattr("app.pages.deltas.desk.QFileDialog.getExistingDirectory", choose)
    pane.asked.emit("base")
    qtbot.waitUntil(lambda: pane._badge.text() == "not verified")
    assert asked == ["Where is the base 'gone'?"] and not pane._trouble.isVisible()
    quiet(qtbot, ctx)


def test_a_damaged_delta_says_what_is_wrong(deltas: Path, page: Callable[[], DeltasPage]) -> None:
    (make_delta(deltas, "a") / "delta_model.safetensors").write_bytes(b"")
    made = page()
    pane = made.detail
    assert pane._badge.text() == "damaged" and "delta_model.safetensors" in pane._trouble.accessibleName()
    assert not pane.export.isEnabled() and pane.export.toolTip() == "A damaged delta can't be exported."
    assert not pane.report.isEnabled() and not pane._views.isVisible()
    assert pane.items["trash"].isEnabled() and pane.items["reveal"].isEnabled()


def test_map_and_layers_follow_each_other(deltas: Path, page: Callable[[], DeltasPage]) -> None:
    make_delta(deltas, "a")
    pane = page().detail
    row = next(r for r in pane.layers.layers.rows() if r.block is not None)
    pane.map.chosen.emit(row)
    assert pane.layers.currentIndex().isValid() or pane.layers.selectionModel().hasSelection()
    pane.layers.pointed.emit(row)
    assert pane.map.selected() == row


def test_the_card_is_text_and_loads_nothing(qtbot: QtBot, ctx: Context, tmp_path: Path) -> None:
    view = CardView(ctx.theme)
    qtbot.addWidget(view)
    (tmp_path / "x.png").write_bytes(b"x")
    view.show_card(f"# Title\n\n<script>bad</script> <b>bold</b>\n\n![p]({tmp_path / 'x.png'}) [link](https://example.org)\n\n```\nrun\n```")
    shown = view.toPlainText()
    assert "Title" in shown and "link" in shown and "run" in shown
    assert "<b>bold</b>" in shown, "HTML is shown, not obeyed"
    for place in (QUrl.fromLocalFile(str(tmp_path / "x.png")), QUrl("https://example.org/x.png")):
        assert view.loadResource(int(QTextDocument.ResourceType.ImageResource.value), place).width() == 1
    assert not view.openLinks() and not view.openExternalLinks()


def test_layers_sort_by_value_and_in_their_order(qtbot: QtBot, ctx: Context) -> None:
    from app.models.layers import LayerRow

    made = LayerList(ctx.icons)
    qtbot.addWidget(made)
    made.layers.show([LayerRow(f"t{i}", i, "q", (2, 2), "sign", ("row",), bytes=size, winner="row")
                      for i, size in enumerate((5, 100, 20))])
    model = made.model()
    size_at = next(i for i in range(model.columnCount()) if model.headerData(i, Qt.Orientation.Horizontal) == "Size")
    layer_at = next(i for i in range(model.columnCount()) if model.headerData(i, Qt.Orientation.Horizontal) == "Layer")
    made.sortByColumn(size_at, Qt.SortOrder.DescendingOrder)
    assert [model.index(i, 0).data() for i in range(3)] == ["1", "2", "0"]
    made.sortByColumn(layer_at, Qt.SortOrder.AscendingOrder)
    assert [model.index(i, 0).data() for i in range(3)] == ["0", "1", "2"]


# ------------------------------------------------------------------------------------------------------ keys
def test_numbers_are_never_cut(deltas: Path, page: Callable[[], DeltasPage], ctx: Context) -> None:
    make_delta(deltas, "a-name-that-is-far-too-long-for-any-column-of-a-table", base_name="organisation/model-of-a-long-name" * 3)
    make_delta(deltas, "b", base_name="none", foreign=True)
    made = page()
    ctx.library.set_note(made._library.entries()[0], "a note that goes on and on " * 10)
    for width in (1024, 1112, 1700):
        made.resize(width, 600)
        made.table.fit_columns()
        for row in range(made.proxy.rowCount()):
            entry = made.proxy.index(row, 0).data(int(Qt.ItemDataRole.UserRole))
            assert not any(made.table.isColumnHidden(column) for column in (NAME, SIZE, RECOVERY, KL, DATE, NOTE))
            for column in (SIZE, RATIO, RECOVERY, KL, DATE):
                wide = made.table.columnWidth(column)
                assert made.table.isColumnHidden(column) or made.table.painter.natural(entry, column) <= wide
            assert made.table.painter.trouble_width(entry) <= made.table.columnWidth(NOTE)


def test_what_is_cut_has_a_tooltip_of_plain_text(deltas: Path, page: Callable[[], DeltasPage]) -> None:
    make_delta(deltas, "a", base_name="<img src='x'>" + "long" * 60)
    made = page()
    index = made.proxy.index(0, 1)
    option = QStyleOptionViewItem()
    option.rect = made.table.visualRect(index)
    event = QHelpEvent(QEvent.Type.ToolTip, QPoint(1, 1), made.mapToGlobal(QPoint(1, 1)))
    assert made.table.painter.helpEvent(event, made.table, option, index)
    assert "&lt;img" in QToolTip.text() and "long" * 60 in QToolTip.text()
    QToolTip.hideText()


def test_keys_of_the_table(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b", age=1)
    made = page()
    QTest.keyClick(made.search, Qt.Key.Key_Down)
    QTest.keyClick(made.table, Qt.Key.Key_Down)
    assert current(made) == "b"
    QTest.keyClick(made.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text().startswith("b\tbase\tPer-axis\t")
    made.table.selectAll()
    made.table.copy_rows()
    assert QGuiApplication.clipboard().text().split("\n")[0].startswith("Name\tBase")
    opened: list[bool] = []
    made.table.opened.connect(lambda: opened.append(True))
    QTest.keyClick(made.table, Qt.Key.Key_Return)
    assert opened == [True]


def test_a_note_is_edited_in_place(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    made = page()
    QTest.keyClick(made.table, Qt.Key.Key_F2)
    editor = made.table.viewport().findChild(QLineEdit)
    assert editor is not None and editor.accessibleName() == "Note of a"
    QTest.keyClicks(editor, "in use")
    QTest.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: ctx.library.entries()[0].note == "in use")
    assert made.proxy.index(0, NOTE).data() == "in use"


def test_delete_can_be_undone(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b", age=1)
    made = page()
    QTest.keyClick(made.table, Qt.Key.Key_Delete)
    assert names(made) == ["b"] and not (deltas / "a").exists()
    assert made.desk.undo_bar.isVisible() and "a moved to the trash" in made.desk.undo_bar.accessibleName()
    made.desk.undo()
    quiet(qtbot, ctx)
    assert names(made) == ["a", "b"] and current(made) == "a" and not made.desk.undo_bar.isVisible()


def test_the_last_delta_can_be_undone_too(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    made = page()
    QTest.keyClick(made.table, Qt.Key.Key_Delete)
    assert made._stack.currentIndex() == LIST and made.desk.undo_bar.isVisible()
    made.desk.undo()
    quiet(qtbot, ctx)
    assert names(made) == ["a"]


def test_leaving_the_page_ends_the_time_for_undo(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    monkeypatch.setattr("app.library.trash.files.discard", lambda aside: gone.append(aside.name))
    make_delta(deltas, "a")
    made = page()
    QTest.keyClick(made.table, Qt.Key.Key_Delete)
    made.hide()
    qtbot.waitUntil(lambda: gone == ["a"])
    quiet(qtbot, ctx)
    assert ctx.library.trash.pending() == ()


# ------------------------------------------------------------------------------------------------------ operations
def test_verify_all(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    break_weights(make_delta(deltas, "b", age=1))
    made = page()
    made.verify_button.click()
    assert made.desk.busy == "Verifying 2 deltas" and not made.verify_button.isEnabled()
    assert made.verify_button.toolTip() == "Verifying 2 deltas is under way"
    qtbot.waitUntil(lambda: not made.desk.busy)
    quiet(qtbot, ctx)
    assert {e.name: e.state for e in ctx.library.entries()} == {"a": "verified", "b": "damaged"}
    assert made.desk.notice.isVisible() and "1 of 2 deltas damaged: b" in made.desk.notice.accessibleName()
    assert made.detail._badge.text() == "\N{CHECK MARK} verified" and made.verify_button.isEnabled()


def test_one_operation_at_a_time_and_cancel(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot,
                                            said: Any) -> None:
    make_delta(deltas, "a")
    made = page()
    made.desk.verify(ctx.library.entries())
    made.desk.verify(ctx.library.entries())
    assert said.notes[-1][0].startswith("Verifying a is under way")
    made.desk.activity.cancelled.emit()
    assert made.desk.busy == "" and not made.desk.activity.isVisible() and "cancelled" in said.notes[-1][0]
    quiet(qtbot, ctx)


def drop(page: DeltasPage, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(p)) for p in paths])
    here, action = QPoint(300, 300), Qt.DropAction.CopyAction
    entering = QDragEnterEvent(here, action, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    page.dragEnterEvent(entering)
    assert entering.isAccepted() and page._card.property("dropping") == "true"
    page.dropEvent(QDropEvent(QPointF(here), action, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier))
    assert page._card.property("dropping") == ""


def test_dropped_folders_are_imported_and_shown(deltas: Path, tmp_path: Path, page: Callable[[], DeltasPage], ctx: Context,
                                                qtbot: QtBot, said: Any) -> None:
    made = page()
    drop(made, make_delta(tmp_path / "outside", "new"))
    qtbot.waitUntil(lambda: names(made) == ["new"] and current(made) == "new")
    assert "new imported" in said.notes[-1][0] and said.notes[-1][1] == "success"
    (tmp_path / "empty").mkdir()
    drop(made, tmp_path / "empty")
    qtbot.waitUntil(made.desk.notice.isVisible)
    assert "holds no delta" in made.desk.notice.accessibleName()
    quiet(qtbot, ctx)


def test_what_was_imported_is_verified(deltas: Path, tmp_path: Path, page: Callable[[], DeltasPage], ctx: Context,
                                       qtbot: QtBot) -> None:
    made = page()
    drop(made, make_delta(tmp_path / "outside", "new"))
    qtbot.waitUntil(lambda: names(made) == ["new"] and current(made) == "new")
    quiet(qtbot, ctx)
    entry = ctx.library.entry(deltas / "new")
    assert entry is not None and entry.state == "verified" and not entry.base_verified
    assert made.detail._badge.text().endswith("verified") and "not" not in made.detail._badge.text()
    assert "its base was not read" in made.detail._badge.toolTip()


def test_every_folder_that_is_not_imported_can_be_read_of(deltas: Path, tmp_path: Path, page: Callable[[], DeltasPage],
                                                          ctx: Context, qtbot: QtBot, said: Any) -> None:
    make_delta(deltas, "a")
    made = page()
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    drop(made, *(tmp_path / name for name in ("one", "two", "three")))
    qtbot.waitUntil(made.desk.notice.isVisible)
    assert "And 2 more." in made.desk.notice.accessibleName()
    next(b for b in made.desk.notice.findChildren(QAbstractButton) if b.text() == "Show all 3...").click()
    assert all(f"/{name}'" in said.errors[-1].details for name in ("one", "two", "three"))
    quiet(qtbot, ctx)


def test_a_folder_from_the_command_line(deltas: Path, tmp_path: Path, page: Callable[[], DeltasPage], ctx: Context,
                                        qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b", age=1)
    made = page()
    made.take(deltas / "b")
    assert current(made) == "b"
    made.take(make_delta(tmp_path / "outside", "c", age=5))
    qtbot.waitUntil(lambda: current(made) == "c")
    quiet(qtbot, ctx)


def test_what_another_page_asks_for_is_shown(deltas: Path, ctx: Context, page: Callable[[], DeltasPage], qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b", age=1)
    ctx.library.select(deltas / "b")
    made = page()
    assert current(made) == "b" and ctx.library.wanted is None
    made.search.setText("b-whole")
    ctx.library.select(deltas / "a")
    assert current(made) == "a" and made.search.text() == ""


def test_export_asks_for_an_unknown_base_first(deltas: Path, tmp_path: Path, page: Callable[[], DeltasPage], ctx: Context,
                                               qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    make_delta(deltas, "a", base_name="gone")
    made = page()
    answers = [BASE, str(tmp_path)]
    monkeypatch.setattr("app.pages.deltas.desk.QFileDialog.getExistingDirectory", lambda *_: answers.pop(0))
    made.detail._merged.trigger()
    qtbot.waitUntil(lambda: made.desk.notice.isVisible())
    assert (tmp_path / "a-whole" / "model.safetensors").is_file() and answers == []
    assert "a-whole is written" in made.desk.notice.accessibleName()
    quiet(qtbot, ctx)


def test_report_asks_where_to(deltas: Path, tmp_path: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    make_delta(deltas, "a")
    made = page()
    suggested: list[str] = []

    def choose(parent: object, title: str, start: Path, kinds: object) -> Path:
        suggested.append(start.name)
        return tmp_path / "r.html"
    monkeypatch.setattr("app.pages.deltas.desk.ask_path", choose)
    made.detail.report.click()
    qtbot.waitUntil(lambda: made.desk.notice.isVisible())
    assert suggested == ["a-report.html"] and (tmp_path / "r.html").stat().st_size > 1000
    quiet(qtbot, ctx)


def test_rename_checks_while_it_is_typed(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b", age=1)
    made = page()
    made.detail.asked.emit("rename")
    dialog = made.findChild(RenameDialog)
    assert dialog is not None and not dialog.confirm.isEnabled()
    dialog.name.setText("b")
    assert "already" in dialog.problem.text() and not dialog.confirm.isEnabled()
    dialog.name.setText("x/y")
    assert dialog.problem.text() and not dialog.confirm.isEnabled()
    dialog.name.setText("c")
    assert dialog.problem.text() == "" and dialog.confirm.isEnabled()
    dialog.confirm.click()
    assert (deltas / "c").is_dir() and current(made) == "c"
    quiet(qtbot, ctx)


def test_comparing_one_takes_others_of_its_base_along(deltas: Path, page: Callable[[], DeltasPage], ctx: Context) -> None:
    for i, name in enumerate(("a", "b")):
        make_delta(deltas, name, age=i)
    make_delta(deltas, "other", base_name="large", age=5)
    made = page()
    made.detail.items["compare"].trigger()
    assert ctx.library.compare_wanted == (deltas / "a", deltas / "b")


def test_measuring_waits_for_no_job(deltas: Path, page: Callable[[], DeltasPage], ctx: Context, said: Any,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    make_delta(deltas, "a")
    made = page()
    entry = ctx.library.entries()[0]
    ctx.library.set_places(entry, fine_tuned=BASE)
    monkeypatch.setattr(type(ctx.jobs), "is_busy", property(lambda self: True))
    made.desk.measure(ctx.library.entries()[0])
    assert "A job is running" in said.notes[-1][0] and made.desk.busy == ""


def test_everything_has_a_name(deltas: Path, page: Callable[[], DeltasPage], ctx: Context) -> None:
    make_delta(deltas, "a")
    made = page()
    for kind in (QAbstractButton, QLineEdit, QComboBox):
        for widget in made.findChildren(kind):
            assert widget.accessibleName() or widget.text(), f"{widget} {widget.parent()}"  # type: ignore[attr-defined]
    for action in [*made.detail.items.values(), *made.search.actions()]:
        assert action.text()
    ctx.settings.set(zoom=1.5, theme="dark")
    ctx.theme.use("dark", 1.5)
    made.grab()


def test_the_pane_shows_a_codec_map_where_codecs_are_mixed(deltas: Path, page: Callable[[], DeltasPage]) -> None:
    make_delta(deltas, "a")
    detail = page().detail

    def layer(kind: str, codec: str, axes: tuple[str, ...] = (), margin: float | None = None) -> LayerRow:
        return LayerRow(kind, 0, kind, (64, 64), codec, axes, bytes=512, margin=margin, winner=axes[0] if axes else codec)
    detail.show_layers((layer("q", "svdmix"), layer("k", "coded"), layer("v", "wavelet"), layer("o", "sign", ("row",))))
    assert detail.map.mode == "codec" and not detail.legend.isHidden() and detail._axis_counts.isHidden()
    assert not detail.bits_scale.isHidden() and "4 on" in detail.bits_scale.accessibleName()
    assert detail.legend.accessibleName() == "Layers by codec: DeltaMix 1, Coded levels 1, wavelet 1, Signs 1"
    assert detail.legend.sizeHint().width() <= 300 and detail.layers.isColumnHidden(_AT["Won by"])
    assert not detail.layers.grab().toImage().isNull()
    detail.show_layers((layer("q", "sign", ("row",), 0.2), layer("k", "sign", ("column",), 0.1)))
    assert detail.bits_scale.isHidden()
    assert detail.map.mode == "margin" and detail.legend.isHidden() and not detail.layers.isColumnHidden(_AT["Won by"])
    detail.map_mode.setCurrentIndex(1)
    assert detail.map.mode == "codec" and not detail.legend.isHidden()


def test_the_layers_say_how_not_only_by_which_axis(qtbot: QtBot, ctx: Context) -> None:
    layers = LayerList(ctx.icons)
    qtbot.addWidget(layers)
    assert layers.model().headerData(_AT["Axis"], Qt.Orientation.Horizontal) == "How"
    assert layers.model().headerData(_AT["Layer"], Qt.Orientation.Horizontal) == "Layer"


def test_several_planes_are_named_alike_in_map_and_list() -> None:
    row = LayerRow("e", None, "embed", (64, 64), "sign", ("row",), winner="row", planes=3, method="planes")
    assert how_words(row) == "3 planes"
    assert Cell(None, "embed", (row,)).coding_letter == "P3"
    assert how_words(LayerRow("q", 0, "q", (64, 64), "sign", ("row",), winner="row")) == "row"
    assert how_words(LayerRow("q", 0, "q", (64, 64), "same", winner="left-out")) == "left out"


def test_a_legends_swatches_have_the_shade_of_their_cells(qtbot: QtBot, ctx: Context) -> None:
    legend = AxisLegend(ctx.theme)
    qtbot.addWidget(legend)
    colours = set()
    for bits in (0.5, 1.0, 4.0):
        legend.set_counts({"coded": 3}, by_codec=True, bits={"coded": bits})
        legend.resize(legend.sizeHint())
        seen = legend.grab().toImage().pixelColor(3, legend.height() // 2)
        assert seen.name() == Inks(ctx.theme).coding("coded", round(100 * strength(bits)))[0].name()
        colours.add(seen.name())
    assert len(colours) == 3


@pytest.mark.parametrize("dark", [False, True])
def test_the_scale_of_shades_is_as_strong_as_cells(qtbot: QtBot, dark: bool) -> None:
    theme = Theme("dark" if dark else "light")
    scale = BitsScale(theme)
    qtbot.addWidget(scale)
    scale.set_codings(("svdmix", "left-out"))
    scale.resize(scale.sizeHint())
    image, wide = scale.grab().toImage(), round(scale._caption_wide())
    seen = [image.pixelColor(wide + theme.px(34) * i + 10, 3) for i in range(5)]
    assert seen[-1].name() == Inks(theme).coding("svdmix", 100)[0].name()
    assert len({c.name() for c in seen}) == 5


def test_a_notice_shows_its_whole_title(qtbot: QtBot, ctx: Context) -> None:
    from app.pages.deltas.trouble import NoticeBar

    made = NoticeBar(ctx.icons)
    qtbot.addWidget(made)
    made.resize(500, 60)
    made.show_words("danger", "The disk of '/a/folder/of/some/length/deltas' is full: 0.4 MB are free, up to 2.9 MB are needed.")
    made.show()
    made.adjustSize()
    qtbot.waitUntil(lambda: made._title.height() >= made._title.heightForWidth(made._title.width()))
    assert made._title.text().endswith("needed.")

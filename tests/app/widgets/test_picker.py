"""The checkpoint picker: its states, and every way of giving it a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication
from PySide6.QtTest import QAbstractItemModelTester, QTest
from PySide6.QtWidgets import QPushButton, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from app.checkpoints import Choice
from app.context import Context
from app.tasks import Failure
from app.widgets.picker import CheckpointPicker, dropped_folder
from app.widgets.picker_choose import ChoiceModel, Shelf
from app.widgets.picker_states import EmptyPick, FactsView, FailedPick, LoadingPick
from core.demo import tiny_trio

BASE = str(tiny_trio().base)
T = TypeVar("T", bound=QWidget)


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    made = make_context()
    made.engine.is_ready = made.engine.started = True            # the tests have loaded it themselves
    return made


@pytest.fixture
def picker(ctx: Context, qtbot: QtBot) -> CheckpointPicker:
    shelf = Shelf(ctx)
    made = CheckpointPicker(ctx, shelf, "base")
    shelf.setParent(made)
    qtbot.addWidget(made)
    made.resize(400, 240)
    return made


def button_of(owner: QWidget, text: str) -> QPushButton:
    return next(b for b in owner.findChildren(QPushButton) if b.text() == text)


def found(owner: QWidget, kind: type[T]) -> T:
    """The one child of a kind."""
    child = owner.findChild(kind)
    assert isinstance(child, kind)
    return child


def until(qtbot: QtBot, picker: CheckpointPicker, state: str) -> None:
    qtbot.waitUntil(lambda: picker.state == state, timeout=60_000)


def test_it_begins_empty_and_shows_what_it_read(picker: CheckpointPicker, qtbot: QtBot) -> None:
    assert picker.findChild(EmptyPick) and picker.facts is None
    told: list[str] = []
    picker.picked.connect(told.append)
    picker.choose(f'  "{BASE}" ')
    assert picker.state == "loading" and told == [BASE]
    until(qtbot, picker, "facts")
    assert picker.facts is not None and picker.facts.blocks == 4
    view = picker.findChild(FactsView)
    assert view is not None and view.list.value("Parameters") == "918,656, bf16"


def test_what_is_typed_is_taken_with_enter(picker: CheckpointPicker, qtbot: QtBot) -> None:
    field = found(picker, EmptyPick).field
    QTest.keyClick(field, Qt.Key.Key_Return)
    assert picker.state == "empty" and field.property("wrong") == "true"
    QGuiApplication.clipboard().setText(BASE)
    QTest.keyClick(field, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    QTest.keyClick(field, Qt.Key.Key_Return)
    until(qtbot, picker, "facts")
    assert picker.source == BASE


def test_what_can_not_be_opened_says_why_in_place(picker: CheckpointPicker, qtbot: QtBot, tmp_path: Path) -> None:
    picker.choose(str(tmp_path / "nothing"))
    until(qtbot, picker, "failed")
    view = picker.findChild(FailedPick)
    assert view is not None and "can't be used" in view.accessibleName() and picker.failure is not None
    next(b for b in view.findChildren(QToolButton) if b.accessibleName() == "Copy details").click()
    assert "CheckpointNotFound" in QGuiApplication.clipboard().text()
    assert button_of(view, "Choose another").isEnabled()


def test_cancel_goes_back_to_empty_and_nothing_comes_after(picker: CheckpointPicker, qtbot: QtBot, ctx: Context) -> None:
    picker.choose(BASE)
    button_of(found(picker, LoadingPick), "Cancel").click()
    assert picker.state == "empty" and picker.source == ""
    qtbot.waitUntil(lambda: ctx.tasks.busy == 0, timeout=60_000)
    assert picker.state == "empty"


def test_it_waits_for_the_engine_and_goes_on_by_itself(picker: CheckpointPicker, qtbot: QtBot, ctx: Context) -> None:
    ctx.engine.is_ready = False
    picker.choose(BASE)
    assert found(picker, LoadingPick).words.text() == "Starting the engine..."
    assert ctx.tasks.busy == 0
    ctx.engine.is_ready = True
    ctx.engine.ready.emit()
    until(qtbot, picker, "facts")


def test_an_engine_that_does_not_start_is_said(picker: CheckpointPicker, ctx: Context) -> None:
    ctx.engine.is_ready = False
    picker.choose(BASE)
    ctx.engine.failed.emit(Failure("The engine did not start.", "", "", ""))
    assert picker.state == "failed"


def urls(*paths: Path | str) -> QMimeData:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(p)) if not str(p).startswith("http") else QUrl(str(p)) for p in paths])
    return data


def test_a_folder_or_a_file_of_it_can_be_dropped(picker: CheckpointPicker, qtbot: QtBot) -> None:
    data = urls(Path(BASE) / "config.json")
    enter = QDragEnterEvent(QPoint(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
                            Qt.KeyboardModifier.NoModifier)
    picker.dragEnterEvent(enter)
    assert enter.isAccepted() and picker.property("dropping") == "true"
    picker.dropEvent(QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
                                Qt.KeyboardModifier.NoModifier))
    assert picker.property("dropping") == ""
    until(qtbot, picker, "facts")
    assert picker.source == BASE


def test_what_is_no_folder_is_not_taken(tmp_path: Path) -> None:
    assert dropped_folder(urls("https://example.org/x")) is None
    assert dropped_folder(urls(tmp_path / "gone")) is None
    assert dropped_folder(urls("https://example.org/x", tmp_path)) == tmp_path


def test_the_list_is_searched_and_chosen_from_by_keys(picker: CheckpointPicker, qtbot: QtBot) -> None:
    popup = picker._popup
    picker.open_chooser()
    qtbot.waitUntil(lambda: popup.view.model().rowCount() >= 3, timeout=60_000)
    QTest.keyClicks(popup.field, "tiny-pi")
    assert popup.view.model().rowCount() == 1
    QTest.keyClick(popup.field, Qt.Key.Key_Down)
    QTest.keyClick(popup.field, Qt.Key.Key_Return)
    assert popup.isHidden()
    until(qtbot, picker, "facts")
    assert picker.source == str(tiny_trio().pirate)
    popup.grab()


def test_the_list_takes_a_hub_id_too(picker: CheckpointPicker, qtbot: QtBot) -> None:
    popup, told = picker._popup, list[str]()
    popup.chosen.disconnect(picker.choose)
    popup.chosen.connect(told.append)
    picker.open_chooser()
    qtbot.waitUntil(lambda: popup.view.model().rowCount() >= 3, timeout=60_000)
    QTest.keyClicks(popup.field, "org/some-model")
    assert popup.typed() == "org/some-model" and popup.view.model().rowCount() == 0
    QTest.keyClick(popup.field, Qt.Key.Key_Return)
    assert told == ["org/some-model"]


def test_the_model_of_choices_keeps_the_rules(qtbot: QtBot) -> None:
    model = ChoiceModel()
    QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal)
    model.set_choices([Choice("/a", "a", "Recent", 5), Choice("org/b", "b", "Hub cache", None)])
    said = model.data(model.index(1, 0), Qt.ItemDataRole.AccessibleTextRole)
    assert model.rowCount() == 2 and said == "b, size unknown, Hub cache"
    model.set_choices([])
    assert model.rowCount() == 0

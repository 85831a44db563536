"""The Compress page: from nothing to a queued job, and everything that keeps a job from being queued."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QAbstractSpinBox, QApplication, QComboBox, QLineEdit, QPushButton
from pytestqt.qtbot import QtBot

import core.demo
from app.context import Context
from app.pages.compress import CompressPage
from app.pages.compress.demo_bar import make_pair
from app.pages.compress.predicted import rough
from app.pages.compress.recipe import METHODS, Recipe, delta_name, free_name, jobs_words, name_problem
from app.qss import style_sheet
from app.tasks import Task
from core.demo import DemoEvent, DemoPair, tiny_trio
from core.errors import Cancelled
from core.request import Request
from tests.app.pages.compressing import gated, shown

TRIO = tiny_trio()


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    return gated(make_context)


@pytest.fixture
def page(ctx: Context, qtbot: QtBot) -> CompressPage:
    return shown(ctx, qtbot)


@pytest.fixture
def dressed(qapp: QApplication, ctx: Context) -> Iterator[None]:
    """The program's own look, for what depends on sizes."""
    before = qapp.style().name()
    qapp.setStyle("Fusion")
    qapp.setFont(ctx.theme.font())
    qapp.setStyleSheet(style_sheet(ctx.theme, ctx.icons.files()))
    yield
    qapp.setStyleSheet("")
    qapp.setStyle(before)


def plan(qtbot: QtBot, page: CompressPage, base: Path = TRIO.base, tuned: Path = TRIO.pirate) -> None:
    page.open_pair(str(base), str(tuned))
    settle(qtbot, page)


def settle(qtbot: QtBot, page: CompressPage) -> None:
    qtbot.waitUntil(lambda: page.planner.is_fresh and not page.planner.is_busy, timeout=60_000)


def button_of(page: CompressPage, text: str) -> QPushButton:
    QApplication.processEvents()                                # what was added to a layout is shown by then
    return next(b for b in page.findChildren(QPushButton) if b.text() == text and not b.isHidden())


# --------------------------------------------------------------------------------------------------- the first time
def test_the_first_time_offers_the_next_step(page: CompressPage, qtbot: QtBot) -> None:
    assert page.stack.currentWidget() is page._first
    button_of(page, "Try the demo trio").click()
    assert page.stack.currentWidget() is page._main
    settle(qtbot, page)
    assert page.planner.facts is not None and page.start_bar.button.isEnabled()


def test_with_recent_checkpoints_the_pickers_come_first(make_context: Callable[..., Context], qtbot: QtBot) -> None:
    page = CompressPage(make_context(recent=(str(TRIO.base),)))
    qtbot.addWidget(page)
    assert page.stack.currentWidget() is page._main
    assert not page.start_bar.button.isEnabled() and page.start_bar.words.text() == "Choose a base first."


def test_choosing_goes_to_the_list(page: CompressPage) -> None:
    button_of(page, "Choose checkpoints...").click()
    assert page.stack.currentWidget() is page._main and page.base._popup.isVisible()
    page.base._popup.hide()


# -------------------------------------------------------------------------------------------------------- the plan
def test_a_pair_is_planned_by_itself(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page)
    facts = page.planner.facts
    assert facts is not None and page.outcome.chart.kinds == facts.kinds and page.outcome.chart.isVisible()
    assert "same architecture, same tokenizer" in page.outcome.strip.accessibleName()
    assert page.predicted._figure.text() == "158 kB" and "11.6 times smaller" in page.predicted._times.text()
    assert page.recipe.name.text() == "tiny-pirate" and page.recipe.calibration.samples.text() == "50 x 256"


def test_each_method_changes_the_exact_size_at_once(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page)
    sizes = {}
    for key in METHODS:
        next(b for b in page.recipe.method.findChildren(QPushButton) if b.text() == METHODS[key][0]).click()
        settle(qtbot, page)
        assert page.planner.facts is not None
        sizes[key] = page.planner.facts.weights_bytes
    assert sizes["bitdelta"] < sizes["per-axis"] == sizes["paper"] < sizes["both"]
    page.recipe.embeddings.setCurrentIndex(1)
    page.recipe.embeddings.activated.emit(1)
    settle(qtbot, page)
    assert page.planner.facts is not None and page.planner.facts.weights_bytes > sizes["paper"]


def test_two_that_do_not_fit_say_why_and_offer_a_base(page: CompressPage, qtbot: QtBot,
                                                      write_checkpoint: Callable[..., Path]) -> None:
    import torch

    page.shelf.refresh()
    qtbot.waitUntil(lambda: not page.shelf.is_loading, timeout=60_000)
    other = write_checkpoint({"a.weight": torch.zeros(4, 4)}, {"model_type": "llama", "hidden_size": 7})
    plan(qtbot, page, other, TRIO.pirate)
    assert page.outcome.error is not None and "hidden_size is 7" in page.outcome.error.view._failure.what
    assert not page.start_bar.button.isEnabled() and page.start_bar.reason == "These two can't be compressed."
    qtbot.waitUntil(lambda: bool(page._suggestions.found), timeout=60_000)
    button_of(page, "Use tiny-base as the base").click()
    settle(qtbot, page)
    assert page.planner.facts is not None and page.outcome.error is None


def test_the_same_twice_is_warned_of(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page, TRIO.base, TRIO.base)
    assert "delta will be empty" in page.outcome.strip.accessibleName() and page.outcome.strip.property("tone") == "warning"


def test_too_little_disk_keeps_a_job_from_starting(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page)
    assert page.planner.facts is not None
    page.planner.facts = replace(page.planner.facts, disk_free=10)
    page._planned(page.planner.facts)
    assert page.outcome.strip.property("tone") == "danger" and page.start_bar.reason == "The disk has too little room."
    assert button_of(page, "Choose folder...").isEnabled()


def test_swapping_and_clearing(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page)
    page.swap.click()
    assert page.base.facts is not None and page.base.facts.name == "tiny-pirate"
    settle(qtbot, page)
    page.tuned.clear()
    assert page.planner.facts is None and page.start_bar.reason == "Choose a fine-tune first."
    assert page.recipe.name.text() == "" and page.predicted._figure.text() == "–"


def test_a_folder_dropped_anywhere_goes_to_the_first_empty_picker(page: CompressPage, qtbot: QtBot) -> None:
    for picker, folder in ((page.base, TRIO.base), (page.tuned, TRIO.pirate), (page.tuned, TRIO.json)):
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(folder))])
        page.dragEnterEvent(QDragEnterEvent(QPoint(9, 9), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
                                            Qt.KeyboardModifier.NoModifier))
        assert picker.property("dropping") == "true"
        page.dropEvent(QDropEvent(QPointF(9, 9), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
                                  Qt.KeyboardModifier.NoModifier))
        assert picker.property("dropping") == "" and picker.source == str(folder)
        qtbot.waitUntil(lambda p=picker: p.state == "facts", timeout=60_000)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------ the recipe
def test_every_recipe_makes_a_valid_request(tmp_path: Path) -> None:
    for method in METHODS:
        for axis in ("auto", "row", "scalar"):
            made = Request(**Recipe(method=method, axis=axis, tune=False).request("a", "b", tmp_path / "x"))
            options = made.options()
            assert made.tune_samples == 0 and options.recipe == METHODS[method][1]
            assert options.axis == (axis if method in ("per-axis", "paper") else METHODS[method][2])


def test_reset_brings_back_what_settings_say(page: CompressPage, ctx: Context) -> None:
    recipe = page.recipe
    usual = recipe.recipe()
    recipe.show_recipe(Recipe("paper", "full", "c4", 7, False, 9, 128, 3, "row", "mse"))
    assert recipe.recipe() == Recipe("paper", "full", "c4", 7, False, 9, 128, 3, "row", "mse")
    ctx.settings.set(calibration="auto")
    button_of(page, "Reset").click()
    assert recipe.recipe() == replace(usual, calibration="auto")


def test_the_folded_part_says_what_it_holds(page: CompressPage) -> None:
    more = page.recipe.advanced
    page.stack.setCurrentWidget(page._main)
    assert more.body.isHidden() and more._words.whole_text() == "seed 0, length by width, KL"
    more.fold.click()
    assert not more.body.isHidden()
    more.seed.setValue(5)
    more.axis.set_key("row")
    more.axis.activated.emit(1)
    more.fold.click()
    assert more._words.whole_text() == "seed 5, row only, length by width, KL"
    page.recipe.method.set_value("bitdelta")
    page.recipe._told()
    assert not more.axis.isEnabled() and more.axis.toolTip()


def test_a_hub_data_set_is_named_before_a_job_starts(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page)
    source = page.recipe.calibration
    source.combo.setCurrentIndex(source.combo.findText("A hub data set..."))
    source.combo.activated.emit(source.combo.currentIndex())
    assert not source.hub.isHidden() and page.start_bar.reason == "Name the data set for calibration."
    source.hub.setText("org/texts")
    source.hub.editingFinished.emit()
    assert source.value() == "hub:org/texts" and page.start_bar.reason == ""


def test_offline_mode_offers_no_streams(page: CompressPage, ctx: Context) -> None:
    combo = page.recipe.calibration.combo
    flags = [combo.model().flags(combo.model().index(combo.findData("c4"), 0))]
    ctx.settings.set(offline=True)
    flags.append(combo.model().flags(combo.model().index(combo.findData("c4"), 0)))
    assert [bool(f & Qt.ItemFlag.ItemIsEnabled) for f in flags] == [True, False]


def test_widths_follow_the_font_zoom(page: CompressPage, ctx: Context) -> None:
    page.stack.setCurrentWidget(page._main)
    page.grab()
    before = page._right.width()
    ctx.theme.use("light", 1.25)
    page.grab()
    assert before == 384 and page._right.width() == 480


def test_names_follow_the_fine_tune_until_one_is_typed(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page)
    page.recipe.name.clear()
    QTest.keyClicks(page.recipe.name, "mine")
    page.tuned.choose(str(TRIO.json))
    settle(qtbot, page)
    assert page.recipe.name.text() == "mine"
    page.recipe.name.clear()
    QTest.keyClicks(page.recipe.name, "a/b")
    assert page.start_bar.reason == "A name can't hold '/'." and page.recipe.name.property("wrong") == "true"


@pytest.mark.parametrize(("given", "made"), [("llama 3.1: clinic", "llama-3.1-clinic"), ("..", "delta"), ("a//b", "a-b"),
                                             ("", "delta")])
def test_names_are_made_fit_for_folders(given: str, made: str) -> None:
    assert delta_name(given) == made and name_problem(made) == ""


def test_small_words() -> None:
    assert free_name("a", {"a", "a-2"}.__contains__) == "a-3" and free_name("a-2", {"a-2"}.__contains__) == "a-3"
    assert [jobs_words(n) for n in (1, 2, 14)] == ["one job", "two jobs", "14 jobs"]
    assert [rough(n) for n in (800, 29.88e6, 78.4e9, 5.84e9, 449_280)] == ["800 bytes", "29.9 MB", "78 GB", "5.8 GB", "449 kB"]


# ------------------------------------------------------------------------------------------------------- the start
def test_starting_queues_the_job_and_shows_the_run(page: CompressPage, qtbot: QtBot, ctx: Context, said: Any) -> None:
    plan(qtbot, page)
    assert page.start_bar.words.text() == "Starts at once"
    page.start_bar.button.click()
    item, = ctx.jobs.items()
    assert (item.name, item.base_name, item.fine_tuned_name) == ("tiny-pirate", "tiny-base", "tiny-pirate")
    assert Request(**item.request).output == str(ctx.settings.library / "tiny-pirate") and item.estimate
    assert said.pages == ["run"] and ctx.settings.options.recent[:2] == (str(TRIO.pirate), str(TRIO.base))
    state = ctx.jobs.run_state(item.id)
    assert state is not None and len(state.layers) == 29
    # The next one gets a name of its own, waits, and is told of.
    assert page.recipe.name.text() == "tiny-pirate-2" and page.start_bar.words.text().startswith("Starts after one job, in about")
    page.start()
    assert [i.name for i in ctx.jobs.items()] == ["tiny-pirate", "tiny-pirate-2"] and said.pages == ["run"]
    assert said.notes[-1][0].startswith("'tiny-pirate-2' was added to the queue. Starts after one job")


def test_a_job_goes_to_the_cluster_that_settings_name(page: CompressPage, qtbot: QtBot, ctx: Context) -> None:
    plan(qtbot, page)
    ctx.jobs.hold()
    assert not page.start_bar.where.isVisible()
    ctx.settings.set(runs_on="ray")
    assert page.start_bar.where.isVisible() and page.start_bar.where.property("tone") == "warning"
    assert page.start_bar.where.text() == "Runs on this computer: the Ray cluster that is chosen in Settings has no address."
    ctx.settings.set(cluster="ray://head:10001")
    assert page.start_bar.where.text() == "Runs on the Ray cluster ray://head:10001."
    page.shown()
    assert page.start_bar.words.text() == "Sent to the Ray cluster at once"
    page.start_bar.button.click()
    ctx.settings.set(runs_on="here")
    page.start()
    assert [item.where for item in ctx.jobs.items()] == ["ray://head:10001", ""]


def test_a_name_that_is_taken_is_refused_on_the_spot(page: CompressPage, qtbot: QtBot, ctx: Context) -> None:
    (ctx.settings.library / "tiny-pirate").mkdir(parents=True)
    plan(qtbot, page)
    assert page.recipe.name.text() == "tiny-pirate-2"
    page.recipe.name.clear()
    QTest.keyClicks(page.recipe.name, "tiny-pirate")
    assert page.start_bar.reason == "'tiny-pirate' exists already." and page.recipe.name.property("wrong") == "true"
    button_of(page, "Use tiny-pirate-2").click()
    assert page.recipe.name.text() == "tiny-pirate-2" and page.start_bar.button.isEnabled()
    (ctx.settings.library / "tiny-pirate-2").mkdir()
    page.start()
    assert not ctx.jobs.items() and page.start_bar.reason == "'tiny-pirate-2' exists already."


def test_the_key_says_why_nothing_starts(page: CompressPage, said: Any) -> None:
    page.start()
    assert said.notes == [("Choose a base first.", "warning")]


# -------------------------------------------------------------------------------------------------------- the demo
def test_the_real_pair_is_made_in_place(page: CompressPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pages.compress.demo_bar.real_pair", lambda: None)
    go = threading.Event()

    def make(folder: Path, *, progress: Any, cancelled: Any) -> DemoPair:
        progress(DemoEvent("download", 40, 93, "bytes", ""))
        while not go.wait(0.005):
            if cancelled():
                raise Cancelled("Stopped.")
        return DemoPair(TRIO.base, TRIO.json)
    monkeypatch.setattr(core.demo, "make_demo_pair", make)
    page.open_real_demo()
    strip = page.demo.strip
    qtbot.waitUntil(lambda: strip._more.whole_text() == "40 bytes of 93 bytes", timeout=60_000)
    assert strip.isVisible() and page.demo.is_making
    go.set()
    settle(qtbot, page)
    assert page.tuned.source == str(TRIO.json) and not strip.isVisible()


def test_making_the_pair_can_be_cancelled(page: CompressPage, qtbot: QtBot, ctx: Context,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()

    def make(folder: Path, *, progress: Any, cancelled: Any) -> DemoPair:
        began.set()
        while not cancelled():
            ended.wait(0.005)
        ended.set()
        raise Cancelled("Stopped.")
    monkeypatch.setattr(core.demo, "make_demo_pair", make)
    page.demo.make()
    qtbot.waitUntil(began.is_set, timeout=60_000)
    page.demo.strip.stop.click()
    assert not page.demo.is_making and page.demo.strip.isHidden()
    qtbot.waitUntil(lambda: ended.is_set() and ctx.tasks.busy == 0, timeout=60_000)
    assert page.base.state == "empty"


def test_making_a_pair_tells_stages(ctx: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Any] = []

    class Ear(Task):
        def progress(self, value: Any, *, force: bool = False) -> None:
            told.append(value)

    def make(folder: Path, *, progress: Any, cancelled: Any) -> DemoPair:
        progress(DemoEvent("train", 3, 30, "steps", ""))
        return DemoPair(folder / "base", folder / "pirate")
    monkeypatch.setattr(core.demo, "make_demo_pair", make)
    assert make_pair(Ear(ctx.tasks, 0), tmp_path) == (str(tmp_path / "base"), str(tmp_path / "pirate"))
    assert told == [("train", 3, 30, "steps")]


def test_the_menu_offers_what_there_is(page: CompressPage, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pages.compress.demo_bar.real_pair", lambda: None)
    texts = [a.text() for a in page.demo.menu().actions() if a.text()]
    assert texts[-1] == "Make the real demo pair (93 MB download, some minutes)"
    ctx.settings.set(offline=True)
    last = page.demo.menu().actions()[-1]
    assert not last.isEnabled() and "offline" in last.text()


# ------------------------------------------------------------------------------------------------------ everything
def test_every_control_has_a_name(page: CompressPage, qtbot: QtBot) -> None:
    plan(qtbot, page)
    page.recipe.advanced.set_open(True)
    controls = [w for kind in (QAbstractButton, QLineEdit, QComboBox, QAbstractSpinBox) for w in page.findChildren(kind)]
    nameless = [w for w in controls if not (w.accessibleName() or getattr(w, "text", lambda: "")()) and w.objectName() not in
                ("qt_spinbox_lineedit", "qt_toolbar_ext_button")]
    assert len(controls) > 30 and not nameless, nameless


@pytest.mark.parametrize("size", [(1112, 564), (1272, 808), (1752, 988)])
def test_nothing_is_cut_at_any_size(page: CompressPage, qtbot: QtBot, dressed: None, size: tuple[int, int]) -> None:
    page.resize(*size)
    page._leave_first()
    page.grab()
    assert page._left.horizontalScrollBar().maximum() == 0     # both pickers are empty
    plan(qtbot, page)
    page.grab()
    side = page._right
    assert (content := side.widget()) is not None and content.minimumSizeHint().width() <= side.viewport().width()
    assert page.start_bar.button.visibleRegion().boundingRect().size() == page.start_bar.button.size()
    chart = page.outcome.chart                         # it settles with the layout's own events
    qtbot.waitUntil(lambda: chart.height() >= chart.minimumSizeHint().height(), timeout=5000)

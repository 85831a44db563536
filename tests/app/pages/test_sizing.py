"""Sizes that are asked for: what texts mean, the card with its slider, and what goes into the job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

import app.pages.compress.size_card as size_card
from app.context import Context
from app.forecasting import Curve
from app.jobs.queue import QueueItem
from app.models.layers import LayerRow
from app.models.queue import QueueModel
from app.pages.compress import CompressPage
from app.pages.compress.recipe import METHODS, Recipe
from app.pages.compress.size_card import SizeCard
from app.pages.compress.sizing import (
    CLOSEST,
    Asked,
    Span,
    bytes_of,
    fidelity_words,
    problem_of,
    read_asked,
    share_of,
    size_at,
    times,
)
from app.pages.run.facts import layer_facts, method_text
from app.planning import PlanCache, plan_facts
from app.qss import style_sheet
from app.tasks import Task
from app.theme import Theme
from app.widgets.charts.loss_plot import LayerLossPlot
from app.words import size
from core.budget import parse_budget
from core.demo import tiny_trio
from core.errors import BadOption, Cancelled
from core.request import Request

SPAN = Span(40_000, 1_600_000, 158_000, 1_840_000)
CURVE = Curve(((40_000, 1.1), (150_000, 0.01), (800_000, 0.0001)), 1.2, 1_840_000)


@pytest.mark.parametrize(("text", "budget", "quality"), [
    ("12x", "12x", ""), (" 12 x ", "12x", ""), ("900MB", "900MB", ""), ("1.5 GiB", "1.5GiB", ""), ("0.98", "", "0.98"),
    (".5", "", ".5"), ("98 %", "", "0.98"), ("", "", ""), ("12", "", ""), ("1", "", ""), ("0x", "", ""), ("x", "", ""),
    ("120 %", "", ""), ("-3x", "", "")])
def test_what_a_text_asks_for(text: str, budget: str, quality: str) -> None:
    asked, why = read_asked(text)
    assert asked == Asked(budget, quality) and bool(why) == (not asked.text)
    Request(base="b", fine_tuned="f", output="o", budget=asked.budget, quality=asked.quality).options()


def test_what_it_comes_to() -> None:
    for text in ("12x", "900kB", "0.5MiB", "123456B"):
        assert bytes_of(Asked(text), SPAN, None) == parse_budget(text, SPAN.full)
    assert bytes_of(Asked(quality="0.98"), SPAN, None) is None and bytes_of(Asked(quality="0.98"), SPAN, CURVE) == 150_000
    assert "40.00 kB" in problem_of(39_999, SPAN) and not problem_of(40_000, SPAN) and not problem_of(None, SPAN)
    assert fidelity_words(200_000, CURVE) == "Expected recovery 99.2 %, KL 0.01"
    assert size_at(0, SPAN) == pytest.approx(40_000) and size_at(share_of(300_000, SPAN), SPAN) == pytest.approx(300_000)
    for nbytes in (40_000, 158_000, 777_777):
        below, above = (parse_budget(times(nbytes, SPAN.full, up=up), SPAN.full) for up in (True, False))
        assert below <= nbytes <= above


def test_only_recipes_of_several_sizes_take_one(tmp_path: Path) -> None:
    for key in METHODS:
        recipe = Recipe(key, budget="12x")
        request = Request(**recipe.request("b", "f", tmp_path / "d"))
        request.options()                                        # raises where a recipe can't have it
        assert request.budget == ("" if recipe.one_size else "12x")
    assert Recipe("bitdelta").one_size and Recipe("paper").one_size and not Recipe().one_size


# --------------------------------------------------------------------------------------------------------- the plan
def request(tmp_path: Path, **more: Any) -> dict[str, Any]:
    trio = tiny_trio()
    return {"base": str(trio.base), "fine_tuned": str(trio.pirate), "output": str(tmp_path / "out"), "calibration": "default",
            "samples": 4, "tune_samples": 2, "sequence_length": 32, **more}


def test_a_plan_knows_its_size_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTADECK_DATA", str(tmp_path / "data"))
    cache = PlanCache()
    plain = plan_facts(request(tmp_path), cache)
    assert not plain.is_at_most and plain.signs == plain.weights_bytes and plain.smallest < plain.signs < plain.largest
    asked = plan_facts(request(tmp_path, budget="12x"), cache)
    assert asked.is_at_most and asked.weights_bytes == asked.full_bytes // 12 and asked.ahead is None
    assert asked.seconds > plain.seconds and asked.prediction_seconds > 0
    assert plan_facts(request(tmp_path, quality="0.9"), cache).weights_bytes == 0
    with pytest.raises(BadOption, match="too little"):
        plan_facts(request(tmp_path, budget="9999x"), cache)
    mixed = plan_facts(request(tmp_path, recipe="deltamix", budget="10x"), cache)
    assert not mixed.is_at_most and mixed.weights_bytes <= mixed.full_bytes // 10
    assert {k.kind: k.stored for k in mixed.kinds}["q"] == "DeltaMix"


# --------------------------------------------------------------------------------------------------------- the card
@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    made = make_context()
    made.engine.is_ready = made.engine.started = True
    return made


@pytest.fixture
def page(ctx: Context, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompressPage:
    monkeypatch.setenv("DELTADECK_DATA", str(tmp_path / "data"))
    made = CompressPage(ctx)
    qtbot.addWidget(made)
    made.resize(1112, 628)
    made.show()
    made.open_pair(str(tiny_trio().base), str(tiny_trio().pirate))
    settle(qtbot, made)
    return made


def settle(qtbot: QtBot, page: CompressPage) -> None:
    qtbot.waitUntil(lambda: page.planner.is_fresh and not page.planner.is_busy)


def by_size(card: SizeCard) -> None:
    card.mode._group.button(1).click()


def test_nothing_is_called_signs_before_a_size_is_predicted(page: CompressPage, qtbot: QtBot) -> None:
    sentence = page.recipe._sentence
    assert sentence.text().startswith("One bit per weight") and page.outcome.chart.table()[1][1][4] != "\N{EN DASH}"
    by_size(page.sizing)
    settle(qtbot, page)
    assert sentence.text().startswith("For matrices that a size leaves as signs: one bit per weight")
    stored = {row[0]: row[3:] for row in page.outcome.chart.table()[1]}
    assert stored["q"] == stored["embed"] == ("not chosen yet", "\N{EN DASH}") and "whole" in stored["norm"][0]
    page.sizing.mode._group.button(0).click()
    assert sentence.text().startswith("One bit per weight")


def test_no_figure_widens_the_column(page: CompressPage, qtbot: QtBot) -> None:
    facts = page.planner.facts
    assert facts is not None
    page.setStyleSheet(style_sheet(page._ctx.theme, page._ctx.icons.files()))       # fonts and margins as in the window
    for nbytes in (11_520, 11_519_000_000):
        page.predicted.show_plan(replace(facts, weights_bytes=nbytes, full_bytes=nbytes * 159, is_at_most=True))
        QApplication.processEvents()
        bar = page._right.horizontalScrollBar()
        assert page._right.verticalScrollBar().isVisible() and not bar.isVisible() and bar.maximum() == 0
        assert page.predicted._times.text() == page.predicted._times.whole_text() == "159 x smaller"


def test_the_slider_the_field_and_the_presets_say_the_same(page: CompressPage, qtbot: QtBot) -> None:
    card, facts = page.sizing, page.planner.facts
    assert facts is not None and not card.is_by_size and card.slider.isHidden() is False and not card._body.isVisible()
    by_size(card)
    settle(qtbot, page)
    assert card.asked() == Asked("12x") and page.predicted._figure.text() == "153 kB"
    assert page.predicted._badge_words.text() == "at most" and "12.0 x smaller" in card._figures.text()
    card.slider.setValue(0)
    settle(qtbot, page)
    assert card._figures.text().startswith(size(facts.signs // 16)[:3]) and page.planner.failure is None
    assert facts.smallest < facts.signs // 16
    card.presets["signs"].click()
    at = card.slider.value()
    assert parse_budget(card.asked().budget, facts.full_bytes) <= facts.signs and 200 < at < 600
    card.field.setText("500kB")
    card.field.textEdited.emit("500kB")
    assert card.slider.value() > at and card.asked() == Asked("500kB")
    settle(qtbot, page)
    assert page.planner.facts is not None and page.planner.facts.weights_bytes == 500_000


def test_what_can_not_be_is_said(page: CompressPage, qtbot: QtBot) -> None:
    card = page.sizing
    by_size(card)
    for text, why in (("quite small", "Write a size"), ("9999x", "smallest delta of this pair")):
        card.field.setText(text)
        card.field.textEdited.emit(text)
        assert why in card.problem() and why in page.start_bar.reason and card.field.property("wrong") == "true"
        assert not page.start_bar.button.isEnabled()
    page.recipe.method._group.button(0).click()                   # BitDelta has one size
    settle(qtbot, page)
    assert not card.mode.isEnabled() and "one size" in card.mode.toolTip() and not card.problem() and not card.is_by_size
    assert page.planner.facts is not None and not page.planner.facts.is_at_most


def test_a_fidelity_has_no_size_until_it_is_predicted(page: CompressPage, qtbot: QtBot) -> None:
    card = page.sizing
    by_size(card)
    card.presets["closest"].click()
    settle(qtbot, page)
    assert card.asked() == Asked(quality=CLOSEST) and card._figures.text() == "Size known once predicted"
    assert page.predicted._times.text() == "size known once predicted" and page.start_bar.button.isEnabled()


def test_a_prediction_can_be_made_and_stopped(page: CompressPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    is_slow = True

    def predict(request: dict[str, Any], tick: Callable[[float], None], *, offline: bool | None = None) -> Curve:
        asked.append(request)
        while is_slow:
            tick(0.4)
            if page.sizing._task is None:
                raise Cancelled("Cancelled.")
        return CURVE
    monkeypatch.setattr(size_card, "predict", predict)
    card = page.sizing
    by_size(card)
    settle(qtbot, page)
    assert card.predict.isEnabled() and "about" in card.predict.text() and card.chart.isHidden()
    card.predict.click()
    qtbot.waitUntil(lambda: card._bar.value() == 400)
    assert card.is_predicting and card.predict.isHidden() and asked[0]["budget"] == "12x"
    card.stop.click()
    assert not card.is_predicting and not card.predict.isHidden()
    is_slow = False
    with qtbot.waitSignal(card.predicted):
        card.predict.click()
    assert card.chart.curve == CURVE and not card.chart.isHidden() and "Expected recovery 99.2 %" in card._fidelity.text()
    card.chart.picked.emit("800000")
    assert card.asked() == Asked("2.29x")
    settle(qtbot, page)


def test_the_job_carries_what_was_asked_for(page: CompressPage, ctx: Context, qtbot: QtBot) -> None:
    by_size(page.sizing)
    settle(qtbot, page)
    ctx.jobs.hold()
    page.start_bar.button.click()
    item = ctx.jobs.items()[-1]
    assert item.request["budget"] == "12x" and Request(**item.request).is_allocated
    assert method_text(item) == "Budgeted mix, 12x"
    queue = QueueModel(ctx.jobs)
    assert "Size asked for: 12x" in queue.index(0, 0).data(Qt.ItemDataRole.ToolTipRole)


def test_the_run_page_names_sizes() -> None:
    def words(**more: Any) -> str:
        return method_text(QueueItem(id="1", name="n", request={"recipe": "chosen", "axis": "auto", **more}))
    assert words() == "Per-axis, chosen signs" and words(quality="0.98") == "Budgeted mix, recovery 0.98"
    assert words(recipe="deltamix", budget="10x") == "DeltaMix, 10x" and words(recipe="planes") == "Sign planes"


def test_the_run_page_names_codecs(qtbot: QtBot) -> None:
    mixed = LayerRow("t", 0, "q", (64, 128), "svdmix", held_out=0.0307, recovery=0.9693, bytes=512,
                     winner="svdmix", method="deltamix")
    assert layer_facts(mixed) == "recovery 0.969 · 512 bytes, 0.50 bits per weight"     # the sentence above it names the method
    assert layer_facts(replace(mixed, codec="wavelet", winner="wavelet", method="")).startswith("recovery ")
    plot = LayerLossPlot(Theme("light"))
    qtbot.addWidget(plot)
    plot.show_curves([], mixed)
    assert plot.sentence == "DeltaMix: 0.0307 of the change is lost" and plot.message == "Chosen at once, without a curve"


def test_a_task_is_the_tick(ctx: Context) -> None:
    task = Task(ctx.tasks, 0)
    task.cancel()
    with pytest.raises(Cancelled):
        task.progress(0.5)

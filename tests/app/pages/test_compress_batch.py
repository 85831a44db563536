"""Several fine-tunes of one base on the Compress page: a job each, and what is refused holds up nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent
from PySide6.QtWidgets import QApplication, QPushButton
from pytestqt.qtbot import QtBot

from app.context import Context
from app.pages.compress import CompressPage
from app.pages.compress.batch_card import BatchCard, entry_words
from app.words import size
from core.demo import tiny_trio
from tests.app.conftest import Said
from tests.app.pages.compressing import gated, shown

TRIO = tiny_trio()


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    return gated(make_context)


@pytest.fixture
def page(ctx: Context, qtbot: QtBot) -> CompressPage:
    return shown(ctx, qtbot)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint of another architecture."""
    folder = tmp_path / "of-another-base"
    shutil.copytree(TRIO.pirate, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
    return folder


def drop(page: CompressPage, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(p)) for p in paths])
    page.dropEvent(QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
                              Qt.KeyboardModifier.NoModifier))


def settle(qtbot: QtBot, page: CompressPage) -> None:
    qtbot.waitUntil(lambda: page.planner.is_fresh and not page.planner.is_busy and not page.batch.reason)


def test_dropped_fine_tunes_are_queued_each_as_a_job(page: CompressPage, ctx: Context, qtbot: QtBot, said: Said, other: Path,
                                                     tmp_path: Path) -> None:
    twin = shutil.copytree(TRIO.json, tmp_path / "elsewhere" / TRIO.json.name)
    page.base.choose(str(TRIO.base))
    qtbot.waitUntil(lambda: page.base.state == "facts")
    drop(page, TRIO.pirate, TRIO.json, other, twin, TRIO.json)
    assert page.tuned.source == str(TRIO.pirate)
    assert [e.source for e in page.batch.entries] == [str(TRIO.json), str(other), str(twin)]
    assert page.start_bar.reason
    settle(qtbot, page)
    one, refused, two = page.batch.entries
    assert (one.state, refused.state, two.state) == ("ready", "refused", "ready")
    assert (one.output, two.output) == (TRIO.json.name, f"{TRIO.json.name}-2")
    assert one.plan is not None and size(one.plan.weights_bytes) in entry_words(one) and one.output in entry_words(one)
    assert refused.failure is not None and entry_words(refused).startswith(refused.failure.what)
    assert refused.failure.details.startswith("ArchitectureMismatch")
    assert page.start_bar.reason == "" and page.start_bar.button.text() == "Compress 3 fine-tunes"
    page.start()
    assert [i.name for i in ctx.jobs.items()] == ["tiny-pirate", TRIO.json.name, f"{TRIO.json.name}-2"]
    assert [i.request["fine_tuned"] for i in ctx.jobs.items()] == [str(TRIO.pirate), str(TRIO.json), str(twin)]
    assert {i.request["base"] for i in ctx.jobs.items()} == {str(TRIO.base)}
    assert all(i.estimate for i in ctx.jobs.items())
    assert said.notes[-1][0].startswith("Three jobs were added to the queue. The first: starts at once")
    assert [e.source for e in page.batch.entries] == [str(other)]           # it stays to be read
    assert page.start_bar.button.text() == "Compress"


def test_no_fine_tune_is_queued_twice(page: CompressPage, ctx: Context, qtbot: QtBot) -> None:
    page.base.choose(str(TRIO.base))
    qtbot.waitUntil(lambda: page.base.state == "facts")
    drop(page, TRIO.pirate, TRIO.json)
    assert [e.source for e in page.batch.entries] == [str(TRIO.json)]
    drop(page, TRIO.json)                                       # into the card, in the place of the first
    assert page.tuned.source == str(TRIO.json) and page.batch.entries == ()
    settle(qtbot, page)
    page.start()
    assert [i.request["fine_tuned"] for i in ctx.jobs.items()] == [str(TRIO.json)]


def test_folders_given_at_start_are_a_base_and_fine_tunes(page: CompressPage) -> None:
    page.take_all([TRIO.base, TRIO.pirate, TRIO.json])
    assert (page.base.source, page.tuned.source) == (str(TRIO.base), str(TRIO.pirate))
    assert [e.source for e in page.batch.entries] == [str(TRIO.json)]


def test_one_folder_more_goes_to_the_card(page: CompressPage) -> None:
    page.take_all([TRIO.base])
    assert (page.base.source, page.tuned.source) == (str(TRIO.base), "")
    page.take_all([TRIO.pirate])
    assert page.tuned.source == str(TRIO.pirate)
    page.take_all([TRIO.json])
    assert page.tuned.source == str(TRIO.json) and page.batch.entries == ()


def test_a_first_that_does_not_fit_leaves_the_others(page: CompressPage, ctx: Context, qtbot: QtBot, other: Path) -> None:
    page.open_pair(str(TRIO.base), str(other))
    page.take_several([TRIO.pirate])
    settle(qtbot, page)
    assert page.planner.failure is not None
    assert page.start_bar.reason == "" and page.start_bar.button.text() == "Compress 1 fine-tune"
    page.start()
    assert [i.name for i in ctx.jobs.items()] == ["tiny-pirate"]
    assert page.start_bar.reason == "These two can't be compressed."


def test_another_recipe_or_base_plans_them_anew(page: CompressPage, qtbot: QtBot) -> None:
    page.open_pair(str(TRIO.base), str(TRIO.pirate))
    page.take_several([TRIO.json])
    settle(qtbot, page)
    before = page.batch.entries[0].plan
    page.recipe.method.set_value("both")
    page.recipe.changed.emit()
    assert page.batch.entries[0].state != "ready"
    settle(qtbot, page)
    after = page.batch.entries[0].plan
    assert before is not None and after is not None and after.weights_bytes > before.weights_bytes
    page.base.choose(str(TRIO.pirate))
    settle(qtbot, page)
    assert page.batch.entries[0].plan is not None and page.batch.entries[0].plan != after


def test_the_list_is_read_and_emptied_by_its_controls(page: CompressPage, ctx: Context, qtbot: QtBot) -> None:
    card = page.findChild(BatchCard)
    assert isinstance(card, BatchCard) and card.isHidden() and page.more.isHidden()
    page.open_pair(str(TRIO.base), str(TRIO.pirate))
    qtbot.waitUntil(lambda: page.tuned.state == "facts")
    assert not page.more.isHidden()
    page.more.list.chosen.emit(str(TRIO.json))
    settle(qtbot, page)
    assert not card.isHidden()
    page.recipe.name.setText(TRIO.json.name)               # the first takes the name: the other gets another
    page.recipe.place_changed.emit()
    settle(qtbot, page)
    assert page.batch.entries[0].output == f"{TRIO.json.name}-2"
    out = next(b for b in card.findChildren(QPushButton) if b.text() == "Clear")
    out.click()
    QApplication.processEvents()
    assert card.isHidden() and page.batch.entries == () and page.start_bar.button.text() == "Compress"


def test_one_is_taken_out_while_it_is_read(page: CompressPage, qtbot: QtBot) -> None:
    page.open_pair(str(TRIO.base), str(TRIO.pirate))
    page.take_several([TRIO.json, TRIO.base])
    qtbot.waitUntil(lambda: page.batch.entries[0].state == "checking")
    page.batch.remove(str(TRIO.json))
    assert [e.source for e in page.batch.entries] == []     # the base itself is no fine-tune of it
    settle(qtbot, page)
    assert page.batch.entries == ()

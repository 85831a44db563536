"""Where jobs run: the choice, its address, and the test, with an answer that is given instead of a cluster's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

from app.context import Context
from app.pages import settings_cluster
from app.pages.settings import SettingsPage
from app.pages.settings_cluster import ClusterCard
from core import __version__
from core.errors import Cancelled, ClusterUnavailable

SEEN: dict[str, Any] = {"nodes": [{"name": "a", "version": __version__, "sees": True}], "cpus": 8, "gpus": 1, "silent": 0}


@pytest.fixture
def ctx(make_context: Callable[..., Context]) -> Context:
    return make_context()


@pytest.fixture
def card(ctx: Context, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> ClusterCard:
    monkeypatch.setattr(settings_cluster, "has_ray", lambda: True)
    page = SettingsPage(ctx)
    qtbot.addWidget(page)
    page.resize(1112, 628)
    page.show()
    return page.jobs


def choose(card: ClusterCard, text: str) -> None:
    made = next(b for b in card.choice.findChildren(QAbstractButton) if b.text() == text)
    QTest.mouseClick(made, Qt.MouseButton.LeftButton)


def type_in(card: ClusterCard, text: str) -> None:
    card.address.setFocus()
    card.address.selectAll()
    QTest.keyClicks(card.address, text)
    QTest.keyClick(card.address, Qt.Key.Key_Return)


def test_jobs_go_to_the_cluster_once_it_is_chosen_and_has_an_address(card: ClusterCard, ctx: Context) -> None:
    assert not card.address.isVisible()
    choose(card, "Ray cluster")
    assert card.address.isVisible() and ctx.settings.where == "" and "all nodes share" in card.note.text()
    # Nothing goes elsewhere than the choice says without a word beside the field.
    assert card.outcome.isVisible() and card.outcome.text().startswith("No address: jobs run on this computer.")
    assert card.outcome.property("tone") == "warning"
    type_in(card, "ray://head")
    assert ctx.settings.where == "" and not card.test.isEnabled() and "ray://HOST:PORT" in card.test.toolTip()
    assert "jobs run on this computer" in card.outcome.text()
    type_in(card, "ray://head:10001")
    assert ctx.settings.where == "ray://head:10001" and card.test.isEnabled() and not card.outcome.text()
    type_in(card, "head")
    assert "Until then jobs go to ray://head:10001." in card.outcome.text() and ctx.settings.where == "ray://head:10001"
    type_in(card, "ray://head:10001")
    choose(card, "This computer")
    assert ctx.settings.where == "" and ctx.settings.options.cluster == "ray://head:10001"


def test_the_test_says_reachable_or_why_not(card: ClusterCard, ctx: Context, qtbot: QtBot) -> None:
    ctx.settings.set(runs_on="ray", cluster="ray://head:10001")
    asked: list[tuple[str, str]] = []

    def look(address: str, folder: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        asked.append((address, folder))
        return SEEN
    card._look = look
    QTest.mouseClick(card.test, Qt.MouseButton.LeftButton)
    assert card.is_busy and not card.test.isEnabled() and card.stop.isVisible()
    qtbot.waitUntil(lambda: not card.is_busy)
    assert asked == [("ray://head:10001", str(ctx.settings.library))]
    assert card.outcome.text().startswith("Reachable: 1 node, 8 processors, 1 GPU.")

    def refuse(address: str, folder: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        raise ClusterUnavailable("No Ray cluster answers.", "Refused.", "Start one.")
    card._look = refuse
    card.run_test()
    qtbot.waitUntil(lambda: not card.is_busy)
    assert card.outcome.text() == "Not reachable. No Ray cluster answers. Refused. Start one."


def test_the_test_can_be_stopped(card: ClusterCard, ctx: Context, qtbot: QtBot) -> None:
    ctx.settings.set(runs_on="ray", cluster="ray://head:10001")
    began, over = threading.Event(), threading.Event()

    def look(address: str, folder: str, cancelled: Callable[[], bool]) -> dict[str, Any]:
        began.set()
        while not cancelled():
            over.wait(0.005)
        over.set()
        raise Cancelled("Cancelled.")
    card._look = look
    card.run_test()
    qtbot.waitUntil(began.is_set)
    QTest.mouseClick(card.stop, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(over.is_set)
    assert not card.is_busy and card.test.isEnabled() and card.outcome.text() == "The test was stopped."


def test_without_ray_it_says_what_to_install(card: ClusterCard, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_cluster, "has_ray", lambda: False)
    ctx.settings.set(runs_on="ray", cluster="ray://head:10001")
    assert "pip install 'deltadeck[cluster]'" in card.note.text()
    assert not card.test.isEnabled() and "not installed" in card.test.toolTip()

"""The help card: the self-check runs in the background and says what it found; diagnostics go where they are asked to go."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QLabel
from pytestqt.qtbot import QtBot

from app.context import Context
from app.pages.settings import SettingsPage
from core.doctor import Finding, Report

FINE = Report((Finding("self-test", "signs on cpu", "fine", "0.01 s"),), {"deltadeck": "1"}, {"system": "Linux", "cores": 2})
BROKEN = Report((*FINE.findings, Finding("window", "display", "note", "none"),
                 Finding("libraries", "torch", "broken", "<b>gone</b>", "Install it.")), {"deltadeck": "1"}, {"cores": 2})


@pytest.fixture
def page(qtbot: QtBot, make_context: Callable[..., Context]) -> SettingsPage:
    made = SettingsPage(make_context())
    qtbot.addWidget(made)
    made.resize(1100, 620)
    made.show()
    return made


def answers(monkeypatch: pytest.MonkeyPatch, report: Report | Exception) -> None:
    def check_up(data: Path, tell: Callable[[str], object] | None = None) -> Report:
        assert tell is not None
        tell("signs on cpu")
        if isinstance(report, Exception):
            raise report
        return report
    monkeypatch.setattr("app.doctor.check_up", check_up)


def words(page: SettingsPage) -> str:
    return "\n".join(found.text() for found in page.help.findChildren(QLabel))


def test_a_check_that_finds_nothing_says_so(page: SettingsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, FINE)
    page.help.check.click()
    assert not page.help.check.isEnabled() and page.help.check.toolTip()
    qtbot.waitUntil(lambda: not page.help.is_busy)
    assert "Everything works" in page.help.outcome.text()
    assert page.help.check.isEnabled() and page.help.save.isEnabled()


def test_what_is_broken_comes_first_with_its_remedy(page: SettingsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, BROKEN)
    page.self_check()
    qtbot.waitUntil(lambda: not page.help.is_busy)
    text = words(page)
    assert "One thing is broken." in text
    assert text.index("torch: <b>gone</b>") < text.index("display: none")
    assert "Install it." in text
    page.help.copy.click()
    assert "broken libraries: torch" in QGuiApplication.clipboard().text()


def test_a_check_that_fails_is_told(page: SettingsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, RuntimeError("no process"))
    page.self_check()
    qtbot.waitUntil(lambda: not page.help.is_busy)
    assert "could not be made" in page.help.outcome.text()


@pytest.mark.parametrize("report", [BROKEN, RuntimeError("no process")])
def test_diagnostics_are_written_with_a_check(page: SettingsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                              report: Any, said: Any) -> None:
    answers(monkeypatch, report)
    target = tmp_path / "d.zip"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(target), ""))
    page.save_diagnostics()
    qtbot.waitUntil(lambda: bool(said.notes))
    assert "d.zip" in said.notes[-1][0]
    with zipfile.ZipFile(target) as file:
        found = json.loads(file.read("doctor.json"))
    expected = BROKEN.as_json() if isinstance(report, Report) else {"failed": "RuntimeError: no process"}
    assert found == json.loads(json.dumps(expected))


def test_a_choice_that_is_broken_off_writes_nothing(page: SettingsPage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: ("", ""))
    page.help.save.click()
    assert not page.help.is_busy and not list(tmp_path.glob("*.zip"))


def test_a_place_that_cannot_be_written_is_told(page: SettingsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path, said: Any) -> None:
    page.help.show_report(FINE)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(tmp_path / "none" / "d.zip"), ""))
    page.help.save.click()
    qtbot.waitUntil(lambda: bool(said.errors))
    assert "No such file" in said.errors[-1].what


def test_a_check_can_be_cancelled(page: SettingsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def check_up(data: Path, tell: Callable[[str], object] | None = None) -> Report:
        assert tell is not None
        try:
            while True:
                tell("signs on cpu")
        finally:
            ended.append("here")
    monkeypatch.setattr("app.doctor.check_up", check_up)
    assert not page.help.stop.isVisible()
    page.help.check.click()
    qtbot.waitUntil(lambda: "signs" in page.help.outcome.text())
    assert page.help.stop.isVisible()
    page.help.stop.click()
    assert page.help.check.isEnabled() and not page.help.stop.isVisible() and "cancelled" in page.help.outcome.text()
    qtbot.waitUntil(lambda: ended == ["here"])

"""Settings are kept, tell of changes, and survive a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication

from app.settings import RECENT, Settings


def test_what_is_set_comes_back(qapp: QApplication, tmp_path: Path) -> None:
    first = Settings(tmp_path / "deep" / "settings.json")
    told: list[str] = []
    first.changed.connect(told.append)
    first.set(theme="dark", zoom=1.25)
    first.set(theme="dark")
    assert told == ["theme", "zoom"]
    again = Settings(tmp_path / "deep" / "settings.json")
    assert (again.options.theme, again.options.zoom, again.message) == ("dark", 1.25, "")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"theme": "pink"}', b'{"zoom": "big"}', b"\xff\xfe", b'{"recent": 3}'])
def test_a_damaged_file_is_set_aside(qapp: QApplication, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    settings = Settings(path)
    assert settings.options.theme == "system"
    assert "settings.broken" in settings.message
    assert (tmp_path / "settings.broken").read_bytes() == content


def test_unknown_fields_of_another_version_do_no_harm(qapp: QApplication, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"theme": "dark", "shine": true, "zoom": 99}')
    settings = Settings(path)
    assert (settings.options.theme, settings.options.zoom, settings.message) == ("dark", 1.5, "")


def test_a_folder_that_cannot_be_written_is_told(qapp: QApplication, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(tmp_path / "file" / "settings.json")
    told: list[str] = []
    settings.problem.connect(told.append)
    settings.set(theme="dark")
    assert len(told) == 1
    assert settings.options.theme == "dark"


def test_recent_checkpoints_are_few_and_the_last_one_leads(qapp: QApplication, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    for i in range(20):
        settings.remember(f"model-{i}")
    settings.remember("model-15")
    assert settings.options.recent[:2] == ("model-15", "model-19")
    assert len(settings.options.recent) == RECENT


def test_zoom_goes_in_steps_and_stops_at_the_ends(qapp: QApplication, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    settings.step_zoom(1)
    assert settings.options.zoom == 1.1
    for _ in range(9):
        settings.step_zoom(1)
    assert settings.options.zoom == 1.5
    settings.step_zoom(0)
    assert settings.options.zoom == 1.0

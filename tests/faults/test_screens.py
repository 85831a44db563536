"""Faults as a user reads them: some of the window's words. `python -m tests.benchmarks.bench_fault_screens` shows all."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from tests.faults.screens import SCREENS
from tests.faults.studio import Studio, said


@pytest.mark.parametrize("name", ["read-only-output-folder", "settings-file-damaged", "queue-file-damaged"])
def test_a_fault_is_put_into_words(qtbot: QtBot, tmp_path: Path, name: str) -> None:
    studio = Studio(tmp_path / "studio", tmp_path / "none")
    try:
        SCREENS[name].make(studio)
        texts = studio.texts()
        assert said(texts, *SCREENS[name].says) == [] and "Traceback" not in texts
        assert studio.cut() == []
    finally:
        studio.close()


def test_every_fault_has_words_that_must_be_read() -> None:
    assert len(SCREENS) > 30 and all(screen.says for screen in SCREENS.values())

"""What the window does with damaged files, odd texts and hostile deltas: it says so, or shows them, and goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.context import Context
from app.jobs.manager import JobManager
from app.jobs.queue import read_queue
from app.jobs.runstate import RunState
from app.jobs.worker import Outcome
from app.library.reading import read_card
from app.library.store import Library
from app.models.layers import LayerModel, LayerRow
from app.models.library import LibraryModel
from app.pages.compress import CompressPage
from app.pages.compress.recipe import delta_name, name_problem
from app.pages.deltas import DeltasPage
from app.pages.settings import folder_problem
from app.paths import expanded
from app.settings import Options, Settings
from app.shell import Shell
from app.theme import Theme
from app.widgets.basics import ElidedLabel
from app.widgets.queue_strip import QueuePanel
from app.window import _why_not
from core.errors import OutputExists
from core.events import Progress, StageStarted
from tests.app.library.deltas import make_delta

USUAL = Options().library


@pytest.mark.parametrize("content", (b'{"library":"\xff\xfe"}', b'{"x":' + b"[" * 200_000, os.urandom(500)))
def test_settings_that_can_not_be_read_are_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    found = Settings(tmp_path / "settings.json")
    assert found.options == Options()
    assert "could not be read" in found.message and (tmp_path / "settings.broken").is_file()


@pytest.mark.parametrize("library", ("~nobody-here/deltas", "", "deltas", "/" + "a" * 300, "/" + "ab/" * 2000))
def test_a_library_that_can_be_no_folder_becomes_the_usual_one(tmp_path: Path, library: str) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"library": library, "zoom": 1.1}))
    found = Settings(tmp_path / "settings.json")
    assert found.options.library == USUAL and found.options.zoom == 1.1


def test_a_setting_that_is_no_text_is_a_problem_and_no_crash(qtbot: QtBot, tmp_path: Path) -> None:
    found = Settings(tmp_path / "settings.json")
    with qtbot.waitSignal(found.problem):
        found.remember("/models/bad\udcff")
    assert found.options.recent == ("/models/bad\udcff",)


@pytest.mark.parametrize("geometry", ("a", "\u00e9", "AAAA", "A" * 100_001))
def test_a_damaged_geometry_is_ignored(qtbot: QtBot, tmp_path: Path, geometry: str) -> None:
    settings = Settings(tmp_path / "settings.json")
    settings.set(geometry=geometry, library=str(tmp_path / "deltas"))
    window = Shell(settings, Theme("light"), tmp_path, lambda request, tell, cancelled: Outcome(""))
    window.ctx.engine.started = True
    window.close()
    window.deleteLater()


@pytest.mark.parametrize("item", (
    {"state": "running", "request": {"output": "/" + "a" * 5000}}, {"state": "running", "request": {"output": "/tmp/a\0b"}},
    {"state": "running", "fraction": 1e300, "request": {}}, {"state": "done", "fraction": -7, "request": {}}))
def test_jobs_with_impossible_facts_are_listed(tmp_path: Path, item: dict[str, object]) -> None:
    path = tmp_path / "queue.json"
    path.write_text(json.dumps({"version": 1, "items": [{"id": "a", "name": "n", **item}]}))
    (found,), message = read_queue(path)
    assert not message and 0 <= found.fraction <= 1


def test_progress_that_is_no_number_is_left_out() -> None:
    state = RunState("a", "n", "b", "f")
    state.begin()
    state._apply(StageStarted(stage="fit", total=2))
    state._progress(Progress(stage="fit", done=1, total=2, fraction=0.5, seconds_left=9.0))
    state._progress(Progress(stage="fit", done=1, total=2, fraction=float("nan"), seconds_left=float("inf")))
    assert state.fraction == 0.5 and state.seconds_left is None


@pytest.mark.parametrize("text", ("~nobody-here/x", "relative", "/" + "y" * 300, "/" + "ab/" * 2000, ""))
def test_odd_folders_are_refused_in_words(text: str) -> None:
    assert folder_problem(text)
    assert expanded("~nobody-here/x") == Path("~nobody-here/x") and expanded("a\0b") == Path("ab")


def test_names_that_the_library_would_not_list_are_refused() -> None:
    for name in (".hidden", "x.job", "x.partial", "CON", "\u4e2d" * 119):
        assert name_problem(name)
    assert not name_problem(delta_name("\u4e2d" * 300))


def test_any_text_can_be_typed_into_the_fields_of_the_compress_page(qtbot: QtBot, make_context: Callable[..., Context]) -> None:
    page = CompressPage(make_context())
    qtbot.addWidget(page)
    field = page.base._popup.field
    for text in ("~nobody-here/x", "x" * 5000, "a\tb", "\U0001f600" * 100, "/" + "y" * 300):
        for line in (page.recipe.name, page.recipe.folder, field):
            line.setText(text)
            line.textEdited.emit(text)
            line.editingFinished.emit()
        page._is_taken(page.recipe.name.text())


def test_why_the_window_does_not_open_is_told_apart() -> None:
    assert "open already" in _why_not(Path("/data"), True)
    assert "can't be written" in _why_not(Path("/data"), False) and "/data" in _why_not(Path("/data"), False)


def test_a_job_that_can_not_be_taken_up_again_is_said_in_words(qtbot: QtBot, make_context: Callable[..., Context]) -> None:
    ctx = make_context(lambda request, tell, cancelled: Outcome(""))
    jobs: JobManager = ctx.jobs
    panel = QueuePanel(ctx.icons, jobs, lambda item: True)
    qtbot.addWidget(panel)

    def refuse() -> None:
        raise OutputExists("It is there already.", "", "Choose another name.")
    from app.widgets.queue_strip import _Offer

    with qtbot.waitSignal(jobs.message) as told:
        panel._do(_Offer("Retry", "reload", refuse))
    assert told.args == ["It is there already. Choose another name."]


# ---------------------------------------------------------------------------------------------------------- deltas
def test_a_card_of_very_many_lines_is_cut(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("- x\n" * 20_000)
    assert read_card(tmp_path).count("\n") < 2_000


def test_names_are_no_mark_up_in_tooltips(qtbot: QtBot) -> None:
    name = "<img src='file:///etc/passwd'>" * 9
    made = ElidedLabel(name)
    qtbot.addWidget(made)
    made.resize(40, 20)
    made.show()
    assert "<img" not in made.toolTip() and "&lt;img" in made.toolTip()
    model = LayerModel()
    model.show([LayerRow(name, note="<b>x</b>")])
    from PySide6.QtCore import Qt

    assert "<img" not in model.data(model.index(0, 0), Qt.ItemDataRole.ToolTipRole)


def test_many_deltas_come_in_one_insertion_and_are_measured_once(
        qtbot: QtBot, make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context()
    page = DeltasPage(ctx)
    qtbot.addWidget(page)
    ctx.settings.library.mkdir(parents=True, exist_ok=True)
    for i in range(12):
        make_delta(ctx.settings.library, f"d{i}")
    calls: list[int] = []
    whole = page.table.fit_columns

    def counted() -> None:
        calls.append(1)
        whole()
    monkeypatch.setattr(page.table, "fit_columns", counted)
    page.table._fit_soon.timeout.disconnect()
    page.table._fit_soon.timeout.connect(lambda: page.table.fit_columns())
    inserted: list[tuple[int, int]] = []
    assert isinstance(page.model, LibraryModel)
    page.model.rowsInserted.connect(lambda parent, first, last: inserted.append((first, last)))
    ctx.engine.is_ready = True
    ctx.library.refresh()
    qtbot.waitUntil(lambda: len(ctx.library.entries()) == 12, timeout=60_000)
    assert inserted == [(0, 11)] and len(calls) < 6


@pytest.mark.parametrize("kept", (
    {"check": {"at": 1e300}}, {"load_times": {"warm": 1}}, {"load_times": {"warm": {"full": {"median": "x"}}}},
    {"load_times": {"warm": {"full": {"median": 1, "lowest": 1, "highest": 1, "runs": ["x"]}}}}))
def test_odd_memories_of_a_delta_are_left_out(
        qtbot: QtBot, make_context: Callable[..., Context], tmp_path: Path, kept: dict[str, dict[str, object]]) -> None:
    from app.library.reading import read_delta, signature

    (tmp_path / "deltas").mkdir()
    folder = make_delta(tmp_path / "deltas", "a")
    if "check" in kept:
        kept = {"check": {**kept["check"], "signature": signature(folder)}}
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "library.json").write_text(json.dumps({"version": 1, "deltas": {read_delta(folder).sha256: kept}}))
    ctx = make_context()
    library: Library = ctx.library
    ctx.engine.is_ready = True
    library.refresh()
    qtbot.waitUntil(lambda: bool(library.entries()), timeout=60_000)
    (entry,) = library.entries()
    assert entry.load_times is None and entry.verified_at is None
    QApplication.processEvents()

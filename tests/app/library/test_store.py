from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from app.context import Context
from app.library import files, operations
from app.library.entry import DeltaEntry
from app.library.store import Library
from core.errors import BadOption
from tests.app.library.deltas import GOLDEN, break_weights, make_delta

BASE = str(GOLDEN / "base")


@pytest.fixture
def deltas(tmp_path: Path) -> Path:
    """The library's folder."""
    (tmp_path / "deltas").mkdir()
    return tmp_path / "deltas"


@pytest.fixture
def opened(qtbot: QtBot, make_context: Callable[..., Context]) -> Callable[..., Library]:
    """Opens the library and waits until it has been read."""
    def open_it(**options: Any) -> Library:
        ctx = make_context(**{"recent": (BASE,), **options})
        ctx.engine.is_ready = ctx.engine.started = True
        ctx.library.refresh()
        qtbot.waitUntil(lambda: not ctx.library.loading)
        return ctx.library
    return open_it


def settle(qtbot: QtBot, library: Library) -> None:
    """Read anew and wait for it."""
    library.refresh()
    qtbot.waitUntil(lambda: library._reading is None and not library._timer.isActive())


def names(library: Library) -> list[str]:
    return [e.name for e in library.entries()]


def the(library: Library, name: str) -> DeltaEntry:
    return next(e for e in library.entries() if e.name == name)


def wait_for(qtbot: QtBot, start: Callable[..., Any], *arguments: Any) -> Any:
    """Run an operation of the library; its result, or the Failure."""
    ended: list[Any] = []
    owner = QObject()
    progress: tuple[Callable[[Any], object], ...] = (lambda step: None,)
    start(owner, *arguments, ended.append, ended.append, *(progress if start.__name__ not in ("load_rows", "try_base") else ()))
    qtbot.waitUntil(lambda: bool(ended))
    return ended[0]


def test_a_missing_folder_is_an_empty_library(opened: Callable[..., Library]) -> None:
    library = opened()
    assert library.entries() == () and library.failure is None


def test_deltas_are_listed_with_their_base(deltas: Path, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "b")
    make_delta(deltas, "A", base_name="elsewhere/model", foreign=True)
    make_delta(deltas, "broken").joinpath("delta_model.safetensors").unlink()
    library = opened()
    assert names(library) == ["A", "b", "broken"]
    assert [e.state for e in library.entries()] == ["base-missing", "fine", "damaged"]
    assert the(library, "b").base_path == library.base_folder_of(the(library, "b")) == BASE
    assert "elsewhere/model" in the(library, "A").problem
    assert library.entry(deltas / "b") == the(library, "b") and library.entry(deltas / "x") is None


def test_nothing_is_read_before_the_engine_is_there(make_context: Callable[..., Context],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = make_context()
    asked: list[bool] = []
    monkeypatch.setattr(ctx.engine, "load", lambda: asked.append(True))
    ctx.library.refresh()
    assert asked == [True] and ctx.library.loading and ctx.tasks.busy == 0


def test_a_namesake_with_other_tensors_is_not_the_base(deltas: Path, tmp_path: Path, opened: Callable[..., Library]) -> None:
    other = tmp_path / "other" / "base"
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    shutil.copy(GOLDEN / "delta" / "delta_model.safetensors", other / "model.safetensors")
    make_delta(deltas, "a")
    assert the(opened(recent=(str(other),)), "a").state == "base-missing"


def test_a_new_folder_appears_by_itself(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    library = opened()
    make_delta(deltas, "late")
    qtbot.waitUntil(lambda: names(library) == ["late"])


def test_unchanged_folders_are_not_read_again(deltas: Path, qtbot: QtBot, opened: Callable[..., Library],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    make_delta(deltas, "a")
    library = opened()
    read: list[Path] = []

    def seen(folder: Path) -> DeltaEntry:
        read.append(folder)
        return DeltaEntry(folder, folder.name)
    monkeypatch.setattr("app.library.scan.read_delta", seen)
    make_delta(deltas, "b")
    settle(qtbot, library)
    assert read == [deltas / "b"]


def test_notes_survive_a_restart_and_a_rename(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b")
    library = opened()
    library.set_note(the(library, "a"), "  in \n use ")
    assert the(library, "a").note == "in use" and the(library, "b").note == ""
    assert library.rename(the(library, "a"), "z") == deltas / "z"
    assert names(library) == ["b", "z"] and the(library, "z").note == "in use"
    with pytest.raises(BadOption):
        library.rename(the(library, "z"), "x/y")
    library.close()
    assert the(opened(), "z").note == "in use"


def test_verify_marks_what_is_whole_until_it_changes(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    folder = make_delta(deltas, "a")
    library = opened()
    (found,) = wait_for(qtbot, library.verify, [the(library, "a")])
    assert (found.problem, found.base, found.base_problem) == ("", True, "")
    entry = the(library, "a")
    assert entry.state == "verified" and entry.base_verified and entry.verified_at is not None
    break_weights(folder)
    settle(qtbot, library)
    assert the(library, "a").state == "fine", "the check was of other bytes"
    (found,) = wait_for(qtbot, library.verify, [the(library, "a")])
    assert "delta_model.safetensors" in found.problem
    assert the(library, "a").state == "damaged" and "delta_model.safetensors" in the(library, "a").problem


def test_verify_finds_a_base_with_other_values(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "a", foreign=True)
    make_delta(deltas, "sibling", foreign=True)
    library = opened()
    assert the(library, "a").base_path == BASE, "name and shapes fit"
    (found,) = wait_for(qtbot, library.verify, [the(library, "a")])
    assert found.base_problem and not found.problem and not found.base
    settle(qtbot, library)
    assert {e.state for e in library.entries()} == {"base-missing"}


def test_a_base_can_be_pointed_at(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "a")
    library = opened(recent=())
    assert the(library, "a").state == "base-missing"
    assert wait_for(qtbot, library.try_base, the(library, "a"), str(deltas)) != ""
    assert wait_for(qtbot, library.try_base, the(library, "a"), BASE) == ""
    settle(qtbot, library)
    assert the(library, "a").base_path == BASE


def test_layers_are_read_once(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "a")
    library = opened()
    rows = wait_for(qtbot, library.load_rows, deltas / "a")
    assert len(rows) > 3
    got: list[Any] = []
    assert library.load_rows(library, deltas / "a", got.append, got.append) is None
    assert got == [rows]


def test_import_copies_whole_and_refuses_the_rest(deltas: Path, tmp_path: Path, qtbot: QtBot,
                                                  opened: Callable[..., Library]) -> None:
    source = make_delta(tmp_path / "outside", "new")
    (source / "extra.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    library = opened()
    made, refused = wait_for(qtbot, library.import_from, [source, tmp_path / "empty", tmp_path / "nothing", source])
    assert [p.name for p in made] == ["new", "new-2"]
    assert len(refused) == 2 and all(r.endswith(".") for r in refused)
    for copy in made:
        assert {p.name: p.read_bytes() for p in copy.iterdir()} == {p.name: p.read_bytes() for p in source.iterdir()}
        assert (copy / "delta_config.json").stat().st_mtime == (source / "delta_config.json").stat().st_mtime
    assert sorted(p.name for p in deltas.iterdir()) == ["new", "new-2"]
    qtbot.waitUntil(lambda: names(library) == ["new", "new-2"])
    _, refused = wait_for(qtbot, library.import_from, [deltas / "new"])
    assert "already" in refused[0]


def test_a_cancelled_import_leaves_nothing(deltas: Path, tmp_path: Path, qtbot: QtBot, opened: Callable[..., Library],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_delta(tmp_path / "outside", "new")
    library = opened()
    ended: list[Any] = []
    real = operations._copy_file

    def cancelling(a: Path, b: Path, told: Callable[[int], None]) -> None:
        task.cancel()
        real(a, b, told)
    monkeypatch.setattr(operations, "_copy_file", cancelling)
    task = library.import_from(library, [source], ended.append, ended.append, lambda s: None)
    qtbot.waitUntil(lambda: library._tasks.busy == 0)
    assert ended == [] and list(deltas.iterdir()) == []


def test_export_both_ways(deltas: Path, tmp_path: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "a")
    library = opened()
    copy = wait_for(qtbot, library.export_copy, the(library, "a"), tmp_path / "out" / "a")
    assert copy == tmp_path / "out" / "a" and (copy / "delta_config.json").is_file()
    again = wait_for(qtbot, library.export_copy, the(library, "a"), tmp_path / "out" / "a")
    assert "exists already" in again.what
    whole = wait_for(qtbot, library.export_merged, the(library, "a"), tmp_path / "out" / "whole")
    assert (whole / "model.safetensors").is_file()


def test_removing_and_undo(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "a")
    make_delta(deltas, "b")
    library = opened()
    assert library.remove(library.entries()) == ()
    assert names(library) == [] and len(library.trash.pending()) == 2
    assert {p.name for p in library.trash.undo()} == {"a", "b"}
    settle(qtbot, library)
    assert names(library) == ["a", "b"] and library.trash.pending() == ()


def test_removed_deltas_reach_the_trash(deltas: Path, qtbot: QtBot, opened: Callable[..., Library],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []

    def take(path: str) -> None:
        gone.append(path)
        shutil.rmtree(path)
    monkeypatch.setattr("send2trash.send2trash", take)
    make_delta(deltas, "a")
    library = opened()
    library.remove(library.entries())
    library.trash.commit()
    qtbot.waitUntil(lambda: library._tasks.busy == 0)
    settle(qtbot, library)
    assert gone == [str(deltas / "a")] and names(library) == [] and list(deltas.iterdir()) == []


def test_a_trash_that_refuses_gives_the_delta_back(deltas: Path, qtbot: QtBot, opened: Callable[..., Library],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "No trash here")
    monkeypatch.setattr("send2trash.send2trash", refuse)
    make_delta(deltas, "a")
    library = opened()
    said: list[str] = []
    library.message.connect(lambda text, tone: said.append(text))
    library.remove(library.entries())
    library.trash.commit()
    qtbot.waitUntil(lambda: bool(said))
    settle(qtbot, library)
    assert names(library) == ["a"] and "back in the library" in said[0]


def test_what_a_killed_program_left_comes_back(deltas: Path, opened: Callable[..., Library], qtbot: QtBot) -> None:
    make_delta(deltas, "a")
    files.put_aside(deltas / "a")
    assert names(opened()) == ["a"] and not (deltas / files.TRASH).exists()


def test_closing_sends_what_waits_to_the_trash(deltas: Path, opened: Callable[..., Library],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("send2trash.send2trash", shutil.rmtree)
    make_delta(deltas, "a")
    library = opened()
    library.remove(library.entries())
    assert library.close() == [] and list(deltas.iterdir()) == []


def test_another_folder_in_the_settings_is_read(deltas: Path, tmp_path: Path, qtbot: QtBot,
                                                make_context: Callable[..., Context]) -> None:
    make_delta(deltas, "a")
    make_delta(tmp_path / "others", "b")
    ctx = make_context()
    ctx.engine.is_ready = ctx.engine.started = True
    ctx.library.refresh()
    qtbot.waitUntil(lambda: names(ctx.library) == ["a"])
    ctx.settings.set(library=str(tmp_path / "others"))
    assert ctx.library.loading and ctx.library.entries() == ()
    qtbot.waitUntil(lambda: names(ctx.library) == ["b"])


def test_times_measured_elsewhere_are_kept(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    make_delta(deltas, "a")
    library = opened()
    times = {"warm": {"full": {"median": 1.0, "lowest": 0.9, "highest": 1.1, "runs": [1.0]}}, "cold": {}, "repeats": 1}
    library.keep_load_times(the(library, "a").sha256, times)
    assert the(library, "a").load_times == times
    library.close()
    assert the(opened(), "a").load_times == times


def test_asking_to_show_and_to_compare(deltas: Path, qtbot: QtBot, opened: Callable[..., Library]) -> None:
    library = opened()
    asked: list[object] = []
    library.select_asked.connect(asked.append)
    library.compare_asked.connect(asked.append)
    library.select(deltas / "a")
    library.compare(iter([deltas / "a", deltas / "b"]))
    assert asked == [deltas / "a", (deltas / "a", deltas / "b")]
    assert library.wanted == deltas / "a" and library.compare_wanted == (deltas / "a", deltas / "b")
    settle(qtbot, library)


def test_a_damaged_delta_is_not_imported(deltas: Path, tmp_path: Path) -> None:
    from app.library.operations import import_deltas
    from app.tasks import Task, Tasks

    source = make_delta(tmp_path / "elsewhere", "strange")
    data = bytearray((source / "delta_model.safetensors").read_bytes())
    data[-1] ^= 1
    (source / "delta_model.safetensors").write_bytes(data)
    before = sorted(deltas.iterdir())
    made, (refused,) = import_deltas(Task(Tasks(), 1), [source], deltas)
    assert made == () and "strange' is damaged: delta_model.safetensors was changed" in refused and "again" in refused
    assert sorted(deltas.iterdir()) == before

"""Faults while the program around the engine keeps its own files and moves deltas about: old or new, never half."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication

from app.chat.conversations import Conversation, decode, encode
from app.jobs.files import write_atomic
from app.jobs.queue import QueueItem, encode_queue, explain, read_queue
from app.library import files
from app.library.operations import import_deltas
from app.library.reading import delta_folders
from app.settings import Settings
from app.tasks import Task, Tasks
from core.artifact import check_whole, open_delta
from core.errors import DeltadeckError
from core.forecast import Forecast, keep_forecast, load_forecast
from core.probe import Probe
from tests.app.library.deltas import make_delta
from tests.faults import inject
from tests.faults.whole import digest

STEPS = ("write", "rename", "sync", "make", "open")


def each(place: Path, act: Callable[[], object], check: Callable[[BaseException | None], None]) -> int:
    """Let every call of every kind in `act` fail in turn, once by each error; `check` hears what came of it."""
    done = 0
    for kind in STEPS:
        for error in inject.KINDS[kind]:
            at = 0
            while True:
                problem: BaseException | None = None
                with inject.failing(kind, at, error, place) as count:
                    try:
                        act()
                    except Exception as raised:
                        problem = raised
                if not count.failed:
                    break
                check(problem)
                at, done = at + 1, done + 1
    return done


def test_the_queue_and_a_conversation_are_as_before_or_as_they_should_be(tmp_path: Path) -> None:
    first, second = (QueueItem(id="a", name=name, request={}) for name in ("first", "second"))
    path, talk = tmp_path / "queue.json", tmp_path / "chats" / "t.json"
    write_atomic(path, encode_queue([first]))
    before, after = (
        Conversation(id="t", created=1, changed=1, system=said) for said in ("first", "second"))
    write_atomic(talk, encode(before))

    def act() -> None:
        write_atomic(path, encode_queue([second]))
        write_atomic(talk, encode(after))

    def check(error: BaseException | None) -> None:
        items, message = read_queue(path)
        assert [i.name for i in items] in (["first"], ["second"]) and not message
        assert decode(talk.read_bytes()).system in ("first", "second")
        if error is None:                              # syncing a folder may fail without harm
            assert items[0].name == "second" and decode(talk.read_bytes()).system == "second"
        assert not list(tmp_path.rglob("*.partial"))
        write_atomic(path, encode_queue([first]))
        write_atomic(talk, encode(before))
    assert each(tmp_path, act, check) > 12


def test_settings_are_as_before_or_as_they_should_be(tmp_path: Path, qapp: QApplication) -> None:
    path, problems = tmp_path / "data" / "settings.json", list[str]()
    Settings(path).set(zoom=1.1)

    def act() -> None:
        settings = Settings(path)
        settings.problem.connect(problems.append)
        settings.set(zoom=1.25)

    def check(error: BaseException | None) -> None:
        assert error is None
        found = Settings(path)
        assert found.options.zoom in (1.1, 1.25, 1.0), found.options
        assert found.options.zoom != 1.0 or found.message or not path.exists()
        Settings(path).set(zoom=1.1)
    assert each(tmp_path, act, check) >= 4
    assert problems and all("could not be saved" in p for p in problems)


def test_a_forecast_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    found = Forecast(Probe({"w": 1.0}, {"w": 0.5}, {}), 1.0, 0.9, 0.5, {}, 0.4)

    def check(error: BaseException | None) -> None:
        assert error is None and load_forecast(tmp_path / "kept", "k") in (None, found)
    assert each(tmp_path, lambda: keep_forecast(tmp_path / "kept", "k", found), check) >= 4


def test_importing_renaming_and_removing_lose_nothing(tmp_path: Path) -> None:
    source, library = make_delta(tmp_path / "elsewhere", "one"), tmp_path / "library"
    own = make_delta(library, "own")
    wanted = digest(own)
    task = Task(Tasks(), 1)

    def act() -> None:
        made, refused = import_deltas(task, [source], library)
        if refused:
            raise DeltadeckError(refused[0])
        files.rename(made[0], "renamed")
        aside = files.put_aside(own)
        files.bring_back(aside)

    def check(error: BaseException | None) -> None:
        assert error is None or isinstance(error, DeltadeckError | OSError)
        assert not isinstance(error, DeltadeckError) or "[Errno" not in str(error)
        for aside in files.leftovers(library):         # as the next start does
            files.bring_back(aside)
        shown = delta_folders(library)
        assert own in shown and digest(own) == wanted
        for folder in shown:
            check_whole(open_delta(folder))
            if folder != own:
                files.put_aside(folder).rename(tmp_path / "gone")
                shutil.rmtree(tmp_path / "gone")
                shutil.rmtree(library / files.TRASH)
        assert not [p for p in library.iterdir() if p.name.endswith(".partial")]
    assert each(library, act, check) > 20


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "disk is full"), (errno.EROFS, "Read-only"), (errno.EIO, "/deltas/a")])
def test_what_the_system_refuses_is_said_in_words(number: int, words: str) -> None:
    found = explain(OSError(number, os.strerror(number), "/deltas/a"))
    assert words in found.what and found.remedy and "did not foresee" not in found.why

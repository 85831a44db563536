"""Files are whole or absent, and written in line on a thread that ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from app.jobs.buffer import EventBuffer
from app.jobs.files import drop_steps, set_aside, write_atomic
from app.jobs.lanes import Lane
from app.jobs.running import Running
from app.jobs.runstate import RunState
from app.jobs.saver import Saver
from app.jobs.worker import Order, Worker
from tests.app.jobs.play import Player


def hold(gate: threading.Event) -> None:
    gate.wait(5)


def fail() -> None:
    raise KeyError("odd")


def test_the_newest_version_is_what_is_written(tmp_path: Path) -> None:
    saver, gate, written = Saver(), threading.Event(), []
    saver.work("gate", lambda: hold(gate))

    def version(number: int) -> bytes:
        written.append(number)
        return b"%d" % number
    for number in range(50):
        saver.save(tmp_path / "file", lambda number=number: version(number))    # type: ignore[misc]
    gate.set()
    assert saver.flush(5.0) and saver.is_idle
    assert (tmp_path / "file").read_bytes() == b"49" and written == [49]
    assert [t.name for t in threading.enumerate() if t.name == "deltadeck-saver"] == []


def test_flush_says_when_it_takes_longer() -> None:
    saver, gate = Saver(), threading.Event()
    saver.work("gate", lambda: hold(gate))
    assert not saver.flush(0.01)
    gate.set()
    assert saver.flush(5.0)


def test_problems_are_told_once_and_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    saver = Saver()
    saver.save(tmp_path / "taken" / "file", lambda: b"")
    saver.work("odd", fail)
    saver.save(tmp_path / "good", lambda: b"x")
    assert saver.flush(5.0)
    problems = saver.take_problems()
    assert len(problems) == 2 and "taken" in problems[0] and "KeyError" in problems[1] and saver.take_problems() == []
    assert (tmp_path / "good").read_bytes() == b"x"


def test_a_file_that_can_not_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "deep" / "file", b"old")

    def refuse(*_: object) -> None:
        raise OSError("full")
    monkeypatch.setattr("app.jobs.files.os.replace", refuse)
    with pytest.raises(OSError, match="full"):
        write_atomic(tmp_path / "deep" / "file", b"new")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").read_bytes() == b"old"


def test_what_takes_long_is_written_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("app.jobs.running.time.monotonic", lambda: clock)
    run = Running(Lane("here", Player()), Worker(Player()), Order("a", {}, EventBuffer(), threading.Event()), RunState("a"),
                  saved=clock)
    found = []
    for clock in (101.0, 103.0, 104.0, 105.5, 109.0, 114.0, 130.0, 135.0):
        run.state.layers_done += clock < 120                   # then nothing gets done
        found.append(run.must_save(0.0 if clock < 106 else 0.4))
    assert found == [False, True, False, True, False, True, False, True]


def test_how_long_a_file_took_is_known(tmp_path: Path) -> None:
    saver, path = Saver(), tmp_path / "a"

    def slowly() -> bytes:
        time.sleep(0.02)
        return b"1"
    assert saver.took(path) == 0.0
    saver.save(path, slowly)
    assert saver.flush() and saver.took(path) >= 0.02


def test_set_aside_never_overwrites(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "queue.json").write_text(str(number))
        set_aside(tmp_path / "queue.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["queue.json.broken", "queue.json.broken-2", "queue.json.broken-3"]


def test_dropping_steps_leaves_what_is_not_a_jobs(tmp_path: Path) -> None:
    job, other = tmp_path / "a.job", tmp_path / "b.job"
    for folder in (job, other):
        folder.mkdir()
        for name in ("lock", "job.json", "target.bin", "student.bin", "tuned.step", "x.partial"):
            (folder / name).write_text("")
    (other / "thesis.txt").write_text("mine")
    (other / "deep.step").mkdir()
    for folder in (job, other, tmp_path / "missing.job"):
        drop_steps(folder)
    assert not job.exists() and sorted(p.name for p in other.iterdir()) == ["deep.step", "thesis.txt"]

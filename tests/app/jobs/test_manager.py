"""The queue: one job after another, and all that can happen to one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QTimer
from pytestqt.qtbot import QtBot

from app.jobs.manager import JobManager
from app.jobs.queue import QueueItem, State
from app.jobs.runfile import read_run
from app.jobs.runstate import Expected, RunState
from app.jobs.worker import NICE, Outcome, Runner
from core.errors import BadOption, NotFinite, OutputExists
from tests.app.jobs.play import Asked, Player, Tell, request, whole_job

Make = Callable[[Runner | None], JobManager]


def state_of(jobs: JobManager, item: QueueItem) -> State:
    found = jobs.item(item.id)
    assert found is not None
    return found.state


def wait_for(qtbot: QtBot, jobs: JobManager, item: QueueItem, state: State) -> QueueItem:
    qtbot.waitUntil(lambda: state_of(jobs, item) == state)
    found = jobs.item(item.id)
    assert found is not None
    return found


def test_jobs_run_one_after_another_on_one_thread(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    first = jobs.add("first", request(tmp_path, "first"))
    second = jobs.add("second", request(tmp_path, "second"))
    assert (first.state, second.state) == (State.RUNNING, State.WAITING)
    assert jobs.current() == jobs.item(first.id) and jobs.is_busy
    with qtbot.waitSignal(jobs.finished) as done:
        player.go()
    assert done.args is not None and done.args[0].id == first.id and done.args[0].folder == str(tmp_path / "first")
    assert state_of(jobs, second) == State.RUNNING
    player.go()
    ended = wait_for(qtbot, jobs, second, State.DONE)
    assert ended.weights_bytes == 5000 and ended.ended is not None and ended.fraction == 1.0
    assert len(set(player.threads)) == 1 and player.threads[0] is not threading.main_thread()
    assert not jobs.is_busy and jobs.current() is None


def test_a_run_is_shown_from_its_events(make_jobs: Make, tmp_path: Path, qtbot: QtBot) -> None:
    player = Player(whole_job)
    jobs = make_jobs(player)
    expected = [Expected(f"layer.{i}", i // 2, "qk"[i % 2], (8, 8)) for i in range(4)]
    item = jobs.add("pirate", request(tmp_path), expected, "base", "tuned", estimate=90.0)
    state = jobs.run_state(item.id)
    assert state is not None and [row.state for row in state.layers] == ["todo"] * 4
    seen: list[RunState] = []
    jobs.pumped.connect(seen.append)
    qtbot.waitUntil(lambda: bool(state.folder))
    assert seen and all(s is state for s in seen)
    running = jobs.item(item.id)
    assert running is not None and (running.blocks_done, running.blocks, running.fraction) == (2, 2, 0.5)
    player.go()
    wait_for(qtbot, jobs, item, State.DONE)
    assert state.state == State.DONE and state.layers_done == 4 and state.layers[0].shape == (8, 8)
    ghost = jobs.last_tune_curve()
    assert ghost is not None and list(ghost.training.iterations) == [1, 2, 3] and jobs.last_tune_curve(item.id) is None


def test_pause_and_resume(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    item = jobs.add("pirate", request(tmp_path))
    player.is_deaf.set()
    jobs.pause(item.id)
    assert state_of(jobs, item) == State.PAUSING
    player.is_deaf.clear()
    paused = wait_for(qtbot, jobs, item, State.PAUSED)
    assert paused.seconds > 0 and paused.ended is None and not jobs.is_busy
    jobs.resume(item.id)
    assert state_of(jobs, item) == State.RUNNING
    player.go()
    done = wait_for(qtbot, jobs, item, State.DONE)
    assert done.seconds > paused.seconds and done.began == paused.began
    assert player.requests == [request(tmp_path)] * 2


def test_a_paused_job_lets_the_next_one_run(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    first, second = (jobs.add(name, request(tmp_path, name)) for name in ("first", "second"))
    jobs.pause(first.id)
    wait_for(qtbot, jobs, second, State.RUNNING)
    jobs.resume(first.id)
    assert state_of(jobs, first) == State.WAITING
    player.go()
    wait_for(qtbot, jobs, first, State.RUNNING)


def test_cancel_while_running_waiting_and_paused(jobs: JobManager, tmp_path: Path, qtbot: QtBot) -> None:
    running, waiting, paused = (jobs.add(name, request(tmp_path, name)) for name in ("one", "two", "three"))
    jobs.pause(paused.id)
    assert state_of(jobs, paused) == State.PAUSED
    for item in (waiting, paused):
        jobs.cancel(item.id)
        assert state_of(jobs, item) == State.CANCELLED
    jobs.cancel(running.id)
    assert state_of(jobs, running) == State.CANCELLING
    assert wait_for(qtbot, jobs, running, State.CANCELLED).ended is not None


def test_cancel_while_pausing_cancels(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    item = jobs.add("pirate", request(tmp_path))
    player.is_deaf.set()
    jobs.pause(item.id)
    jobs.cancel(item.id)
    player.is_deaf.clear()
    wait_for(qtbot, jobs, item, State.CANCELLED)


def test_a_refusal_is_shown_as_what_why_and_remedy(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    item = jobs.add("pirate", request(tmp_path))
    player.error = NotFinite("A weight is NaN.", "No scale fits.", "Take another checkpoint.")
    with qtbot.waitSignal(jobs.failed) as told:
        player.go()
    assert told.args is not None
    error = told.args[0].error
    assert (error.what, error.why, error.remedy, error.kind) == ("A weight is NaN.", "No scale fits.", "Take another checkpoint.",
                                                                 "NotFinite")
    assert state_of(jobs, item) == State.FAILED
    state = jobs.run_state(item.id)
    assert state is not None and state.failure == error and state.log[-1].level == "error"


def test_an_unforeseen_error_fails_the_job_only(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    item, other = (jobs.add(name, request(tmp_path, name)) for name in ("pirate", "bard"))
    player.error = SystemExit(3)
    player.go()
    failed = wait_for(qtbot, jobs, item, State.FAILED)
    assert failed.error is not None and "SystemExit" in failed.error.what and "Traceback" in failed.error.details
    wait_for(qtbot, jobs, other, State.RUNNING)


def test_retry_after_a_failure(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    item = jobs.add("pirate", request(tmp_path))
    player.error = ValueError("odd")
    player.go()
    wait_for(qtbot, jobs, item, State.FAILED)
    jobs.retry(item.id)
    again = jobs.item(item.id)
    assert again is not None and again.state == State.RUNNING and again.error is None
    player.go()
    wait_for(qtbot, jobs, item, State.DONE)


def test_two_open_jobs_may_not_write_one_output(jobs: JobManager, tmp_path: Path, qtbot: QtBot) -> None:
    item = jobs.add("pirate", request(tmp_path))
    with pytest.raises(OutputExists, match="pirate"):
        jobs.add("again", {**request(tmp_path), "output": str(tmp_path / "x" / ".." / "pirate")})
    jobs.cancel(item.id)
    wait_for(qtbot, jobs, item, State.CANCELLED)
    other = jobs.add("again", request(tmp_path))
    with pytest.raises(OutputExists, match="again"):
        jobs.retry(item.id)
    assert len(jobs.items()) == 2 and other.state == State.RUNNING


def test_an_output_that_is_there_or_has_no_name_is_refused(jobs: JobManager, tmp_path: Path) -> None:
    (tmp_path / "pirate").mkdir()
    with pytest.raises(OutputExists):
        jobs.add("pirate", request(tmp_path))
    with pytest.raises(BadOption):
        jobs.add("", {"output": ""})
    assert jobs.items() == ()


def test_moving_changes_who_is_next(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    first, second, third = (jobs.add(name, request(tmp_path, name)) for name in ("one", "two", "three"))
    with qtbot.waitSignal(jobs.queue_changed):
        jobs.move(third.id, 1)
    assert [item.id for item in jobs.items()] == [first.id, third.id, second.id]
    player.go()
    wait_for(qtbot, jobs, third, State.RUNNING)


def test_remove_with_its_steps(jobs: JobManager, player: Player, tmp_path: Path, qtbot: QtBot) -> None:
    item = jobs.add("pirate", request(tmp_path))
    with pytest.raises(BadOption, match="running"):
        jobs.remove(item.id)
    folder = item.job_folder
    folder.mkdir()
    for name in ("job.json", "block-0000-done.step", "notes.txt"):
        (folder / name).write_text("x")
    jobs.cancel(item.id)
    wait_for(qtbot, jobs, item, State.CANCELLED)
    jobs.remove(item.id, drop_steps=True)
    assert jobs.items() == () and jobs.run_state(item.id) is None
    qtbot.waitUntil(lambda: [p.name for p in folder.iterdir()] == ["notes.txt"])


def test_steps_that_another_job_needs_stay(jobs: JobManager, tmp_path: Path, qtbot: QtBot) -> None:
    item = jobs.add("pirate", request(tmp_path))
    jobs.cancel(item.id)
    wait_for(qtbot, jobs, item, State.CANCELLED)
    item.job_folder.mkdir()
    (item.job_folder / "job.json").write_text("{}")
    jobs.add("again", request(tmp_path))
    jobs.remove(item.id, drop_steps=True)
    assert jobs.shutdown(5.0)
    assert (item.job_folder / "job.json").is_file()


def test_hold_keeps_waiting_jobs_waiting(jobs: JobManager, tmp_path: Path) -> None:
    jobs.hold()
    item = jobs.add("pirate", request(tmp_path))
    assert item.state == State.WAITING and jobs.is_held
    jobs.hold(False)
    assert state_of(jobs, item) == State.RUNNING


def test_seconds_ahead(jobs: JobManager, tmp_path: Path) -> None:
    assert jobs.seconds_ahead() == 0
    first = jobs.add("one", request(tmp_path, "one"), estimate=100.0)
    second = jobs.add("two", request(tmp_path, "two"), estimate=50.0)
    assert jobs.seconds_ahead() == 150 and jobs.seconds_ahead(second.id) == 100 and jobs.seconds_ahead(first.id) == 0
    jobs.add("three", request(tmp_path, "three"))
    assert jobs.seconds_ahead() is None


def test_closing_while_a_job_runs(make_jobs: Make, player: Player, tmp_path: Path, store: Path) -> None:
    jobs = make_jobs(player)
    item = jobs.add("pirate", request(tmp_path))
    waiting = jobs.add("bard", request(tmp_path, "bard"))
    assert jobs.shutdown(5.0)
    assert (state_of(jobs, item), state_of(jobs, waiting)) == (State.INTERRUPTED, State.WAITING)
    assert not player.threads[0].is_alive()

    later = make_jobs(player)
    assert [i.state for i in later.items()] == [State.INTERRUPTED, State.WAITING]
    assert later.is_held and not later.is_busy           # nothing starts unasked
    later.resume(item.id)
    assert state_of(later, item) == State.RUNNING and not later.is_held


def test_a_new_job_sets_those_of_last_time_going(make_jobs: Make, player: Player, tmp_path: Path) -> None:
    jobs = make_jobs(player)
    jobs.hold()
    old = jobs.add("old", request(tmp_path, "old"))
    assert jobs.shutdown(5.0)
    later = make_jobs(player)
    new = later.add("new", request(tmp_path, "new"))
    assert (state_of(later, old), new.state) == (State.RUNNING, State.WAITING)


def test_the_window_goes_on_while_closing_waits(jobs: JobManager, player: Player, tmp_path: Path) -> None:
    jobs.add("pirate", request(tmp_path))
    player.is_deaf.set()
    QTimer.singleShot(10, player.is_deaf.clear)          # fires only if the event loop runs meanwhile
    assert jobs.shutdown(5.0)


def test_closing_gives_up_waiting_for_a_deaf_job(jobs: JobManager, player: Player, tmp_path: Path) -> None:
    item = jobs.add("pirate", request(tmp_path))
    player.is_deaf.set()
    assert not jobs.shutdown(0.05)
    assert state_of(jobs, item) == State.PAUSING
    player.is_deaf.clear()
    assert jobs.shutdown(5.0)
    assert state_of(jobs, item) == State.INTERRUPTED


def test_after_a_crash_a_job_is_interrupted_and_goes_on(make_jobs: Make, tmp_path: Path, store: Path, qtbot: QtBot) -> None:
    player = Player(whole_job)
    jobs = make_jobs(player)
    item = jobs.add("pirate", request(tmp_path))
    state = jobs.run_state(item.id)
    assert state is not None
    qtbot.waitUntil(lambda: bool(state.folder))
    assert jobs.shutdown(5.0)
    file = store / "queue.json"
    content: dict[str, Any] = json.loads(file.read_text())
    content["items"][0]["state"] = "running"             # as a crash leaves it
    file.write_text(json.dumps(content))

    later = make_jobs(player)
    assert state_of(later, item) == State.INTERRUPTED
    kept = later.run_state(item.id)
    assert kept is not None and kept.state == State.INTERRUPTED and kept.layers_done == 4 and len(kept.curves_of("layer.0")) == 2
    later.resume(item.id)
    player.go()
    done = wait_for(qtbot, later, item, State.DONE)
    assert done.seconds > 0 and kept.layers_done == 4 and kept.stages["fit"].state == "done"


def test_a_kill_hides_no_layer_that_was_finished(make_jobs: Make, tmp_path: Path, store: Path, qtbot: QtBot,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.running.SAVE_SOON", 0.05)
    jobs = make_jobs(Player(lambda folder: list(whole_job(folder))[:-9]))       # up to the last layer, not yet tuned
    item = jobs.add("pirate", request(tmp_path), [Expected(f"layer.{i}", i // 2, "q", (8, 8)) for i in range(4)])

    def saved() -> RunState | None:
        return read_run(store / "runs" / f"{item.id}.msgpack")
    qtbot.waitUntil(lambda: (found := saved()) is not None and found.layers_done == 4, timeout=10_000)
    qtbot.waitUntil(lambda: b'"blocks_done": 2' in (store / "queue.json").read_bytes(), timeout=10_000)
    shutil.copytree(store, tmp_path / "killed")         # what is on the disk when the program is killed now
    later = JobManager(tmp_path / "killed")
    found, state = later.item(item.id), later.run_state(item.id)
    assert found is not None and (found.state, found.blocks_done, found.blocks) == (State.INTERRUPTED, 2, 2)
    assert found.fraction == 0.5 and state is not None and (state.layers_done, state.fraction, state.stage) == (4, 0.5, "fit")
    assert state.log_count and later.shutdown(5.0)


def test_a_killed_job_is_as_far_as_its_folder(make_jobs: Make, player: Player, tmp_path: Path, store: Path, qtbot: QtBot) -> None:
    jobs = make_jobs(player)
    item = jobs.add("pirate", request(tmp_path), [Expected(f"layer.{i}", i // 2, "q", (8, 8)) for i in range(8)])
    qtbot.waitUntil(lambda: store.joinpath("runs", f"{item.id}.msgpack").is_file())
    assert jobs.shutdown(5.0)
    file = store / "queue.json"
    file.write_text(file.read_text().replace('"interrupted"', '"running"'))
    item.job_folder.mkdir()
    for name in ("block-0000-done.step", "block-0001-done.step", "block-0002-level-0.step", "calibration.step", "lock"):
        (item.job_folder / name).write_bytes(b"")
    later = make_jobs(player)
    found, state = later.item(item.id), later.run_state(item.id)
    assert found is not None and (found.state, found.blocks_done) == (State.INTERRUPTED, 2)
    assert state is not None and (state.blocks_done, state.blocks, state.layers_done, state.stage) == (2, 4, 4, "fit")
    assert [state.stages[name].state for name in ("plan", "prepare", "fit", "tune")] == ["done", "done", "now", "todo"]
    player.events = lambda folder: whole_job(folder, 8)
    later.resume(item.id)
    qtbot.waitUntil(lambda: state.stage == "write")
    assert state.layers_done == 8 and state.blocks_done == 4   # what goes on tells its layers again, and none counts twice


def test_a_damaged_queue_file_is_set_aside_and_told(make_jobs: Make, player: Player, tmp_path: Path, store: Path,
                                                    qtbot: QtBot) -> None:
    store.mkdir()
    (store / "queue.json").write_text('{"version": 1, "items": [{"id"')
    jobs = make_jobs(player)
    with qtbot.waitSignal(jobs.message) as told:
        pass
    assert told.args is not None and "queue.json.broken" in told.args[0]
    assert jobs.items() == () and (store / "queue.json.broken").is_file()
    jobs.add("pirate", request(tmp_path))
    assert jobs.shutdown(5.0) and (store / "queue.json").is_file()


def test_a_store_that_can_not_be_written(tmp_path: Path, player: Player, make_jobs: Make, store: Path, qtbot: QtBot) -> None:
    store.write_text("a file where the folder should be")
    jobs = make_jobs(player)
    with qtbot.waitSignal(jobs.message) as told:
        jobs.add("pirate", request(tmp_path))
    assert told.args is not None and "queue.json" in told.args[0]


def test_signals_of_a_whole_job(make_jobs: Make, tmp_path: Path, qtbot: QtBot) -> None:
    player = Player(whole_job)
    jobs = make_jobs(player)
    heard: list[str] = []
    jobs.item_changed.connect(lambda item: heard.append(item.state))
    with qtbot.waitSignal(jobs.finished):
        jobs.add("pirate", request(tmp_path))
        player.go()
    assert heard[0] == "running" and heard[-1] == "done" and set(heard) == {"running", "done"}


def test_only_so_many_ended_jobs_stay(jobs: JobManager, player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.manager.MOST_ENDED", 2)
    jobs.hold()
    for number in range(5):
        jobs.cancel(jobs.add(str(number), request(tmp_path, str(number))).id)
    jobs.add("last", request(tmp_path, "last"))
    assert [item.name for item in jobs.items()] == ["3", "4", "last"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_the_worker_gives_way_to_the_window(make_jobs: Make, tmp_path: Path, qtbot: QtBot) -> None:
    found: list[int] = []

    def run(request: dict[str, Any], tell: Tell, cancelled: Asked) -> Outcome:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return Outcome(request["output"])
    jobs = make_jobs(run)
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with qtbot.waitSignal(jobs.finished):
        jobs.add("pirate", request(tmp_path))
    assert found == [min(19, here + NICE)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here

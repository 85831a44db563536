"""Where jobs run: one GPU each where there are several (a stand-in's names; no GPU is used here), else one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.jobs import worker
from app.jobs.lanes import Lanes
from app.jobs.manager import JobManager
from app.jobs.queue import QueueItem, State
from app.jobs.worker import Outcome, Runner, run_apart, settled
from core import devices, fleet, fleet_local
from core.errors import BadOption, Cancelled, DeltadeckError, NoSpace
from core.events import AnyEvent, LayerFitted, StageStarted, Warned
from tests.app.jobs.play import Asked, Player, Tell, fitted, request, started
from tests.app.jobs.test_manager import state_of, wait_for
from tests.conftest import byte_tokenizer
from tests.models import make_pair, write_text


class Machine:
    """Stands in for a machine with GPUs: a player for each, one for this process, and a cluster of some places."""

    def __init__(self, *gpus: str) -> None:
        self.gpus: tuple[str, ...] = gpus
        self.here = Player()
        self.players: dict[str, Player] = {}
        self.room = 1

    def apart(self, gpu: str) -> Runner:
        return self.players.setdefault(gpu, Player())

    def places(self, address: str) -> int:
        return self.room

    def runner(self, address: str) -> Runner:
        return self.players.setdefault(address, Player())

    def close(self, timeout: float) -> bool:
        return True

    def lanes(self) -> Lanes:
        return Lanes(self.here, self.apart, lambda: self.gpus, lambda: self)


Make = Callable[[Machine], JobManager]


@pytest.fixture
def on(qapp: QApplication, store: Path) -> Iterator[Make]:
    made: list[JobManager] = []

    def make(machine: Machine) -> JobManager:
        made.append(JobManager(store, lanes=machine.lanes()))
        return made[-1]
    yield make
    for manager in made:
        assert manager.shutdown(5.0)
        manager.deleteLater()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("deltadeck")]


def states(jobs: JobManager) -> list[str]:
    return [item.state.value for item in jobs.items()]


def test_as_many_jobs_run_as_there_are_gpus_the_least_used_first(on: Make, tmp_path: Path, qtbot: QtBot) -> None:
    machine = Machine("4", "6")
    jobs = on(machine)
    one, two, three = (jobs.add(n, request(tmp_path, n)) for n in ("one", "two", "three"))
    assert states(jobs) == ["running", "running", "waiting"] and not jobs.has_room()
    assert jobs.current() == jobs.item(one.id)
    qtbot.waitUntil(lambda: all(p.requests for p in machine.players.values()))
    assert {g: [r["output"] for r in p.requests] for g, p in machine.players.items()} == {"4": [one.request["output"]],
                                                                                           "6": [two.request["output"]]}
    machine.players["6"].go()
    wait_for(qtbot, jobs, two, State.DONE)
    assert state_of(jobs, three) == State.RUNNING and state_of(jobs, one) == State.RUNNING
    machine.players["6"].go()
    wait_for(qtbot, jobs, three, State.DONE)           # that GPU has had two jobs now, the first one
    machine.players["4"].go()
    wait_for(qtbot, jobs, one, State.DONE)
    jobs.add("four", request(tmp_path, "four"))
    qtbot.waitUntil(lambda: len(machine.players["4"].requests) == 2)
    assert not machine.here.requests and len(machine.players["6"].requests) == 2


def test_what_is_asked_to_stop_is_only_the_one(on: Make, tmp_path: Path, qtbot: QtBot) -> None:
    jobs = on(Machine("0", "1"))
    one, two = (jobs.add(n, request(tmp_path, n)) for n in ("one", "two"))
    jobs.cancel(two.id)
    wait_for(qtbot, jobs, two, State.CANCELLED)
    assert state_of(jobs, one) == State.RUNNING
    assert jobs.shutdown() and state_of(jobs, one) == State.INTERRUPTED


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_on_the_cpu_one_after_the_other(on: Make, tmp_path: Path, device: str) -> None:
    jobs = on(Machine("0", "1"))
    for name in ("one", "two"):
        jobs.add(name, {**request(tmp_path, name), "device": device})
    assert states(jobs) == ["running", "waiting"]


def test_a_job_that_began_before_the_gpus_were_known_has_the_first_one(on: Make, tmp_path: Path, qtbot: QtBot) -> None:
    machine = Machine()
    jobs = on(machine)
    for name in ("one", "two", "three"):
        jobs.add(name, request(tmp_path, name))
    assert states(jobs) == ["running", "waiting", "waiting"]
    machine.gpus = ("0", "1")
    qtbot.waitUntil(lambda: states(jobs) == ["running", "running", "waiting"])
    qtbot.waitUntil(lambda: len(machine.players["1"].requests) == 1)
    assert len(machine.here.requests) == 1 and not machine.players["0"].requests
    machine.here.go()
    qtbot.waitUntil(lambda: states(jobs) == ["done", "running", "running"])
    qtbot.waitUntil(lambda: len(machine.players["0"].requests) == 1)


def test_a_gpu_asked_for_by_number_is_the_only_one_of_its_process(on: Make, tmp_path: Path, qtbot: QtBot) -> None:
    machine = Machine("0", "7")
    jobs = on(machine)
    item = jobs.add("one", {**request(tmp_path, "one"), "device": "cuda:1"})
    qtbot.waitUntil(lambda: "7" in machine.players and bool(machine.players["7"].requests))
    assert machine.players["7"].requests[0]["device"] == "cuda"
    kept = jobs.item(item.id)
    assert kept is not None and kept.request["device"] == "cuda:1"


def test_a_cluster_takes_what_it_has_room_for_beside_this_computer(on: Make, tmp_path: Path, qtbot: QtBot) -> None:
    machine = Machine()
    jobs, where = on(machine), "ray://head:10001"
    here = jobs.add("here", request(tmp_path, "here"))
    for name in ("base", "pirate"):
        (tmp_path / name).mkdir()
    shared = {"base": str(tmp_path / "base"), "fine_tuned": str(tmp_path / "pirate")}
    for name in ("one", "two", "three"):
        jobs.add(name, {**request(tmp_path, name), **shared}, where=where, estimate=60.0)
    assert states(jobs) == ["running", "running", "waiting", "waiting"]
    assert jobs.seconds_ahead(where=where) == 180.0
    machine.room = 2                                   # once it is connected, more is known
    qtbot.waitUntil(lambda: states(jobs) == ["running", "running", "running", "waiting"])
    assert jobs.seconds_ahead(where=where) == 60.0 and jobs.seconds_ahead() is None
    assert {item.where for item in jobs.items() if item.id != here.id} == {where}
    with pytest.raises(BadOption, match="storage that all nodes share"):
        jobs.add("hub", request(tmp_path, "hub"), where=where)


def test_a_retry_goes_where_jobs_go_now_unless_it_has_steps(on: Make, tmp_path: Path, qtbot: QtBot) -> None:
    machine = Machine()
    jobs, where = on(machine), "ray://head:10001"
    (tmp_path / "base").mkdir()
    shared = {"base": str(tmp_path / "base"), "fine_tuned": str(tmp_path / "base")}
    item = jobs.add("one", {**request(tmp_path, "one"), **shared}, where=where)
    jobs.cancel(item.id)
    wait_for(qtbot, jobs, item, State.CANCELLED)
    item.job_folder.mkdir()
    jobs.retry(item.id, "")
    assert found(jobs, item).where == where
    jobs.cancel(item.id)
    wait_for(qtbot, jobs, item, State.CANCELLED)
    item.job_folder.rmdir()
    jobs.retry(item.id, "")
    assert found(jobs, item).where == ""
    qtbot.waitUntil(lambda: bool(machine.here.requests))


def found(jobs: JobManager, item: QueueItem) -> QueueItem:
    now = jobs.item(item.id)
    assert now is not None
    return now


def test_a_lost_node_shows_as_a_job_begun_anew(on: Make, tmp_path: Path, qtbot: QtBot) -> None:
    told = threading.Event()

    def run(asked: dict[str, Any], tell: Tell, cancelled: Asked) -> Outcome:
        for event in (StageStarted(stage="plan", total=9), StageStarted(stage="fit", total=2), started(0), fitted(0), started(1)):
            tell(event)
        tell(Warned(message="Its node was lost: retried on another node, 'b'."))
        tell(StageStarted(stage="plan", total=9))
        tell(StageStarted(stage="fit", total=2))
        again = fitted(0)
        assert isinstance(again, LayerFitted)
        tell(LayerFitted(**{f: getattr(again, f) for f in again.__struct_fields__ if f != "restored"}, restored=True))
        told.set()
        while not cancelled():
            threading.Event().wait(0.005)
        raise Cancelled("Cancelled.")
    machine = Machine()
    machine.here = run  # type: ignore[assignment]
    jobs = on(machine)
    item = jobs.add("one", request(tmp_path, "one"))
    state = jobs.run_state(item.id)
    assert state is not None
    qtbot.waitUntil(lambda: told.is_set() and state.layers_done == 1 and state.warnings == 1)
    assert state.stages["fit"].state == "now" and state.blocks_done == 0 and state.layers[1].state == "todo"
    assert not any("Fit done" in entry.text for entry in state.log)


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.cuda_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-9")
    assert devices.cuda_devices() == ["3", "GPU-9"]


def test_a_job_in_a_process_of_its_own(tmp_path: Path) -> None:
    base, tuned = make_pair(tmp_path, "llama-tied", byte_tokenizer(), share=0.05)
    asked = {"base": str(base), "fine_tuned": str(tuned), "output": str(tmp_path / "delta"), "samples": 4, "tune_samples": 2,
             "calibration": str(write_text(tmp_path)), "sequence_length": 24, "device": "cpu"}
    events: list[AnyEvent] = []
    made = run_apart("0")(asked, events.append, lambda: False)
    assert made.folder == str(tmp_path / "delta") and made.weights_bytes > 0 and isinstance(events[0], StageStarted)
    with pytest.raises(DeltadeckError, match="exists already"):
        run_apart("0")(asked, events.append, lambda: False)


def test_a_job_whose_process_dies_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(queue: fleet_local._Queue) -> Iterator[fleet.Outcome]:
        member, = queue.waiting
        queue.begun[member.name] = fleet_local.ATTEMPTS
        ours, theirs = Pipe()
        theirs.close()
        process = SimpleNamespace(exitcode=-9, join=lambda seconds: None)
        hand = fleet_local._Hand(queue.free.popleft(), cast(Any, process), ours, member)
        queue.hands.append(hand)
        yield from queue._listen(hand)
    monkeypatch.setattr(fleet_local._Queue, "run", dead)
    asked = {"base": "b", "fine_tuned": "f", "output": str(tmp_path / "delta"), "device": "cuda"}
    with pytest.raises(DeltadeckError, match=r"SIGKILL.*2 times\. .* then press Retry: the job goes on") as lost:
        run_apart("0")(asked, lambda event: None, lambda: False)
    assert "command" not in str(lost.value) and "workers" not in str(lost.value)


def test_what_became_of_a_job_elsewhere() -> None:
    plain = {"name": "a", "folder": "d", "weights_bytes": 5, "problem": None}
    assert settled({**plain, "state": "kept"}) == Outcome("d", 5)
    with pytest.raises(Cancelled):
        settled({**plain, "state": "stopped"})
    problem = {"what": "What.", "why": "Why.", "remedy": "Do."}
    with pytest.raises(NoSpace, match=r"What\. Why\. Do\."):
        settled({**plain, "state": "failed", "problem": {**problem, "kind": "NoSpace"}})
    with pytest.raises(DeltadeckError, match=r"What\."):
        settled({**plain, "state": "failed", "problem": {**problem, "kind": "KeyError"}})


def test_without_a_gpu_nothing_is_known_of_any() -> None:
    assert worker.known_gpus() == ()

"""The window's jobs on a cluster: the driver on a thread instead of in a process, and a stand-in for Ray behind it.

The stand-in runs tasks here, loses the node of a first attempt if asked to, and knows nodes by what they say of themselves.
Ray itself is tried in `test_fleet.py` and by `bench_fleet`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app import fleet_cluster, fleet_driver, fleet_ray
from app.fleet_address import address_problem, has_ray
from app.fleet_cluster import Cluster, look, seen_words
from app.fleet_driver import Node
from app.jobs.lanes import Lanes
from app.jobs.manager import JobManager
from app.jobs.queue import State
from core import __version__
from core.errors import Cancelled, ClusterUnavailable
from core.events import AnyEvent, LayerFitted
from tests.app.jobs.play import Player
from tests.app.jobs.test_manager import wait_for
from tests.conftest import byte_tokenizer
from tests.models import (
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    write_text,
)

WHERE = "ray://head:10001"


class LocalRay:
    """Tasks run on threads; one whose node is lost is begun again."""

    class RayError(Exception):
        """As Ray's own."""

    def __init__(self) -> None:
        self.exceptions = SimpleNamespace(RayError=self.RayError)
        self.alive = [{"Alive": True, "NodeID": f"n{i}", "NodeManagerHostname": f"host{i}", "Resources": {"CPU": 1.0}}
                      for i in range(2)]

    def nodes(self) -> list[dict[str, Any]]:
        return self.alive

    def remote(self, **options: Any) -> Callable[..., Any]:
        return lambda work: SimpleNamespace(remote=lambda argument: self._begin(work, argument))

    def _begin(self, work: Any, argument: Any) -> Any:
        made = SimpleNamespace(result=None, error=None, stop=threading.Event())
        made.thread = threading.Thread(target=self._carry_out, args=(made, work, argument), daemon=True)
        made.thread.start()
        return _Reference(made)

    def _carry_out(self, made: Any, work: Any, argument: Any) -> None:
        try:
            made.result = work(argument)
        except _Lost:
            made.result = work(argument)               # on another node
        except Exception as e:
            made.error = e

    def wait(self, references: list[Any], timeout: float, num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        for i, reference in enumerate(references):
            reference.made.thread.join(timeout if i < num_returns else 0)
        ready = [r for r in references if not r.made.thread.is_alive()][:num_returns]
        return ready, [r for r in references if r not in ready]

    def get(self, reference: Any) -> Any:
        if reference.made.error is not None:
            raise self.RayError(str(reference.made.error))
        return reference.made.result

    def cancel(self, reference: Any, force: bool) -> None:
        STOPPED.set()


class _Reference:
    def __init__(self, made: Any) -> None:
        self.made = made


class _Lost(BaseException):
    """A node is gone: nothing of a job catches it."""


STOPPED = threading.Event()


def on_threads(ray: LocalRay | Exception) -> fleet_cluster.Launch:
    """Starts drivers as threads of this process, connected to the stand-in."""
    @contextmanager
    def connect(address: str) -> Iterator[LocalRay]:
        if isinstance(ray, Exception):
            raise ray
        yield ray

    def launch(name: str, arguments: tuple[Any, ...]) -> tuple[threading.Thread, Connection]:
        ours, theirs = Pipe()
        side = threading.Thread(target=getattr(fleet_driver, name), args=(theirs, *arguments, connect), daemon=True)
        side.start()
        return side, ours
    return launch


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pair")
    base, tuned = make_pair(folder, "llama-tied", byte_tokenizer(), share=0.05)
    return {"base": str(base), "fine_tuned": str(tuned), "samples": 4, "tune_samples": 2, "calibration": str(write_text(folder)),
            "sequence_length": 24, "device": "cpu"}


@pytest.fixture
def make_jobs(qapp: QApplication, tmp_path: Path) -> Iterator[Callable[[LocalRay | Exception], JobManager]]:
    made: list[JobManager] = []
    STOPPED.clear()

    def make(ray: LocalRay | Exception) -> JobManager:
        made.append(JobManager(tmp_path / "store", lanes=Lanes(Player(), cluster=lambda: Cluster(on_threads(ray)))))
        return made[-1]
    yield make
    for manager in made:
        assert manager.shutdown(20.0)
        manager.deleteLater()


Make = Callable[[LocalRay | Exception], JobManager]


def slow(monkeypatch: pytest.MonkeyPatch, after: int, then: Callable[[], None]) -> None:
    """Have something happen in a task after so many layers, once."""
    tell, seen = fleet_ray._Writer.tell, list[AnyEvent]()

    def told(writer: Any, event: AnyEvent) -> None:
        tell(writer, event)
        seen.append(event)
        if isinstance(event, LayerFitted) and sum(isinstance(e, LayerFitted) for e in seen) == after:
            then()
    monkeypatch.setattr(fleet_ray._Writer, "tell", told)


def test_a_job_runs_on_the_cluster_and_shows_in_the_same_way(make_jobs: Make, pair: dict[str, Any], tmp_path: Path,
                                                             qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        raise _Lost
    slow(monkeypatch, 9, lose)
    nodes = iter(("n0", "n1"))
    monkeypatch.setattr(fleet_ray, "_node", lambda: next(nodes))
    jobs = make_jobs(LocalRay())
    output = tmp_path / "deltas" / "pirate"
    item = jobs.add("pirate", {**pair, "output": str(output)}, where=WHERE)
    done = wait_for(qtbot, jobs, item, State.DONE)
    assert done.folder == str(output) and done.weights_bytes > 0 and (output / "delta_config.json").is_file()
    state = jobs.run_state(item.id)
    assert state is not None and {row.state for row in state.layers} == {"done"} and state.fraction == 1.0
    assert state.layers_done == state.layers_total and jobs.last_tune_curve() is not None
    said = [entry.text for entry in state.log]
    assert said[0] == f"Sent to the cluster {WHERE}: it begins when a node is free"
    assert any("was lost: retried on another node" in text for text in said)
    assert any("taken over from before" in text for text in said)
    assert [p.name for p in (tmp_path / "deltas").iterdir()] == ["pirate"]       # no note stays behind


def test_a_job_is_cancelled_on_the_cluster_and_goes_on_later(make_jobs: Make, pair: dict[str, Any], tmp_path: Path, qtbot: QtBot,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        """Ray's interruption of a task."""

    def wait() -> None:
        assert STOPPED.wait(30)
        raise Ended
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    slow(monkeypatch, 5, wait)
    jobs = make_jobs(LocalRay())
    item = jobs.add("pirate", {**pair, "output": str(tmp_path / "deltas" / "pirate")}, where=WHERE)
    state = jobs.run_state(item.id)
    assert state is not None
    qtbot.waitUntil(lambda: state.layers_done == 5)
    jobs.cancel(item.id)
    wait_for(qtbot, jobs, item, State.CANCELLED)
    assert item.job_folder.is_dir()
    jobs.retry(item.id)
    wait_for(qtbot, jobs, item, State.DONE)
    assert any("taken over from before" in entry.text for entry in state.log)


@pytest.mark.parametrize(("error", "words"), [(RuntimeError("odd"), "odd"),
                                              (ClusterUnavailable("No Ray cluster answers.", "Why.", "Start one."), "No Ray")])
def test_a_cluster_that_is_not_there_fails_the_job(make_jobs: Make, pair: dict[str, Any], tmp_path: Path, qtbot: QtBot,
                                                   error: Exception, words: str) -> None:
    jobs = make_jobs(error)
    item = jobs.add("pirate", {**pair, "output": str(tmp_path / "pirate")}, where=WHERE)
    failed = wait_for(qtbot, jobs, item, State.FAILED)
    assert failed.error is not None and failed.error.kind == "ClusterUnavailable" and failed.error.remedy
    assert words in f"{failed.error.what} {failed.error.why}"


def test_a_folder_that_nodes_do_not_see_is_refused_in_words(make_jobs: Make, pair: dict[str, Any], tmp_path: Path, qtbot: QtBot,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    work = fleet_ray.on_node

    def elsewhere(order: bytes) -> bytes:
        return work(order.replace(str(tmp_path / "deltas").encode(), b"/no/such/place"))
    monkeypatch.setattr(fleet_ray, "on_node", elsewhere)
    jobs = make_jobs(LocalRay())
    item = jobs.add("pirate", {**pair, "output": str(tmp_path / "deltas" / "pirate")}, where=WHERE)
    failed = wait_for(qtbot, jobs, item, State.FAILED)
    assert failed.error is not None and "does not see" in failed.error.what and "all nodes share" in failed.error.why


def test_jobs_at_once_follow_from_the_nodes() -> None:
    assert fleet_driver.places([{"CPU": 4.0}, {"CPU": 4.0}]) >= 2
    assert fleet_driver.places([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}]) == 3
    assert fleet_driver.places([{}]) == 1


# ------------------------------------------------------------------------------------------------------- a look
def test_a_look_tells_nodes_and_whether_they_see_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_driver, "_at", lambda ray, node: "SPREAD")
    monkeypatch.setattr(fleet_driver, "_HELLO", 300)   # a busy machine is not what this is about
    folder = tmp_path / "deltas"
    seen = look(WHERE, str(folder), lambda: False, on_threads(LocalRay()), 300)
    kind, text = seen_words(seen)
    assert kind == "good" and text == "Reachable: 2 nodes, 2 processors, no GPU. All see the deltas' folder."
    assert not list(folder.iterdir())

    def blind(mark: str) -> tuple[str, str, bool]:
        raise ModuleNotFoundError("No module named 'app'")
    monkeypatch.setattr(fleet_driver, "hello", blind)
    kind, text = seen_words(look(WHERE, str(folder), lambda: False, on_threads(LocalRay()), 300))
    assert kind == "warning" and "install it there" in text and "'host0', 'host1'" in text


def test_what_is_wrong_with_nodes_is_said() -> None:
    nodes = [vars(Node("a", __version__, False)), vars(Node("b", "0.0", True))]
    kind, text = seen_words({"nodes": nodes, "cpus": 1, "gpus": 2, "silent": 1})
    assert kind == "warning" and text.startswith("Reachable: 3 nodes, 1 processor, 2 GPUs.")
    assert "can't be seen from 'a'" in text and "Another version of Deltadeck is on 'b'" in text and "1 of them did not" in text


def test_a_look_ends_in_time_and_when_it_is_stopped() -> None:
    kept: list[Connection] = []

    def deaf(name: str, arguments: tuple[Any, ...]) -> tuple[threading.Thread, Connection]:
        ours, theirs = Pipe()
        kept.append(theirs)
        side = threading.Thread(target=lambda: None)
        side.start()
        return side, ours
    with pytest.raises(ClusterUnavailable, match="no answer within"):
        look(WHERE, "", lambda: False, deaf, seconds=0.1)
    with pytest.raises(Cancelled):
        look(WHERE, "", lambda: True, deaf)
    refusing = on_threads(ClusterUnavailable("No Ray cluster answers at 'x'."))
    with pytest.raises(ClusterUnavailable, match="No Ray cluster"):
        look(WHERE, "", lambda: False, refusing)


@pytest.mark.parametrize(("text", "fits"), [("ray://head:10001", True), ("ray://10.0.0.7:1", True), ("ray://[::1]:10001", True),
                                            ("", False), ("head:10001", False), ("ray://head", False), ("ray://head:0", False),
                                            ("ray://head:70000", False), ("ray://he ad:1", False), ("ray://u@h:1", False)])
def test_addresses(text: str, fits: bool) -> None:
    assert (address_problem(text) == "") is fits


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert not has_ray()
    cluster = Cluster()
    with pytest.raises(ClusterUnavailable, match=r"pip install 'deltadeck\[cluster\]'"):
        cluster.runner(WHERE)({}, lambda event: None, lambda: False)
    assert cluster.close(1.0)

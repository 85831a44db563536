"""The process that speaks to a Ray cluster for the window: it keeps the connection, and a thread for each job that was sent.

A process of its own, since connecting may hang for minutes and Ray's client brings threads and settings of its own: it can
be ended at any time, and the window goes on. What travels is plain data, so that the window needs neither Ray nor torch.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from app import fleet_ray
from core import __version__
from core.errors import BadOption, ClusterUnavailable, DeltadeckError
from core.events import Event
from core.fleet import NOTES, Member, Outcome, failed, run_fleet
from core.request import Request

Connect = Callable[[str], AbstractContextManager[Any]]
"""Opens a connection to an address, gives the small part of Ray that `app.fleet_ray` uses, and closes it."""

_MOST = 64
"""Jobs that are sent at once at most, whatever a cluster could take."""
_HELLO = 30.0
"""Seconds in which a node has to say that it is there."""


def plain(error: BaseException) -> dict[str, str]:
    """An error as data."""
    if isinstance(error, DeltadeckError):
        return {"kind": type(error).__name__, "what": error.what, "why": error.why, "remedy": error.remedy}
    first = (str(error).strip().splitlines() or [""])[0]
    return {"kind": "ClusterUnavailable", "what": "The Ray cluster can't be used.", "why": f"{type(error).__name__}: {first}",
            "remedy": "Test it in Settings, then try again."}


def _quiet() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)   # the window says when to stop


# ------------------------------------------------------------------------------------------------------- jobs
def serve(line: Connection, address: str, connect: Connect = fleet_ray.connected) -> None:
    """Take ("run", number, request) and ("stop", number), give ("places", n), ("event", number, event) and
    ("outcome", number, plain outcome); ("refused", plain error) where nothing answers. Anything else, or the line's end, ends it.
    """
    _quiet()
    driver = _Driver(line)
    try:
        with connect(address) as ray:
            try:
                driver.run(ray)
            finally:
                driver.stop()                          # while there is a connection by which tasks can be ended
    except Exception as e:
        driver.send("refused", plain(e))
    finally:
        line.close()


class _Driver:
    """The jobs that were sent, each with its thread and what asks it to stop."""

    def __init__(self, line: Connection) -> None:
        self.line, self.lock = line, threading.Lock()
        self.jobs: dict[int, tuple[threading.Thread, threading.Event]] = {}

    def send(self, *message: Any) -> None:
        """Tell the window; where it is gone, nobody needs to know."""
        with self.lock, suppress(OSError, ValueError):
            self.line.send(message)

    def run(self, ray: Any) -> None:
        """Until the window says so, or is gone."""
        self.send("places", places(fleet_ray.node_resources(ray)))
        with suppress(OSError, EOFError):
            while (message := self.line.recv()) is not None:
                if message[0] == "run":
                    stop = threading.Event()
                    thread = threading.Thread(target=self._carry_out, args=(ray, message[1], message[2], stop), daemon=True)
                    self.jobs[message[1]] = thread, stop
                    thread.start()
                elif message[1] in self.jobs:
                    self.jobs[message[1]][1].set()

    def stop(self) -> None:
        """End all jobs and wait for them: their tasks hold processors of the cluster."""
        for _, stop in self.jobs.values():
            stop.set()
        for thread, _ in self.jobs.values():
            thread.join()

    def _carry_out(self, ray: Any, number: int, request: dict[str, Any], stop: threading.Event) -> None:
        asked = Request(**request)
        threads = fleet_ray.asked_threads()
        member = Member(name=Path(asked.output).name, request=asked, threads=threads or 1)
        try:
            fleet_ray.check_shared([member])
            needs = fleet_ray.plan_needs(fleet_ray.node_resources(ray), asked.device, None, threads)

            def tell(name: str, event: Event) -> None:
                self.send("event", number, event)
            [outcome] = run_fleet([member], fleet_ray.ray_engine(ray, needs), tell, stop.is_set)
        except DeltadeckError as e:
            outcome = failed(member, e)
        except OSError as e:                           # Ray's client raises ConnectionError where the cluster is gone
            lost = ClusterUnavailable("The connection to the Ray cluster was lost.", f"It said: {e}",
                                      "Finished layers are kept: look after the cluster, then try again.")
            outcome = failed(member, lost if isinstance(e, ConnectionError) else e)
        except Exception as e:
            outcome = failed(member, e)
        if outcome.state in ("done", "kept"):
            _clear(member)
        self.send("outcome", number, _as_data(outcome))


def _as_data(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(outcome)
    return found


def _clear(member: Member) -> None:
    """A delta of the library needs no note of what it was asked for."""
    with suppress(OSError):
        member.note.unlink(missing_ok=True)
        member.note.parent.rmdir()                     # unless others are in work


def places(nodes: list[dict[str, float]]) -> int:
    """How many jobs these nodes run at once."""
    with suppress(BadOption, ClusterUnavailable):
        needs = fleet_ray.plan_needs(nodes, "auto", None, fleet_ray.asked_threads())
        each = ((n.get("GPU", 0) // needs.gpus) if needs.gpus else n.get("CPU", 0) // needs.cpus for n in nodes)
        return max(1, min(_MOST, int(sum(each))))
    return 1


# ------------------------------------------------------------------------------------------------------- a look
@dataclass(frozen=True)
class Node:
    """What a node says of itself: `version` of its Deltadeck, empty where it has none; whether it reads the shared folder."""

    name: str
    version: str
    sees: bool


@dataclass(frozen=True)
class Seen:
    """A cluster that answers."""

    nodes: tuple[Node, ...]
    cpus: int
    gpus: int
    silent: int
    """Nodes that did not answer in time: they may be at work."""


def hello(mark: str) -> tuple[str, str, bool]:
    """A task: (name of its node, version of Deltadeck, whether it reads the file `mark`)."""
    return os.uname().nodename, __version__, os.path.isfile(mark)


def look(line: Connection, address: str, folder: str, connect: Connect = fleet_ray.connected) -> None:
    """Give ("seen", `Seen` as data) of a cluster, or ("refused", plain error). `folder`: where deltas go."""
    _quiet()
    try:
        with connect(address) as ray, _marked(Path(folder)) as mark:
            said: tuple[str, dict[str, Any]] = ("seen", asdict(_look(ray, mark)))
    except Exception as e:
        said = ("refused", plain(e))
    with suppress(OSError):
        line.send(said)
    line.close()


@contextmanager
def _marked(folder: Path) -> Iterator[str]:
    """A file that only those have who see this machine's folder."""
    notes = folder / NOTES
    notes.mkdir(parents=True, exist_ok=True)
    mark = notes / f"seen-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield str(mark)
    finally:
        mark.unlink(missing_ok=True)
        with suppress(OSError):
            notes.rmdir()


def _look(ray: Any, mark: str) -> Seen:
    alive = [n for n in ray.nodes() if n["Alive"]]
    asked = {}
    for node in alive:
        place = _at(ray, node)
        asked[ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(hello).remote(mark)] = node
    ready, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=_HELLO) if asked else ([], [])
    found = []
    for reference in ready:
        try:
            found.append(Node(*ray.get(reference)))
        except Exception:                              # the task could not be read there: Deltadeck is missing, or another one
            found.append(Node(str(asked[reference].get("NodeManagerHostname", "")), "", False))
    total = [dict(n["Resources"]) for n in alive]
    return Seen(tuple(found), int(sum(n.get("CPU", 0) for n in total)), int(sum(n.get("GPU", 0) for n in total)), len(waiting))


def _at(ray: Any, node: dict[str, Any]) -> Any:
    if importlib.util.find_spec("ray") is None or not hasattr(ray, "util"):
        return "SPREAD"
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)

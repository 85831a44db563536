"""A batch across machines: each job is a Ray task, on shared storage that every node finds under the same path.

What outlives a node lies on that storage: journals, deltas, and a file of events for each job, which the driver reads as
it grows (an actor that passes events on could be lost itself). Ray begins a lost node's task again elsewhere; it waits for
the lock of whatever is still dying there and goes on from the journal.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from app.console import quiet_process, quiet_transformers
from app.fleet_address import INSTALL
from core import __version__
from core.errors import BadOption, ClusterUnavailable, DeltadeckError
from core.events import AnyEvent, LossPoint, Progress, TunePoint, Warned
from core.fleet import Engine, Member, Outcome, Surroundings, Tell, carry_out, failed
from core.fleet_sources import Shared

RETRIES = 3
"""How often Ray begins a job again whose node or process was lost."""

LOCK_SECONDS = 120.0
"""A file server gives a dead machine's locks back after its lease, mostly 90 seconds."""

_LOOK = 0.25
"""Seconds between two looks at the cluster and the files of events."""

_FLUSH = 0.2
"""Seconds of events that a lost node may take with it."""

_ANSWER = 5.0
"""Seconds in which a cluster has to answer at all."""

_ENDING = 20.0
"""Seconds that stopped tasks are given before their processes are ended."""

_PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "DELTADECK_OFFLINE")


@dataclass(frozen=True)
class Needs:
    """What each task asks of a node: the request's device, processors, GPUs, and how many tasks run at once at most."""

    device: str
    cpus: int
    gpus: int
    at_once: int | None


def plan_needs(nodes: Sequence[Mapping[str, float]], device: str, workers: int | None, threads: int | None = None) -> Needs:
    """Needs of a job, from the resources of each live node (as Ray names them).

    A GPU for each job where there are GPUs and none is ruled out, else all processors of the smallest node, or the share of
    them that so many `workers` leave each; no more than `threads` (None: no limit). Sums take as many threads as a task has
    processors, and their number decides the last bits of a delta. Raises `BadOption` or `ClusterUnavailable`.
    """
    if workers is not None and workers < 1:
        raise BadOption(f"{workers} workers do no work.", "", "Ask for 1 or more.")
    with_gpus = [n for n in nodes if n.get("GPU", 0) >= 1]
    if device not in ("auto", "cuda", "cpu"):
        raise BadOption(f"A cluster can't be asked for '{device}'.", "Ray gives each job a device of its node.",
                        "Choose auto, cuda or cpu.")
    if device == "cuda" and not with_gpus:
        raise ClusterUnavailable("No node of the cluster has a GPU.", "", "Use --device cpu, or add a node that has one.")
    if with_gpus and device != "cpu":
        return Needs("cuda", max(1, int(min(n.get("CPU", 1) // n["GPU"] for n in with_gpus))), 1, workers)
    counts = [int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1]
    if not counts:
        raise ClusterUnavailable("No node of the cluster has a processor for jobs.", "",
                                 "Start its nodes with --num-cpus of at least 1.")
    each = min(min(counts), sum(counts) // workers if workers else min(counts), threads or min(counts))
    return Needs("cpu", max(1, each), 0, workers)


# -------------------------------------------------------------------------------------------------- on a node
class _Order(msgspec.Struct, frozen=True, kw_only=True):
    member: Member
    version: str
    environment: dict[str, str]


def _node() -> str:
    """The id of the node that a task is on; empty where no Ray is at work."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray is not None and ray.is_initialized() else ""


@cache
def _shared() -> Shared:
    """What jobs that Ray hands to the same process read once."""
    return Shared()


def events_file(member: Member) -> Path:
    """Where a member's job writes its events, one JSON object a line."""
    return member.note.with_name(f"{member.name}.events.jsonl")


def on_node(order: bytes) -> bytes:
    """A task's work: from an order to an outcome, both as JSON. Raises nothing that a job raises."""
    asked = msgspec.json.decode(order, type=_Order)
    os.environ.update(asked.environment)
    member = asked.member
    quiet_process()
    quiet_transformers()
    if asked.version != __version__:
        return msgspec.json.encode(failed(member, ClusterUnavailable(
            f"A node has Deltadeck {__version__}, this machine {asked.version}.", "Their deltas could differ.",
            "Install the same version on every node.")))
    if not member.note.is_file():
        return msgspec.json.encode(failed(member, ClusterUnavailable(
            f"The node '{os.uname().nodename}' does not see '{member.output.parent}'.", "Deltas and journals go to storage that "
            "all nodes share under the same path.", "Choose a folder there.")))
    for source in (member.request.base, member.request.fine_tuned):
        if not Path(source).exists():
            return msgspec.json.encode(failed(member, ClusterUnavailable(
                f"The node '{os.uname().nodename}' does not see '{source}'.", "All nodes have to read the very same files.",
                "Move it to storage that all nodes share under the same path.")))
    with _Writer(events_file(member)) as writer:
        if (lost := _attempt(member, _node())) is not None:
            writer.tell(lost)
        outcome = carry_out(member, writer.tell, lambda: False,
                            Surroundings(_shared().sources, member.note.with_name("forecasts"), LOCK_SECONDS))
    return msgspec.json.encode(outcome)


def node_file(member: Member) -> Path:
    """Where a member's latest attempt says when the first one began, and the id and name of the node it is on."""
    return member.note.with_name(f"{member.name}.node")


def _attempt(member: Member, node: str) -> Warned | None:
    """Note which node is at the job now; what became of the one before it, None at a first attempt."""
    path, here = node_file(member), os.uname().nodename
    try:
        began, before, there = path.read_text(encoding="utf-8").split("\n")
        since = max(0.0, time.time() - float(began))
    except (OSError, ValueError):
        began, before, there, since = str(time.time()), "", "", 0.0
    path.write_text(f"{began}\n{node}\n{here}", encoding="utf-8")
    if not there:
        return None
    if before == node:
        words = f"The process at work on the node '{here}' was lost: begun again there. Finished layers are kept."
    else:
        old = f" '{there}'" if there != here else ""
        words = f"Its node{old} was lost: retried on another node, '{here}'. Finished layers are kept."
    return Warned(message=words, time=round(since, 3))


class _Writer:
    """Appends events to a file, a few times a second."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("ab")
        if self.file.tell():
            self.file.write(b"\n")                     # a lost attempt may have left half a line
        self.flushed = 0.0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *ending: object) -> None:
        self.file.close()

    def tell(self, event: AnyEvent) -> None:
        """Keep an event."""
        self.file.write(msgspec.json.encode(event) + b"\n")
        # What comes seldom is seen at once, though the next event may be a minute away.
        if (now := time.monotonic()) - self.flushed > _FLUSH or not isinstance(event, LossPoint | TunePoint | Progress):
            self.flushed = now
            self.file.flush()


class Tail:
    """The events of a file that others append to, as far as whole lines are there."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    def read(self) -> list[AnyEvent]:
        """What came since the last call; lines that were cut off by an end in the midst of writing are left out."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                text = file.read()
        except OSError:                                # not there yet, or the storage does not answer for a moment
            return []
        whole = text[:text.rfind(b"\n") + 1]
        self.offset += len(whole)
        found: list[AnyEvent] = []
        for line in whole.splitlines():
            with suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=AnyEvent))
        return found


# ------------------------------------------------------------------------------------------------ the driver
def _ray() -> Any:
    # Ray reports how it is used to its makers unless told otherwise; nobody asked for that here.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")    # jobs name their device, none need be hidden
    try:
        import ray
    except ImportError as e:
        raise ClusterUnavailable("Ray is not installed.", "It runs jobs on several machines.",
                                 f"Install it with: {INSTALL}") from e
    return ray


@contextmanager
def connected(on: str) -> Iterator[Any]:
    """Ray, connected to `ray://HOST:PORT`, or with `ray` to this machine's cluster (one is started where there is none).

    Raises `ClusterUnavailable`.
    """
    ray = _ray()
    if ray.is_initialized():                           # by whoever calls, who ends it too
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    handlers = _handlers()
    try:
        address = on if on != "ray" else _own_cluster()
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except Exception as e:                             # each layer of it has errors of its own
        raise ClusterUnavailable(f"No Ray cluster answers at '{on}'." if on != "ray" else "Ray can't be started here.",
                                 f"It said: {_words(e).rstrip('.')}.",
                                 "Start one with: ray start --head (and on other machines: ray start --address=HOST:6379), "
                                 "with the same versions of Python, Ray and Deltadeck everywhere.") from e
    finally:
        for number, handler in handlers.items():       # Ray puts its own in their place
            signal.signal(number, handler)
    try:
        with redirect_stdout(sys.stderr):              # Ray prints what it has to say of lost nodes; stdout is for results
            yield ray
    finally:
        ray.shutdown()


def _words(error: Exception) -> str:
    """The first two lines of what an error says: Ray's first one often ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__


def _own_cluster() -> str | None:
    """The address that RAY_ADDRESS gives, or that of the cluster last started on this machine if it is still there."""
    if given := os.environ.get("RAY_ADDRESS"):
        return None if given == "local" else given
    place = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.name == "posix" else tempfile.gettempdir())
    try:
        found = (Path(place) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
        _knock(found)
    except OSError:                                    # none, or it has ended without a word
        return None
    return found


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would go on asking for many minutes."""
    host, _, port = address.removeprefix("ray://").split("/")[0].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()


def _handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {n: h for n in (signal.SIGINT, signal.SIGTERM) if (h := signal.getsignal(n)) is not None}


def ray_engine(ray: Any, needs: Needs) -> Engine:
    """Runs jobs as tasks of a connected Ray."""
    def run(members: Sequence[Member], tell: Tell, cancelled: Callable[[], bool]) -> Iterator[Outcome]:
        task = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(on_node)
        yield from _Tasks(ray, task, needs, members, tell).run(cancelled)
    return run


class _Tasks:
    """Members waiting, and the tasks that are on their way."""

    def __init__(self, ray: Any, task: Any, needs: Needs, members: Sequence[Member], tell: Tell) -> None:
        self.ray, self.task, self.needs, self.tell = ray, task, needs, tell
        self.waiting = deque(members)
        self.running: dict[Any, tuple[Member, Tail]] = {}

    def run(self, cancelled: Callable[[], bool]) -> Iterator[Outcome]:
        """Every outcome as it comes; ends early, with all tasks stopped, once it is cancelled."""
        try:
            while self.waiting or self.running:
                if cancelled():
                    return
                while self.waiting and len(self.running) < (self.needs.at_once or len(self.running) + 1):
                    self._begin(self.waiting.popleft())
                ready, _ = self.ray.wait(list(self.running), timeout=_LOOK)
                self._pass_on()
                for reference in ready:
                    yield self._outcome(reference)
        finally:
            self._stop()

    def _begin(self, member: Member) -> None:
        for path in (events_file(member), node_file(member)):
            path.unlink(missing_ok=True)
        request = msgspec.structs.replace(member.request, device=self.needs.device)
        order = _Order(member=msgspec.structs.replace(member, request=request, threads=self.needs.cpus), version=__version__,
                       environment={k: os.environ[k] for k in _PASSED_ON if k in os.environ})
        self.running[self.task.remote(msgspec.json.encode(order))] = member, Tail(events_file(member))

    def _pass_on(self) -> None:
        for member, tail in self.running.values():
            for event in tail.read():
                self.tell(member.name, event)

    def _outcome(self, reference: Any) -> Outcome:
        member, tail = self.running.pop(reference)
        try:
            outcome = msgspec.json.decode(self.ray.get(reference), type=Outcome)
        except self.ray.exceptions.RayError as e:
            words = (str(e).strip().splitlines() or [type(e).__name__])[-1]
            return failed(member, DeltadeckError(f"Ray gave the job of '{member.name}' up: {type(e).__name__}.",
                                                 f"It said: {words}", "What is finished is kept; run the same command again."))
        for event in tail.read():
            self.tell(member.name, event)
        if outcome.state in ("done", "kept"):
            for path in (events_file(member), node_file(member)):
                path.unlink(missing_ok=True)
        return outcome

    def _stop(self) -> None:
        """End what still runs. A journal's entries are whole or absent, so a task may be ended anywhere."""
        for force in (False, True):
            for reference in self.running:
                with suppress(self.ray.exceptions.RayError, ValueError):
                    self.ray.cancel(reference, force=force)
            end = time.monotonic() + _ENDING
            while self.running and time.monotonic() < end:
                ready, _ = self.ray.wait(list(self.running), timeout=_LOOK)
                for reference in ready:
                    del self.running[reference]


def check_shared(members: Sequence[Member]) -> None:
    """Raise `BadOption` for a hub id: each node would have a copy of its own, and no job could go on elsewhere."""
    for source in dict.fromkeys(s for m in members for s in (m.request.base, m.request.fine_tuned)):
        if not Path(source).exists():
            raise BadOption(f"'{source}' is no folder.", "On a cluster all nodes have to read the very same files.",
                            "Give folders on storage that all nodes share.")


def asked_threads() -> int | None:
    """Threads that the user allows by OMP_NUM_THREADS, which the local queue obeys too."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else None


def node_resources(ray: Any) -> list[dict[str, float]]:
    """Resources of each live node."""
    return [dict(n["Resources"]) for n in ray.nodes() if n["Alive"]]

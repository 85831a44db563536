"""Jobs of the window on a Ray cluster: one process for each address that keeps the connection, and what is heard from it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from app.fleet_address import INSTALL, has_ray
from app.jobs.worker import Outcome, Runner, settled
from core import __version__, errors
from core.errors import Cancelled, ClusterUnavailable, DeltadeckError
from core.events import AnyEvent

CONNECT = 90.0
"""Seconds that connecting may take: loading Ray and torch is part of it."""
LINGER = 15.0
"""Seconds that a connection without a job is kept: the next job may come at once."""
TEST = 60.0
"""Seconds that a look at a cluster may take."""
_LOOK = 0.2
_ENDING = 45.0
"""Seconds that a driver is given to end its tasks."""


class Side(Protocol):
    """What runs the other end of a line: a process, or in tests a thread."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""

    def is_alive(self) -> bool:
        """Whether it runs."""


Launch = Callable[[str, tuple[Any, ...]], tuple[Side, Connection]]
"""Starts `serve` or `look` of `app.fleet_driver`, by name, with arguments after the line; gives it and our end of the line."""


def launch(name: str, arguments: tuple[Any, ...]) -> tuple[Side, Connection]:
    """As a process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_enter, args=(name, theirs, arguments), daemon=True)
    process.start()
    theirs.close()                                     # so that its end is heard
    return process, ours


def _enter(name: str, line: Connection, arguments: tuple[Any, ...]) -> None:
    from app import fleet_driver

    getattr(fleet_driver, name)(line, *arguments)


def _end(side: Side, seconds: float) -> None:
    side.join(seconds)
    if side.is_alive() and (terminate := getattr(side, "terminate", None)) is not None:
        terminate()
        side.join()


class _Link:
    """A connection's process. A thread of its own hears it and sorts what it says by job; it ends once nobody needs it."""

    def __init__(self, launched: tuple[Side, Connection], guard: threading.Lock, ended: Callable[[_Link], None]) -> None:
        self.side, self.line = launched
        self.guard = guard
        """Held while jobs come and go."""
        self.lock = threading.Lock()
        self.heard: dict[int, SimpleQueue[tuple[Any, ...]]] = {}
        self.places = 0
        """0 until it is connected."""
        self.refusal: DeltadeckError | None = None
        self.began = self.idle_since = time.monotonic()
        self.is_closing = False
        self.ended = ended
        self.thread = threading.Thread(target=self._hear, name="deltadeck-cluster", daemon=True)
        self.thread.start()

    def send(self, message: Any) -> None:
        """Tell the process; if it is gone that is heard soon."""
        with self.lock, suppress(OSError, ValueError):
            self.line.send(message)

    def _hear(self) -> None:
        try:
            while True:
                if self.line.poll(_LOOK):
                    self._sort(self.line.recv())
                now = time.monotonic()
                if not self.places and now - self.began > CONNECT:
                    self.refusal = ClusterUnavailable(f"The Ray cluster did not answer within {CONNECT:.0f} seconds.", "",
                                                      "Test it in Settings, then try again.")
                    break
                with self.guard:
                    self.is_closing |= not self.heard and now - self.idle_since > LINGER
                if self.is_closing:
                    self.send(None)
                    break
        except (OSError, EOFError):
            pass
        self.is_closing = True
        self.ended(self)
        _end(self.side, _ENDING if self.places else 0.0)
        self.line.close()
        for heard in list(self.heard.values()):
            heard.put(("lost",))

    def _sort(self, message: tuple[Any, ...]) -> None:
        if message[0] == "places":
            self.places = message[1]
        elif message[0] == "refused":
            self.refusal = errors.named(message[1], ClusterUnavailable)
        elif (heard := self.heard.get(message[1])) is not None:
            heard.put(message)


class Cluster:
    """Connections by address. `places` and `runner` are the main thread's; what `runner` gives is called on a lane's thread."""

    def __init__(self, launch: Launch = launch) -> None:
        self._launch = launch
        self._links: dict[str, _Link] = {}
        self._old: list[_Link] = []
        self._known: dict[str, int] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def places(self, address: str) -> int:
        """How many jobs it runs at once: 1 until it was connected."""
        link = self._links.get(address)
        if link is not None and link.places:
            self._known[address] = link.places
        return self._known.get(address, 1)

    def runner(self, address: str) -> Runner:
        """Runs a request on that cluster."""
        return partial(self._run, address)

    def close(self, timeout: float) -> bool:
        """End all connections."""
        with self._lock:
            links = [*self._links.values(), *self._old]
        for link in links:
            link.is_closing = True
        until = time.monotonic() + timeout
        for link in links:
            link.thread.join(max(0.0, until - time.monotonic()))
        return not any(link.thread.is_alive() for link in links)

    def _ended(self, link: _Link) -> None:
        with self._lock:
            self._links = {a: found for a, found in self._links.items() if found is not link}
            self._old = [found for found in (*self._old, link) if found.thread.is_alive()]

    def _enter(self, address: str, number: int) -> tuple[_Link, SimpleQueue[tuple[Any, ...]]]:
        with self._lock:
            link = self._links.get(address)
            if link is None or link.is_closing:
                link = self._links[address] = _Link(self._launch("serve", (address,)), self._lock, self._ended)
            heard = link.heard[number] = SimpleQueue()
            return link, heard

    def _run(self, address: str, request: dict[str, Any], tell: Callable[[AnyEvent], None],
             cancelled: Callable[[], bool]) -> Outcome:
        if not has_ray() and self._launch is launch:
            raise ClusterUnavailable("Ray is not installed here.", "This job was queued for a Ray cluster.",
                                     f"Install it with: {INSTALL}")
        number = next(self._numbers)
        link, heard = self._enter(address, number)
        try:
            link.send(("run", number, request))
            return _listen(link, number, heard, tell, cancelled)
        finally:
            with self._lock:
                link.idle_since = time.monotonic()
                link.heard.pop(number, None)


def _listen(link: _Link, number: int, heard: SimpleQueue[tuple[Any, ...]], tell: Callable[[AnyEvent], None],
            cancelled: Callable[[], bool]) -> Outcome:
    is_stopped = False
    while True:
        if cancelled() and not is_stopped:
            if not link.places:                        # not sent anywhere yet
                raise Cancelled("Cancelled.")
            is_stopped = True
            link.send(("stop", number))
        try:
            message = heard.get(timeout=_LOOK)
        except Empty:
            if link.is_closing and not link.thread.is_alive():
                message = ("lost",)
            else:
                continue
        if message[0] == "event":
            tell(message[2])
        elif message[0] == "outcome":
            return settled(message[2])
        elif is_stopped:
            raise Cancelled("Cancelled.")
        else:
            raise link.refusal or ClusterUnavailable("The connection to the Ray cluster was lost.", "Its process ended.",
                                                     "Finished layers are kept: look after the cluster, then try again.")


# ------------------------------------------------------------------------------------------------------- a look
def look(address: str, folder: str, cancelled: Callable[[], bool], launch: Launch = launch,
         seconds: float = TEST) -> dict[str, Any]:
    """`app.fleet_driver.Seen` of a cluster, as data, within `seconds`. Raises `ClusterUnavailable` or `Cancelled`."""
    side, line = launch("look", (address, folder))
    until = time.monotonic() + seconds
    try:
        while not line.poll(_LOOK):
            if cancelled():
                raise Cancelled("Cancelled.")
            if time.monotonic() > until:
                raise ClusterUnavailable(f"There was no answer within {seconds:.0f} seconds.", "Something listens there, but it "
                                         "does not answer as a Ray cluster does.", "Check address and port: 10001 unless the "
                                         "head says otherwise.")
        kind, found = line.recv()
    except EOFError as e:
        raise ClusterUnavailable("The test ended without an answer.", "", "Try again.") from e
    finally:
        line.close()
        _end(side, 0.0 if time.monotonic() > until or cancelled() else 5.0)
    if kind == "refused":
        raise errors.named(found, ClusterUnavailable)
    return dict(found)


def seen_words(seen: dict[str, Any]) -> tuple[str, str]:
    """What to say of a look: ("good" or "warning", a sentence or more)."""
    nodes, silent = seen["nodes"], seen["silent"]
    number = len(nodes) + silent
    gpus = f"{seen['gpus']} GPU{'' if seen['gpus'] == 1 else 's'}" if seen["gpus"] else "no GPU"
    cpus = f"{seen['cpus']} processor{'' if seen['cpus'] == 1 else 's'}"
    text = f"Reachable: {number} node{'' if number == 1 else 's'}, {cpus}, {gpus}."
    trouble = []
    if missing := _names(n for n in nodes if not n["version"]):
        trouble.append(f"Deltadeck {__version__} could not be started on {missing}: install it there.")
    if other := _names(n for n in nodes if n["version"] not in ("", __version__)):
        trouble.append(f"Another version of Deltadeck is on {other}: install {__version__} everywhere.")
    if blind := _names(n for n in nodes if n["version"] and not n["sees"]):
        trouble.append(f"The deltas' folder can't be seen from {blind}: choose one on storage that all nodes share.")
    if silent:
        trouble.append(f"{silent} of them did not answer in time.")
    return ("warning", " ".join([text, *trouble])) if trouble else ("good", f"{text} All see the deltas' folder.")


def _names(nodes: Any) -> str:
    return ", ".join(dict.fromkeys(f"'{n['name']}'" for n in nodes))

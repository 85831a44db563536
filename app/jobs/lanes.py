"""Where jobs of the queue run: on this computer's thread, on a GPU of its own each, or on a cluster."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from app.jobs.queue import QueueItem, State
from app.jobs.worker import Batch, Runner, known_gpus, run_apart

HERE = "this computer"
"""The lane on which jobs run in this process."""
_ANY_GPU = ("auto", "cuda")


@dataclass(frozen=True)
class Lane:
    """A place where one job runs at a time, and how; `device` replaces the request's where it is not empty."""

    name: str
    run: Runner
    device: str = ""


class Cluster(Protocol):
    """What lanes need of `app.fleet_cluster.Cluster`."""

    def places(self, address: str) -> int:
        """How many jobs it runs at once, as far as is known; at least 1."""

    def runner(self, address: str) -> Runner:
        """Runs a request there."""

    def close(self, timeout: float) -> bool:
        """Let go of all connections; whether that was done in so many seconds."""


def _cluster() -> Cluster:
    from app.fleet_cluster import Cluster as Connections

    return Connections()


class Lanes:
    """Chooses a lane for a job. Used on the main thread.

    `here` runs jobs in this process; `apart(gpu)` gives what runs one in a process that sees that GPU only (its name as
    CUDA_VISIBLE_DEVICES takes it); `gpus()` names those GPUs, an empty sequence while nobody knows.
    """

    def __init__(self, here: Runner | None = None, apart: Callable[[str], Runner] = run_apart,
                 gpus: Callable[[], Sequence[str]] = known_gpus, cluster: Callable[[], Cluster] = _cluster) -> None:
        self._batch = Batch()
        self._here = Lane(HERE, here or self._batch.run)
        self._apart, self._gpus, self._make_cluster = apart, gpus, cluster
        self._cluster: Cluster | None = None
        self._begun: Counter[str] = Counter()

    def free(self, item: QueueItem, taken: Mapping[str, QueueItem]) -> Lane | None:
        """A lane for a job, None where it has to wait; `taken` are those in use. The GPU that was used least comes first."""
        found = min((lane for lane in self._lanes_for(item) if lane.name not in taken and not self._shadowed(lane, taken)),
                    key=lambda lane: self._begun[lane.name], default=None)
        if found is not None:
            self._begun[found.name] += 1
        return found

    def count(self, item: QueueItem) -> int:
        """How many jobs like this one run at once."""
        return len(self._lanes_for(item))

    def _lanes_for(self, item: QueueItem) -> list[Lane]:
        if item.where:
            cluster = self._cluster = self._cluster or self._make_cluster()
            run = cluster.runner(item.where)
            return [Lane(f"{item.where} {n + 1}", run) for n in range(cluster.places(item.where))]
        wanted, gpus = str(item.request.get("device") or "auto"), self._gpus()
        # One GPU needs no process of its own: the job shares torch with the window, and begins at once.
        if len(gpus) > 1 and (wanted in _ANY_GPU or wanted.startswith("cuda:")):
            lanes = [Lane(f"cuda:{n}", self._apart(gpu), "" if wanted in _ANY_GPU else "cuda") for n, gpu in enumerate(gpus)]
            return [lane for lane in lanes if wanted in _ANY_GPU or wanted == lane.name]
        return [self._here]

    def _shadowed(self, lane: Lane, taken: Mapping[str, QueueItem]) -> bool:
        """Whether a job that began in this process, before its GPUs were known, is on that lane's GPU: the first."""
        first = taken.get(HERE)
        return lane.name == "cuda:0" and first is not None and str(first.request.get("device") or "auto") in (*_ANY_GPU, "cuda:0")

    def rest(self) -> None:
        """No job runs: let go of the files that those in this process shared."""
        self._batch.release()

    def close(self, timeout: float) -> bool:
        """Let go of clusters."""
        return self._cluster is None or self._cluster.close(timeout)


def placed(item: QueueItem, lane: Lane) -> QueueItem:
    """The job as it runs on a lane."""
    return item if not lane.device else msgspec.structs.replace(item, request={**item.request, "device": lane.device})


def seconds_ahead(items: Iterable[QueueItem], id: str, lanes: Lanes, left_of: Callable[[QueueItem], float | None],
                  like: QueueItem) -> float | None:
    """Seconds until the waiting job `id` (or one at the end of the queue, `like` this) would start; None where a job before it
    has no estimate. Jobs of other places are not in its way."""
    ends: list[float] = []
    places = lanes.count(like)
    for item in items:
        if item.id == id:
            break
        if item.where != like.where or not (item.is_on_worker or item.state == State.WAITING):
            continue
        left = left_of(item) if item.is_on_worker else None
        if left is None and item.estimate is not None:
            left = item.estimate * (1 - item.fraction)
        if left is None:
            return None
        start = heapq.heappop(ends) if len(ends) >= places else 0.0
        heapq.heappush(ends, start + left)
    return ends[0] if len(ends) >= places else 0.0

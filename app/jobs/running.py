"""A job that runs: its order on a lane's thread, what is known of it, and what it was asked to become."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from app.jobs.buffer import EventBuffer
from app.jobs.lanes import Lane
from app.jobs.queue import QueueItem, State
from app.jobs.runstate import RunState
from app.jobs.worker import End, Order, Worker

SAVE_SOON = 2.0
"""Seconds between two savings of a running job's state while its layers get done: what a kill can hide."""
SAVE_EVERY = 20.0
"""Seconds after which it is saved in any case."""
SAVE_SHARE = 0.05
"""Share of the time that saving may take: the files of large jobs are written less often."""


@dataclass
class Running:
    """Belongs to the main thread. `wanted`: what it was asked to become; `end`: its worker is done, the last events may not be
    shown yet; `saved` and `told`: when, as `time.monotonic` has it."""

    lane: Lane
    worker: Worker
    order: Order
    state: RunState
    wanted: State | None = None
    end: End | None = None
    saved: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    mark: tuple[str, int, int] = ("", 0, 0)
    """How far it was when it was saved last."""
    has_changed: bool = False
    """Whether the last pump brought anything."""
    has_more: bool = True
    """Whether it left something for the next."""

    @classmethod
    def begin(cls, item: QueueItem, lane: Lane, worker: Worker, state: RunState) -> Running:
        """Start a job."""
        state.begin(f"Sent to the cluster {item.where}: it begins when a node is free" if item.where else "")
        order = Order(item.id, item.request, EventBuffer(state.curves), threading.Event())
        worker.submit(order)
        return cls(lane, worker, order, state)

    def stop(self, wanted: State, meanwhile: State) -> None:
        """Ask it to end."""
        self.wanted, self.state.state = wanted, meanwhile
        self.order.stop.set()

    def pump(self, seconds: float) -> None:
        """Bring its events into its state, for at most so long."""
        if self.end is None:
            self.end = self.worker.take()              # asked first: whatever it told is in the buffer then
        began, self.has_more, self.has_changed = time.perf_counter(), True, False
        self.state.start_pump()
        while self.has_more and time.perf_counter() - began < seconds:
            batch = self.order.buffer.drain()
            self.state.apply(batch)
            self.has_more = batch.has_more
            self.has_changed |= not batch.is_empty

    def must_save(self, took: float) -> bool:
        """Whether its state is to be saved now; the answer yes counts as saved. `took`: seconds of the last saving."""
        now, mark = time.monotonic(), (self.state.stage, self.state.layers_done, self.state.blocks_done)
        soon = min(SAVE_EVERY, max(SAVE_SOON, took / SAVE_SHARE))
        if now - self.saved <= (SAVE_EVERY if mark == self.mark else soon):
            return False
        self.saved, self.mark = now, mark
        return True

    @property
    def is_over(self) -> bool:
        """Whether it has ended and all that it told is shown."""
        return self.end is not None and not self.has_more

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

    @property
    def is_over(self) -> bool:
        """Whether it has ended and all that it told is shown."""
        return self.end is not None and not self.has_more

"""The job queue as the window sees it. Lives on the main thread; the work is done on the lanes' threads."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from PySide6.QtCore import QEventLoop, QObject, QTimer, Signal

from app.jobs.archive import Archive
from app.jobs.files import drop_steps, finished_blocks
from app.jobs.lanes import Lanes, placed, seconds_ahead
from app.jobs.queue import ENDED, ON_WORKER, OPEN, QueueItem, State, encode_queue, read_queue, refuse_unshared, same_place
from app.jobs.running import Running
from app.jobs.runstate import Expected, RunState, TuneCurve
from app.jobs.saver import Saver
from app.jobs.worker import Runner, Worker
from core.errors import BadOption, OutputExists

TICK = 66
"""Milliseconds between two pumps: about 15 a second."""
BUDGET = 0.006
"""Seconds that a pump may take; what is left comes with the next."""
HEARTBEAT = 1.0
"""Seconds after which a pump is told even if nothing changed: elapsed time and time left move on."""
SWITCH = 0.0005
"""Seconds after which Python lets another thread in (5 ms is usual): a busy worker else starves painting."""
MOST_ENDED = 100
"""Ended jobs that stay in the queue; older ones go."""


class JobManager(QObject):
    """Jobs in order; as many run as there are lanes for. Every change is told by signals and kept in the store folder."""

    queue_changed = Signal()
    """Items were added, removed, moved, or changed their state."""
    item_changed = Signal(object)
    """A QueueItem: one item changed, also while it runs."""
    pumped = Signal(object)
    """The RunState of a running job, where it changed; at most 15 times a second."""
    finished = Signal(object)
    """The QueueItem of a job that is done."""
    failed = Signal(object)
    """The QueueItem of a job that failed."""
    message = Signal(str)
    """A sentence about the queue itself: it was damaged, it can't be written."""

    def __init__(self, store: Path, runner: Runner | None = None, parent: QObject | None = None,
                 lanes: Lanes | None = None) -> None:
        super().__init__(parent)
        sys.setswitchinterval(SWITCH)
        self.store = store
        self._saver = Saver()
        self._archive = Archive(store, self._saver)
        self._lanes = lanes or Lanes(runner)
        self._workers: dict[str, Worker] = {}
        """By lane; each has a thread once it had a job."""
        self._running: dict[str, Running] = {}
        """By the job's id, the one that began first before others."""
        self._closing = False
        self._messages: list[str] = []
        self._timer = QTimer(self, interval=TICK)
        self._timer.timeout.connect(self._pump)
        self._items, trouble = read_queue(self._queue_file)
        self._held = False
        self._is_left_over = any(item.state == State.WAITING for item in self._items)
        """Whether jobs wait that were queued before the program's start: they don't start unasked."""
        if trouble:
            self._messages.append(trouble)
        if self._messages:
            QTimer.singleShot(0, self, self._tell_messages)     # once somebody listens

    # ------------------------------------------------------------------------------------------- what there is
    def items(self) -> tuple[QueueItem, ...]:
        """All jobs in their order, ended ones too."""
        return tuple(self._items)

    def item(self, id: str) -> QueueItem | None:
        """A job, or None."""
        return next((item for item in self._items if item.id == id), None)

    def current(self) -> QueueItem | None:
        """The job that runs; of several the one that began first."""
        first = next(iter(self._running), "")
        return self.item(first) or next((item for item in self._items if item.state in ON_WORKER), None)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs."""
        return bool(self._running)

    @property
    def is_held(self) -> bool:
        """Whether waiting jobs stay waiting: `hold` was called, or they are from before the program's start."""
        return self._held or self._is_left_over

    def run_state(self, id: str) -> RunState | None:
        """What is known of a job's run, from memory or from its file; None where it never ran."""
        item, state = self.item(id), self._archive.find(id)
        if item is None or state is None:
            return None
        if self._archive.loaded(id) is None:
            state.state, state.failure = item.state, item.error
            if item.state == State.INTERRUPTED:
                state.catch_up(finished_blocks(item.job_folder))
            self._remember(state)
        return state

    def last_tune_curve(self, exclude_id: str = "") -> TuneCurve | None:
        """The tuning curve of the last finished run but the given one."""
        return next((c for c in reversed(self._archive.tunes()) if c.id != exclude_id), None)

    def seconds_ahead(self, id: str = "", where: str = "") -> float | None:
        """Seconds until a waiting job, or a new one, would start; None where a job before it has no estimate.

        `where` the new one would run, as for `add`; on this computer one without a choice of its own of the device is meant.
        """
        like = self.item(id) or QueueItem(id="", name="", request={}, where=where)
        return seconds_ahead(self._items, id, self._lanes, self._seconds_left, like)

    def has_room(self, where: str = "") -> bool:
        """Whether a new job would start at once, beside others that run."""
        like = QueueItem(id="", name="", request={}, where=where)
        busy = sum(i.where == where and (i.is_on_worker or i.state == State.WAITING) for i in self._items)
        return not self.is_held and busy < self._lanes.count(like)

    def _seconds_left(self, item: QueueItem) -> float | None:
        running = self._running.get(item.id)
        return running.state.seconds_left if running is not None else None

    # ------------------------------------------------------------------------------------------ what can be done
    def add(self, name: str, request: Mapping[str, Any], expect: Iterable[Expected | tuple[Any, ...]] = (), base_name: str = "",
            fine_tuned_name: str = "", estimate: float | None = None, where: str = "") -> QueueItem:
        """Queue a job; it starts at once if there is a free lane for it and nothing before it.

        `request` holds the fields of `core.request.Request`, `expect` the layers that the plan will have fitted, `estimate`
        its seconds, `where` a cluster's address (nothing: this computer). Raises `OutputExists` where the output is there
        already or another job makes it, `BadOption` for a hub id on a cluster.
        """
        item = QueueItem(id=uuid4().hex[:12], name=name, request=dict(request), created=time.time(), base_name=base_name,
                         fine_tuned_name=fine_tuned_name, estimate=estimate, where=where)
        if not item.output.name:
            raise BadOption("The delta has no name.", "", "Give it a name.")
        if os.path.lexists(item.output):
            raise OutputExists(f"'{item.output}' exists already.", "", "Choose another name.")
        self._refuse_twin(item)
        refuse_unshared(item)
        state = RunState(item.id, name, base_name, fine_tuned_name)
        state.expect(expect)
        if state.layers:
            self._archive.keep(state)
        self._items.append(item)
        self._remember(state)
        self._is_left_over = False
        self._prune()
        self._keep()
        self.queue_changed.emit()
        self._next()
        return self.item(item.id) or item

    def move(self, id: str, position: int) -> None:
        """Put a job at a position of `items()`, counted without it."""
        if (item := self.item(id)) is None:
            return
        before = list(self._items)
        self._items.remove(item)
        self._items.insert(max(0, position), item)
        if self._items != before:
            self._keep()
            self.queue_changed.emit()

    def remove(self, id: str, drop_steps: bool = False) -> None:
        """Take a job from the queue, with its steps on disk if asked. Raises `BadOption` while it runs."""
        if (item := self.item(id)) is None:
            return
        if not item.can_remove:
            raise BadOption(f"'{item.name}' is running.", "", "Pause or cancel it first.")
        self._forget(item)
        if drop_steps:
            self._drop(item)
        self._keep()
        self.queue_changed.emit()

    def pause(self, id: str) -> None:
        """Stop a job after the step that is under way, or take a waiting one out of the line; `resume` goes on."""
        item = self.item(id)
        if item is not None and item.state == State.RUNNING:
            self._ask(item, State.PAUSING, State.PAUSED)
        elif item is not None and item.state == State.WAITING:
            self._become(item, state=State.PAUSED)

    def resume(self, id: str) -> None:
        """Go on with a paused or interrupted job, at once or after what runs. Also ends a hold."""
        if (item := self.item(id)) is not None and item.can_resume:
            self._again(item)

    def cancel(self, id: str) -> None:
        """Give a job up; its finished layers stay on disk, and `retry` takes them up."""
        item = self.item(id)
        if item is None or not item.can_cancel:
            return
        if item.is_on_worker:
            self._ask(item, State.CANCELLING, State.CANCELLED)
        else:
            self._become(item, state=State.CANCELLED, ended=time.time())

    def retry(self, id: str, where: str | None = None) -> None:
        """Queue a failed or cancelled job again, elsewhere if it has no steps on disk yet and `where` says so, as for `add`.

        Raises `OutputExists` where another job makes the same output now, `BadOption` as `add`.
        """
        if (item := self.item(id)) is not None and item.can_retry:
            self._refuse_twin(item)
            if where is not None and where != item.where and not item.job_folder.is_dir():
                item = msgspec.structs.replace(item, where=where)
                refuse_unshared(item)
            self._again(item)

    def hold(self, on: bool = True) -> None:
        """Keep waiting jobs waiting, or let them go; what runs is not touched."""
        if on != self.is_held:
            self._held, self._is_left_over = on, False
            self.queue_changed.emit()
        self._next()

    def shutdown(self, timeout: float = 30.0) -> bool:
        """End for good: ask what runs to stop, wait for it while the window goes on painting, write everything.

        True once no thread is left. False if a step takes longer than `timeout` seconds: call again to wait on; ending
        the program then is safe too, and the job is found interrupted at the next start.
        """
        self._closing = True
        for item in self._items:
            if item.state == State.RUNNING:
                self._ask(item, State.PAUSING, State.INTERRUPTED)
        until = time.monotonic() + timeout
        if self._running:
            loop, poll = QEventLoop(), QTimer(interval=15)
            poll.timeout.connect(lambda: loop.quit() if not self._running or time.monotonic() > until else None)
            poll.start()
            loop.exec()
            poll.stop()
        if self._running:
            return False
        self._timer.stop()
        self._keep()
        is_written = self._saver.flush(max(2.0, until - time.monotonic()))
        self._tell_messages()
        are_closed = [worker.close(max(2.0, until - time.monotonic())) for worker in self._workers.values()]
        return self._lanes.close(max(2.0, until - time.monotonic())) and all(are_closed) and is_written

    # ---------------------------------------------------------------------------------------------- starting
    def _again(self, item: QueueItem) -> None:
        self._held = self._is_left_over = False
        self._become(item, state=State.WAITING, error=None, ended=None)
        self._next()

    def _next(self) -> None:
        """Start what can be started."""
        while not (self.is_held or self._closing):
            taken = {run.lane.name: item for id, run in self._running.items() if (item := self.item(id)) is not None}
            for item in self._items:
                if item.state == State.WAITING and (lane := self._lanes.free(item, taken)) is not None:
                    break
            else:
                return
            state = self.run_state(item.id) or RunState(item.id, item.name, item.base_name, item.fine_tuned_name)
            self._remember(state)
            worker = self._workers.setdefault(lane.name, Worker(lane.run))
            self._running[item.id] = Running.begin(placed(item, lane), lane, worker, state)
            self._become(item, state=State.RUNNING, began=item.began or time.time(), seconds_left=None)
            self._timer.start()
            self.pumped.emit(state)

    def _ask(self, item: QueueItem, meanwhile: State, wanted: State) -> None:
        self._running[item.id].stop(wanted, meanwhile)
        self._become(item, state=meanwhile)

    # ----------------------------------------------------------------------------------------------- pumping
    def _pump(self) -> None:
        if not self._running:
            self._timer.stop()
            return
        for run in tuple(self._running.values()):
            run.pump(BUDGET / len(self._running))
            now = time.monotonic()
            if run.has_changed:
                self._take_over(run.state)
            if run.is_over:
                self._ended(run)
                continue
            if run.has_changed or now - run.told > HEARTBEAT:
                run.told = now
                self.pumped.emit(run.state)
            if run.must_save(self._archive.seconds(run.state.id)):
                self._archive.keep(run.state)
                self._keep()
        self._next()                                   # more lanes may be known by now
        self._tell_messages()

    def _take_over(self, state: RunState) -> None:
        item = self.item(state.id)
        if item is None:
            return
        left = state.seconds_left
        newer = msgspec.structs.replace(item, fraction=state.fraction, blocks_done=state.blocks_done, blocks=state.blocks,
                                        seconds_left=None if left is None else float(round(left)))
        if newer != item:
            self._put(newer)
            self.item_changed.emit(newer)

    def _ended(self, run: Running) -> None:
        end, state = run.end, run.state
        assert end is not None
        del self._running[end.id]
        if not self._running:
            self._timer.stop()
        item = self.item(end.id)
        assert item is not None
        ended = State.FAILED if end.failure is not None else run.wanted or State.INTERRUPTED
        what = State.DONE if end.outcome is not None else ended
        folder = end.outcome.folder if end.outcome is not None else ""
        state.end(what, end.failure, folder)
        if what == State.DONE:
            self._archive.add_tune(state.tune_curve())
        self._archive.keep(state)
        newer = self._become(item, state=what, error=end.failure, seconds=item.seconds + end.seconds, fraction=state.fraction,
                             seconds_left=None, blocks_done=state.blocks_done, blocks=state.blocks, folder=folder,
                             weights_bytes=end.outcome.weights_bytes if end.outcome is not None else 0,
                             ended=time.time() if what in ENDED else None)
        self.pumped.emit(state)
        if what == State.DONE:
            self.finished.emit(newer)
        elif what == State.FAILED:
            self.failed.emit(newer)
        self._next()
        if not self._running:
            self._lanes.rest()

    # ------------------------------------------------------------------------------------------------ keeping
    @property
    def _queue_file(self) -> Path:
        return self.store / "queue.json"

    def _become(self, item: QueueItem, **changes: Any) -> QueueItem:
        newer = msgspec.structs.replace(item, **changes)
        self._put(newer)
        if (state := self._archive.loaded(item.id)) is not None:
            state.state = newer.state
        self._keep()
        self.item_changed.emit(newer)
        self.queue_changed.emit()
        return newer

    def _put(self, newer: QueueItem) -> None:
        self._items = [newer if item.id == newer.id else item for item in self._items]

    def _keep(self) -> None:
        items = tuple(self._items)
        self._saver.save(self._queue_file, lambda: encode_queue(items))

    def _remember(self, state: RunState) -> None:
        # What is open has to be in memory: it may have no file yet.
        self._archive.remember(state, lambda id: (item := self.item(id)) is not None and not item.is_ended)

    def _forget(self, item: QueueItem) -> None:
        self._items.remove(item)
        self._archive.forget(item.id)

    def _drop(self, item: QueueItem) -> None:
        folder = item.job_folder
        if not any(other.state in OPEN and same_place(other.output, item.output) for other in self._items):
            self._saver.work(str(folder), lambda: drop_steps(folder))

    def _prune(self) -> None:
        ended = [item for item in self._items if item.is_ended]
        for item in ended[:max(0, len(ended) - MOST_ENDED)]:
            self._forget(item)

    def _refuse_twin(self, item: QueueItem) -> None:
        for other in self._items:
            if other.id != item.id and other.state in OPEN and same_place(other.output, item.output):
                raise OutputExists(f"The job '{other.name}' writes '{other.output}' too.", "One of them would be lost.",
                                   "Choose another name, or remove that job first.")

    def _tell_messages(self) -> None:
        found, self._messages = self._messages + self._saver.take_problems(), []
        for text in found:
            self.message.emit(text)


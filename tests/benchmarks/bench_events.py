"""What the window feels of a job that tells very much: 10,000 layer events and 1,000,000 loss points at full speed.

A worker thread tells them through the real manager into the real models and two views, while a timer of 10 ms on the main
thread notes how late it fires. The same timer without a job is the reference.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")    # before Qt is loaded

import psutil
from PySide6.QtCore import QEventLoop, Qt, QTimer
from PySide6.QtWidgets import QApplication, QTableView

from app.jobs.buffer import BURST, EventBuffer
from app.jobs.manager import JobManager
from app.jobs.worker import Outcome
from app.models.events import EventFilter, EventModel
from app.models.layers import LayerModel
from app.models.queue import QueueModel
from core.events import AnyEvent, LayerFitted, LayerStarted, LossPoint, Progress, StageStarted

_LAYERS = 10_000
_POINTS = 100
_PERIOD = 10.0
_IDLE = 3.0
_GOAL = 33.0
_MEMORY_GOAL = 60.0
_TELL_GOAL = 10.0

Tell = Callable[[AnyEvent], None]


def _job(request: dict[str, Any], tell: Tell, cancelled: Callable[[], bool]) -> Outcome:
    tell(StageStarted(stage="fit", total=_LAYERS // 7))
    for number in range(_LAYERS):
        tensor, block, kind = f"model.layers.{number // 7}.{number % 7}.weight", number // 7, "qkvogud"[number % 7]
        tell(LayerStarted(tensor=tensor, block=block, kind=kind, index=number, total=_LAYERS))
        for x in range(_POINTS // 2):
            for axis in ("row", "column"):
                tell(LossPoint(tensor=tensor, slice=0, axis=axis, iteration=x, training=1 / (x + 1), held_out=1.1 / (x + 1)))
        tell(LayerFitted(tensor=tensor, block=block, kind=kind, codec="sign", axes=("row",), recovery=0.9, bytes=1000,
                         seconds=0.1, losses=({"scalar": 0.3, "row": 0.1, "column": 0.12},), index=number, total=_LAYERS))
        tell(Progress(stage="fit", done=number / 7, total=_LAYERS // 7, fraction=number / _LAYERS, seconds_left=9.0))
    return Outcome(request["output"])


def _resident() -> float:
    """MB of this process in memory."""
    return float(psutil.Process().memory_info().rss) / 1e6


def _lateness(until: Callable[[QEventLoop], None]) -> list[float]:
    """How late a 10 ms timer fired each time, in ms, while an event loop ran that `until` sees to the end of."""
    loop, timer, late = QEventLoop(), QTimer(), []
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setInterval(int(_PERIOD))
    last = time.perf_counter()

    def fired() -> None:
        nonlocal last
        now = time.perf_counter()
        late.append(max(0.0, 1e3 * (now - last) - _PERIOD))
        last = now
    timer.timeout.connect(fired)
    timer.start()
    until(loop)
    loop.exec()
    timer.stop()
    return late


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _tell_cost(tell: Tell, drained: Callable[[], object]) -> float:
    """Microseconds to tell a loss point, without making it, at a pace that the engine may have."""
    found = []
    for at in range(0, 20_000, BURST):
        events = [LossPoint(tensor="a", slice=0, axis="row", iteration=at + x, training=0.5, held_out=0.5) for x in range(BURST)]
        began = time.perf_counter()
        for event in events:
            tell(event)
        found.append((time.perf_counter() - began) / len(events))
        drained()
    return 1e6 * statistics.median(found)


def _views(jobs: JobManager) -> list[QTableView]:
    layers, events = LayerModel(jobs), EventModel(jobs)
    jobs.pumped.connect(lambda state: layers.sync(state.layers))
    jobs.pumped.connect(events.sync)
    shown = []
    for model in (layers, EventFilter(events, jobs)):
        view = QTableView()
        view.setModel(model)
        view.verticalHeader().hide()
        view.resize(800, 600)
        view.show()
        shown.append(view)
    return shown


def run() -> list[dict[str, Any]]:
    """Lateness of the timer, growth in memory, and what telling a point costs the worker."""
    application = QApplication.instance() or QApplication([])
    with tempfile.TemporaryDirectory() as folder:
        jobs = JobManager(Path(folder) / "store", _job)
        views, queue = _views(jobs), QueueModel(jobs)
        idle = _lateness(lambda loop: QTimer.singleShot(int(1000 * _IDLE), loop.quit))
        gc.collect()
        before, took = _resident(), time.perf_counter()

        def until(loop: QEventLoop) -> None:
            jobs.finished.connect(loop.quit)
            jobs.failed.connect(loop.quit)
            jobs.add("many", {"output": str(Path(folder) / "delta")})
        late = _lateness(until)
        took = time.perf_counter() - took
        item, state = jobs.items()[0], jobs.run_state(jobs.items()[0].id)
        if item.error is not None or state is None or state.layers_done != _LAYERS or queue.rowCount() != 1:
            raise RuntimeError(f"the job did not arrive: {item.error}")
        jobs.shutdown()
        gc.collect()
        grown = _resident() - before
        for view in views:
            view.close()
        jobs.deleteLater()
    buffer, plain = EventBuffer(), deque[AnyEvent]()
    told, kept = _tell_cost(buffer.tell, buffer.drain), _tell_cost(plain.append, plain.clear)
    application.processEvents()
    return [
        {"name": f"10 ms timer beside {_LAYERS:,} layers and {_LAYERS * _POINTS:,} points, lateness p99",
         "value": round(_p99(late), 2), "unit": "ms", "goal": _GOAL, "better": "lower",
         "reference": f"idle p99 {_p99(idle):.2f} ms; busy median {statistics.median(late):.2f} ms, most {max(late):.1f} ms"},
        {"name": "memory after that job", "value": round(grown, 1), "unit": "MB", "goal": _MEMORY_GOAL, "better": "lower",
         "reference": f"before {before:.0f} MB; {state.curves.points:,} points kept; the job took {took:.0f} s"},
        {"name": "telling a loss point", "value": round(told, 2), "unit": "us", "goal": _TELL_GOAL, "better": "lower",
         "reference": f"appending it to a list that is kept: {kept:.2f} us"},
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=2) + "\n")

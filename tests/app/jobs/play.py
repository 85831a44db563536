"""Runners that play jobs for tests: a gate to hold one at a point, and a script of events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from app.jobs.worker import Outcome
from core.errors import Cancelled
from core.events import AnyEvent, Finished, LayerFitted, LayerStarted, LossPoint, Progress, StageStarted, TunePoint, Written

Tell = Callable[[AnyEvent], None]
Asked = Callable[[], bool]
LOSSES = {"scalar": 0.3, "row": 0.1, "column": 0.2}


def started(number: int, total: int = 4, at: float = 0.0) -> LayerStarted:
    return LayerStarted(tensor=f"layer.{number}", block=number // 2, kind="qk"[number % 2], index=number, total=total, time=at)


def fitted(number: int, total: int = 4, at: float = 0.0, losses: dict[str, float] | None = None) -> LayerFitted:
    found = losses or LOSSES
    axis = min(("row", "column"), key=lambda a: found[a])
    return LayerFitted(tensor=f"layer.{number}", block=number // 2, kind="qk"[number % 2], codec="sign", axes=(axis,),
                       losses=(found,), recovery=0.9, bytes=1000, seconds=0.5, index=number, total=total, time=at)


def point(number: int, iteration: int, axis: str = "row", loss: float = 0.5) -> LossPoint:
    return LossPoint(tensor=f"layer.{number}", slice=0, axis=axis, iteration=iteration, training=loss, held_out=loss + 0.1)


def whole_job(folder: str, layers: int = 4, steps: int = 3) -> Iterable[AnyEvent]:
    """The events of a small job, as the engine tells them."""
    yield StageStarted(stage="plan", total=9, time=0.0)
    yield Progress(stage="plan", done=9, total=9, fraction=0.0, time=1.0)
    yield StageStarted(stage="prepare", total=9, time=1.0)
    yield StageStarted(stage="fit", total=layers // 2, time=2.0)
    for number in range(layers):
        yield started(number, layers, at=3.0 + number)
        for iteration in range(5):
            for axis in ("row", "column"):
                yield point(number, iteration, axis, 0.5 / (iteration + 1))
        yield fitted(number, layers, at=4.0 + number)
        yield Progress(stage="fit", done=(number + 1) / 2, total=layers // 2, fraction=0.5 * (number + 1) / layers,
                       seconds_left=60.0, time=4.0 + number)
    yield StageStarted(stage="tune", total=steps, message="kl", time=10.0)
    yield TunePoint(step=0, total=steps, epoch=0, held_out=0.004, time=10.0)
    for step in range(1, steps + 1):
        yield TunePoint(step=step, total=steps, epoch=0, training=0.004 / step, time=10.0 + step)
    yield TunePoint(step=steps, total=steps, epoch=0, held_out=0.003, time=14.0)
    yield StageStarted(stage="write", total=5000, time=14.0)
    yield Written(bytes=5000, total=5000, time=15.0)
    yield Finished(folder=folder, weights_bytes=5000, seconds=15.0, time=15.0)


class Player:
    """A runner: tells `events` of each request, then waits at the gate for a go, a stop or an error to raise."""

    def __init__(self, events: Callable[[str], Iterable[AnyEvent]] = lambda folder: ()) -> None:
        self.events = events
        self.gate = threading.Semaphore(0)
        self.requests: list[dict[str, Any]] = []
        self.threads: list[threading.Thread] = []
        self.error: BaseException | None = None
        self.is_deaf = threading.Event()
        """Set: a stop is not heard until it is cleared."""

    def __call__(self, request: dict[str, Any], tell: Tell, cancelled: Asked) -> Outcome:
        self.requests.append(request)
        self.threads.append(threading.current_thread())
        for event in self.events(request["output"]):
            tell(event)
        while not self.gate.acquire(timeout=0.005):
            if cancelled() and not self.is_deaf.is_set():
                raise Cancelled("Cancelled.")
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return Outcome(request["output"], 5000)

    def go(self) -> None:
        """Let the present or the next job end."""
        self.gate.release()


def request(folder: Path, name: str = "pirate") -> dict[str, Any]:
    return {"base": "base", "fine_tuned": name, "output": str(folder / name)}

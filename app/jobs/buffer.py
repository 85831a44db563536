"""Between the worker and the window: a job tells events here, the main thread takes what became of them at its own pace.

Nothing that comes often is queued: progress keeps its latest value, points go into curves that thin themselves. What is
kept in order (stages, layers, warnings) is bounded, and is handed over in portions.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from app.jobs.curves import CurveStore
from core.events import AnyEvent, LossPoint, Progress, TunePoint, Written

MOST = 100_000
"""Events in order that may wait; beyond that the oldest go."""
BURST = 256
"""Events that a job may tell at full speed between two drains. The engine stays far below it."""
_SPELL = 50
_BREATH = 0.0005
"""Beyond that, after each `_SPELL` events the job rests for `_BREATH` seconds (10 microseconds an event): a thread that does
nothing but tell would keep the interpreter to itself, and each line that a view asks for would wait for its turn."""


@dataclass(frozen=True)
class Batch:
    """What came since the last drain, as far as the portion goes."""

    events: list[AnyEvent]
    """StageStarted, LayerStarted, LayerFitted, Warned, Finished and held-out TunePoints, in order."""
    progress: Progress | None
    """The latest; None before the last portion."""
    tune: TunePoint | None
    written: Written | None
    current: str
    """The tensor of the latest loss point."""
    touched: frozenset[str]
    """Tensors whose curves have new points; an empty text stands for tuning."""
    lost: int
    """Events that were dropped because too many waited."""
    has_more: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing came."""
        return not (self.events or self.progress or self.tune or self.written or self.touched or self.lost)


class EventBuffer:
    """One job's events. `tell` is the worker's and costs microseconds, `drain` the main thread's."""

    def __init__(self, curves: CurveStore | None = None, most: int = MOST) -> None:
        self.curves = curves if curves is not None else CurveStore()
        self._lock = self.curves.lock
        self._most = most
        self._ordered: deque[AnyEvent] = deque()
        self._progress: Progress | None = None
        self._tune: TunePoint | None = None
        self._written: Written | None = None
        self._touched: set[str] = set()
        self._lost = 0
        self._told = 0
        """Events since the last drain."""

    def tell(self, event: AnyEvent) -> None:
        """Take an event."""
        with self._lock:
            if isinstance(event, LossPoint):
                self.curves.point(event.tensor, event.slice, event.axis, event.iteration, event.training, event.held_out)
                self._touched.add(event.tensor)
            elif isinstance(event, Progress):
                self._progress = event
            elif isinstance(event, Written):
                self._written = event
            elif isinstance(event, TunePoint):
                self.curves.tuning(event.step, event.training, event.held_out)
                self._tune = event
                self._touched.add("")
                if event.held_out is not None:
                    self._order(event)
            else:
                self._order(event)
            self._told = told = self._told + 1
        if told > BURST and told % _SPELL == 0:
            time.sleep(_BREATH)

    def _order(self, event: AnyEvent) -> None:
        if len(self._ordered) >= self._most:
            self._ordered.popleft()
            self._lost += 1
        self._ordered.append(event)

    def drain(self, most: int = 64) -> Batch:
        """The next portion, of at most `most` events; latest values come with the last portion only.

        So no progress of a stage is seen before the stage's own beginning.
        """
        with self._lock:
            self._told, ordered = 0, self._ordered
            events = [ordered.popleft() for _ in range(min(most, len(ordered)))]
            has_more = bool(ordered)
            touched, self._touched = frozenset(self._touched), set()
            lost, self._lost = self._lost, 0
            if has_more:
                return Batch(events, None, None, None, self.curves.latest, touched, lost, True)
            batch = Batch(events, self._progress, self._tune, self._written, self.curves.latest, touched, lost, False)
            self._progress = self._tune = self._written = None
            return batch

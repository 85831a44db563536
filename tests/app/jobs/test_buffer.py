"""The buffer keeps the latest, bounds the rest, and hands over in portions."""

from __future__ import annotations

import threading
import tracemalloc

from app.jobs.buffer import EventBuffer
from app.jobs.runstate import RunState
from core.events import AnyEvent, Progress, StageStarted, TunePoint, Warned, Written
from tests.app.jobs.play import fitted, point, started


def test_latest_values_come_once_and_with_the_last_portion() -> None:
    buffer = EventBuffer()
    for number in range(10):
        buffer.tell(Progress(stage="fit", done=number, total=10, fraction=number / 10))
        buffer.tell(Written(bytes=number, total=10))
        buffer.tell(started(number))
    first, second, third = buffer.drain(6), buffer.drain(6), buffer.drain(6)
    assert [len(b.events) for b in (first, second, third)] == [6, 4, 0]
    assert first.has_more and first.progress is None and first.written is None
    assert not second.has_more and second.progress is not None and second.progress.done == 9
    assert second.written is not None and second.written.bytes == 9
    assert third.is_empty


def test_order_is_kept() -> None:
    buffer = EventBuffer()
    told: list[AnyEvent] = [StageStarted(stage="fit", total=1), started(0), Warned(message="odd"), fitted(0)]
    for event in told:
        buffer.tell(event)
    assert buffer.drain().events == told


def test_points_go_into_curves_and_are_not_queued() -> None:
    buffer = EventBuffer()
    for x in range(5000):
        buffer.tell(point(3, x))
    buffer.tell(TunePoint(step=1, total=9, epoch=0, training=0.5))
    batch = buffer.drain()
    assert batch.events == [] and batch.touched == {"layer.3", ""} and batch.current == "layer.3"
    assert batch.tune is not None and batch.tune.step == 1
    (view,) = buffer.curves.of("layer.3")
    assert view.iterations[-1] == 4999 and len(view.iterations) <= 512


def test_a_held_out_measurement_is_queued_too() -> None:
    buffer = EventBuffer()
    measured = TunePoint(step=0, total=9, epoch=0, held_out=0.5)
    buffer.tell(measured)
    assert buffer.drain().events == [measured]


def test_what_waits_is_bounded() -> None:
    buffer = EventBuffer(most=10)
    for number in range(25):
        buffer.tell(started(number))
    batch = buffer.drain()
    assert batch.lost == 15 and [e.index for e in batch.events if hasattr(e, "index")] == list(range(15, 25))
    assert buffer.drain().lost == 0


def fill(buffer: EventBuffer, layers: int, points: int) -> None:
    for number in range(layers):
        buffer.tell(started(number, layers))
        tensor = f"layer.{number}"
        with buffer.curves.lock:                       # as `tell` does, without making a million objects
            for x in range(points // 2):
                buffer.curves.point(tensor, 0, "row", x, 0.5, 0.5)
                buffer.curves.point(tensor, 0, "column", x, 0.5, 0.5)
        buffer.tell(fitted(number, layers))


def taken_over(layers: int, points: int) -> RunState:
    """A run after a thread has told all that while nothing was drained."""
    state = RunState("x")
    buffer = EventBuffer(state.curves)
    worker = threading.Thread(target=fill, args=(buffer, layers, points))
    worker.start()
    worker.join()
    while True:
        batch = buffer.drain(500)
        assert len(batch.events) <= 500 and batch.lost == 0
        state.apply(batch)
        if not batch.has_more:
            return state


def test_ten_thousand_layers_and_a_million_points_are_bounded() -> None:
    state = taken_over(10_000, 100)
    assert len(state.layers) == state.layers_done == 10_000
    assert len(state.log) == 5000 and state.log_count > 10_000
    assert state.curves.points <= 10_000 * 2 * 50
    assert state.curves_of("layer.77")[0].iterations[-1] == 49


def test_memory_of_a_large_job() -> None:
    """Fewer layers with longer curves: 300 of 1,000 points, of which most are thinned."""
    tracemalloc.start()
    try:
        state = taken_over(300, 1_000)
        grown = tracemalloc.get_traced_memory()[0] / 1e6
    finally:
        tracemalloc.stop()
    assert state.layers_done == 300 and grown < 3

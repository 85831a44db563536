"""Curves keep their ends and their order however many points come."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.curves import FULL, MOST, RECENT, THIN, Curve, CurveStore, thinned


def filled(count: int, cap: int = 16) -> Curve:
    curve = Curve(cap)
    for x in range(count):
        curve.add(x, float(x), x + 0.5)
    return curve


@given(st.integers(1, 3000), st.integers(2, 40))
def test_first_last_order_and_bounds(count: int, cap: int) -> None:
    curve = filled(count, cap)
    xs, ts, hs = curve.columns()
    assert len(curve) == len(xs) == len(ts) == len(hs) <= max(cap, 2)
    assert xs[0] == 0 and xs[-1] == count - 1
    assert all(a < b for a, b in pairwise(xs))
    assert list(ts) == [float(x) for x in xs] and list(hs) == [x + 0.5 for x in xs]


def test_a_curve_below_its_cap_is_whole_and_a_full_one_even() -> None:
    assert list(filled(10).columns()[0]) == list(range(10))
    xs = list(filled(100).columns()[0])
    steps = {b - a for a, b in pairwise(xs[:-1])}
    assert steps == {8} and len(xs) > 8


def test_an_earlier_iteration_begins_from_there_again() -> None:
    curve = filled(100)
    curve.add(40, -1.0, -1.0)
    xs, ts, _ = curve.columns()
    assert xs[0] == 0 and list(xs[-2:]) == [32, 40] and ts[-1] == -1.0
    curve.add(0, 7.0, 7.0)
    assert [list(c) for c in curve.columns()] == [[0], [7.0], [7.0]]
    assert curve.stride == 1


def test_what_is_not_a_number_stays_so() -> None:
    curve = Curve()
    curve.add(0, math.nan, 1e300)
    _, ts, hs = Curve.unpacked(curve.packed()).columns()
    assert math.isnan(ts[0]) and hs[0] == math.inf


def test_thinning_keeps_both_ends() -> None:
    xs, _, _ = thinned(filled(1000, 2000).columns(), 7)
    assert len(xs) == 7 and (xs[0], xs[-1]) == (0, 999) and sorted(set(xs)) == list(xs)


def test_packing_is_exact_and_checked() -> None:
    curve = filled(9)
    assert Curve.unpacked(curve.packed()).columns() == curve.columns()
    with pytest.raises(ValueError, match="cut off"):
        Curve.unpacked(curve.packed()[:-1])
    longer = Curve.unpacked(curve.packed())
    longer.add(9, 1.0, 1.0)
    assert list(longer.columns()[0]) == list(range(10))


def fill_store(store: CurveStore, layers: int, points: int) -> None:
    with store.lock:
        for layer in range(layers):
            for x in range(points):
                for axis in ("row", "column"):
                    store.point(f"layer.{layer}", 0, axis, x, 1.0, 2.0)


def test_layers_long_past_are_thinned() -> None:
    store = CurveStore()
    fill_store(store, RECENT + 3, 2 * FULL)
    old, recent = store.of("layer.2"), store.of("layer.3")
    assert [view.axis for view in old] == ["column", "row"]
    assert len(old[0].iterations) == THIN and (old[0].iterations[0], old[0].iterations[-1]) == (0, 2 * FULL - 1)
    assert THIN < len(recent[0].iterations) <= FULL
    assert store.latest == f"layer.{RECENT + 2}" and store.of("unknown") == []


def test_a_thinned_curve_goes_on() -> None:
    store = CurveStore()
    fill_store(store, RECENT + 1, 100)
    with store.lock:
        store.point("layer.0", 0, "row", 100, 3.0, 4.0)
    row = store.of("layer.0")[1]
    assert row.iterations[-1] == 100 and row.training[-1] == 3.0 and len(row.iterations) == THIN + 1


def test_layers_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.curves.MOST", 10)
    store = CurveStore()
    fill_store(store, 25, 1)
    assert store.points == 20 and store.of("layer.14") == [] and store.of("layer.15") != []
    assert MOST > 10


def test_a_snapshot_brings_all_back() -> None:
    store, other = CurveStore(), CurveStore()
    fill_store(store, 150, 20)
    with store.lock:
        store.tuning(0, None, 0.5)
        for step in range(1, 4):
            store.tuning(step, 1.0 / step, None)
    other.restore(*store.snapshot())
    assert other.of("layer.149") == store.of("layer.149") and other.of("layer.0") == store.of("layer.0")
    assert [list(view.iterations) for view in other.tune_columns()] == [[1, 2, 3], [0]]
    with pytest.raises(ValueError, match="cut off"):
        other.restore({"x": {(0, "row"): b"123"}}, b"", b"")


def test_tuning_that_goes_on_does_not_repeat_its_start() -> None:
    store = CurveStore()
    with store.lock:
        store.tuning(0, None, 0.004)
        for step in range(1, 60):
            store.tuning(step, 1.0, None)
        store.tuning(50, None, 0.004)                   # a resume tells the loss before the first step again
        store.tuning(51, 2.0, None)
        store.tuning(100, None, 0.003)
    training, held_out = store.tune_columns()
    assert list(training.iterations) == list(range(1, 52)) and training.training[-1] == 2.0
    assert list(held_out.iterations) == [0, 100]

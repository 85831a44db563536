"""Curves that stay small however many points come: the worker appends, the screen takes copies.

A full curve loses every second point and doubles its stride. Curves of layers long past are thinned further and packed.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

FULL = 512
"""Points of a recent layer's curve."""
RECENT = 64
"""Layers that keep such curves."""
THIN = 64
"""Points of an older layer's curve."""
MOST = 20_000
"""Layers whose curves are kept; the oldest go first."""
POINT = 12
"""Bytes of a packed point."""

Columns: TypeAlias = "tuple[array[int], array[float], array[float]]"
"""x, training and held-out losses."""
Packed = dict[str, dict[tuple[int, str], bytes]]
"""Curves by tensor, then slice and axis."""


@dataclass(frozen=True)
class CurveView:
    """A copy of a curve: three arrays of one length, in order of iteration; `numpy.asarray` takes them without copying.

    A loss that was not measured is NaN.
    """

    tensor: str
    slice: int
    axis: str
    iterations: array[int]
    training: array[float]
    held_out: array[float]


class Curve:
    """Up to `cap` points (x, training, held-out), the first and the latest always among them."""

    __slots__ = ("cap", "count", "hs", "stride", "tail", "ts", "xs")

    def __init__(self, cap: int = FULL) -> None:
        self.cap = cap
        self.xs, self.ts, self.hs = _empty()
        self.stride = 1
        """Every so many points one is kept."""
        self.count = 0
        """Points that came."""
        self.tail: tuple[int, float, float] | None = None
        """The latest point, where it is not among the kept ones."""

    def add(self, x: int, training: float, held_out: float) -> None:
        """Append a point. One at or before an earlier x means that the curve goes on from there: the rest is dropped."""
        xs = self.xs
        if xs and x <= (self.tail[0] if self.tail is not None else xs[-1]):
            self._back_to(x)
        if self.count % self.stride == 0 and len(xs) >= self.cap - 1:       # one place is the tail's
            for values in (self.xs, self.ts, self.hs):
                del values[1::2]
            self.stride *= 2
        if self.count % self.stride == 0:
            xs.append(x)
            self.ts.append(training)
            self.hs.append(held_out)
            self.tail = None
        else:
            self.tail = (x, training, held_out)
        self.count += 1

    def _back_to(self, x: int) -> None:
        while self.xs and self.xs[-1] >= x:
            for values in (self.xs, self.ts, self.hs):
                values.pop()
        self.tail = None
        if not self.xs:
            self.stride = 1
        self.count = len(self.xs) * self.stride

    def columns(self) -> Columns:
        """Copies of the points."""
        xs, ts, hs = self.xs[:], self.ts[:], self.hs[:]
        if self.tail is not None:
            xs.append(self.tail[0])
            ts.append(self.tail[1])
            hs.append(self.tail[2])
        return xs, ts, hs

    def __len__(self) -> int:
        return len(self.xs) + (self.tail is not None)

    def packed(self, most: int = FULL) -> bytes:
        """At most `most` points, evenly chosen with both ends, as bytes."""
        xs, ts, hs = thinned(self.columns(), most)
        return xs.tobytes() + ts.tobytes() + hs.tobytes()

    @classmethod
    def unpacked(cls, data: bytes, cap: int = FULL) -> Curve:
        """A curve from `packed`; raises ValueError for a length that can't be."""
        number, rest = divmod(len(data), POINT)
        if rest:
            raise ValueError("a curve's bytes are cut off")
        curve = cls(max(cap, number + 1))
        curve.xs.frombytes(data[:4 * number])
        curve.ts.frombytes(data[4 * number:8 * number])
        curve.hs.frombytes(data[8 * number:])
        curve.count = number
        return curve


def _empty() -> Columns:
    return array("i"), array("f"), array("f")


def thinned(columns: Columns, most: int) -> Columns:
    """`most` (2 or more) points of longer columns, evenly by position, first and last among them; shorter ones as they are."""
    xs, ts, hs = columns
    if len(xs) <= most:
        return columns
    wanted = [i * (len(xs) - 1) // (most - 1) for i in range(most)]
    return array("i", [xs[i] for i in wanted]), array("f", [ts[i] for i in wanted]), array("f", [hs[i] for i in wanted])


class CurveStore:
    """All layer curves of a run, and the two of its tuning. Any thread may call what takes the lock itself."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._layers: dict[str, dict[tuple[int, str], Curve | bytes]] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._tuning, self._tuned = Curve(), Curve()
        self._here: dict[tuple[int, str], Curve | bytes] = {}
        self.latest = ""
        """The tensor that had the latest point."""

    # ---------------------------------------------------------------- worker's side, called with the lock held
    def point(self, tensor: str, piece: int, axis: str, iteration: int, training: float, held_out: float) -> None:
        """Append to a layer's curve. The caller holds `lock`."""
        if tensor != self.latest:
            self._turn_to(tensor)
        curve = self._here.get((piece, axis))
        if not isinstance(curve, Curve):
            curve = self._here[(piece, axis)] = Curve() if curve is None else Curve.unpacked(curve)
        curve.add(iteration, training, held_out)

    def _turn_to(self, tensor: str) -> None:
        self.latest = tensor
        if tensor not in self._layers and len(self._layers) >= MOST:
            oldest = next(iter(self._layers))
            del self._layers[oldest]
            self._recent.pop(oldest, None)
        self._here = self._layers.setdefault(tensor, {})
        self._recent[tensor] = None
        self._recent.move_to_end(tensor)
        if len(self._recent) > RECENT:
            old = self._layers[self._recent.popitem(last=False)[0]]
            for key, curve in old.items():
                if isinstance(curve, Curve):
                    old[key] = curve.packed(THIN)

    def tuning(self, step: int, training: float | None, held_out: float | None) -> None:
        """Append a step of tuning. The caller holds `lock`."""
        nan = float("nan")
        if training is not None:
            self._tuning.add(step, training, nan)
        if held_out is not None and not (step and self._is_start(held_out)):
            self._tuned.add(step, nan, held_out)

    def _is_start(self, held_out: float) -> bool:
        """Whether it is the loss before tuning: a job that goes on tells it again, at the step where it goes on."""
        known = self._tuned.hs
        return bool(known) and known[0] == array("f", [held_out])[0]

    # --------------------------------------------------------------------------------------------- screen's side
    def of(self, tensor: str) -> list[CurveView]:
        """Copies of a layer's curves, by slice and axis."""
        with self.lock:
            found = sorted(self._layers.get(tensor, {}).items(), key=lambda pair: pair[0])
            copies = [(k, (Curve.unpacked(c) if isinstance(c, bytes) else c).columns()) for k, c in found]
        return [CurveView(tensor, piece, axis, *columns) for (piece, axis), columns in copies]

    def tune_columns(self) -> tuple[CurveView, CurveView]:
        """(training, held-out) of tuning; their `iterations` are steps."""
        with self.lock:
            training, held_out = self._tuning.columns(), self._tuned.columns()
        return CurveView("", 0, "training", *training), CurveView("", 0, "held-out", *held_out)

    @property
    def points(self) -> int:
        """Points that are kept of layers, all in all."""
        with self.lock:
            return sum(len(c) // POINT if isinstance(c, bytes) else len(c)
                       for found in self._layers.values() for c in found.values())

    # ------------------------------------------------------------------------------------------------- keeping
    def snapshot(self) -> tuple[Packed, bytes, bytes]:
        """(layers, tuning's training, its held-out) for a file; only recent curves are copied."""
        with self.lock:
            names = list(self._layers)
            tuning = self._tuning.packed(), self._tuned.packed()
        layers: Packed = {}
        for at in range(0, len(names), 100):           # in portions: neither worker nor screen waits for 10,000 layers
            with self.lock:
                for tensor in names[at:at + 100]:
                    found = self._layers.get(tensor, {})
                    layers[tensor] = {k: c if isinstance(c, bytes) else c.packed() for k, c in found.items()}
        return layers, *tuning

    def restore(self, layers: Packed, tuning: bytes, tuned: bytes) -> None:
        """Take over a snapshot; raises ValueError for a damaged one."""
        if any(len(data) % POINT for found in layers.values() for data in found.values()):
            raise ValueError("a curve's bytes are cut off")
        opened = Curve.unpacked(tuning), Curve.unpacked(tuned)
        with self.lock:
            self._layers = {tensor: dict(found) for tensor, found in layers.items()}
            self._recent.clear()
            self._here, self.latest = {}, ""
            self._tuning, self._tuned = opened

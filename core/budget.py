"""A size or a fidelity that is asked for, and the best use of it over all matrices of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from core.artifact import weights_bytes
from core.codecs import CODECS
from core.errors import BadOption
from core.knapsack import Option, choose, frontier
from core.methods import METHODS
from core.probe import SIGNS, Candidate, Probe, nbytes_for, share_between, sizes_at
from core.record import TensorRecord

CANDIDATES = (Candidate(SIGNS, 1), *(Candidate("deltamix-h", bits) for bits in (0.25, 0.75, 1.75)),
              *(Candidate("coded", bits) for bits in (1.75, 4.5)))
"""What is really learnt at a few blocks, so that a budget knows what it buys: what wins at its size on real pairs
(`tests/benchmarks/bench_methods.py`)."""

OFFERED = (Candidate(SIGNS, 1), *(Candidate("deltamix-h", i / 8) for i in range(2, 17)),
           *(Candidate("coded", i / 4) for i in range(6, 25)))
"""What a budget chooses from, besides leaving a change out and storing the tensor whole. The logarithm of what a method
loses is nearly a straight line in its bits, so that these lie between the candidates that were learnt, or little beyond."""

LEFT_OUT = "Left out: its change costs less than its bytes are worth elsewhere."

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_budget(text: str, full_bytes: int) -> int:
    """Bytes of `12x` (so many times smaller than the full checkpoint), `900MB`, `1.5 GB` or `800MiB`.

    Raises `BadOption` for anything else, and for what is not above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(x|[kmg]?i?b)?\s*", text, re.IGNORECASE | re.ASCII)
    unit = (found[2] or "").lower() if found else "?"
    number = float(found[1]) if found else 0.0
    if not 0 < number < 1e18 or (unit != "x" and unit not in _UNITS):
        raise BadOption(f"'{text}' is no size.", "", "Write it like 12x (so many times smaller), 900MB or 1.5GB.")
    return int(full_bytes / number) if unit == "x" else int(number * _UNITS[unit])


def weight_of(found: Probe, name: str) -> float:
    """What leaving a tensor's change out counts for."""
    return max(0.0, found.own.get(name, 0.0))


def is_item(record: TensorRecord) -> bool:
    """Whether a budget decides how a planned record is stored: what would be coded by signs inside a block."""
    return record.codec == "sign" and record.block is not None


@dataclass(frozen=True)
class _Way:
    """How matrices of one kind, block and shape may be stored."""

    plan: Callable[[TensorRecord], TensorRecord | None]
    nbytes: int
    """Without the tensor's name, which is in the file's header `names` times."""
    names: int
    share: float | None
    """What it costs next to the reference; None where that is not known."""
    of_own: float = 1.0
    """Or a share of what leaving the change out costs."""


class Prices:
    """Ways to store matrices and what they cost by a probe; worked out once for all experts of a block."""

    def __init__(self, found: Probe) -> None:
        self.found = found
        self._known: dict[tuple[Any, ...], tuple[list[_Way], dict[tuple[Any, ...], int]]] = {}

    @classmethod
    def of(cls, found: Probe | Prices) -> Prices:
        """By a probe; those that were made before as they are."""
        return found if isinstance(found, Prices) else cls(found)

    def _ways(self, record: TensorRecord) -> tuple[list[_Way], dict[tuple[Any, ...], int]]:
        """The ways, and their places by what a record holds that was planned so."""
        key = (record.kind, record.block, record.shape, record.base_shape, record.dtype, record.base_dtype,
               record.output_dimension, record.planes, record.slices)
        if key not in self._known:
            ways: list[_Way] = []
            places: dict[tuple[Any, ...], int] = {}
            for plan, share, of_own in self._plans(record):
                planned = plan(record)
                if planned is None:
                    continue
                layout = CODECS[planned.codec].layout(planned).values()
                places.setdefault(_content(planned), len(ways))
                ways.append(_Way(plan, sum(t.nbytes + len(t.name) - len(record.name) + 70 for t in layout), len(layout), share,
                                 of_own))
            self._known[key] = ways, places
        return self._known[key]

    def _plans(self, record: TensorRecord) -> Iterator[tuple[Callable[[TensorRecord], TensorRecord | None], float | None, float]]:
        """(plan, share, share of its own) for each way."""
        yield lambda r: msgspec.structs.replace(_bare(r), codec="same", note=LEFT_OUT), None, 1.0
        yield lambda r: msgspec.structs.replace(_bare(r), codec="full"), None, 0.0
        sizes = {method: sizes_at(self.found, record.kind, method, record.block or 0) for method in {w.method for w in OFFERED}}
        for way in OFFERED:
            share = share_between(sizes[way.method], way.bits)
            if way.method == SIGNS:
                yield lambda r: r, share, 0.5
            elif share is not None:
                yield partial(_by_method, way), share, 1.0

    def options(self, record: TensorRecord) -> list[Option]:
        """Bytes and cost of each way, in units of `weight_of`."""
        own = weight_of(self.found, record.name)
        reference = max(0.0, self.found.reference.get(record.name, own))
        return [Option(w.nbytes + w.names * len(record.name), _cost(w, own, reference)) for w in self._ways(record)[0]]

    def planned(self, record: TensorRecord, place: int) -> TensorRecord:
        """The record of the way at a place of `options`."""
        found = self._ways(record)[0][place].plan(record)
        assert found is not None
        return found

    def cost(self, before: TensorRecord, after: TensorRecord) -> float:
        """Of a matrix as it was chosen. Raises KeyError for a record that none of the ways makes."""
        ways, places = self._ways(before)
        own = weight_of(self.found, before.name)
        return _cost(ways[places[_content(after)]], own, max(0.0, self.found.reference.get(before.name, own)))


def _by_method(way: Candidate, record: TensorRecord) -> TensorRecord | None:
    return METHODS[way.method].plan(_bare(record), nbytes_for(record, way))


def _content(record: TensorRecord) -> tuple[Any, ...]:
    """What of a planned record is its way's."""
    return (record.codec, record.method, record.packed, record.levels, record.count, record.rank, record.ranks, record.planes)


def _cost(way: _Way, own: float, reference: float) -> float:
    if way.share is not None:
        return min(own, reference * way.share)
    return way.of_own * own if way.of_own in (0.0, 1.0) else min(way.of_own * own, 1.5 * reference)


def _bare(record: TensorRecord) -> TensorRecord:
    """The record without what belongs to the sign codec."""
    return msgspec.structs.replace(record, slices=(), planes=1, exponents=())


def allocate(records: Sequence[TensorRecord], found: Probe | Prices, budget: int) -> tuple[TensorRecord, ...]:
    """Planned records of at most `budget` bytes of weight files that are expected to lose least.

    Raises `BadOption`, naming the smallest possible size, where the budget is below it.
    """
    items = [r for r in records if is_item(r)]
    prices = Prices.of(found)
    priced = [prices.options(r) for r in items]

    def made(limit: int) -> tuple[TensorRecord, ...] | None:
        chosen = choose(priced, limit)
        if chosen is None:
            return None
        picked = {r.name: prices.planned(r, i) for r, i in zip(items, chosen, strict=True)}
        return tuple(picked.get(r.name, r) for r in records)
    return _fitting(made, records, budget)


def _fitting(made: Callable[[int], tuple[TensorRecord, ...] | None], records: Sequence[TensorRecord],
             budget: int) -> tuple[TensorRecord, ...]:
    """What `made` gives for the largest limit whose weight files, headers included, take no more than the budget."""
    fixed = sum(_data_bytes(r) for r in records if not is_item(r))
    limit = budget - fixed
    for attempt in range(24):
        result = made(limit) if limit >= 0 else None
        if result is None:
            break
        over = weights_bytes(result) - budget
        if over <= 0:
            return result
        limit -= over << min(attempt, 12)              # what fits then may need other entries in the files' headers
    raise BadOption(f"{budget:,} bytes are too little for this pair.", "What is not up to the size alone (norms, changes that "
                    f"are stored exactly) takes {fixed:,} bytes.", "Ask for a larger size.")


def uniform(records: Sequence[TensorRecord], method: str, budget: int) -> tuple[TensorRecord, ...]:
    """Planned records that give every matrix the same share of its bytes by one method, `budget` bytes in all at most."""
    items = [r for r in records if is_item(r)]
    whole = sum(2 * r.inputs * r.outputs for r in items)

    def made(limit: int) -> tuple[TensorRecord, ...] | None:
        share = limit / whole if whole else 0.0
        picked = {r.name: _no_larger_than_whole(METHODS[method].plan(_bare(r), int(2 * r.inputs * r.outputs * share)), r)
                  for r in items}
        if any(p is None for p in picked.values()):
            return None
        return tuple(picked.get(r.name) or r for r in records)
    return _fitting(made, records, budget)


def _no_larger_than_whole(planned: TensorRecord | None, record: TensorRecord) -> TensorRecord | None:
    whole = msgspec.structs.replace(_bare(record), codec="full")
    return whole if planned is not None and _data_bytes(planned) >= _data_bytes(whole) else planned


def curve(records: Sequence[TensorRecord], found: Probe | Prices) -> list[tuple[int, float]]:
    """(bytes of weight files, share of the whole change's cost that remains) for every best use of a budget, ascending."""
    items = [r for r in records if is_item(r)]
    prices = Prices.of(found)
    priced = [prices.options(r) for r in items]
    fixed = weights_bytes([r for r in records if not is_item(r)])   # with what its header takes without the items
    whole = sum(weight_of(prices.found, r.name) for r in items) or 1.0
    return [(fixed + nbytes, loss / whole) for nbytes, loss in frontier(priced)]


def remaining(records: Sequence[TensorRecord], chosen: Sequence[TensorRecord], found: Probe | Prices) -> float:
    """Share of the whole change's cost that chosen records are expected to leave."""
    prices, whole, left = Prices.of(found), 0.0, 0.0
    for before, after in zip(records, chosen, strict=True):
        if is_item(before):
            whole += weight_of(prices.found, before.name)
            left += prices.cost(before, after)
    return left / whole if whole else 0.0


def _data_bytes(record: TensorRecord) -> int:
    """With what its stored tensors take in a file's header, roughly."""
    return sum(t.nbytes + len(t.name) + 70 for t in CODECS[record.codec].layout(record).values())

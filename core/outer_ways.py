"""How a changed embedding or head may be stored where a size decides: left out, in one to four sign planes, or whole.

What each costs is measured on held-out text, all else being the fine-tune's, and adds to what the matrices cost: there are one
or two such tensors, of a quarter to a half of a small model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import msgspec

from core.artifact import weights_bytes
from core.record import TensorRecord

LEFT_OUT = "The base's is used, for the sake of the size: the bytes of its change are worth more elsewhere."
PLANES = (1, 2, 3, 4)
WAYS = ("left out", *(str(planes) for planes in PLANES), "whole")

Costs = Mapping[str, Mapping[str, float]]
"""By tensor and way: KL in nats per token."""


def is_outer(record: TensorRecord) -> bool:
    """Whether a planned record is an embedding or head that a size decides on: what would be coded by signs."""
    return record.codec == "sign" and record.block is None and record.kind in ("embed", "head")


def ways_of(record: TensorRecord) -> tuple[str, ...]:
    """Those there are: what has rows that the base lacks can't be left out."""
    return WAYS[1:] if record.tail else WAYS


def stored(record: TensorRecord, way: str) -> TensorRecord:
    """The planned record of a way."""
    if way in ("left out", "whole"):
        left_out = way == "left out"
        return msgspec.structs.replace(record, codec="same" if left_out else "full", note=LEFT_OUT if left_out else "", slices=(),
                                       planes=1, exponents=())
    return msgspec.structs.replace(record, planes=int(way), exponents=(0,) * int(way))


@dataclass(frozen=True)
class Outer:
    """A choice for all of them: bytes of the weight files without what a budget decides in blocks, and what it costs."""

    ways: Mapping[str, str]
    nbytes: int
    kl: float

    def applied(self, records: Sequence[TensorRecord]) -> tuple[TensorRecord, ...]:
        """Planned records with this choice."""
        return _applied(records, self.ways)


def _applied(records: Sequence[TensorRecord], ways: Mapping[str, str]) -> tuple[TensorRecord, ...]:
    return tuple(stored(r, ways[r.name]) if r.name in ways else r for r in records)


def choices(fixed: Sequence[TensorRecord], costs: Costs) -> list[Outer]:
    """Choices that are the cheapest for what they cost in bytes, by bytes ascending; one without ways where nothing is to choose.

    `fixed` are the records that no budget decides on in blocks.
    """
    known = {r.name: [w for w in ways_of(r) if w in costs.get(r.name, {})] for r in fixed if is_outer(r)}
    known = {name: ways for name, ways in known.items() if ways}
    found = []
    for ways in product(*known.values()):
        named = dict(zip(known, ways, strict=True))
        found.append(Outer(named, weights_bytes(_applied(fixed, named)), sum(costs[n][w] for n, w in named.items())))
    kept: list[Outer] = []
    for choice in sorted(found, key=lambda c: (c.nbytes, c.kl)):
        if not kept or choice.kl < kept[-1].kl:
            kept.append(choice)
    return kept


def cost_of(records: Sequence[TensorRecord], chosen: Sequence[TensorRecord], costs: Costs) -> float:
    """What embeddings and head cost as they were chosen."""
    total = 0.0
    for before, after in zip(records, chosen, strict=True):
        if is_outer(before) and before.name in costs:
            total += next(kl for way, kl in costs[before.name].items() if stored(before, way) == after)
    return total

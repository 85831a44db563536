"""What is compared: methods by name, and the sizes at which each exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.errors import BadOption

SIZES = (4, 8, 16, 32)
"""How many times smaller than the FP16 bytes of the linear layers. 16 is one bit per weight and its scales: each size
is a multiple of what per-axis signs take, scales included, so that methods meet at equal bytes."""
OWN = 16


@dataclass(frozen=True)
class Way:
    """A method: the options of `compress` that it is, and whether it takes any size."""

    key: str
    label: str
    options: dict[str, str] = field(default_factory=dict)
    is_sized: bool = False


WAYS = (
    Way("bitdelta", "BitDelta (scalar, logit MSE)", {"recipe": "bitdelta"}),
    Way("paper", "Per-axis, as published (AdamW)", {"recipe": "paper"}),
    Way("exact", "Per-axis, exact scales", {"recipe": "exact"}),
    Way("both", "Row x column, exact scales", {"recipe": "exact", "axis": "both"}),
    Way("chosen", "Chosen signs", {"recipe": "chosen"}),
    Way("planes", "Sign planes", {"recipe": "planes"}, True),
    Way("lowrank", "Low rank, FP16", {"recipe": "lowrank"}, True),
    Way("delta-come", "Delta-CoMe (8/3/2 bits)", {"recipe": "delta-come"}, True),
    Way("deltamix", "DeltaMix", {"recipe": "deltamix"}, True),
    Way("deltamix-h", "DeltaMix under H", {"recipe": "deltamix-h"}, True),
    Way("coded", "Coded grid", {"recipe": "coded"}, True),
    Way("mix", "Budgeted mix", {"recipe": "chosen"}, True),
)


@dataclass(frozen=True)
class Cell:
    """A method at a size."""

    way: Way
    size: int

    @property
    def name(self) -> str:
        """As its files are called."""
        return f"{self.way.key}-{self.size}"


def cells(names: Sequence[str], sizes: Sequence[int]) -> list[Cell]:
    """What is to be run, cheap sizes first. Raises `BadOption` for names that are none and sizes below 1."""
    known = {w.key: w for w in WAYS}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise BadOption(f"There is no method '{unknown[0]}'.", "", f"Choose among: {', '.join(known)}.")
    if any(s < 1 for s in sizes) or not sizes:
        raise BadOption("A size is how many times smaller the layers get.", "", "Use numbers such as 4,8,16,32.")
    ways = [known[n] for n in names] if names else list(WAYS)
    return [Cell(way, size) for size in sorted(sizes, reverse=True) for way in ways if way.is_sized or size == OWN]


def limit_bytes(signs: int, rest: int, size: int) -> int:
    """Bytes of weight files at a size; `signs` are those of per-axis signs for linear layers, `rest` all others."""
    return rest + signs * OWN // size

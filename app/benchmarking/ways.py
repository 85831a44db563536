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
    """What is to be run, cheap sizes first. Raises `BadOption` for names that are none, sizes below 1, and nothing to run."""
    known = {w.key: w for w in WAYS}
    unknown = [n for n in names if n not in known]
    if unknown:
        raise BadOption(f"There is no method '{unknown[0]}'.", "", f"Choose among: {', '.join(known)}.")
    if any(s < 1 for s in sizes) or not sizes:
        raise BadOption("A size is how many times smaller the layers get.", "", "Use numbers such as 4,8,16,32.")
    found = [Cell(way, size) for size in sorted(set(sizes), reverse=True) for way in _asked(names) if way.is_sized or size == OWN]
    if not found:
        raise BadOption(f"Nothing to run: {left_out_words(names, sizes)}", "", f"Add {OWN} to --sizes, or a method of any size.")
    return found


def _asked(names: Sequence[str]) -> list[Way]:
    """Methods by their names, each once; all where none is named."""
    known = {w.key: w for w in WAYS}
    return [known[n] for n in dict.fromkeys(names)] if names else list(WAYS)


def left_out_words(names: Sequence[str], sizes: Sequence[int]) -> str:
    """Which methods have no cell at these sizes, and why, as a sentence; empty where every one has."""
    missing = [way.key for way in _asked(names) if not way.is_sized and OWN not in sizes]
    return f"{', '.join(missing)} {'exists' if len(missing) == 1 else 'exist'} at 1/{OWN} only." if missing else ""


def limit_bytes(signs: int, rest: int, size: int) -> int:
    """Bytes of weight files at a size; `signs` are those of per-axis signs for linear layers, `rest` all others."""
    return rest + signs * OWN // size

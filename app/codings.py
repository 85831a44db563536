"""Words and letters for how tensors are stored: codecs and methods, those that are not known here too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Coding:
    """A way to store a change: in words, as a letter, and the theme's role for its colour."""

    word: str
    letter: str
    role: str = "text-faded"


CODINGS: dict[str, Coding] = {
    "sign": Coding("Signs", "S", "accent"), "planes": Coding("Sign planes", "P", "row"),
    "svdmix": Coding("DeltaMix", "M", "success"), "coded": Coding("Coded levels", "E", "column"),
    "lowrank": Coding("Low rank", "L", "warning"), "rows": Coding("Some rows", "r"), "sparse": Coding("Some entries", "s"),
    "full": Coding("Whole", "F", "danger"), "same": Coding("Same", "="), "left-out": Coding("Left out", "\N{EN DASH}")}
"""By key: the codecs of records, and two that only differ in how a codec is used (several planes of signs, a change dropped)."""
METHODS = {"planes": "Sign planes", "deltamix": "DeltaMix", "deltamix-h": "DeltaMix, error feedback",
           "delta-come": "Delta-CoMe", "lowrank": "Low rank",
           "lowrank-h": "Low rank under H", "coded": "Coded levels", "chosen": "Chosen signs", "sign": "Signs", "full": "Whole"}
LEFT_OUT = "Left out"
"""How the note of a change begins that a budget drops."""


def coding_of(codec: str, method: str = "", planes: int = 1, note: str = "") -> str:
    """The key under which a record counts; a codec's own name where nothing sets it apart."""
    if codec == "sign" and (planes > 1 or method == "planes"):
        return "planes"
    return "left-out" if codec == "same" and note.startswith(LEFT_OUT) else codec


def coding_word(key: str) -> str:
    """`DeltaMix`; the key itself where it is not known."""
    found = CODINGS.get(key)
    return found.word if found is not None else key[:40]


def quiet(word: str) -> str:
    """A word inside a sentence: in lower case, unless it is a name (`DeltaMix`)."""
    return word if any(c.isupper() for c in word[1:]) else word.lower()


def coding_letter(key: str) -> str:
    """One letter; of an unknown key its first, in capitals."""
    found = CODINGS.get(key)
    return found.letter if found is not None else (key[:1].upper() or "?")


def coding_role(key: str) -> str:
    """The theme's role of its colour."""
    found = CODINGS.get(key)
    return found.role if found is not None else "text-faded"


def method_word(method: str) -> str:
    """How what is stored was chosen; empty for the plain way."""
    return METHODS.get(method, method[:40])


def in_order(keys: Iterable[str]) -> list[str]:
    """Each key once: known ones in the order of CODINGS, others by name."""
    order = list(CODINGS)
    return sorted(set(keys), key=lambda k: (order.index(k) if k in CODINGS else len(order), k))


def strength(bits: float) -> float:
    """How strong the colour of a layer is, 0 to 1, by its bits per weight: full from 4 on."""
    return min(1.0, math.log2(1 + max(0.0, bits)) / math.log2(5))


def bits_text(bits: float | None) -> str:
    """`0.97`, `16`; empty where not known."""
    if bits is None:
        return ""
    return f"{bits:.2f}" if bits < 10 else f"{bits:.1f}"

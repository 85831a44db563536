"""What the user asks of a job, as plain data, and what follows from it for names and folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.library import files
from app.paths import expanded

METHODS: dict[str, tuple[str, str, str, str]] = {
    "bitdelta": ("BitDelta", "bitdelta", "auto", "One bit per weight and one scale per matrix, taken from the change itself. "
                 "The smallest and quickest, and the least faithful."),
    "per-axis": ("Per-axis", "chosen", "auto", "One bit per weight, chosen with one scale per row or per column, whichever has "
                 "the lower held-out loss."),
    "both": ("Row x column", "chosen", "both", "One bit per weight, chosen with a scale for each row times one for each column. "
             "A little larger, and often closer."),
    "paper": ("Paper", "paper", "auto", "Per-axis scales learnt by gradient descent, as published. Slower than the closed form, "
              "for comparison."),
}
"""By key: the word on the page, recipe and axis of the request, and the sentence under it."""

ONE_SIZE = ("paper", "bitdelta")
"""Recipes that can't be asked for a size."""
AXES = (("auto", "Row or column, by loss"), ("row", "Row (per output)"), ("column", "Column (per input)"),
        ("scalar", "One scale"))
OBJECTIVES = (("kl", "KL to the fine-tune"), ("mse", "Squared logit error"))
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Recipe:
    """The recipe card as it stands. `sequence_length` None: by the model's width."""

    method: str = "per-axis"
    embeddings: str = "auto"
    calibration: str = "default"
    samples: int = 50
    tune: bool = True
    tune_samples: int = 150
    sequence_length: int | None = None
    seed: int = 0
    axis: str = "auto"
    objective: str = "kl"
    device: str = "auto"
    budget: str = ""
    quality: str = ""

    @property
    def one_size(self) -> str:
        """Why the method takes no size; empty where it does."""
        name, recipe, *_ = METHODS[self.method]
        return f"{name} has one size: one bit per weight." if recipe in ONE_SIZE else ""

    @property
    def takes_axis(self) -> bool:
        """Whether the method leaves the axis open, so that it can be forced."""
        return METHODS[self.method][2] == "auto" and self.method != "bitdelta"

    def request(self, base: str, fine_tuned: str, output: Path) -> dict[str, Any]:
        """The fields of a `core.request.Request`."""
        _, recipe, axis, _ = METHODS[self.method]
        return {"base": base, "fine_tuned": fine_tuned, "output": str(output), "recipe": recipe,
                "axis": self.axis if self.takes_axis else axis, "embeddings": self.embeddings, "calibration": self.calibration,
                "samples": self.samples, "tune_samples": self.tune_samples if self.tune else 0,
                "sequence_length": self.sequence_length, "seed": self.seed, "device": self.device, "objective": self.objective,
                "budget": "" if self.one_size else self.budget, "quality": "" if self.one_size else self.quality}

    def advanced_words(self) -> str:
        """What the folded part holds, in a line."""
        words = [f"seed {self.seed}", f"{self.sequence_length:,} tokens" if self.sequence_length else "length by width",
                 "KL" if self.objective == "kl" else "logit error"]
        if self.takes_axis and self.axis != "auto":
            words.insert(1, "one scale" if self.axis == "scalar" else f"{self.axis} only")
        return ", ".join(words)


def delta_name(fine_tuned: str) -> str:
    """A folder name from a fine-tune's: what file systems dislike becomes hyphens."""
    plain = re.sub(r"-{2,}", "-", re.sub(r"[^\w.+-]+", "-", fine_tuned)).strip("-. ")[:80]
    return plain.encode()[:180].decode(errors="ignore") or "delta"


def name_problem(name: str) -> str:
    """Why a name can't be a delta's folder; empty where it can."""
    if not name.strip():
        return "Give the delta a name."
    if bad := re.search(r'[/\\:*?"<>|\x00-\x1f]', name):
        return f"A name can't hold '{bad[0]}'." if bad[0].isprintable() else "A name can't hold control characters."
    if name.strip(". ") == "" or name != name.strip() or name.endswith("."):
        return "A name can't begin or end with a space, nor end with a dot."
    return files.name_problem(name)                    # else it would be made, and the library would not list or rename it


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, or `name-2`, `name-3`..., the first that is free."""
    stem, number = name, 1
    if match := re.fullmatch(r"(.+)-(\d{1,3})", name):
        stem, number = match[1], int(match[2])
    while is_taken(name):
        number += 1
        name = f"{stem}-{number}"
    return name


def jobs_words(number: int) -> str:
    """`one job`, `two jobs`, `14 jobs`."""
    word = _NUMBERS[number] if number < len(_NUMBERS) else f"{number:,}"
    return f"{word} job{'' if number == 1 else 's'}"


def outputs_taken(outputs: Iterable[Path]) -> set[str]:
    """Paths that queued jobs will write, in one form to be compared."""
    return {str(expanded(str(p)).absolute()) for p in outputs}

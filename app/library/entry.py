"""One delta of the library, as lists, panes, charts and reports show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

State = Literal["fine", "verified", "base-missing", "damaged"]

STATE_WORDS: dict[str, str] = {"fine": "not verified", "verified": "verified", "base-missing": "Base not found",
                               "damaged": "Damaged"}
STATE_ICONS: dict[str, str] = {"fine": "cube", "verified": "done", "base-missing": "warning", "damaged": "error"}
STATE_TONES: dict[str, str] = {"fine": "text-faded", "verified": "success", "base-missing": "warning", "damaged": "danger"}


@dataclass(frozen=True)
class KindCount:
    """How many matrices of a layer kind have their scales by row, by column, or are stored in another way."""

    kind: str
    row: int
    column: int
    other: int
    codings: tuple[tuple[str, int], ...] = ()
    """All of them by how they are stored, as keys of `app.codings`."""


@dataclass(frozen=True)
class DeltaEntry:
    """A delta folder and what is known of it. Sizes in bytes; losses in the unit of `objective`."""

    path: Path
    name: str
    """The folder's name."""
    base_name: str = ""
    fine_tuned: str = ""
    architecture: str = ""
    method: str = ""
    """In words: `Per-axis`, `BitDelta`."""
    recipe: str = ""
    axis: str = ""
    bytes: int = 0
    """Of the weight files."""
    folder_bytes: int = 0
    full_bytes: int = 0
    """Of the fine-tune's weights that the delta stands for."""
    ratio: float = 0.0
    recovery: float | None = None
    kl: float | None = None
    base_kl: float | None = None
    kl_se: float | None = None
    objective: str = ""
    tokens: int = 0
    created: datetime | None = None
    note: str = ""
    state: State = "fine"
    problem: str = ""
    """Why it can't be used, in one sentence."""
    base_path: str | None = None
    """A folder or a hub id in the local cache."""
    fine_tuned_path: str | None = None
    sha256: str = ""
    """Of its config: what our own notes are kept under. Empty where that can't be read."""
    base_sha256: str = ""
    kinds: tuple[KindCount, ...] = ()
    layers: int = 0
    """Matrices in the blocks."""
    other_name: str = "Other"
    """What `KindCount.other` counts: `Row x column` or `Scalar` where all of them are stored so."""
    load_times: dict[str, Any] | None = None
    """As measured here: {"warm": {way: {"median", "lowest", "highest", "runs"}}, "cold": {...}, "date", "repeats", "note"}."""
    verified_at: datetime | None = None
    base_verified: bool = False
    """Whether the base's tensors were hashed too, then."""
    settings: tuple[tuple[str, str], ...] = ()
    """How it was made: names and values."""
    fidelity: tuple[tuple[str, float], ...] = ()
    """Losses in order: base, fitted, tuned (where it was), variant."""
    warnings: tuple[str, ...] = ()
    asked: str = ""
    """The size or fidelity that it was made for: `12x`, `900MB`, `recovery 0.98`."""
    expected_kl: float | None = None
    """What its plan expected, before tuning end to end."""
    mix: tuple[tuple[str, int], ...] = ()
    """Which method how many matrices were given, where a budget chose."""

    @property
    def usable(self) -> bool:
        """Whether its record could be read."""
        return self.state != "damaged"

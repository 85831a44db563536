"""What a user asks of a job, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from core.errors import BadOption
from core.plan import PlanOptions
from core.tune import OBJECTIVES

HELD_OUT = 0.2
"""Share of the samples that fitting does not see."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. Paths as given; `output` is the delta's folder."""

    base: str
    fine_tuned: str
    output: str
    recipe: str = "exact"
    axis: str = "auto"
    embeddings: str = "auto"
    calibration: str = "auto"
    samples: int = 50
    tune_samples: int = 150
    sequence_length: int | None = None
    seed: int = 0
    device: str = "auto"
    objective: str = "kl"

    def options(self) -> PlanOptions:
        """What of it bears on the plan; raises `BadOption`."""
        if self.samples < 2:
            raise BadOption(f"{self.samples} samples are too few.", "One part fits, another judges.", "Use at least 2.")
        if self.tune_samples < 0 or (self.sequence_length is not None and self.sequence_length < 8):
            raise BadOption("A number of samples is negative or sequences are shorter than 8 tokens.", "", "Use larger numbers.")
        if self.objective not in OBJECTIVES:
            raise BadOption(f"There is no objective '{self.objective}'.", "", f"Choose one of: {', '.join(OBJECTIVES)}.")
        return PlanOptions(self.recipe, self.axis, self.embeddings)


def sequence_length(request: Request, config: Mapping[str, Any]) -> int:
    """Tokens per sample: as asked, else 256 for narrow models and 1024 for wide ones, within the model's context."""
    width = int(config.get("hidden_size") or config.get("n_embd") or 0)
    length = request.sequence_length or (256 if width < 1024 else 1024)
    limit = config.get("max_position_embeddings") or config.get("n_positions")
    return min(length, limit) if isinstance(limit, int) and limit > 0 else length


def sample_counts(request: Request) -> dict[str, int]:
    """Sequences by part. The last part judges tuning and gives the delta its own fidelity figures."""
    held_out = max(1, round(request.samples * HELD_OUT))
    judge = max(8, round(request.tune_samples * 0.1))
    return {"fit": request.samples - held_out, "fit_held_out": held_out, "tune": request.tune_samples, "tune_held_out": judge}

"""What a user asks of a job, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from core.budget import parse_budget
from core.calibration import SampleParts, fingerprint, load_tokenizer, split_samples
from core.checkpoint import Checkpoint
from core.errors import BadOption
from core.forecast import parse_quality
from core.plan import UNIFORM, PlanOptions
from core.tune import OBJECTIVES

HELD_OUT = 0.2
"""Share of the samples that fitting does not see."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. Paths as given; `output` is the delta's folder."""

    base: str
    fine_tuned: str
    output: str
    recipe: str = "chosen"
    axis: str = "auto"
    embeddings: str = "auto"
    calibration: str = "auto"
    samples: int = 50
    tune_samples: int = 150
    sequence_length: int | None = None
    seed: int = 0
    device: str = "auto"
    objective: str = "kl"
    budget: str = ""
    """A size: 12x, 900MB. With a recipe for signs it is spread over all matrices by what it is worth there."""
    quality: str = ""
    """A recovery instead of a size: 0.98."""

    @property
    def is_uniform(self) -> bool:
        """Whether every matrix gets the same share of its bytes by one method."""
        return self.recipe in UNIFORM

    @property
    def is_allocated(self) -> bool:
        """Whether a size or a fidelity is to be spread by what it is worth."""
        return bool(self.budget or self.quality) and not self.is_uniform

    def options(self) -> PlanOptions:
        """What of it bears on the plan; raises `BadOption`."""
        if self.samples < 2:
            raise BadOption(f"{self.samples} samples are too few.", "One part fits, another judges.", "Use at least 2.")
        if self.tune_samples < 0 or (self.sequence_length is not None and self.sequence_length < 8):
            raise BadOption("A number of samples is negative or sequences are shorter than 8 tokens.", "", "Use larger numbers.")
        if self.objective not in OBJECTIVES:
            raise BadOption(f"There is no objective '{self.objective}'.", "", f"Choose one of: {', '.join(OBJECTIVES)}.")
        self._check_budget()
        return PlanOptions(self.recipe, self.axis, self.embeddings)

    def _check_budget(self) -> None:
        if self.budget:
            parse_budget(self.budget, 1 << 60)
        if self.quality:
            parse_quality(self.quality)
        if self.budget and self.quality:
            raise BadOption("A size and a fidelity were asked for.", "One decides the other.", "Ask for one of the two.")
        if self.quality and self.is_uniform:
            raise BadOption(f"Recipe '{self.recipe}' takes a size, no fidelity.", "Only the best mix of methods is forecast.",
                            "Ask for a size, or take the default recipe.")
        if (self.budget or self.quality) and self.recipe in ("paper", "bitdelta"):
            raise BadOption(f"Recipe '{self.recipe}' has one size.", "", "Leave the size out, or take the default recipe.")


def asked_size(request: Request) -> dict[str, str]:
    """The size or fidelity that was asked for, for the delta's record; empty where none was."""
    if request.budget:
        return {"budget": request.budget}
    return {"quality": request.quality} if request.quality else {}


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


def draw_samples(request: Request, base: Checkpoint, tuned: Checkpoint, length: int, vocabulary: int) -> SampleParts:
    """The request's calibration tokens by part, int32, below `vocabulary`; raises `Refused` errors for unusable text."""
    tokenizer = load_tokenizer(tuned.folder) or load_tokenizer(base.folder)
    drawn = split_samples(request.calibration, tokenizer, counts=sample_counts(request), sequence_length=length,
                          seed=request.seed)
    return replace(drawn, parts={k: v.clamp_max(vocabulary - 1).to(torch.int32) for k, v in drawn.parts.items()})


def parts_sha256(parts: Mapping[str, Tensor]) -> str:
    """One hash for all calibration tokens."""
    return fingerprint(torch.cat([v for _, v in sorted(parts.items())]).long())


def identity(checkpoint: Checkpoint) -> list[Any]:
    """Names, sizes and times of a checkpoint's files: whether it is still the one the job began with.

    Of the two times, the one that a copying program can't set back tells even of a file replaced under its old time.
    """
    files = sorted({*(info.file for info in checkpoint.tensors.values()), *checkpoint.sidecars().values()})
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns, f.stat().st_ctime_ns] for f in files]

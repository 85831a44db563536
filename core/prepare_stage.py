"""The job's first stage: hash the base, factor exactly low-rank changes, code embeddings and head."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from core.checkpoint import Checkpoint
from core.embeddings import fit_rows, head_moment, metric_for
from core.fit import is_fitted, keep_guess
from core.journal import Journal
from core.record import TensorRecord
from core.variant import Variant, is_learnt
from core.weights import StagedModel, TensorWeights


@dataclass(frozen=True)
class Preparation:
    """What the stage needs of its job."""

    base: Checkpoint
    tuned: Checkpoint
    recipe: str
    device: torch.device
    journal: Journal
    tokens: Tensor
    """Calibration tokens (samples, tokens) that show what the head reads."""
    restore: Callable[[Variant, str], list[TensorRecord] | None]
    fitted: Callable[[TensorRecord, float], None]
    tick: Callable[[int], None]
    """Called with the number of records hashed."""


def prepare(job: Preparation, model: StagedModel, variant: Variant) -> None:
    """Carry the stage out; each learnt tensor is journalled."""
    plain = job.recipe == "bitdelta"
    records = list(variant.records.values())
    metric: Tensor | None = None
    if any(r.kind in ("embed", "head") and r.codec == "sign" and r.block is None for r in records) and not plain:
        metric = head_moment(model, TensorWeights(model, job.tuned.view, job.device), job.tokens, job.device)
    for i, record in enumerate(records):
        if record.base and record.base_sha256 == "":
            variant.records[record.name] = msgspec.structs.replace(record, base_sha256=job.base.sha256(record.base))
        job.tick(i)
    for record in list(variant.records.values()):
        key = f"outer-{record.name}"
        wanted = is_learnt(record) and (record.block is None or not is_fitted(record))
        if job.restore(variant, key) or not wanted:
            continue
        begin = time.monotonic()
        if not is_fitted(record):
            fitted = variant.learn_factors(record)
        elif record.kind in ("embed", "head") and not plain:
            fitted = fit_rows(variant, record, metric_for(record, metric, model), job.device,
                              chosen=job.recipe not in ("exact", "paper"))
        else:
            fitted = keep_guess(variant, record.name, job.device)
        job.journal.write(key, [fitted], {record.name: variant.learnt[record.name]})
        job.fitted(fitted, time.monotonic() - begin)

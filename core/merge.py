"""Make a loaded base the variant: write base + change into the model's own parameters.

Values come from the mapped base, so nothing is subtracted and no second copy of the base is held.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.artifact import Delta
from core.checkpoint import Checkpoint
from core.skeleton import Placement, Skeleton
from core.weights import StagedModel


def variant_config(delta: Delta, base: Checkpoint) -> Mapping[str, Any]:
    """config.json of the variant: the delta's own where it brings one, else the base's."""
    path = delta.sidecars().get("config.json")
    if path is None:
        return base.config
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def variant_model(delta: Delta, base: Checkpoint) -> StagedModel:
    """The staged model that the variant's config and tensors make; its placements say where each tensor goes."""
    skeleton = Skeleton(variant_config(delta, base))
    return StagedModel(skeleton, skeleton.place({r.name: r.shape for r in delta.records.values()}))


def merge_into(model: nn.Module, delta: Delta, base: Checkpoint, placements: Mapping[str, Placement], *,
               every: bool = False, tick: Callable[[], None] | None = None) -> int:
    """Write the variant's tensors into a transformers model's parameters; returns how many were written.

    Tensors that equal the base's are left as they lie, unless `every` is set. Raises `ValueError` where a parameter's
    shape is not the tensor's (a base whose vocabulary has another size).
    """
    state = model.state_dict()
    written = 0
    with torch.no_grad():
        for name, record in delta.records.items():
            if record.codec == "same" and not every:
                continue
            target = _place_of(state, placements, placements[name])
            if target.shape != torch.Size(record.shape):
                raise ValueError(f"{name}: the model has shape {tuple(target.shape)}, the variant {record.shape}")
            target.copy_(delta.variant(base, name))
            written += 1
            if tick:
                tick()
    return written


def _place_of(state: Mapping[str, Tensor], placements: Mapping[str, Placement], at: Placement) -> Tensor:
    """The part of a parameter that a tensor on disk fills: all of it, or one matrix of one stacked expert."""
    parameter = state[at.parameter]
    if at.expert is None:
        return parameter
    parts = 1 + max(p.part for p in placements.values() if p.parameter == at.parameter)
    rows = parameter.shape[1] // parts
    return parameter[at.expert, at.part * rows:(at.part + 1) * rows]

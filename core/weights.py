"""Parameters of one stage at a time, in FP32 on the device: of a checkpoint, or of a variant being built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from core.checkpoint import Checkpoint
from core.skeleton import Placement, Skeleton


class Weights(Protocol):
    """Where a model's parameters come from, stage by stage."""

    def stage(self, stage: int) -> dict[str, Tensor]:
        """Parameters of a stage, {path inside the stage: FP32 tensor on the device}."""


class StagedModel:
    """A skeleton and the placement of the tensors on disk in it, grouped by stage."""

    def __init__(self, skeleton: Skeleton, placements: Mapping[str, Placement]) -> None:
        self.skeleton, self.placements = skeleton, dict(placements)
        self.by_stage: dict[int, list[Placement]] = {}
        for placement in placements.values():
            self.by_stage.setdefault(placement.stage, []).append(placement)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> StagedModel:
        """The staged model that a checkpoint's config and tensors make."""
        skeleton = Skeleton(checkpoint.config)
        return cls(skeleton, skeleton.place({n: t.shape for n, t in checkpoint.tensors.items()}))

    def tensors(self, stage: int) -> list[str]:
        """Names of a stage's tensors on disk."""
        return [p.tensor for p in self.by_stage.get(stage, [])]

    def assemble(self, stage: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of a stage from its tensors on disk."""
        return self.skeleton.assemble(self.by_stage.get(stage, []), tensors)


class TensorWeights:
    """Parameters made from single tensors on disk: `read(name)` gives one of any type on the host."""

    def __init__(self, model: StagedModel, read: Callable[[str], Tensor], device: torch.device) -> None:
        self.model, self.read, self.device = model, read, device

    def stage(self, stage: int) -> dict[str, Tensor]:
        tensors = {name: to_device(self.read(name), self.device) for name in self.model.tensors(stage)}
        return self.model.assemble(stage, tensors)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """FP32 copy on the device. The narrow type crosses the bus, pinned and without waiting on CUDA."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True).float()
    # A copy in any case: a mapped view may lie unaligned, and arithmetic libraries may then sum in another order.
    return tensor.to(device).to(torch.float32, copy=tensor.device.type == device.type)

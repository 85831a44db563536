"""Parameters of one stage at a time, in FP32 on the device: of a checkpoint, or of a variant being built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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


class Lent(Mapping[str, Tensor]):
    """Parameters of a stage, read when they are asked for. Between uses a large block can be let go."""

    KEEP = 1 << 28
    """Bytes up to which they are kept all the same: reading them again would cost more than it saves."""

    def __init__(self, weights: Weights, stage: int) -> None:
        self.weights, self.number = weights, stage
        self.held: dict[str, Tensor] | None = None

    def _read(self) -> dict[str, Tensor]:
        if self.held is None:
            self.held = self.weights.stage(self.number)
        return self.held

    def __getitem__(self, key: str) -> Tensor:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def let_go(self) -> None:
        """Forget them if they are large. What still holds one keeps it."""
        if self.held is not None and is_large(self.held.values()):
            self.held = None


def is_large(tensors: Iterable[Tensor]) -> bool:
    """Whether these are too much to be kept for nothing but convenience."""
    return sum(t.numel() * t.element_size() for t in tensors) > Lent.KEEP


class TensorWeights:
    """Parameters made from single tensors on disk: `read(name)` gives one of any type on the host."""

    def __init__(self, model: StagedModel, read: Callable[[str], Tensor], device: torch.device,
                 known: Known | None = None) -> None:
        self.model, self.read, self.device, self.known = model, read, device, known

    def stage(self, stage: int) -> dict[str, Tensor]:
        tensors = {name: known_or_read(name, self.read(name), self.device, self.known) for name in self.model.tensors(stage)}
        return self.model.assemble(stage, tensors)


@dataclass(frozen=True)
class Known:
    """Tensors that are in memory already, by name on disk, and how to look at what they were made of."""

    tensors: Mapping[str, Tensor]
    read: Callable[[str], Tensor]

    @classmethod
    def of(cls, model: StagedModel, stage: int, parameters: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> Known:
        """Those of a stage: whatever is a parameter of its own."""
        prefix = model.skeleton.prefix(stage)
        found = {p.tensor: parameters.get(p.parameter.removeprefix(prefix)) for p in model.by_stage.get(stage, ())
                 if p.expert is None}
        return cls({name: tensor for name, tensor in found.items() if tensor is not None}, read)


def known_or_read(name: str, stored: Tensor, device: torch.device, known: Known | None) -> Tensor:
    """`to_device(stored)`; the known tensor instead where it is just that: two models' embeddings are often one."""
    if known is not None and name in known.tensors:
        other = known.read(name)
        if other.dtype == stored.dtype and other.shape == stored.shape and torch.equal(other, stored):
            return known.tensors[name]
    return to_device(stored, device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """FP32 copy on the device. The narrow type crosses the bus, pinned and without waiting on CUDA."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True).float()
    # A copy in any case: a mapped view may lie unaligned, and arithmetic libraries may then sum in another order.
    return tensor.to(device).to(torch.float32, copy=tensor.device.type == device.type)

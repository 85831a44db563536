"""A change of numerically low rank (a merged LoRA), as two FP16 factors."""

from __future__ import annotations

import torch
from torch import Tensor

from core.codecs.contract import Stored, layout_of, logical
from core.codecs.scales import from_half, to_half
from core.record import StoredTensor, TensorRecord


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best factors of `change` (m, n) FP32: left (m, rank), right (rank, n), singular values split evenly."""
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


class LowRank:
    """left (m, rank) times right (rank, n), in the stored layout, both FP16 times 2**exponent."""

    name = "lowrank"

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        m, n = record.shape
        return layout_of(record, left=("F16", (m, record.rank)), right=("F16", (record.rank, n)))

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        if fitted is None or "left" not in fitted:
            assert base is not None
            left, right = factors(tuned.float() - base.float(), record.rank)
        else:
            left, right = fitted["left"], fitted["right"]
        return {"left": to_half(left, record.exponents[0]), "right": to_half(right, record.exponents[0])}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        left, right = (from_half(stored[k].to(base.device), record.exponents[0]) for k in ("left", "right"))
        return torch.addmm(base.float(), left, right).to(record.torch_dtype)

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        left, right = (from_half(stored[k], record.exponents[0]) for k in ("left", "right"))
        outer, inner = logical(record, left), logical(record, right)
        if record.output_dimension:                   # D = (left right)^T = right^T left^T
            return (x.float() @ left) @ right
        return (x.float() @ inner.T) @ outer.T


LOWRANK = LowRank()

"""A change of numerically low rank (a merged LoRA), as two FP16 factors."""

from __future__ import annotations

import torch
from torch import Tensor

from core.codecs.contract import Stored, layout_of, logical
from core.codecs.scales import from_half, to_half
from core.record import StoredTensor, TensorRecord

CHUNK = 1024
"""Rows that `add` works on at a time."""


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best factors of `change` (m, n) FP32: left (m, rank), right (rank, n), singular values split evenly."""
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


class LowRank:
    """left (m, rank) times right (rank, n), in the stored layout, both FP16 times 2**exponent."""

    name = "lowrank"

    def problem(self, record: TensorRecord) -> str:
        if len(record.shape) != 2 or record.tail:
            return "is no matrix of its base's rows"
        if not 0 < record.rank <= min(record.shape) or len(record.exponents) != 1:
            return "has an impossible rank"
        return ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        return "" if all(bool(factor.isfinite().all()) for factor in stored.values()) else "has factors that are not finite"

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        m, n = record.shape
        return layout_of(record, left=("F16", (m, record.rank)), right=("F16", (record.rank, n)))

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        if fitted is None or "left" not in fitted:
            assert base is not None
            left, right = factors(tuned.float() - base[:tuned.shape[0]].float(), record.rank)
        else:
            left, right = fitted["left"], fitted["right"]
        return {"left": to_half(left, record.exponents[0]), "right": to_half(right, record.exponents[0])}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        # In FP64 the order of the sum does not show: every device and reader gets the same FP32 change (FORMAT.md).
        device = torch.device("cpu") if base.device.type == "mps" else base.device
        left, right = (from_half(stored[k].to(device), record.exponents[0]).double() for k in ("left", "right"))
        result = torch.empty(record.shape, dtype=record.torch_dtype, device=base.device)
        for i in range(0, record.shape[0], CHUNK):
            change = (left[i:i + CHUNK] @ right).float().to(base.device)
            result[i:i + CHUNK] = base[i:i + len(change)].float() + change
        return result

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        left, right = (from_half(stored[k], record.exponents[0]) for k in ("left", "right"))
        outer, inner = logical(record, left), logical(record, right)
        if record.output_dimension:                   # D = (left right)^T = right^T left^T
            return (x.float() @ left) @ right
        return (x.float() @ inner.T) @ outer.T


LOWRANK = LowRank()

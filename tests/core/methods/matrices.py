"""Made-up matrices with moments like those of real layers, for tests of methods."""

from __future__ import annotations

import torch
from torch import Tensor

from core.moments import Evidence
from core.record import TensorRecord


def evidence(out: int, n: int, *, rank: int = 0, seed: int = 0) -> Evidence:
    """A change (out, n) of spread 1e-3 (or of a rank), under inputs with a falling spectrum, in two parts of the data."""
    generator = torch.Generator().manual_seed(seed)

    def gauss(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)
    change = gauss(out, n) * 1e-3
    if rank:
        change = gauss(out, rank) @ gauss(rank, n) * 1e-3
    mix = gauss(n, n) * torch.arange(1, n + 1).float()[:, None] ** -0.7
    parts = []
    for _ in range(2):
        x = gauss(4 * n + 20, n) @ mix
        parts.append((x.T @ x / len(x), torch.zeros(n, out), torch.zeros(out)))
    return Evidence(change, tuple(parts))


def plain(found: Evidence, output_dimension: int = 0) -> TensorRecord:
    """A record of nothing yet, of the matrix's shape as stored."""
    out, n = found.change.shape
    shape = (n, out) if output_dimension else (out, n)
    return TensorRecord(name="w", codec="full", shape=shape, dtype="F32", base="w", base_shape=shape, base_dtype="F32",
                        output_dimension=output_dimension)


def stored_bytes(stored: dict[str, Tensor]) -> int:
    """Bytes of all that is stored."""
    return sum(t.numel() * t.element_size() for t in stored.values())

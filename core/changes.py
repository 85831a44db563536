"""How one tensor changed between base and fine-tune: counts, norms, and whether the change is of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1 << 22
"""Entries looked at in one go."""

SAMPLE = 256
"""Rows and columns of the corner that is tried before the whole matrix is tested for low rank."""


NOISE = 2e-6
"""Of the largest singular value, or of the energy, that FP32 arithmetic and FP16 factors lose anyway."""


@dataclass(frozen=True)
class Change:
    """Of the rows that both have. Norms are Frobenius norms."""

    finite: bool
    norm: float
    base_norm: float
    entries: int
    changed: int
    changed_rows: int
    new_rows: int

    @property
    def relative(self) -> float:
        """|W_ft - W_base| / |W_base|; 1 where that is no number (a base of zeros), since no JSON holds infinity."""
        ratio = self.norm / self.base_norm if self.base_norm else math.inf if self.norm else 0.0
        return ratio if math.isfinite(ratio) else 1.0

    @property
    def unchanged(self) -> float:
        """Share of equal entries."""
        return 1 - self.changed / self.entries if self.entries else 1.0


def rounding_energy(values: Tensor, dtype: torch.dtype) -> float:
    """Sum of the squared errors to expect of rounding `values` (FP32) to `dtype`: a uniform error of one step."""
    mantissa = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}[dtype]
    exponent = torch.frexp(values)[1].float() - 1
    step = torch.exp2(exponent - mantissa)
    return float(torch.where(values == 0, 0.0, step).square().sum(dtype=torch.float64)) / 12


def measure_change(base: Tensor, tuned: Tensor) -> Change:
    """Compare two tensors row by row over the rows both have; 1-D and 0-D count as rows of one entry."""
    common = min(base.shape[0], tuned.shape[0]) if base.dim() else 1
    a, b = (base[:common], tuned[:common]) if base.dim() else (base.reshape(1), tuned.reshape(1))
    width = a.numel() // max(1, common)
    a, b = a.reshape(common, width), b.reshape(common, width)
    step = max(1, CHUNK // max(1, a.shape[1]))
    squares, base_squares, changed, rows = 0.0, 0.0, 0, 0
    finite = True
    for i in range(0, common, step):
        x, y = a[i:i + step].float().flatten(), b[i:i + step].float().flatten()
        difference = y - x
        part, base_part = float(difference @ difference), float(x @ x)
        if not math.isfinite(part + base_part):       # overflow of a huge weight is no NaN: look closely
            finite = finite and bool(x.isfinite().all()) and bool(y.isfinite().all())
            part, base_part = (float(v.square().sum()) for v in (y.double() - x.double(), x.double()))
        squares, base_squares = squares + part, base_squares + base_part
        if part > 0 or not finite or not torch.equal(x, y):
            moved = torch.count_nonzero(difference.view(-1, width), dim=1) if width else torch.zeros(0)
            changed, rows = changed + int(moved.sum()), rows + int(torch.count_nonzero(moved))
    if base.dim() and tuned.shape[0] > common:
        finite = finite and bool(tuned[common:].isfinite().all())
    if base.dim() and base.shape[0] > common:
        finite = finite and bool(base[common:].isfinite().all())
    return Change(finite, math.sqrt(squares) if squares >= 0 else math.nan, math.sqrt(base_squares), a.numel(),
                  changed, rows, tuned.shape[0] - common if tuned.dim() else 0)


def range_svd(change: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular triplets u (m, rank), s (rank,), v (rank, n) of `change` (m, n) FP32.

    Randomised range finder with two power iterations (Halko, Martinsson, Tropp 2011, algorithm 4.4), from a
    generator of its own, so that it gives the same result each time.
    """
    generator = torch.Generator().manual_seed(seed)
    probes = torch.randn(change.shape[1], min(rank + 10, *change.shape), generator=generator,
                         dtype=torch.float32).to(change.device)
    q = torch.linalg.qr(change @ probes)[0]
    for _ in range(2):
        q = torch.linalg.qr(change @ torch.linalg.qr(change.T @ q)[0])[0]
    u, s, v = torch.linalg.svd(q.T @ change, full_matrices=False)
    return (q @ u)[:, :rank], s[:rank], v[:rank]


def _rank_above_noise(change: Tensor, tuned: Tensor, dtype: torch.dtype, limit: int) -> int | None:
    """Number of singular values above rounding noise, or None when more than `limit` or noise does not explain the rest."""
    m, n = change.shape
    sigma = math.sqrt(rounding_energy(tuned, dtype) / (m * n))
    if dtype == torch.float32:
        sigma *= 4                                     # the merge itself ran in FP32: a few more roundings
    _, s, _ = range_svd(change, limit)
    floor = NOISE * float(s[0])                        # below that, s itself is the noise of FP32 arithmetic
    rank = int((s > max(1.2 * sigma * (math.sqrt(m) + math.sqrt(n)), floor)).sum())
    energy = float(change.square().sum(dtype=torch.float64))
    rest = energy - float(s[:rank].square().sum(dtype=torch.float64))
    if rank == 0 or rank >= limit or rest > 2.5 * sigma * sigma * m * n + NOISE * energy or rest > 0.2 * energy:
        return None
    return rank


def _spread(change: Tensor, tuned: Tensor, dtype: torch.dtype, limit: int) -> bool:
    """Whether clearly more is left behind `limit` singular values than rounding explains."""
    energies = torch.linalg.eigvalsh((change @ change.T if len(change) < change.shape[1] else change.T @ change).double())
    rounding = rounding_energy(tuned, dtype) * (16 if dtype == torch.float32 else 1)
    return float(energies[:-limit].sum()) > 1.3 * rounding + NOISE * float(energies.sum())


def low_rank(base: Tensor, tuned: Tensor) -> int | None:
    """Rank of the change when all but rounding is of low rank (a merged LoRA), else None.

    A corner is tried first: no part of a low-rank matrix has a higher rank. Singular values count where they stand
    above what a matrix of independent rounding errors has, sigma (sqrt m + sqrt n).
    """
    if base.dim() != 2 or base.shape != tuned.shape or min(base.shape) < 24:
        return None
    limit = min(320, min(base.shape) // 3)
    corner = (slice(0, SAMPLE), slice(0, SAMPLE))
    x = tuned[corner].float()
    if _spread(x - base[corner].float(), x, tuned.dtype, min(limit, min(x.shape) // 3)):
        return None
    whole = tuned.float()
    return _rank_above_noise(whole - base.float(), whole, tuned.dtype, limit)

"""Levels of whole numbers, entropy-coded to fill any size, beside the few directions that low rank holds better.

Sources: error feedback as in GPTQ (arXiv 2210.17323, section 3); rates by reverse water-filling (see `coded_sweep`); the low
rank is optimal under H: for orthonormal u, the best factors u B have B = u^T T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from core.changes import range_svd
from core.codecs import rans
from core.codecs.coded import LARGEST, ZERO, dense, pack, total_bytes
from core.codecs.scales import exponent_for, to_half
from core.gptq import inverse_factor, sweep
from core.methods.aim import aim, is_worth_it
from core.methods.coded_sweep import choose_levels
from core.moments import Evidence
from core.record import TensorRecord

SWEEPS = 8
"""Sweeps at most until the stream fits its bytes."""
LEARN = 3
"""The first sweeps, after each of which the levels' costs are learnt anew."""
SLACK = 0.01
"""Share of the stream's bytes that may stay empty."""
MOST_RANKS = 48
"""Components at most."""
WORTH = 1.5
"""A component is kept if at 8 bits per entry it lowers the loss more than this factor of what the same bits do for levels."""
SPARE = 64
"""Bytes of a stream that low rank leaves at least."""
FEWEST = 0.1
MOST = 6.0
"""Bits per weight of the stream, from and to."""


@dataclass(frozen=True)
class Step:
    """One sweep: its levels int8 (out, in), columns' classes (in,), frequencies of magnitudes, and the stream of all that."""

    size: float
    levels: Tensor
    classes: Tensor
    tables: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    stream: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def fixed_bytes(record: TensorRecord) -> int:
    """Stored bytes but for the stream's."""
    return total_bytes(record) - record.count


def low_rank(target: Tensor, h: Tensor, nbytes: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Whole numbers left (out, r) and right (r, in) within -127 and 127, and FP32 scales (r,), of the components of `target`
    (out, in) that save more under `h` than levels would in the same bytes (85 % of `nbytes` at most); None for r = 0."""
    out, n = target.shape
    root = torch.linalg.cholesky_ex(h + 1e-3 * h.diagonal().mean().clamp_min(1e-30) * torch.eye(n, dtype=h.dtype))[0]
    reach = min(MOST_RANKS, out - 1, n - 1, (nbytes - SPARE) * 17 // (20 * (out + n + 2)))
    if reach < 1:
        return None
    u, s, _ = range_svd(target @ root, reach)
    energy = s.square().double()
    rest = (target @ root).square().sum(dtype=torch.float64) - energy.cumsum(0)
    # Levels lose about a factor of 4 per bit and weight; a component costs 8 bits for each of its entries.
    bound = 2 * math.log(2) * WORTH * 8 * (out + n + 2) / (out * n)
    keep = int((energy > bound * rest.clamp_min(0)).long().cumprod(0).sum())
    if keep < 1:
        return None
    right = u[:, :keep].T @ target                     # (r, in)
    right = right / (right.abs().amax(1, keepdim=True) / 127).clamp_min(1e-30)
    right = sweep(right, inverse_factor(h), lambda column, _: column.round().clamp(-127, 127))
    inner = right @ h @ right.T
    inner += 1e-6 * inner.diagonal().mean() * torch.eye(keep, dtype=inner.dtype)
    left = torch.linalg.solve(inner, right @ h @ target.T).T                   # best for the rounded right
    scales = (left.abs().amax(0) / 127).clamp_min(1e-30)
    return (left / scales).round(), right, scales


class Coded:
    """See the module's text."""

    name = "coded"

    def plan(self, record: TensorRecord, nbytes: int) -> TensorRecord | None:
        if len(record.shape) != 2 or record.tail or 0 in record.shape:
            return None
        planned = msgspec.structs.replace(record, codec="coded", method=self.name, slices=(), planes=1, exponents=(0,), rank=0,
                                          levels=1, count=0)
        size = record.outputs * record.inputs
        count = min(nbytes - fixed_bytes(planned), math.ceil(size * MOST / 8) + SPARE)
        if count < SPARE + size * FEWEST / 8:
            return None
        return msgspec.structs.replace(planned, count=count)

    def fit(self, record: TensorRecord, evidence: Evidence) -> tuple[TensorRecord, dict[str, Tensor]]:
        planned = record
        h, target = evidence.parts[0][0].cpu(), aim(evidence).cpu()
        total = fixed_bytes(record) + record.count
        found = low_rank(target, h, record.count)
        scales, rank = torch.zeros(0, dtype=torch.float16), {}
        if found is not None:
            left, right, scales = found
            record = msgspec.structs.replace(record, rank=len(scales), exponents=(0, exponent_for(scales)))
            half = to_half(scales, record.exponents[1])
            target = target - (left * (half.float() * 2.0**record.exponents[1])) @ right
            scales = half
            rank = {"left": (left + ZERO).to(torch.uint8), "right": (right + ZERO).to(torch.uint8)}
        order, upper = inverse_factor(h)
        code, unit = _relative_steps(upper.diagonal())
        best = _control(_Sweeper(target[:, order].T.contiguous(), order, upper, unit), total, record)
        columns = best.classes.clone()
        columns[order] += 16 * code
        record = msgspec.structs.replace(record, levels=best.tables.shape[1] - 1)
        record = msgspec.structs.replace(record, count=total - fixed_bytes(record))
        shape = best.levels.float()
        shape[:, order] *= unit
        scale = _refitted(shape, target, h, best.size)
        exponent = exponent_for(scale)
        record = msgspec.structs.replace(record, exponents=(exponent, *record.exponents[1:]))
        stored = {"columns": columns.to(torch.uint8), "tables": _as_bytes(best.tables),
                  "scale": torch.cat([to_half(scale, exponent), scales]), **rank,
                  "stream": _padded(best.stream, record.count)}
        if not is_worth_it(evidence, dense(record, stored).to(evidence.change.device)):
            return self._nothing(planned)
        return record, {"packed": pack(stored)}

    def _nothing(self, record: TensorRecord) -> tuple[TensorRecord, dict[str, Tensor]]:
        """A change of zeros in the bytes that were planned."""
        frequencies = np.zeros((rans.CLASSES, 2), np.int64)
        frequencies[:, 0] = rans.TOTAL
        stream = rans.encode(np.zeros((record.outputs, record.inputs), np.int8), np.zeros(record.inputs, np.int64), frequencies)
        return record, {"packed": pack({
            "scale": torch.zeros(1, dtype=torch.float16), "columns": torch.zeros(record.inputs, dtype=torch.uint8),
            "tables": _as_bytes(frequencies), "stream": _padded(stream, record.count)})}


def _relative_steps(diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """(code (n,) int64 from 0 to 15, step (n,) FP32 it stands for) next to U's diagonal (n,), up to a common factor."""
    sizes = torch.tensor([(2 + k % 2) * 2.0**(k // 2) for k in range(16)])
    wanted = diagonal / diagonal.max() * sizes[-1]
    code = (wanted.clamp_min(1e-30).log()[:, None] - sizes.log()).abs().argmin(1)
    return code, sizes[code]


def _refitted(shape: Tensor, target: Tensor, h: Tensor, size: float) -> Tensor:
    """The factor (1,) of `shape` that comes closest to `target` (both (out, in)) under `h`; `size` where nothing says."""
    product = shape @ h
    below, top = float((product * shape).sum()), float((product * target).sum())
    return torch.tensor([top / below if below > 0 and math.isfinite(top / below) else size])


def _as_bytes(frequencies: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Tensor:
    """As stored: U8 (classes, Q + 1, 2), the lower byte first."""
    return torch.from_numpy(np.stack([frequencies % 256, frequencies // 256], 2).astype(np.uint8))


def _padded(stream: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], count: int) -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(stream), (0, count - len(stream)))


@dataclass(frozen=True)
class _Sweeper:
    """What all sweeps of a matrix share: target (n, rows), columns' places (n,), factor (n, n) and relative steps (n,)."""

    target: Tensor
    order: Tensor
    upper: Tensor
    unit: Tensor

    def sweep(self, size: float, cost: Tensor) -> Step:
        """With steps `unit` * size and bits of each magnitude in each column, cost (n, Q + 1)."""
        found = choose_levels(self.target, self.upper, self.unit * size, cost)
        levels = torch.empty(found.shape[1], found.shape[0], dtype=torch.int8)
        levels[:, self.order] = found.T
        sizes = levels.abs()
        mean = sizes.float().mean(0)                   # per column
        loud = float(mean.max())
        classes = (15 + 2 * (mean / loud if loud > 0 else mean + 1).clamp_min(1e-9).log2()).round().clamp(0, 15).long()
        width = max(1, int(sizes.max())) + 1
        counts = torch.bincount((classes * width + sizes).flatten(), minlength=16 * width).view(16, width)
        tables = rans.frequencies_of(counts.numpy())
        return Step(size, levels, classes, tables, rans.encode(levels.numpy(), classes.numpy(), tables))


def _control(sweeper: _Sweeper, total: int, record: TensorRecord) -> Step:
    """The sweep of the finest steps whose stream fits, with all else, in `total` bytes; at worst one of zeros.

    Bytes fall about evenly with the logarithm of the step, so that each trial interpolates between the last ones around it.
    """
    target, unit = sweeper.target, sweeper.unit
    room = total - fixed_bytes(record)
    bits = 8 * room / target.numel()
    spread = float((target / unit[:, None]).square().mean().sqrt())
    generic = torch.tensor([0.8, *(2.5 + 1.2 * math.log2(m) for m in range(1, LARGEST + 1))])
    cost = generic.expand(len(unit), -1).contiguous()
    best, coarse, fine = None, None, None
    at = math.log2(max(spread, 1e-30)) + 1 - bits
    for i in range(SWEEPS):
        step = sweeper.sweep(2.0**at, cost)
        room = total - fixed_bytes(msgspec.structs.replace(record, levels=step.tables.shape[1] - 1))
        used = math.log2(len(step.stream) / max(room, 1))
        if len(step.stream) <= room:
            if best is None or len(step.stream) > len(best.stream):
                best = step
            if i and len(step.stream) >= (1 - SLACK) * room:
                break
        if i < LEARN:                                  # then the costs are held: else fewer levels make levels dearer, and so on
            cost = _costs(step, sweeper.order, cost)
            at += max(-2.0, min(2.0, (used + SLACK) * max(0.6, bits)))
            continue
        if used <= 0:
            coarse = (at, used)
        else:
            fine = (at, used)
        if coarse is not None and fine is not None:
            share = (fine[1] + SLACK) / (fine[1] - coarse[1])
            at = fine[0] + (coarse[0] - fine[0]) * min(0.9, max(0.1, share))
        else:
            at += max(-2.0, min(2.0, 1.1 * (used + SLACK) * max(0.6, bits)))
    while best is None:
        at += 1
        step = sweeper.sweep(2.0**at, cost)
        if len(step.stream) <= total - fixed_bytes(msgspec.structs.replace(record, levels=step.tables.shape[1] - 1)):
            best = step
    return best


def _costs(step: Step, order: Tensor, before: Tensor) -> Tensor:
    """Bits of each magnitude in each column (n, Q + 1) by a sweep's own frequencies, at most 2 more than before."""
    own = torch.from_numpy(rans.cost(step.tables))[step.classes[order]]
    own = torch.nn.functional.pad(own, (0, before.shape[1] - own.shape[1]), value=rans.BITS + 4.0)
    return torch.minimum(own, before + 2).contiguous()


CODED_METHOD = Coded()

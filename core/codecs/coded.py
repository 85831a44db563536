"""Whole-numbered levels times a step per column, entropy-coded, beside a few components of low rank.

The levels' stream fills the bytes that the plan gave it, whatever the rate: 0.5 bits per weight or 4. Low rank takes what few
directions hold, at 8 bits per entry. For a matrix whose entries hardly move most levels are 0 and cost next to nothing.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from torch import Tensor

from core.codecs import rans
from core.codecs.contract import Stored, layout_of, logical
from core.codecs.scales import exponent_for, from_half, to_half
from core.record import StoredTensor, TensorRecord

LARGEST = 63
"""Largest magnitude of a level."""
CHUNK = 1024
"""Outputs that `multiply` widens at a time."""
ZERO = 128
"""The byte that stands for 0 in a factor."""


def pack(parts: Stored) -> Tensor:
    """One U8 tensor of scale, columns, tables, left, right and stream, one after the other.

    One, because their sizes are only known after the fit, and a file's header must be as long as planned.
    """
    order = ("scale", "columns", "tables", "left", "right", "stream")
    return torch.cat([parts[k].cpu().contiguous().view(torch.uint8).flatten() for k in order if k in parts])


def unpacked(record: TensorRecord, stored: Stored) -> Stored:
    """The parts of `packed`: views, but for the scale. What is in parts already is handed back."""
    if "packed" not in stored:
        return stored
    out, n, packed = record.outputs, record.inputs, stored["packed"]
    sizes: dict[str, tuple[int, ...]] = {"scale": (2 * (1 + record.rank),), "columns": (n,),
                                         "tables": (rans.CLASSES, record.levels + 1, 2)}
    if record.rank:
        sizes |= {"left": (out, record.rank), "right": (record.rank, n)}
    sizes["stream"] = (record.count,)
    pieces = packed.split([math.prod(size) for size in sizes.values()])
    parts = {k: piece.view(size) for (k, size), piece in zip(sizes.items(), pieces, strict=True)}
    return {**parts, "scale": parts["scale"].clone().view(torch.float16)}


def total_bytes(record: TensorRecord) -> int:
    """Bytes of `packed`."""
    factors_of = record.rank * (record.outputs + record.inputs)
    return 2 * (1 + record.rank) + record.inputs + 2 * rans.CLASSES * (record.levels + 1) + factors_of + record.count


def steps(record: TensorRecord, stored: Stored) -> Tensor:
    """FP32 step per column (in,): scale * {2, 3} * 2**k by the upper half of its byte. Exact, as are its multiples by levels.

    Here and below, `stored` is in parts.
    """
    return from_half(stored["scale"][:1], record.exponents[0]) * _units(stored)


def _units(stored: Stored) -> Tensor:
    """The same in units of the scale."""
    code = (stored["columns"] >> 4).long()
    return (2 + code % 2) * torch.exp2((code // 2).float())


def tables(stored: Stored) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Frequencies of the magnitudes, (classes, levels + 1)."""
    pairs = stored["tables"].cpu().numpy().astype(np.int64)
    return pairs[..., 0] + 256 * pairs[..., 1]


def decoded(record: TensorRecord, stored: Stored) -> Tensor:
    """int8 levels (out, in)."""
    classes = (stored["columns"].cpu() & 15).numpy()
    levels = rans.decode(stored["stream"].cpu().numpy(), (record.outputs, record.inputs), classes, tables(stored))
    return torch.from_numpy(levels).to(stored["columns"].device)


def factors(record: TensorRecord, stored: Stored) -> tuple[Tensor, Tensor]:
    """FP64 left (out, rank), its scales in it, and right (rank, in). Exact."""
    wide = torch.float32 if stored["left"].device.type == "mps" else torch.float64
    scales = from_half(stored["scale"][1:], record.exponents[1]).to(wide)
    return (stored["left"].to(wide) - ZERO) * scales, stored["right"].to(wide) - ZERO


def dense(record: TensorRecord, stored: Stored) -> Tensor:
    """The change (out, in) FP32 on the CPU: exact but for one rounding of the whole sum."""
    stored = {k: v.cpu() for k, v in unpacked(record, stored).items()}
    change = decoded(record, stored).float().mul_(steps(record, stored))
    if not record.rank:
        return change
    left, right = factors(record, stored)
    return torch.addmm(change.double(), left, right).float()


def _runs(record: TensorRecord) -> list[int]:
    """Scales under each exponent."""
    return [1, record.rank] if record.rank else [1]


class Coded:
    """See the module's text."""

    name = "coded"

    def problem(self, record: TensorRecord) -> str:
        if len(record.shape) != 2 or record.tail:
            return "is no matrix of its base's rows"
        if not 1 <= record.levels <= LARGEST or record.count < rans.HEADER:
            return "has impossible levels"
        if not 0 <= record.rank <= min(record.shape) or len(record.exponents) != 1 + (record.rank > 0):
            return "has an impossible rank"
        return ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        stored = unpacked(record, stored)
        if not bool(stored["scale"].isfinite().all()):
            return "has scales that are not finite"
        if not math.isfinite(float(steps(record, stored).abs().max()) * record.levels):
            return "has steps beyond FP32"
        found = tables(stored)
        sums = found[:, 0] + 2 * found[:, 1:].sum(1)
        if not bool(np.isin(sums, (0, rans.TOTAL)).all()):
            return "has frequencies that do not add up"
        if not bool(sums[(stored["columns"].cpu() & 15).numpy()].all()):
            return "has columns of an unknown class"
        if bool((stored["stream"][:rans.HEADER].view(4, 4)[:, 2:] == 0).all(1).any()):
            return "has a stream that cannot start"
        return ""

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        return layout_of(record, packed=("U8", (total_bytes(record),)))

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        assert fitted is not None                      # there is no content without a fit
        return {"packed": fitted["packed"] if "packed" in fitted else pack(fitted)}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        change = logical(record, dense(record, stored)).to(base.device)
        return (base[:record.shape[0]].float() + change).to(record.torch_dtype)

    def scales(self, record: TensorRecord, stored: Stored) -> Tensor:
        """That of the levels and one per component of the low rank (1 + rank,)."""
        halves = unpacked(record, stored)["scale"]
        return torch.cat([from_half(part, e) for part, e in zip(halves.split(_runs(record)), record.exponents, strict=True)])

    def rescaled(self, record: TensorRecord, stored: Stored, scales: Tensor) -> tuple[TensorRecord, dict[str, Tensor]]:
        runs = scales.split(_runs(record))
        record = msgspec.structs.replace(record, exponents=tuple(exponent_for(part) for part in runs))
        halves = torch.cat([to_half(part, e) for part, e in zip(runs, record.exponents, strict=True)])
        packed = stored["packed"].clone()
        packed[:2 * len(scales)] = halves.view(torch.uint8).to(packed.device)
        return record, {"packed": packed}

    def opened(self, record: TensorRecord, stored: Stored) -> Stored:
        parts = unpacked(record, stored)
        # Steps and right factors in units of their scales.
        found = {"levels": decoded(record, parts), "unit": _units(parts)}
        return found | {k: parts[k].float() - ZERO for k in ("left", "right") if k in parts}

    def tuned(self, record: TensorRecord, opened: Stored, scales: Tensor, base: Tensor, dtype: torch.dtype) -> Tensor:
        exact = torch.cat([from_half(to_half(part, e := exponent_for(part)), e) for part in scales.split(_runs(record))])
        change = opened["levels"].float().mul_(exact[0] * opened["unit"])
        if record.rank:
            change.addmm_(opened["left"] * exact[1:], opened["right"])
        return (base[:record.shape[0]].float() + logical(record, change)).to(record.torch_dtype).to(dtype)

    def slopes(self, record: TensorRecord, opened: Stored, scales: Tensor, grad: Tensor) -> Tensor:
        grad = logical(record, grad).float()
        result = ((grad * opened["levels"]).sum(0) * opened["unit"]).sum()[None]
        if not record.rank:
            return result
        return torch.cat([result, ((opened["left"].T @ grad) * opened["right"]).sum(1)])

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        flat = x.float().reshape(-1, x.shape[-1])
        stored = unpacked(record, stored)
        levels, scaled = decoded(record, stored), flat * steps(record, stored)
        result = torch.cat([scaled @ levels[i:i + CHUNK].float().T for i in range(0, record.outputs, CHUNK)], 1)
        if record.rank:
            left, right = (f.float() for f in factors(record, stored))
            result += (flat @ right.T) @ left.T
        return result.reshape(*x.shape[:-1], -1)


CODED = Coded()

"""Several sign planes per weight, chosen together: a grid of 2^p levels per row instead of plane after plane.

Signs under error feedback (GPTQ, arXiv 2210.17323, section 3) on the grid that the planes' scales span, then all scales of a
row by least squares under H, in turns. The format is that of `sign`; no kernel has to know.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from core.codecs.scales import exponent_for, from_half, to_half
from core.codecs.sign import SIGN
from core.gptq import inverse_factor, sweep
from core.methods.aim import aim, is_worth_it
from core.moments import Evidence
from core.record import Slice, TensorRecord
from core.signs import pack_signs

MOST = 4
"""Planes at most: past that, levels lie closer than the rounding of a bf16 weight."""
ROUNDS = 3
"""Sweeps, each after a fit of the scales."""
SPANS = {1: 0.8, 2: 0.98, 3: 1.2, 4: 1.36}
"""Scale of the first plane over the row's root mean square, from which a uniform grid loses least on a normal distribution."""


class Planes:
    """See the module's text."""

    name = "planes"

    def plan(self, record: TensorRecord, nbytes: int) -> TensorRecord | None:
        if len(record.shape) != 2 or 0 in record.shape or record.tail:
            return None
        slices = (Slice(0, record.outputs, "row", record.outputs),)
        for planes in range(MOST, 0, -1):
            planned = msgspec.structs.replace(record, codec="sign", method=self.name, slices=slices, planes=planes,
                                              exponents=(0,) * planes)
            if sum(t.nbytes for t in SIGN.layout(planned).values()) <= nbytes:
                return planned
        return None

    def fit(self, record: TensorRecord, evidence: Evidence) -> tuple[TensorRecord, dict[str, Tensor]]:
        target, h = aim(evidence), evidence.parts[0][0]
        factor, planes = inverse_factor(h), record.planes
        size = target.square().mean(1, keepdim=True).sqrt()
        scales = size * SPANS[planes] * 0.5 ** torch.arange(planes, device=size.device)             # (out, p)
        best: tuple[float, Tensor, Tensor] | None = None
        for _ in range(ROUNDS):
            signs = choose(target, factor, scales)
            scales = refit(signs, target, h, scales)
            lost = evidence.target(0).loss(combine(signs, scales))
            if best is None or lost < best[0]:
                best = lost, signs, scales
        assert best is not None
        _, signs, scales = best
        record = msgspec.structs.replace(record, exponents=tuple(exponent_for(s) for s in scales.T))
        half = [to_half(s, e) for s, e in zip(scales.T, record.exponents, strict=True)]
        exact = torch.stack([from_half(s, e) for s, e in zip(half, record.exponents, strict=True)], 1)
        if not is_worth_it(evidence, combine(signs, exact)):
            half = [torch.zeros_like(s) for s in half]
        stored_way = [s.T if record.output_dimension else s for s in signs]
        return record, {"signs": torch.stack([pack_signs((s < 0).contiguous()) for s in stored_way]), "scale": torch.cat(half)}


def choose(target: Tensor, factor: tuple[Tensor, Tensor], scales: Tensor) -> Tensor:
    """Signs +-1 (p, out, in) of the grid +-scales_1 +- ... +- scales_p (out, p) for a target (out, in)."""
    planes = scales.shape[1]
    bits = torch.arange(2**planes, device=scales.device)[None] >> torch.arange(planes, device=scales.device)[:, None]
    combinations = 1.0 - 2.0 * (bits & 1)              # (p, 2^p)
    levels = scales @ combinations                     # (out, 2^p)
    picked = torch.empty(target.shape, dtype=torch.long, device=target.device)

    def nearest(column: Tensor, place: int) -> Tensor:
        index = (levels - column[:, None]).abs().argmin(1, keepdim=True)
        picked[:, place] = index[:, 0]
        return levels.gather(1, index)[:, 0]
    sweep(target, factor, nearest)
    return combinations[:, picked]


def refit(signs: Tensor, target: Tensor, h: Tensor, start: Tensor) -> Tensor:
    """Best scales (out, p) of signs (p, out, in) for a target (out, in) under `h`; rows that say nothing keep `start`."""
    planes = len(signs)
    products = signs @ h                               # (p, out, in)
    gram = (products[:, None] * signs[None]).sum(3).permute(2, 0, 1)           # (out, p, p)
    aims = (products * target).sum(2).T                # (out, p)
    ridge = 1e-5 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    eye = torch.eye(planes, dtype=h.dtype, device=h.device)
    found = torch.linalg.solve_ex(gram + ridge[:, None, None] * eye, aims)[0]
    return torch.where(found.isfinite().all(1, keepdim=True), found, start)


def combine(signs: Tensor, scales: Tensor) -> Tensor:
    """The dense change (out, in) of signs (p, out, in) and scales (out, p)."""
    total = torch.zeros_like(signs[0])
    for sign, scale in zip(signs, scales.T, strict=True):
        total += sign * scale[:, None]
    return total


PLANES = Planes()

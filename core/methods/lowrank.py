"""Plain low rank at a given size, the yardstick of every other method: two factors in FP16."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from core.codecs.lowrank import LOWRANK
from core.codecs.scales import exponent_for, from_half
from core.methods.aim import aim, floored, is_worth_it
from core.methods.svdmix_vectors import decompose
from core.moments import Evidence
from core.record import TensorRecord


@dataclass(frozen=True)
class LowRankMethod:
    """As many ranks as the bytes hold: of the change's own singular vectors, or the best ones under the inputs' moments."""

    name: str
    weighed: bool

    def plan(self, record: TensorRecord, nbytes: int) -> TensorRecord | None:
        if len(record.shape) != 2 or record.tail:
            return None
        rank = min(*record.shape, nbytes // (2 * sum(record.shape)))
        if rank < 1:
            return None
        return msgspec.structs.replace(record, codec="lowrank", method=self.name, rank=rank, exponents=(), slices=(), planes=1,
                                       count=0, packed=0, ranks=())

    def fit(self, record: TensorRecord, evidence: Evidence) -> tuple[TensorRecord, dict[str, Tensor]]:
        change = aim(evidence) if self.weighed else evidence.change
        u, v = decompose(change, floored(evidence.parts[0][0]) if self.weighed else None, record.rank)
        root = v.square().sum(1).sqrt().clamp_min(1e-30).sqrt()
        sides = u * root, v / root[:, None]
        left, right = (sides[1].T, sides[0].T) if record.output_dimension else sides
        record = msgspec.structs.replace(record, exponents=(exponent_for(torch.cat([left.flatten(), right.flatten()])),))
        stored = LOWRANK.encode(record, None, change, {"left": left.contiguous(), "right": right.contiguous()})
        dense = from_half(stored["left"], record.exponents[0]) @ from_half(stored["right"], record.exponents[0])
        if not is_worth_it(evidence, dense.T if record.output_dimension else dense):
            stored = {k: torch.zeros_like(t) for k, t in stored.items()}
        return record, stored


LOWRANK_PLAIN = LowRankMethod("lowrank", weighed=False)
LOWRANK_H = LowRankMethod("lowrank-h", weighed=True)

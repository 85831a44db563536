"""Methods of the codec `svdmix`: widths chosen by what each singular vector is worth, or fixed ones as a comparison.

Sources: DeltaMix (arXiv 2506.11087), Delta-CoMe (arXiv 2406.08903). Bytes are exactly those planned; what no pair fits into
stays zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

import msgspec
import numpy as np
import torch
from torch import Tensor

from core.codecs.scales import exponent_for, from_half, to_half
from core.codecs.svdmix import WIDTHS, pack, packed_size, pair_bits
from core.gptq import inverse_factor
from core.methods.aim import aim, floored, is_worth_it
from core.methods.svdmix_vectors import (
    DAMP,
    NOISE,
    best_inputs,
    best_outputs,
    decompose,
    energies,
    input_errors,
    round_columns,
    round_rows,
)
from core.methods.svdmix_widths import MOST_WIDTHS, Ints, Program, by_multiplier
from core.moments import Evidence
from core.record import Ranks, TensorRecord

COME_GROUPS = ((2, 8), (32, 3), (None, 2))
"""Delta-CoMe's ranks and bits: two at 8, the next 32 at 3, the others at 2 (the values of its published runs)."""

PASSES = 2
"""Further rounds of both sides after the first, each against the other as rounded: 5 % less loss, a tenth of the time each."""


def plan_packed(record: TensorRecord, nbytes: int, method: str) -> TensorRecord | None:
    """A record of `nbytes` of packed vectors, or fewer where all pairs at 16 bits take fewer; None where none fits."""
    if len(record.shape) != 2 or record.tail:
        return None
    shape = record.outputs, record.inputs
    most = packed_size(shape, (Ranks(min(shape), 16, 16),))
    if nbytes < packed_size(shape, (Ranks(1, 2, 2),)):
        return None
    return msgspec.structs.replace(record, codec="svdmix", method=method, packed=min(nbytes, most), ranks=(), slices=(), planes=1,
                                   exponents=(), rank=0, count=0)


def most_pairs(record: TensorRecord) -> int:
    """Pairs that the bytes hold at the least width."""
    shape = record.outputs, record.inputs
    return min(*shape, record.packed * 8 // pair_bits(shape, WIDTHS[0], WIDTHS[0]))


def in_runs(widths: list[tuple[int, int]]) -> tuple[Ranks, ...]:
    """Ranks of pairs of widths (outputs, inputs) in this order."""
    return tuple(Ranks(len(list(run)), *key) for key, run in groupby(widths))


def choose(record: TensorRecord, program: Program, most: int = MOST_WIDTHS) -> tuple[list[int], tuple[Ranks, ...]]:
    """(pairs to keep, in the order of storage, their ranks) of the least loss within the record's bytes."""
    bits = record.packed * 8
    while True:
        chosen = by_multiplier(program, bits, most)
        kept, ranks = _sorted_runs(chosen)
        over = packed_size(program.shape, ranks) - record.packed    # runs end in whole bytes, which bits do not count
        if over <= 0:
            return kept, ranks
        bits -= 8 * over


def _sorted_runs(chosen: Ints) -> tuple[list[int], tuple[Ranks, ...]]:
    kept = np.nonzero(chosen[:, 0] >= 0)[0]
    order = sorted(kept.tolist(), key=lambda i: (*(-chosen[i]).tolist(), i))
    return order, in_runs([(WIDTHS[chosen[i, 0]], WIDTHS[chosen[i, 1]]) for i in order])


def spread(ranks: tuple[Ranks, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Widths (pairs,) of outputs and of inputs."""
    counts = torch.tensor([r.count for r in ranks])
    outputs, inputs = (torch.tensor(w).repeat_interleave(counts).to(device)
                       for w in ([r.outputs for r in ranks], [r.inputs for r in ranks]))
    return outputs, inputs


def store(record: TensorRecord, evidence: Evidence, scale: Tensor, outputs: Tensor,
          inputs: Tensor) -> tuple[TensorRecord, dict[str, Tensor]]:
    """The finished record and its bytes; zeros where what was learnt is worse than no delta on held-out data."""
    record = msgspec.structs.replace(record, exponents=(exponent_for(scale),))
    rounded = from_half(to_half(scale, record.exponents[0]), record.exponents[0])
    if not is_worth_it(evidence, (outputs * rounded[:, None]).T @ inputs):
        return nothing(record, scale.device)
    return record, {"packed": pack(record, scale, outputs, inputs)}


def nothing(record: TensorRecord, device: torch.device) -> tuple[TensorRecord, dict[str, Tensor]]:
    """The record of a change of zero, in the bytes that were planned."""
    return (msgspec.structs.replace(record, exponents=(0,), ranks=()),
            {"packed": torch.zeros(record.packed, dtype=torch.uint8, device=device)})


@dataclass(frozen=True)
class DeltaMix:
    """Widths by the 0/1 program, the target of the outputs' side corrected for the rounded inputs' side.

    With `weighed`, the singular value decomposition itself is taken under the inputs' moments, and both sides are rounded
    `PASSES` times more against one another: 15 to 25 % less held-out loss than the paper's way (tests/benchmarks).
    """

    name: str
    weighed: bool

    def plan(self, record: TensorRecord, nbytes: int) -> TensorRecord | None:
        return plan_packed(record, nbytes, self.name)

    def fit(self, record: TensorRecord, evidence: Evidence) -> tuple[TensorRecord, dict[str, Tensor]]:
        change, metric = aim(evidence), floored(evidence.parts[0][0])
        _, vectors = decompose(change, metric if self.weighed else None, most_pairs(record))
        factor = inverse_factor(metric, DAMP)
        worth = energies(vectors, metric).clamp_min(0)
        kept, ranks = choose(record, self.program(vectors, worth, metric, factor, len(change)))
        if not ranks:
            return nothing(record, change.device)
        record = msgspec.structs.replace(record, ranks=ranks)
        over_outputs, over_inputs = spread(ranks, change.device)
        vectors = vectors[kept]
        for _ in range(1 + PASSES * self.weighed):
            inputs = round_rows(vectors, over_inputs, factor)
            target, gram = best_outputs(change, metric, inputs.values)
            outputs = round_columns(target, over_outputs, gram)
            size = energies(inputs.values, metric).clamp_min(1e-30).sqrt()     # the units of `best_outputs`
            vectors = best_inputs(change, (outputs.values / size[:, None]).T)
        return store(record, evidence, outputs.scale * inputs.scale / size, outputs.numbers, inputs.numbers)

    def program(self, vectors: Tensor, worth: Tensor, metric: Tensor, factor: tuple[Tensor, Tensor], outputs: int) -> Program:
        """What each pair loses at each width: `worth` (pairs,) when dropped; a grid's own noise, on the side of the outputs."""
        inputs = input_errors(vectors, metric, factor, WIDTHS).clamp_min(0)
        noise = torch.tensor([NOISE[w] for w in WIDTHS], device=worth.device) * worth[:, None]
        dropped, left, right = (t.cpu().double().numpy() for t in (worth, noise, inputs))
        return Program(dropped, left, right, (outputs, vectors.shape[1]))


class DeltaCome:
    """Fixed widths by rank, both sides rounded with error feedback and nothing corrected: Delta-CoMe, section 3."""

    name = "delta-come"

    def plan(self, record: TensorRecord, nbytes: int) -> TensorRecord | None:
        return plan_packed(record, nbytes, self.name)

    def widths(self, record: TensorRecord) -> tuple[Ranks, ...]:
        """As many ranks as the bytes hold, in the paper's groups."""
        shape = record.outputs, record.inputs
        ranks: list[Ranks] = []
        for count, width in COME_GROUPS:
            free = min(shape) - sum(r.count for r in ranks)
            more = min(free, math.inf if count is None else count)
            while more and packed_size(shape, (*ranks, Ranks(int(more), width, width))) > record.packed:
                more -= 1
            if more:
                ranks.append(Ranks(int(more), width, width))
        return tuple(ranks)

    def fit(self, record: TensorRecord, evidence: Evidence) -> tuple[TensorRecord, dict[str, Tensor]]:
        change, metric = evidence.change, evidence.parts[0][0]
        ranks = self.widths(record)
        record = msgspec.structs.replace(record, ranks=ranks)
        target, vectors = decompose(change, None, sum(r.count for r in ranks))
        over_outputs, over_inputs = spread(ranks, change.device)
        inputs = round_rows(vectors, over_inputs, inverse_factor(metric, DAMP))
        size = energies(inputs.values, metric).clamp_min(1e-30).sqrt()
        gram = best_outputs(change, metric, inputs.values)[1]
        outputs = round_columns(target * size, over_outputs, gram)
        return store(record, evidence, outputs.scale * inputs.scale / size, outputs.numbers, inputs.numbers)


DELTAMIX = DeltaMix("deltamix", weighed=False)
DELTAMIX_H = DeltaMix("deltamix-h", weighed=True)
DELTA_COME = DeltaCome()

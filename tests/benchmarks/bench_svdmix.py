"""Singular vectors at mixed widths on a real pair: held-out loss at equal bytes beside fixed widths and low rank, and the
program that chooses widths by its multiplier beside the exact one.

Matrices of 576 x 1536 (gate, up, down) of one block; the prefix before it is compressed to row or column signs. Losses are of
the matrix's whole task on held-out text, its drift from earlier layers included, relative to no delta (`core.moments`); and,
with every method aimed at the matrix's own change alone, the share of that change that is lost.

    python -m tests.benchmarks.bench_svdmix [--pair pirate] [--block 1] [--samples 25] [--sizes 4,8,16,32] [--seconds 30]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from tests.benchmarks.pairs import real_pairs

LENGTH = 256
METHODS = ("deltamix-h", "deltamix", "delta-come", "lowrank-h", "lowrank")
ODD_SHAPES = ((60, 173), (830, 545), (256, 700), (1, 37))


class Keeping:
    """A method that keeps the evidence it is shown, and does as `deltamix` at 1/16."""

    name = "keeping"

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def plan(self, record: Any, nbytes: int) -> Any:
        from core.methods.svdmix import plan_packed
        return plan_packed(record, nbytes, self.name)

    def fit(self, record: Any, evidence: Any) -> Any:
        from core.methods import METHODS as KNOWN
        self.found[record.name.split(".")[-2]] = evidence
        return KNOWN["deltamix"].fit(record, evidence)


def gather(pair: str, block: int, samples: int) -> dict[str, Any]:
    """Evidence by name of the MLP's matrices of a block."""
    import torch

    from core.calibration import load_tokenizer, split_samples
    from core.checkpoint import open_checkpoint
    from core.fit import BlockFitter
    from core.methods import METHODS as KNOWN
    from core.plan import PlanOptions, make_plan
    from core.stream import advance, cut_batches, levels, start
    from core.variant import Variant
    from core.weights import StagedModel, TensorWeights
    keeping = Keeping()
    KNOWN[keeping.name] = keeping
    device = torch.device("cpu")
    base, tuned = real_pairs()[pair]
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        model = StagedModel.of(b)
        variant = Variant(a, b, tuple(
            keeping.plan(r, math.prod(r.shape) // 8) if r.block == block and r.codec == "sign" and ".mlp." in r.name else r
            for r in make_plan(a, b, PlanOptions()).records))
        parts = split_samples("default", load_tokenizer(b.folder), counts={"fit": samples * 4 // 5, "held": samples // 5},
                              sequence_length=LENGTH, seed=0).parts
        batches = cut_batches(parts["fit"], parts["held"])
        target, student = TensorWeights(model, b.view, device), TensorWeights(model, variant.read, device)
        streams = [start(model.skeleton, weights, batches, device) for weights in (target, student)]
        for i in range(block + 1):
            weights = target.stage(i)
            fitter = BlockFitter(model, variant, i, (streams[0], streams[1]), batches, weights, device, lambda *_: None,
                                 lambda: None)
            for level in levels(model.skeleton, i, weights, streams[0][0], batches.calls[0][i]):
                list(fitter.fit(level))
            if i < block:
                advance(model.skeleton, i, weights, streams[0], batches)
                advance(model.skeleton, i, fitter.parameters(), streams[1], batches)
    return keeping.found


def record_for(shape: tuple[int, ...]) -> Any:
    """A plain record of a matrix."""
    from core.record import TensorRecord
    return TensorRecord(name="w", codec="sign", shape=shape, dtype="F32", base="w", base_shape=shape, base_dtype="F32")


def measure(method: str, evidence: Any, nbytes: int) -> tuple[float, float, float, int]:
    """(held-out loss, held-out share of the change that is lost, seconds, bytes stored), as the codec reads it back."""
    import torch

    from core.codecs import CODECS
    from core.methods import METHODS as KNOWN
    planned = KNOWN[method].plan(record_for(tuple(evidence.change.shape)), nbytes)
    assert planned is not None
    begin = time.perf_counter()
    record, stored = KNOWN[method].fit(planned, evidence)
    seconds = time.perf_counter() - begin
    codec = CODECS[record.codec]
    size = sum(t.numel() * t.element_size() for t in stored.values())
    assert size == sum(t.nbytes for t in codec.layout(planned).values()) <= nbytes
    assert codec.problem(record) == codec.stored_problem(record, stored) == ""
    dense = codec.add(record, stored, torch.zeros_like(evidence.change))
    return evidence.target(1).loss(dense), evidence.lost(dense)[1], seconds, size


def compare(pair: str, block: int, evidences: dict[str, Any], sizes: list[int]) -> list[dict[str, Any]]:
    """Losses of all methods per size."""
    import torch

    from core.moments import Evidence
    rows = []
    for size in sizes:
        losses: dict[str, list[float]] = {m: [] for m in METHODS}
        own: dict[str, list[float]] = {m: [] for m in METHODS}
        seconds: dict[str, float] = dict.fromkeys(METHODS, 0.0)
        for evidence in evidences.values():
            nbytes = evidence.change.numel() * 2 // size
            # Without drift the aim is the change itself, for every method.
            plain = Evidence(evidence.change, tuple((h, torch.zeros_like(ck), torch.zeros_like(e2))
                                                    for h, ck, e2 in evidence.parts))
            for method in METHODS:
                loss, _, spent, stored = measure(method, evidence, nbytes)
                assert stored == nbytes or method.startswith("lowrank")
                losses[method].append(loss)
                own[method].append(measure(method, plain, nbytes)[1])
                seconds[method] += spent
        mean, mean_own = ({m: sum(v) / len(v) for m, v in found.items()} for found in (losses, own))
        beside = ", ".join(f"{m} {mean[m]:.4f} ({seconds[m] / len(evidences):.2f} s)" for m in METHODS)
        where = f"{pair}, block {block}, {len(evidences)} matrices, 1/{size} of FP16"
        for m in ("deltamix", "deltamix-h"):
            rows.append({"name": f"{where}: held-out loss, {m} / 8-3-2 bits", "value": round(mean[m] / mean["delta-come"], 4),
                         "unit": "x", "reference": beside, "goal": 1.0, "better": "lower"})
        beside = ", ".join(f"{m} {mean_own[m]:.4f}" for m in METHODS)
        for m in ("deltamix", "deltamix-h"):
            rows.append({"name": f"{where}: lost of the own change, {m} / 8-3-2 bits", "unit": "x", "reference": beside,
                         "value": round(mean_own[m] / mean_own["delta-come"], 4), "goal": 1.0, "better": "lower"})
    return rows


def programs(evidences: dict[str, Any], sizes: list[int], limit: float) -> list[dict[str, Any]]:
    """The multiplier's sum of errors and time beside scipy's exact program, on the matrices' own errors."""
    from core.gptq import inverse_factor
    from core.methods.svdmix import DELTAMIX_H, most_pairs, plan_packed
    from core.methods.svdmix_vectors import DAMP, decompose, energies
    from core.methods.svdmix_widths import by_milp, by_multiplier
    rows = []
    name, evidence = next(iter(evidences.items()))
    change, metric = evidence.change, evidence.parts[0][0]
    for size in sizes:
        record = plan_packed(record_for(tuple(change.shape)), change.numel() * 2 // size, "")
        assert record is not None
        vectors = decompose(change, metric, most_pairs(record))[1]
        program = DELTAMIX_H.program(vectors, energies(vectors, metric), metric, inverse_factor(metric, DAMP), len(change))
        bits = record.packed * 8
        by_multiplier(program, bits)
        begin = time.perf_counter()
        quick = program.loss(by_multiplier(program, bits))
        middle = time.perf_counter()
        exact = program.loss(by_milp(program, bits, seconds=limit))
        spent = middle - begin, time.perf_counter() - middle
        beside = f"multiplier {quick:.6g} in {spent[0] * 1000:.1f} ms, milp {exact:.6g} in {spent[1]:.2f} s (limit {limit:g} s)"
        where = f"widths of {name}, {len(program.dropped)} pairs, 1/{size}"
        rows += [{"name": f"{where}: sum of errors, multiplier / milp", "value": round(quick / exact, 5), "unit": "x",
                  "reference": beside, "goal": 1.01, "better": "lower"},
                 {"name": f"{where}: time, milp / multiplier", "value": round(spent[1] / spent[0], 1), "unit": "x",
                  "reference": beside, "goal": 10.0, "better": "higher"}]
    return rows


def awkward() -> list[dict[str, Any]]:
    """Bytes that stay zero at the end, over shapes that fill no byte: the worst share of the budget."""
    import torch

    from core.codecs.svdmix import packed_size
    from core.methods.svdmix import DELTAMIX, DELTAMIX_H
    from core.moments import Evidence
    worst, where = 0.0, ""
    for shape in ODD_SHAPES:
        generator = torch.Generator().manual_seed(0)
        change = torch.randn(shape, generator=generator) @ torch.diag(torch.linspace(1, 0.01, shape[1]))
        x = torch.randn(400, shape[1], generator=generator)
        h = x.T @ x / len(x)
        evidence = Evidence(change, ((h, torch.zeros(shape[1], shape[0]), torch.zeros(shape[0])),) * 2)
        for size in (4, 8, 16):
            for method in (DELTAMIX, DELTAMIX_H):
                planned = method.plan(record_for(shape), math.prod(shape) * 2 // size)
                if planned is None:
                    continue
                record, stored = method.fit(planned, evidence)
                assert stored["packed"].numel() == planned.packed
                share = 1 - packed_size((shape[0], shape[1]), record.ranks) / record.packed
                if share > worst and min(shape) > 1:
                    worst, where = share, f"{shape[0]} x {shape[1]}, 1/{size}, {method.name}"
    return [{"name": "svdmix: bytes left at the end", "value": round(worst * 100, 3), "unit": "% of the size",
             "reference": f"the worst: {where}", "goal": 1.0, "better": "lower"}]


def run(pair: str = "pirate", block: int = 1, samples: int = 25, sizes: list[int] | None = None,
        seconds: float = 30.0) -> list[dict[str, Any]]:
    """One row per size and comparison."""
    sizes = sizes or [4, 8, 16, 32]
    evidences = gather(pair, block, samples)
    return [*compare(pair, block, evidences, sizes), *programs(evidences, [16, 32], seconds), *awkward()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", default="pirate")
    parser.add_argument("--block", type=int, default=1)
    parser.add_argument("--samples", type=int, default=25)
    parser.add_argument("--sizes", type=lambda s: [int(x) for x in s.split(",")])
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    for row in run(given.pair, given.block, given.samples, given.sizes, given.seconds):
        print(json.dumps(row))

"""Every method at every size on real matrices: bytes, held-out loss, seconds; per-axis signs (exact) and low rank beside.

The matrices' inputs are the fine-tune's own, so that the loss is what the method loses and nothing of earlier layers:
tr((D - D^) H (D - D^)^T) / tr(D H D^T) on held-out text. `python -m tests.benchmarks.bench_methods` prints the whole table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.pairs import real_pairs

BLOCKS = (3, 15, 27)
SAMPLES, HELD, LENGTH = 20, 8, 256
SIZES = (4.0, 2.0, 1.0, 0.5)
"""Bits per weight: 1/4 to 1/32 of FP16."""
SIGNS = "per-axis exact"


class Cell(NamedTuple):
    """One matrix by one method in one size."""

    matrix: str
    method: str
    bits: float
    nbytes: int
    loss: float
    seconds: float


def gather(base: Path, tuned: Path, blocks: Sequence[int] = BLOCKS) -> Iterator[tuple[str, Any]]:
    """(name, Evidence) of every matrix in some blocks of a pair, on inputs that the fine-tune itself makes."""
    import torch

    from core.calibration import load_tokenizer, split_samples
    from core.checkpoint import open_checkpoint
    from core.codecs.contract import logical
    from core.fit import RESIDUAL_KINDS, residual_scale
    from core.moments import Evidence, Moments
    from core.plan import PlanOptions, make_plan
    from core.stream import advance, cut_batches, levels, observe, start
    from core.weights import StagedModel, TensorWeights
    device = torch.device("cpu")
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        model = StagedModel.of(b)
        records = {r.name: r for r in make_plan(a, b, PlanOptions()).records}
        weights = TensorWeights(model, b.view, device)
        parts = split_samples("default", load_tokenizer(b.folder), counts={"fit": SAMPLES, "held": HELD},
                              sequence_length=LENGTH, seed=0).parts
        batches = cut_batches(parts["fit"], parts["held"])
        hidden = start(model.skeleton, weights, batches, device)
        for block in range(max(blocks) + 1):
            stage = weights.stage(block)
            if block not in blocks:
                advance(model.skeleton, block, stage, hidden, batches)
                continue
            found = levels(model.skeleton, block, stage, hidden[0], batches.calls[0][block])
            prefix = model.skeleton.prefix(block)
            tensors = {p.parameter.removeprefix(prefix): p.tensor for p in model.by_stage[block]}
            moments = {level.parameters: [Moments.empty(stage[level.parameters[0]].shape[1], 1, device, drift=False)
                                          for _ in range(2)] for level in found}
            for i, held in enumerate(batches.held_out):
                scale = residual_scale(hidden[i])
                seen, hidden[i] = observe(model.skeleton, block, stage, hidden[i], batches.calls[i][block],
                                          frozenset(level.parameters[0] for level in found))
                inputs = {u.parameter: u.inputs.reshape(-1, u.inputs.shape[-1]) for u in seen}
                for names, both in moments.items():
                    x = inputs[names[0]]
                    weighed = records[tensors[names[0]]].kind in RESIDUAL_KINDS
                    both[held].add(x * scale if weighed else x, None, None)
            for names, both in moments.items():
                for name in names:
                    record = records[tensors[name]]
                    change = logical(record, b.view(record.name).float() - a.view(record.base or "").float())
                    yield f"{record.kind}{block}", Evidence(change, tuple(part.finish(change) for part in both))


def per_axis(evidence: Any) -> tuple[Any, int]:
    """The dense change that plain signs with the better of row and column scales make, and its bytes."""
    from core.solve import Problem, expand
    problem = Problem(evidence.change, evidence.target(0), evidence.target(1))
    best = min((problem.solve(axis) for axis in ("row", "column")), key=lambda f: f.held_out)
    out, n = evidence.change.shape
    return expand(problem.signs, best.axis, best.values), out * -(-n // 8) + 2 * len(best.values)


def measure(name: str, evidence: Any, sizes: Sequence[float] = SIZES, methods: Sequence[str] = ()) -> Iterator[Cell]:
    """One matrix by every method that has a plan in each size."""
    import torch

    from core.codecs import CODECS
    from core.codecs.contract import logical
    from core.methods import METHODS
    from core.record import TensorRecord
    shape = tuple(evidence.change.shape)
    plain = TensorRecord(name=name, codec="full", shape=shape, dtype="F32", base=name, base_shape=shape, base_dtype="F32")
    began = time.process_time()
    dense, nbytes = per_axis(evidence)
    yield Cell(name, SIGNS, 1.0, nbytes, evidence.lost(dense)[1], time.process_time() - began)
    for bits in sizes:
        # Room for the scales of plain signs (of as many planes): all methods may use what those take.
        room = int(evidence.change.numel() * bits / 8 + 2 * max(shape) * max(1, bits))
        for method in methods or METHODS:
            planned = METHODS[method].plan(plain, room)
            if planned is None:
                continue
            began = time.process_time()
            record, stored = METHODS[method].fit(planned, evidence)
            seconds = time.process_time() - began
            used = sum(t.nbytes for t in stored.values())
            assert used == sum(t.nbytes for t in CODECS[planned.codec].layout(planned).values()) <= room
            if used < 0.7 * room:                      # made for a smaller size, which has a row of its own
                continue
            found = logical(record, CODECS[record.codec].add(record, stored, torch.zeros(shape)))
            yield Cell(name, method, bits, used, evidence.lost(found)[1], seconds)


def run(pairs: Sequence[str] = (), blocks: Sequence[int] = BLOCKS, sizes: Sequence[float] = SIZES,
        methods: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per pair, size and method: mean held-out loss over all matrices, with bits, and CPU seconds per matrix."""
    rows = []
    for pair, (base, tuned) in real_pairs().items():
        if not pairs or pair in pairs:
            cells = [c for name, evidence in gather(base, tuned, blocks) for c in measure(name, evidence, sizes, methods)]
            rows += summary(pair, cells)
    return rows


def summary(pair: str, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Figures of one pair; in each size the methods are set against the best of them."""
    groups: dict[tuple[float, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((-cell.bits, cell.method), []).append(cell)
    rows = []
    for (bits, method), found in sorted(groups.items()):
        mean = sum(c.loss for c in found) / len(found)
        best = min(sum(c.loss for c in others) / len(others) for (size, _), others in groups.items()
                   if size == bits and len(others) == len(found))
        rows.append({"name": f"{pair}: loss at {-bits:g} bits, {method}", "value": round(mean, 5), "unit": "of the change",
                     "reference": f"best {best:.5f}; {sum(c.nbytes for c in found)} bytes in {len(found)} matrices, "
                                  f"{sum(c.seconds for c in found) / len(found):.2f} CPU s each",
                     "goal": None, "better": "lower"})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=lambda s: s.split(","), default=())
    parser.add_argument("--methods", type=lambda s: s.split(","), default=())
    parser.add_argument("--blocks", type=lambda s: [int(b) for b in s.split(",")], default=BLOCKS)
    parser.add_argument("--sizes", type=lambda s: [float(b) for b in s.split(",")], default=SIZES)
    options = parser.parse_args()
    for row in run(options.pairs, options.blocks, options.sizes, options.methods):
        print(f"{row['name']:52} {row['value']:9.5f}  {row['reference']}", flush=True)

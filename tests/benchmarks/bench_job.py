"""The whole job on the 135M pair against the paper's schedule on the same pair, samples and machine.

The paper's code runs the whole model forward once for every layer (to cache that layer's inputs and outputs) and fits
both axes with AdamW, 5 epochs. That takes hours here, so it is extrapolated: one forward pass of each model over a few
samples, and AdamW on every kind of layer of one block, each timed and multiplied by how often the schedule does it.
End-to-end tuning is part of our time and not of the reference's.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import real_pairs

FORWARD_SAMPLES = 8
ADAMW_SAMPLES = 8


def paper_seconds(base: Path, tuned: Path, samples: int, length: int) -> tuple[float, str]:
    """Extrapolated seconds of the paper's fit of all layers, and how they come about."""
    import torch

    from core.checkpoint import open_checkpoint
    from core.moments import Target
    from core.paper import fit_adamw
    from core.plan import PlanOptions, make_plan
    from core.solve import Problem
    from core.stream import carry, cut_batches
    from core.weights import StagedModel, TensorWeights
    device = torch.device("cpu")
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        model = StagedModel.of(b)
        ids = torch.randint(0, model.skeleton.vocabulary, (FORWARD_SAMPLES, length), generator=torch.Generator().manual_seed(0))
        begin = time.perf_counter()
        for checkpoint in (a, b):
            carry(model.skeleton, TensorWeights(model, checkpoint.view, device), cut_batches(ids), device)
        forward = (time.perf_counter() - begin) / FORWARD_SAMPLES * samples
        layers = [r for r in make_plan(a, b, PlanOptions()).records if r.codec == "sign" and r.block is not None]
        fit = 0.0
        for record in (r for r in layers if r.block == layers[0].block):
            change = b.read(record.name, torch.float32) - a.read(record.name, torch.float32)
            out, into = change.shape
            pairs = [(torch.randn(length, into), torch.randn(length, out)) for _ in range(ADAMW_SAMPLES)]
            target = Target(torch.eye(into), change.T.contiguous(), 1.0, 1.0)
            begin = time.perf_counter()
            for axis in ("row", "column"):
                fit_adamw(Problem(change, target, None), axis, pairs)
            fit += (time.perf_counter() - begin) / ADAMW_SAMPLES * samples
        blocks = len({r.block for r in layers})
    whole = forward * len(layers) + fit * blocks
    return whole, f"{len(layers)} x {forward:.1f} s forward + {blocks} x {fit:.1f} s AdamW = {whole:.0f} s"


def run() -> list[dict[str, Any]]:
    """How many times faster the whole default job is."""
    from core.checkpoint import open_checkpoint
    from core.job import Job
    from core.request import Request, sequence_length
    base, tuned = real_pairs()["pirate"]
    with tempfile.TemporaryDirectory() as work:
        request = Request(base=str(base), fine_tuned=str(tuned), output=str(Path(work) / "delta"), calibration="default")
        with open_checkpoint(base) as checkpoint:
            length = sequence_length(request, checkpoint.config)
        stages: dict[str, float] = {}

        def tell(event: Any) -> None:
            if type(event).__name__ == "StageStarted":
                stages[event.stage] = event.time
        ours = Job(request, tell).run().seconds
        reference, words = paper_seconds(base, tuned, request.samples, length)
    return [{"name": "the paper's schedule / whole default job, 135M pair", "value": round(reference / ours, 1), "unit": "x",
             "reference": f"{words}; ours {ours:.0f} s, stages began at " + ", ".join(f"{k} {v:.0f}" for k, v in stages.items()),
             "goal": 30, "better": "higher"}]


if __name__ == "__main__":
    for row in run():
        print(row)

"""`exact` against `paper` and `chosen` against `exact` on the same blocks and tokens of a real pair: held-out loss, and time.

All start from the same states before each block; the prefix is the exact fit's for all, so that losses compare.
Matrices that write to the residual stream are fitted by all but left out of the mean: the paper's way does not weigh their
tokens, the others do, so the losses are not in one unit.
"""

from __future__ import annotations

import time
from typing import Any

from tests.benchmarks.pairs import real_pairs

PAIR, BLOCKS, SAMPLES, LENGTH = "pirate", 3, 25, 256


def run() -> list[dict[str, Any]]:
    """Mean held-out loss of the chosen axis over all matrices of the first blocks, and seconds of the fits."""
    import torch

    from core.calibration import load_tokenizer, split_samples
    from core.checkpoint import open_checkpoint
    from core.fit import RESIDUAL_KINDS, BlockFitter
    from core.plan import PlanOptions, make_plan
    from core.stream import advance, cut_batches, levels, start
    from core.variant import Variant
    from core.weights import StagedModel, TensorWeights
    device = torch.device("cpu")
    base, tuned = real_pairs()[PAIR]
    losses: dict[str, list[float]] = {"paper": [], "chosen": [], "exact": []}
    seconds = dict.fromkeys(losses, 0.0)
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        model = StagedModel.of(b)
        variant = Variant(a, b, make_plan(a, b, PlanOptions()).records)
        parts = split_samples("default", load_tokenizer(b.folder), counts={"fit": SAMPLES * 4 // 5, "held": SAMPLES // 5},
                              sequence_length=LENGTH, seed=0).parts
        batches = cut_batches(parts["fit"], parts["held"])
        target, student = TensorWeights(model, b.view, device), TensorWeights(model, variant.read, device)
        streams = [start(model.skeleton, weights, batches, device) for weights in (target, student)]
        for block in range(BLOCKS):
            weights = target.stage(block)
            fresh = dict(variant.records)
            for recipe in losses:
                variant.records.update(fresh)
                for name in model.tensors(block):
                    variant.learnt.pop(name, None)
                fitter = BlockFitter(model, variant, block, (streams[0], streams[1]), batches, weights, device,
                                     lambda *_: None, lambda: None, recipe=recipe)
                begin = time.process_time()
                for level in levels(model.skeleton, block, weights, streams[0][0], batches.calls[0][block]):
                    for record in fitter.fit(level):
                        if record.kind not in RESIDUAL_KINDS:
                            losses[recipe] += [x.axis[s.axis] for x, s in zip(record.losses, record.slices, strict=True)]
                seconds[recipe] += time.process_time() - begin
            advance(model.skeleton, block, weights, streams[0], batches)
            advance(model.skeleton, block, fitter.parameters(), streams[1], batches)
    mean = {k: sum(v) / len(v) for k, v in losses.items()}
    beside = f"{BLOCKS} blocks, {len(losses['exact'])} matrices, {SAMPLES} x {LENGTH} tokens"
    return [{"name": "held-out layer loss, exact / paper", "value": round(mean["exact"] / mean["paper"], 4), "unit": "x",
             "reference": f"paper {mean['paper']:.4f}, exact {mean['exact']:.4f}; {beside}", "goal": 1.0, "better": "lower"},
            {"name": "time of the layer fits, paper / exact", "value": round(seconds["paper"] / seconds["exact"], 2), "unit": "x",
             "reference": f"paper {seconds['paper']:.1f} s, exact {seconds['exact']:.1f} s, gathering in both; {beside}",
             "goal": 1.0, "better": "higher"},
            {"name": "held-out layer loss, chosen / exact", "value": round(mean["chosen"] / mean["exact"], 4), "unit": "x",
             "reference": f"exact {mean['exact']:.4f}, chosen {mean['chosen']:.4f}; {beside}", "goal": 0.8, "better": "lower"},
            {"name": "time of the layer fits, chosen / exact", "value": round(seconds["chosen"] / seconds["exact"], 2),
             "unit": "x",
             "reference": f"exact {seconds['exact']:.1f} s, chosen {seconds['chosen']:.1f} s, gathering in both; {beside}",
             "goal": 1.6, "better": "lower"}]


if __name__ == "__main__":
    for row in run():
        print(row)

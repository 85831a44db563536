"""A whole job over real-sized blocks of large models: what the plan predicts beside what is measured, and what follows.

Two blocks of Llama-3.1-8B (hidden 4096, feed-forward 14336, its whole vocabulary; embedding and head equal in both) are
compressed by the default recipe, with few tokens: their number enters memory and time by formula. Every block costs the same,
so totals are the plan's for all blocks, scaled in time by measured over predicted. One block of the 70B is measured where there
is memory for it, else only predicted. It takes some 70 TFLOP for a block of the 8B: a quarter of an hour on two cores.

`python -m tests.benchmarks.bench_large quarter` takes half of all dimensions instead.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.large_shapes import LLAMA_8B, LLAMA_70B, QUARTER, Shape, Watched, make_pair, make_text, plan_of, watched_job

SAMPLES, LENGTH = 8, 256
DEFAULT = {"samples": 50, "tune_samples": 150}
"""Of a request that says nothing, with 1,024 tokens each at this width."""


def predicted(shape: Shape, blocks: int, samples: int, tune_samples: int, length: int, speed: float) -> tuple[Any, Any]:
    """(plan, estimate) of a pair of that shape."""
    import torch

    from core.estimate import estimate, sizes_of
    from core.request import Request
    plan = plan_of(shape, blocks)
    asked = Request(base="", fine_tuned="", output="", samples=samples, tune_samples=tune_samples)
    return plan, estimate(plan, sizes_of(asked, length), torch.device("cpu"), shape.width, speed)


def measured(shape: Shape, blocks: int) -> Watched:
    """A job on a pair of that shape, made for it and removed afterwards."""
    with tempfile.TemporaryDirectory() as work:
        base, tuned = make_pair(Path(work), shape, blocks)
        return watched_job({"base": str(base), "fine_tuned": str(tuned), "output": str(Path(work) / "delta"),
                            "calibration": str(make_text(Path(work) / "text.txt")), "samples": SAMPLES, "tune_samples": 0,
                            "sequence_length": LENGTH, "device": "cpu"})


def figures(shape: Shape, blocks: int, found: Watched) -> list[dict[str, Any]]:
    """Predicted against measured."""
    name = f"{blocks} block{'s' * (blocks > 1)} of {shape.name}"
    gb, by_stage = 1e9, ", ".join(f"{k} {v / 1e9:.2f}" for k, v in found.anonymous.items())
    return [
        {"name": f"{name}: bytes of the delta, predicted / on disk", "value": round(found.predicted_bytes / found.bytes, 4),
         "unit": "x", "reference": f"{found.predicted_bytes:,} / {found.bytes:,} bytes of weights; the folder has "
                                   f"{found.folder_bytes:,}", "goal": 1.0, "better": "lower"},
        {"name": f"{name}: memory, predicted / measured, off by",
         "value": round(100 * abs(found.predicted_memory / found.peak - 1), 1), "unit": "%",
         "reference": f"{found.predicted_memory / gb:.2f} / {found.peak / gb:.2f} GB of its own at the peak ({by_stage}); with "
                      f"pages of mapped files {found.resident / gb:.2f} GB", "goal": 10, "better": "lower"},
        {"name": f"{name}: seconds per block", "value": round(sum(found.blocks) / len(found.blocks), 1), "unit": "s",
         "reference": f"predicted {found.predicted_block_seconds:.0f} s; blocks took "
                      f"{', '.join(f'{s:.0f}' for s in found.blocks)} s, with {SAMPLES} x {LENGTH} tokens on {found.threads} "
                      "threads", "goal": None, "better": "lower"}]


def totals(shape: Shape, speed: float, slower: float) -> dict[str, Any]:
    """The whole model with the default number of samples; `slower`: measured seconds over predicted ones."""
    plan, cost = predicted(shape, shape.depth, DEFAULT["samples"], DEFAULT["tune_samples"], 1024, speed)
    stages = ", ".join(f"{k} {v / 1e9:.1f}" for k, v in cost.memory.items())
    return {"name": f"{shape.name}, {shape.depth} blocks, default samples: extrapolated hours on this machine",
            "value": round(cost.seconds * slower / 3600, 1), "unit": "h",
            "reference": f"{cost.block_seconds * slower / 60:.1f} min to fit a block; memory {cost.memory_bytes / 1e9:.1f} GB "
                         f"({stages}); delta {plan.weights_bytes / 1e6:,.0f} MB of {plan.full_bytes / 1e9:.1f} GB; disk "
                         f"{cost.disk_bytes / 1e9:.1f} GB. Not measured: the plan's, time scaled by {slower:.2f}",
            "goal": None, "better": "lower"}


def run(shape: Shape = LLAMA_8B, larger: Shape = LLAMA_70B) -> list[dict[str, Any]]:
    """All figures. Raises RuntimeError where less memory is free than the smaller model needs."""
    import torch

    from core.estimate import machine_speed
    from core.shortage import free_memory
    cpu = torch.device("cpu")
    speed = machine_speed(cpu)
    _, need = predicted(shape, 2, SAMPLES, 0, LENGTH, speed)
    if need.memory_bytes * 1.1 > free_memory(cpu):
        raise RuntimeError(f"{need.memory_bytes / 1e9:.1f} GB of memory are needed, {free_memory(cpu) / 1e9:.1f} are free.")
    found = measured(shape, 2)
    rows = figures(shape, 2, found)
    slower = sum(found.blocks) / len(found.blocks) / found.predicted_block_seconds
    _, need = predicted(larger, 1, SAMPLES, 0, LENGTH, speed)
    if need.memory_bytes * 1.1 <= free_memory(cpu):
        rows += figures(larger, 1, measured(larger, 1))
    else:
        rows.append({"name": f"1 block of {larger.name}: memory, predicted only", "value": round(need.memory_bytes / 1e9, 2),
                     "unit": "GB", "reference": f"not measured: {free_memory(cpu) / 1e9:.1f} GB are free here", "goal": None,
                     "better": "lower"})
    return [*rows, totals(shape, found.speed, slower), totals(larger, found.speed, slower)]


if __name__ == "__main__":
    for row in run(QUARTER if "quarter" in sys.argv[1:] else LLAMA_8B):
        print(row)

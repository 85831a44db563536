"""What a job will cost: operations, seconds on this machine, bytes of memory and disk. Estimates, and called so."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from core.devices import has_fast_bf16
from core.plan import Plan
from core.record import TensorRecord
from core.stream import SPILL_FROM, TOKENS_AT_ONCE


@dataclass(frozen=True)
class Sizes:
    """How much text a job reads: tokens for fitting (held-out included), tuning, and measuring."""

    fit_tokens: int
    tune_tokens: int
    measure_tokens: int


@dataclass(frozen=True)
class Estimate:
    """Seconds are for this machine as it was for a moment; bytes are peaks."""

    operations: dict[str, float]
    seconds: float
    memory_bytes: int
    disk_bytes: int


def matrices(plan: Plan) -> list[TensorRecord]:
    """Matrices inside blocks: what nearly all arithmetic goes into."""
    return [r for r in plan.records if r.block is not None and len(r.shape) == 2]


def operations(plan: Plan, sizes: Sizes, device: torch.device) -> dict[str, float]:
    """Floating-point operations by stage, in FP32 ones: those in bf16 count half where the device is fast at them."""
    forward = 2.0 * sum(r.shape[0] * r.shape[1] for r in matrices(plan))
    head = 2.0 * max((math.prod(r.shape) for r in plan.records if r.block is None and len(r.shape) == 2), default=0)
    gather = sum(2.0 * min(3 * r.inputs**2, r.inputs**2 + 2 * r.inputs * r.shape[r.output_dimension])
                 for r in matrices(plan) if r.codec == "sign" and r.kind not in ("k", "v", "up"))
    fit = {"exact": sizes.fit_tokens * (2.1 * forward + 0.7 * gather),
           "paper": sizes.fit_tokens * (2.1 * forward + 0.7 * gather + 2 * 5 * 2 * forward), "bitdelta": 0.0}
    cost = fit.get(plan.options.recipe, fit["exact"])
    narrow = 0.5 if has_fast_bf16(device) else 1.0
    return {"fit": cost, "tune": sizes.tune_tokens * (4.7 * forward * narrow + 1.8 * head),
            "measure": sizes.measure_tokens * (4 * forward + 6 * head)}


def machine_speed(device: torch.device) -> float:
    """FP32 multiply-adds of matrix products per second, times two: the better of a few short runs."""
    a, b = (torch.ones(1024, 1024, dtype=torch.float32, device=device) for _ in range(2))
    best = math.inf
    for _ in range(4):
        begin = time.perf_counter()
        float((a @ b)[0, 0])
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024**3 / best


def estimate(plan: Plan, sizes: Sizes, device: torch.device, width: int, speed: float | None = None) -> Estimate:
    """Memory: the interpreter, one block of both models in FP32, its moments, and the hidden states (up to where they spill).

    `speed` is what `machine_speed` found, where it is known already: so estimates of several plans can be compared.
    """
    ops = operations(plan, sizes, device)
    blocks: dict[int, int] = {}
    for r in plan.records:
        if r.block is not None:
            blocks[r.block] = blocks.get(r.block, 0) + math.prod(r.shape)
    block = max(blocks.values(), default=0)
    outer = sum(math.prod(r.shape) for r in plan.records if r.block is None)
    widest = max((r.inputs for r in plan.records if len(r.shape) == 2 and r.block is not None), default=0)
    hidden = sizes.fit_tokens * width * 4
    memory = 600 << 20
    memory += 2 * block * 4 + 2 * outer * 4 + 8 * widest * widest * 4
    memory += min(2 * hidden, 2 * SPILL_FROM) + TOKENS_AT_ONCE * widest * 16
    disk = int(plan.artifact_bytes * 2.1) + (2 * hidden if hidden > SPILL_FROM else 0) + (1 << 20)
    return Estimate(ops, sum(ops.values()) / (speed or machine_speed(device)) * 1.6 + 3 + plan.full_bytes / 5e8, memory, disk)

"""Choosing levels with error feedback, weighing each level's bits: one sweep of the recursion of `core.gptq`, compiled.

At column j of the order the error e of an entry costs e^2 / U_jj^2. With steps in proportion to U_jj every column's levels cost
alike, so that one multiplier weighs bits against loss for all (reverse water-filling; Cover and Thomas, section 10.3): columns
in which bits buy little get none, and their errors go to those that follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.codecs.rans import compiled

BLOCK = 64
"""Columns whose errors are passed on by one matrix product to all that follow."""
STRIP = 128
"""Rows that are worked on together: with a block's columns 32 KiB."""
WEIGHT = np.float32(0.15)
"""What a bit is worth, in squared steps; at high rates 2 ln 2 / 12 = 0.116 is best, at low ones more."""


def _block(left: Any, errors: Any, levels: Any, upper: Any, steps: Any, cost: Any, weight: Any) -> None:
    """left, errors, levels (columns, rows) of one block; upper (columns, columns); steps (columns,); cost (columns, Q + 1)."""
    columns, rows = left.shape
    top = cost.shape[1] - 1
    for at in range(0, rows, STRIP):
        stop = min(at + STRIP, rows)
        for j in range(columns):
            step, inverse, bits = steps[j], 1 / upper[j, j], cost[j]
            turned = 1 / step
            for r in range(at, stop):
                size = abs(left[j, r]) * turned
                best, level = size * size + weight * bits[0], 0
                near = int(min(size, np.float32(top)))
                for m in range(max(near, 1), min(near + 1, top) + 1):
                    far = size - m
                    now = far * far + weight * bits[m]
                    if now < best:
                        best, level = now, m
                if left[j, r] < 0:
                    level = -level
                levels[j, r] = level
                errors[j, r] = (left[j, r] - level * step) * inverse
            for k in range(j + 1, columns):
                share = upper[j, k]
                for r in range(at, stop):
                    left[k, r] -= share * errors[j, r]


def choose_levels(target: Tensor, upper: Tensor, steps: Tensor, cost: Tensor) -> Tensor:
    """int8 levels (n, rows) for a target (n, rows) whose n columns of the matrix lie in the order of the factor `upper` (n, n).

    steps (n,); cost (n, Q + 1): bits of each magnitude in each column. All FP32, on the CPU. Deterministic.
    """
    n, rows = target.shape
    left = target.clone()
    levels = torch.empty((n, rows), dtype=torch.int8)
    kernel = compiled(_block)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        errors = torch.empty((stop - start, rows), dtype=torch.float32)
        kernel(left[start:stop].numpy(), errors.numpy(), levels[start:stop].numpy(),
               upper[start:stop, start:stop].contiguous().numpy(), steps[start:stop].numpy(), cost[start:stop].numpy(), WEIGHT)
        if stop < n:
            left[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return levels



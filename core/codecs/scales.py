"""FP16 with a power-of-two factor per tensor, so that small scales do not go subnormal."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def exponent_for(values: Tensor) -> int:
    """The exponent e for which the largest |value| * 2**-e lies in [2**14, 2**15), the top of FP16's range.

    Example: scales up to 0.0031 = 1.587 * 2**-9 give e = -23; 0.0031 is stored as 26004 and 0.0000031 as 26.0.
    """
    top = float(values.abs().max()) if values.numel() else 0.0
    return math.frexp(top)[1] - 15 if top > 0 and math.isfinite(top) else 0


def to_half(values: Tensor, exponent: int) -> Tensor:
    """FP32 values * 2**-exponent, rounded to FP16."""
    return torch.ldexp(values.float(), torch.tensor(-exponent, device=values.device)).to(torch.float16)


def from_half(stored: Tensor, exponent: int) -> Tensor:
    """FP32 values of what `to_half` stored; exact."""
    return torch.ldexp(stored.float(), torch.tensor(exponent, device=stored.device))

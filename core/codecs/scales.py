"""FP16 with a power-of-two factor per tensor, so that small scales do not go subnormal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXPONENTS = range(-125, 113)
"""Those for which every finite FP16 times 2**exponent is a finite FP32, exactly, and 2**-exponent is one too."""


def exponent_for(values: Tensor) -> int:
    """The exponent e for which the largest |value| * 2**-e lies in [2**14, 2**15), the top of FP16's range.

    Example: scales up to 0.0031 = 1.587 * 2**-9 give e = -23; 0.0031 is stored as 26004 and 0.0000031 as 26.0.
    """
    top = float(values.abs().max()) if values.numel() else 0.0
    wanted = math.frexp(top)[1] - 15 if top > 0 and math.isfinite(top) else 0
    return min(max(wanted, EXPONENTS[0]), EXPONENTS[-1])


def to_half(values: Tensor, exponent: int) -> Tensor:
    """FP32 values * 2**-exponent, rounded to FP16."""
    return (values.float() * 2.0**-exponent).to(torch.float16)


def from_half(stored: Tensor, exponent: int) -> Tensor:
    """FP32 values of what `to_half` stored; exact."""
    return stored.float() * 2.0**exponent

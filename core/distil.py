"""How far a student's next-token distributions are from a teacher's, and the gradient into the student's last states.

Where both multiply their last states with the same head W, logits differ by (x_s - x_t) W^T. Taken that way the
difference needs no exact products: an error common to both hardly moves a divergence, and the difference is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.skeleton import Skeleton

LOGITS_AT_ONCE = 1 << 25
"""Logits that one product makes."""

ROWS_AT_ONCE = 8
"""Tokens whose logits a processor works on together: few enough for its cache. Other devices take a product's whole result."""


class _Head(TorchFunctionMode):
    """Notes what enters the head, and puts a result without memory in the product's place."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.address = weight.data_ptr()
        self.inputs: Tensor | None = None
        self.result: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alone = all(a is None for a in (*args[2:], *(kwargs or {}).values()))
        if func is F.linear and alone and args[1].data_ptr() == self.address:
            self.inputs = args[0]
            self.result = args[0].detach().new_zeros(()).expand(*args[0].shape[:-1], args[1].shape[0])
            return self.result
        return func(*args, **(kwargs or {}))


def head_inputs(skeleton: Skeleton, outer: Mapping[str, Tensor], ids: Tensor, hidden: Tensor) -> Tensor | None:
    """What the head multiplies (batch, tokens, width), or None where logits are more than one product without a bias."""
    weight = outer.get(skeleton.output_name or "")
    if weight is None:
        return None
    with _Head(weight) as head:
        logits = skeleton.epilogue(outer, ids, hidden)
    return head.inputs if logits is head.result else None


def distil(x: Tensor, target: Tensor, weight: Tensor, objective: str, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Sum over tokens of the objective, and its gradient into x where wanted.

    x, target: (tokens, width), what enters the head of student and teacher; weight: (vocabulary, width) of both, whose
    type is the products' type. `kl`: KL(teacher || student) in nats; `mse`: mean over the vocabulary of squared
    differences of logits (BitDelta, section 3.1).
    """
    total = torch.zeros((), dtype=torch.float64, device=x.device) if x.device.type != "mps" else x.new_zeros(())
    rows = max(ROWS_AT_ONCE, LOGITS_AT_ONCE // weight.shape[0])
    together = ROWS_AT_ONCE if x.device.type == "cpu" else rows
    parts = []
    for own, aim in zip(x.split(rows), target.split(rows), strict=True):
        difference = (own - aim).to(weight.dtype) @ weight.T
        wanted = aim.to(weight.dtype) @ weight.T if objective == "kl" else difference
        for d, t in zip(difference.split(together), wanted.split(together), strict=True):
            moved = d.float()
            if objective == "mse":
                total += moved.square().sum() / weight.shape[0]
                slope = moved.mul_(2 / weight.shape[0])
            else:
                divergence, slope = _divergence(t.float(), moved, gradient)
                total += divergence
            if gradient:
                d.copy_(slope)
        if gradient:
            parts.append((difference @ weight).to(x.dtype))
    return total, torch.cat(parts) if gradient else None


def _divergence(wanted: Tensor, moved: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """Sum of KL(p || q) for p = softmax(wanted), q = softmax(wanted + moved), and q - p; overwrites its arguments.

    With Z = sum p exp(moved - top): KL = log Z + top - sum p moved, q = p exp(moved - top) / Z.
    """
    p = torch.softmax(wanted, -1)
    top = moved.amax(-1, keepdim=True)
    mean = torch.linalg.vecdot(p, moved)[..., None]
    q = moved.sub_(top).exp_().mul_(p)
    z = q.sum(-1, keepdim=True)
    kl = (z.log() + (top - mean)).clamp_min(0).sum()
    return kl, q.div_(z).sub_(p) if gradient else q

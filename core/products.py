"""Matrix products in bf16 for passes whose rounding does not matter, and differentiable ones that waste nothing.

Autocast alone casts each weight at every call and each input once per product that reads it, hands attention to kernels
that are slower in bf16 than in FP32 on a CPU, and computes products in the backward pass whose values nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def narrowed(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of a stage with matrices (and stacks of them) in bf16, all else as it is."""
    return {k: v.bfloat16() if v.dim() > 1 and v.is_floating_point() else v for k, v in parameters.items()}


class _Linear(torch.autograd.Function):
    """x (..., in), weight (out, in), bias (out,) | None, all bf16 -> (..., out) bf16, with bf16 gradients.

    A `known` result is taken over instead of being computed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, known: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias) if known is None else known

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        into, weighs, biased, _ = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        return ((flat @ weight).view(x.shape) if into else None,
                flat.T @ x.reshape(-1, x.shape[-1]) if weighs else None,
                flat.sum(0) if biased else None, None)


class Narrow(TorchFunctionMode):
    """Runs products with bf16 weights in bf16, and on a CPU attention in FP32.

    `unread` names the data pointer of a weight whose product is not computed: its values are NaN. In a backward pass
    the values after the last product of a block are needed by nobody, if all that follows is the residual sum.
    """

    def __init__(self, unread: int | None = None) -> None:
        super().__init__()
        self.unread = unread
        self.last: tuple[int, Tensor] | None = None
        """The weight and the result of the last product."""
        self.source: Tensor | None = None
        self.cast: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and len(args) > 1 and args[1].dtype == torch.bfloat16 and args[0].is_floating_point():
            return self._linear(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("bias"))
        if func is F.scaled_dot_product_attention and len(args) > 2 and args[0].device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                wide = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
                result: Tensor = F.scaled_dot_product_attention(*wide, **kwargs)
                return result
        return func(*args, **kwargs)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.source is not x:                       # q, k and v read the same input: it is cast once
            self.source, self.cast = x, x.bfloat16()
        assert self.cast is not None
        known = None
        if weight.data_ptr() == self.unread:
            known = self.cast.new_full((), torch.nan).expand(*x.shape[:-1], weight.shape[0])
        result: Tensor = _Linear.apply(self.cast, weight, None if bias is None else bias.bfloat16(), known)  # type: ignore[no-untyped-call]
        self.last = weight.data_ptr(), result
        return result


@contextmanager
def narrow_products(device: torch.device, enabled: bool = True, unread: Tensor | None = None) -> Iterator[Narrow | None]:
    """A context in which matrix products run in bf16; weights given in bf16 already (`narrowed`) are not cast again.

    The product with the weight `unread` is left out (see `Narrow`). Gives None where not `enabled`.
    """
    if not enabled:
        yield None
        return
    mode = Narrow(None if unread is None else unread.data_ptr())
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False), mode:
        yield mode


def only_added(out: Tensor, product: Tensor) -> bool:
    """Whether `product` enters `out` through sums alone, so that going back from `out` does not take its values.

    Says nothing of other ways from `product` to `out`: values that are not numbers, put in its place, show those.
    """
    nodes, wanted = [out.grad_fn], product.grad_fn
    while nodes and wanted is not None:
        node = nodes.pop()
        if node is wanted:
            return True
        if node is not None and type(node).__name__ in ("AddBackward0", "ViewBackward0", "UnsafeViewBackward0"):
            nodes += [following for following, _ in node.next_functions]
    return False

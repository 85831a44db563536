"""How much an error in a matrix costs at the end of the model: what makes losses of different layers one currency.

For next-token distributions, KL to second order is 1/2 e^T F e, F the Fisher information of the outputs that are
disturbed by e. With labels drawn from the model's own predictions, F is the mean of s s^T, s the slope of the
log-likelihood. For an error E (out, in) of a matrix that is s = <G, E>, G = sum_t g_t x_t^T over a sequence's tokens, g_t
the gradient into the matrix's outputs. Outputs are coded apart, so that what their errors add is independent, while the
tokens of a sequence meet the same error. So the sequence's sum is squared for each output o (`cost`):

    KL per token = 1/2 sum_o (sum_t g_to (E x_t)_o)^2 / tokens

Told an error of one bit per weight (singular vectors under H), the KL that is then measured differs from this by a standard
deviation of .42 in the logarithm (pirate; bard .43); summing |g_t|^2 |E x_t|^2 / out, which takes tokens for independent,
comes as close (.39, .42), and guessing nothing is at .97 and 1.02 (`tests/benchmarks/bench_costs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.skeleton import OUTER
from core.stream import Use, Watch, cut_batches
from core.weights import StagedModel, Weights

TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class Slope:
    """What a product took in and what its outputs weigh: inputs (tokens, in), gradients (tokens, out), and how many sequences
    of equal length these tokens are; 0 where they are some of several sequences' (an expert's)."""

    inputs: Tensor
    gradients: Tensor
    sequences: int

    def of(self, outputs: slice) -> Slope:
        """Of some of the outputs."""
        return Slope(self.inputs, self.gradients[:, outputs], self.sequences)

    def narrow(self) -> Slope:
        """To be kept: in BF16."""
        return Slope(self.inputs.bfloat16(), self.gradients.bfloat16(), self.sequences)

    def cost(self, error: Tensor) -> float:
        """What an error (out, in) of the matrix costs, in nats of KL of all tokens together."""
        product = self.gradients.float() * (self.inputs.float() @ error.T)
        if self.sequences:
            product = product.view(self.sequences, -1, product.shape[1]).sum(1)
        return 0.5 * float(product.square().sum(dtype=torch.float64))


Seen = Callable[[int, str, int | None, Slope], None]
"""Called with (block, parameter, expert, slope) for each product."""


class _Slopes(Watch):
    """Tells inputs and gradients of watched products while a graph made under it is run backwards."""

    def __init__(self, block: int, watched: Mapping[str, Tensor], ids: Tensor, seen: Seen) -> None:
        super().__init__(watched, self._note)
        self.block, self.ids, self.seen = block, ids, seen
        self.use: Use | None = None

    def _note(self, use: Use) -> None:
        self.use = use

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.use = None
        result = super().__torch_function__(func, types, args, kwargs)
        use = self.use
        if use is not None and isinstance(result, Tensor) and result.requires_grad:
            def tell(grad: Tensor) -> None:
                assert use is not None
                x = use.inputs.reshape(-1, use.inputs.shape[-1])
                whole = len(self.ids) if use.expert is None and len(x) == self.ids.numel() else 0
                self.seen(self.block, use.parameter, use.expert, Slope(x, grad.reshape(len(x), -1), whole))
            result.register_hook(tell)
        return result


def watch_gradients(model: StagedModel, tuned: Weights, ids: Tensor, device: torch.device, seen: Seen, *, seed: int = 0,
                    tick: Callable[[], None] | None = None) -> None:
    """Run the fine-tune over `ids` (samples, tokens) and back, and tell what enters each matrix and what its outputs weigh.

    Block by block, each block made twice, as in tuning: memory does not grow with depth but for hidden states.
    """
    skeleton = model.skeleton
    outer = tuned.stage(OUTER)
    generator = torch.Generator().manual_seed(seed)
    for rows in cut_batches(ids, at_once=TOKENS_AT_ONCE).ids:
        batch = rows.to(device)
        with torch.no_grad():
            prologue = skeleton.prologue(outer, batch)
            inputs, hidden = [], prologue.hidden
            for block in range(skeleton.depth):
                inputs.append(hidden.bfloat16())
                hidden = skeleton.run_block(block, tuned.stage(block), hidden, prologue.calls[block])
                if tick:
                    tick()
        grad = _drawn_gradient(model, outer, batch, hidden, generator)
        for block in reversed(range(skeleton.depth)):
            parameters = tuned.stage(block)
            leaf = inputs.pop().float().requires_grad_(True)
            with _Slopes(block, {k: v for k, v in parameters.items() if v.dim() in (2, 3)}, batch, seen):
                out = skeleton.run_block(block, parameters, leaf, prologue.calls[block])
            out.backward(grad)
            assert leaf.grad is not None
            grad = leaf.grad
            if tick:
                tick()


def _drawn_gradient(model: StagedModel, outer: Mapping[str, Tensor], ids: Tensor, hidden: Tensor,
                    generator: torch.Generator) -> Tensor:
    """Gradient into the last hidden states (samples, tokens, width) of -log p of one drawn token each."""
    grads = []
    for i in range(len(ids)):
        leaf = hidden[i:i + 1].detach().requires_grad_(True)
        logits = model.skeleton.epilogue(outer, ids[i:i + 1], leaf).float()
        flat = logits.reshape(-1, logits.shape[-1])
        drawn = torch.multinomial(flat.detach().softmax(-1).cpu(), 1, generator=generator).to(flat.device)
        torch.nn.functional.cross_entropy(flat, drawn[:, 0], reduction="sum").backward()
        assert leaf.grad is not None
        grads.append(leaf.grad)
    return torch.cat(grads)

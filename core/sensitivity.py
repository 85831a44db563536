"""How much an error in a matrix's outputs costs at the end of the model: what makes losses of different layers one currency.

For next-token distributions, KL to second order is 1/2 e^T F e, F the Fisher information of the outputs that are
disturbed by e. With labels drawn from the model's own predictions, F is the mean of g g^T, g the gradient of the
log-likelihood into these outputs. An error E (out, in) of a matrix that codes its change disturbs them in no direction of
its own, so only the gradient's size counts, token by token (both factors of K-FAC, arXiv 1503.05671, section 3, but
not averaged apart: tokens of huge activations have tiny gradients):

    KL per token = 1/2 mean_t |g_t|^2 |E x_t|^2 / out
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.skeleton import OUTER
from core.stream import Use, Watch, cut_batches
from core.weights import StagedModel, Weights

TOKENS_AT_ONCE = 1024

Seen = Callable[[int, str, int | None, Tensor, Tensor], None]
"""Called with (block, parameter, expert, inputs (tokens, in), |g|^2 / out per token (tokens,)) for each product."""


class _Slopes(Watch):
    """Tells inputs and gradients of watched products while a graph made under it is run backwards."""

    def __init__(self, block: int, watched: Mapping[str, Tensor], seen: Seen) -> None:
        super().__init__(watched, self._note)
        self.block, self.seen = block, seen
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
                self.seen(self.block, use.parameter, use.expert, x, grad.reshape(len(x), -1).square().mean(1))
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
            with _Slopes(block, {k: v for k, v in parameters.items() if v.dim() in (2, 3)}, seen):
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

"""Tune all scales together, end to end, against the fine-tune's own predictions.

One gain per scale (scale = fitted scale * (1 + gain)), Adam, gradient only into gains. The model is never whole in
memory: a step runs forward block by block and keeps each block's input, then runs backward the same way, each block
made once more. Weights in the forward pass are the artifact's (FP16 scales, target type); rounding is passed straight
through in the backward pass.

Sources: distillation of scales on logits, BitDelta section 3.1 and 2512.19720; KL is our default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.codecs import TUNABLE
from core.codecs.contract import Stored
from core.devices import has_fast_bf16
from core.distil import distil, head_inputs
from core.products import narrow_products, narrowed, only_added
from core.record import TensorRecord
from core.skeleton import OUTER, BlockCall
from core.stream import Batches, carry, cut_batches
from core.variant import Variant
from core.weights import Known, StagedModel, Weights, known_or_read

LEARNING_RATE = 0.02
"""Of the gains; falls to nothing along a half cosine."""

OBJECTIVES = ("kl", "mse")
ROWS_AT_ONCE = 1 << 26
"""Logits that the head makes in one go."""
OPENED_AT_MOST = 1 << 29
"""Bytes of unpacked tensors that are kept from step to step; what is beyond is unpacked each time it is needed."""


class _ScaledWeight(torch.autograd.Function):
    """The variant's weight, rounded to its target type, as a function of the scales that its codec stores."""

    @staticmethod
    def forward(ctx: Any, scales: Tensor, record: TensorRecord, base: Tensor, opened: Stored, dtype: torch.dtype) -> Tensor:
        """`scales` (n,) FP32 -> the stored-layout weight, handed out as `dtype`."""
        ctx.record, ctx.opened = record, opened
        ctx.save_for_backward(scales)
        return TUNABLE[record.codec].tuned(record, opened, scales, base, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Into the scales; rounding is passed straight through."""
        (scales,) = ctx.saved_tensors
        return TUNABLE[ctx.record.codec].slopes(ctx.record, ctx.opened, scales, grad), None, None, None, None


@dataclass
class TuneState:
    """What a run of tuning needs to go on: gains and Adam's moments (all scales,), the next step, losses so far."""

    gains: Tensor
    first: Tensor
    second: Tensor
    step: int
    losses: list[float]
    before: float


class Tuner:
    """Tunes a variant's scales on token sequences `ids` (samples, tokens)."""

    def __init__(self, model: StagedModel, variant: Variant, target: Weights, ids: Tensor, device: torch.device, *,
                 objective: str = "kl", tokens_per_step: int = 1024) -> None:
        self.model, self.variant, self.target, self.device, self.objective = model, variant, target, device, objective
        self.names = [n for n in model.placements if variant.records[n].codec in TUNABLE and n in variant.learnt]
        self.offsets: dict[str, slice] = {}
        self.size = 0
        start = []
        for name in self.names:
            start.append(TUNABLE[variant.records[name].codec].scales(variant.records[name], variant.learnt[name]))
            self.offsets[name] = slice(self.size, self.size + len(start[-1]))
            self.size = self.offsets[name].stop
        self.start = torch.cat(start).to(device) if start else torch.zeros(0, dtype=torch.float32, device=device)
        """Fitted scales (all,)."""
        self.batches = cut_batches(ids, at_once=tokens_per_step) if len(ids) else Batches([], [])
        # Products of a step run in bf16 where that is fast: a gradient's noise is far above its rounding. The losses that
        # decide anything (before, after) are always in FP32.
        self.narrow = has_fast_bf16(device)
        self.outer_is_fixed = not any(p.tensor in self.offsets for p in model.by_stage.get(OUTER, []))
        self.known: Known | None = None
        """The fine-tune's embedding, norm and head, once they are read."""
        self.opened: dict[str, Stored] = {}
        self.room = OPENED_AT_MOST
        self.unread: dict[int, str] = {}
        """By block, the parameter whose product is only added to what leaves the block."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run: one pass over the samples."""
        return len(self.batches.ids)

    def fresh(self, before: float) -> TuneState:
        """The state before the first step."""
        zero = torch.zeros(self.size, dtype=torch.float32, device=self.device)
        return TuneState(zero, zero.clone(), zero.clone(), 0, [], before)

    def scales(self, gains: Tensor) -> Tensor:
        """All scales (all,) under given gains."""
        return self.start * (1 + gains)

    def stage(self, stage: int, scales: Tensor, leaves: dict[str, Tensor] | None = None, *,
              narrow: bool = False) -> dict[str, Tensor]:
        """Parameters of a stage for all scales (all,); with `narrow`, matrices in bf16.

        The stage's own scales are put into `leaves`, by tensor, as what gradients flow to.
        """
        tensors = {}
        for name in self.model.tensors(stage):
            record = self.variant.records[name]
            if name not in self.offsets:
                tensors[name] = known_or_read(name, self.variant.read(name), self.device, self.known if stage == OUTER else None)
                continue
            base = self.variant.base_view(record)
            assert base is not None
            own = scales[self.offsets[name]]
            if leaves is not None:
                own = leaves[name] = own.clone().requires_grad_(True)
            tensors[name] = _ScaledWeight.apply(own, record, base.to(self.device), self._opened(record),  # type: ignore[no-untyped-call]
                                                torch.bfloat16 if narrow else torch.float32)
        parameters = self.model.assemble(stage, tensors)
        return narrowed(parameters) if narrow else parameters

    def _opened(self, record: TensorRecord) -> Stored:
        """What a tensor's codec has stored, unpacked; kept for all steps while there is room."""
        if record.name in self.opened:
            return self.opened[record.name]
        stored = {k: v.to(self.device) for k, v in self.variant.encode(record).items()}
        opened = TUNABLE[record.codec].opened(record, stored)
        nbytes = sum(v.nbytes for v in opened.values())
        if opened is not stored and self.room >= nbytes:
            self.room -= nbytes
            self.opened[record.name] = opened
        return opened

    def prepare(self, held_out: Tensor, tick: Callable[[], None] | None = None) -> None:
        """Run the fine-tune over all samples once and keep its last hidden states."""
        self.held_out = cut_batches(held_out)
        self.target_outer = self.target.stage(OUTER)
        self.known = Known.of(self.model, OUTER, self.target_outer, self.variant.tuned.view)
        self.target_held = carry(self.model.skeleton, self.target, self.held_out, self.device, tick, outer=self.target_outer)
        self.target_states = None
        if self.batches.ids:
            self.target_states = carry(self.model.skeleton, self.target, self.batches, self.device, tick, narrow=self.narrow,
                                       outer=self.target_outer)
        head = self.target_outer.get(self.model.skeleton.output_name or "")
        self.narrow_head = head.bfloat16() if head is not None and self.narrow and self.batches.ids else head
        self.outer: dict[str, Tensor] | None = None
        if self.outer_is_fixed:                        # made once, and what it has in common with the fine-tune's held once
            self.outer = self.stage(OUTER, self.start)

    def held_out_loss(self, gains: Tensor, tick: Callable[[], None] | None = None) -> float:
        """Mean objective per token on the held-out samples."""
        return self.base_loss(_Scaled(self, self.scales(gains)), tick)

    def base_loss(self, weights: Weights, tick: Callable[[], None] | None = None) -> float:
        """The same of any weights for this model (the base's)."""
        with torch.no_grad():
            outer = weights.stage(OUTER)
            hidden = carry(self.model.skeleton, weights, self.held_out, self.device, tick, outer=outer)
            shared = self._shared_head(outer)
            return sum(self._loss(outer, ids.to(self.device), hidden[i], self.target_held[i], shared)[0] * ids.numel()
                       for i, ids in enumerate(self.held_out.ids)) / self.held_out.tokens

    def _shared_head(self, outer: Mapping[str, Tensor]) -> bool:
        """Whether a model's head is the fine-tune's."""
        name = self.model.skeleton.output_name or ""
        own, aim = outer.get(name), self.target_outer.get(name)
        return own is aim is not None or (own is not None and aim is not None and torch.equal(own, aim))

    def _loss(self, outer: Mapping[str, Tensor], ids: Tensor, hidden: Tensor, target: Tensor, shared: bool,
              head: Tensor | None = None) -> tuple[float, Tensor | None]:
        """Mean per token over a batch, and the gradient into `hidden` where that asks for one.

        `shared`: the student's head is the fine-tune's, for products with `head` or the student's own.
        """
        skeleton = self.model.skeleton
        if shared:
            with torch.no_grad():
                aim = head_inputs(skeleton, self.target_outer, ids, target)
            x = head_inputs(skeleton, outer, ids, hidden)
            if x is not None and aim is not None:
                x, aim = x.flatten(0, -2), aim.flatten(0, -2)
                weight = outer[skeleton.output_name or ""] if head is None else head
                total, slope = distil(x.detach(), aim, weight, self.objective, x.requires_grad)
                if slope is not None:
                    x.backward(slope / ids.numel())
                return float(total) / ids.numel(), hidden.grad
        rows = max(1, ROWS_AT_ONCE // (ids.shape[1] * skeleton.vocabulary))
        mean = 0.0
        for at in range(0, len(ids), rows):
            part = slice(at, at + rows)
            with torch.no_grad():
                wanted = skeleton.epilogue(self.target_outer, ids[part], target[part]).float()
            logits = skeleton.epilogue(outer, ids[part], hidden[part]).float()
            if self.objective == "mse":
                loss = (logits - wanted).square().mean(-1).sum()
            else:
                p = wanted.log_softmax(-1)
                loss = (p.exp() * (p - logits.log_softmax(-1))).sum()
            loss = loss / ids.numel()
            if loss.requires_grad:
                loss.backward(retain_graph=True)       # pieces share what made the outer stage's own tensors
            mean += float(loss.detach())
        return mean, hidden.grad

    def step(self, state: TuneState, tick: Callable[[], None] | None = None) -> TuneState:
        """One optimiser step; returns the new state."""
        assert self.target_states is not None
        i = state.step
        ids = self.batches.ids[i].to(self.device)
        scales = self.scales(state.gains)
        loss, grad = self._forward_backward(ids, i, scales, tick)
        grad *= self.start                             # of gains: scale = start * (1 + gain)
        beta1, beta2 = 0.9, 0.95
        first = beta1 * state.first + (1 - beta1) * grad
        second = beta2 * state.second + (1 - beta2) * grad.square()
        t = i + 1
        rate = LEARNING_RATE * min(1.0, t / max(1, self.steps // 10)) * 0.5 * (1 + math.cos(math.pi * i / self.steps))
        update = (first / (1 - beta1**t)) / ((second / (1 - beta2**t)).sqrt() + 1e-12)
        return TuneState(state.gains - rate * update, first, second, t, [*state.losses, loss], state.before)

    def _forward_backward(self, ids: Tensor, i: int, scales: Tensor, tick: Callable[[], None] | None) -> tuple[float, Tensor]:
        """The loss of a batch, and its gradient into all scales."""
        assert self.target_states is not None
        skeleton = self.model.skeleton
        result = torch.zeros_like(scales)
        leaves: dict[str, Tensor] = {}
        outer = self.stage(OUTER, scales, leaves) if self.outer is None else self.outer
        with torch.no_grad():
            prologue = skeleton.prologue(outer, ids)
            inputs, hidden = [], prologue.hidden
            for block in range(skeleton.depth):
                # All that grows with depth here, so kept in bf16: a gradient's noise is far above that rounding.
                inputs.append(hidden.bfloat16())
                parameters = self.stage(block, scales, narrow=self.narrow)
                with narrow_products(self.device, self.narrow):
                    hidden = skeleton.run_block(block, parameters, hidden, prologue.calls[block]).float()
                if tick:
                    tick()
        leaf = hidden.requires_grad_(True)
        shared = self.outer is not None and self._shared_head(outer)
        loss, grad = self._loss(outer, ids, leaf, self.target_states[i], shared, self.narrow_head)
        for block in reversed(range(skeleton.depth)):
            assert grad is not None
            grad = self._block_backward(block, inputs.pop().float(), grad, scales, result, prologue.calls[block])
            if tick:
                tick()
        if not self.outer_is_fixed:
            embedded = skeleton.prologue(outer, ids).hidden
            if embedded.requires_grad:                 # it does not where the head alone is learnt
                embedded.backward(grad)
            self._collect(leaves, result)
        return loss, result

    def _collect(self, leaves: Mapping[str, Tensor], result: Tensor) -> None:
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                result[self.offsets[name]] = leaf.grad

    def _block_backward(self, block: int, hidden: Tensor, grad: Tensor, scales: Tensor, result: Tensor,
                        call: BlockCall) -> Tensor | None:
        """Make a block's states again and go back through it; returns the gradient into `hidden`, if anything needs it."""
        hidden.requires_grad_(block > 0 or not self.outer_is_fixed)
        leaves: dict[str, Tensor] = {}
        parameters = self.stage(block, scales, leaves, narrow=self.narrow)
        if not leaves and not hidden.requires_grad:
            return None
        unread = parameters.get(self.unread.get(block, ""))
        with narrow_products(self.device, self.narrow, unread) as products:
            out = self.model.skeleton.run_block(block, parameters, hidden, call)
        if unread is None and products is not None and products.last is not None and only_added(out, products.last[1]):
            self.unread.update((block, k) for k, p in parameters.items() if p.data_ptr() == products.last[0])
        out.float().backward(grad)
        self._collect(leaves, result)
        gradients = [x.grad for x in (*leaves.values(), hidden) if x.grad is not None]
        if unread is not None and not all(bool(g.isfinite().all()) for g in gradients):
            self.unread[block] = ""                    # something else reads that product: not known from then on
            return self._block_backward(block, hidden.detach(), grad, scales, result, call)
        return hidden.grad

    def finish(self, state: TuneState) -> None:
        """Put the tuned scales into the variant."""
        scales = self.scales(state.gains)
        for name in self.names:
            record = self.variant.records[name]
            self.variant.learn(*TUNABLE[record.codec].rescaled(record, self.variant.learnt[name], scales[self.offsets[name]]))


class _Scaled:
    """Weights of the variant under given scales."""

    def __init__(self, tuner: Tuner, scales: Tensor) -> None:
        self.tuner, self.scales = tuner, scales

    def stage(self, stage: int) -> dict[str, Tensor]:
        if stage == OUTER and self.tuner.outer is not None:
            return self.tuner.outer
        return self.tuner.stage(stage, self.scales)

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

from core.codecs import CODECS
from core.codecs.scales import to_half
from core.codecs.sign import plane_scales, split_scales
from core.devices import has_fast_bf16
from core.record import TensorRecord
from core.signs import unpack_signs
from core.skeleton import OUTER
from core.stream import Batches, carry, cut_batches, narrow_products
from core.variant import Variant
from core.weights import StagedModel, Weights, to_device

LEARNING_RATE = 0.02
"""Of the gains; falls to nothing along a half cosine."""

OBJECTIVES = ("kl", "mse")
ROWS_AT_ONCE = 1 << 26
"""Logits that the head makes in one go."""


class _SignedWeight(torch.autograd.Function):
    """The variant's weight (FP32 values of its target type) as a function of the scales of all planes."""

    @staticmethod
    def forward(ctx: Any, scales: Tensor, record: TensorRecord, base: Tensor, stored: dict[str, Tensor]) -> Tensor:
        """`scales` (planes * slots,) FP32 -> the stored-layout weight."""
        ctx.record, ctx.signs = record, stored["signs"]
        ctx.save_for_backward(scales)
        halves = torch.cat([to_half(part, e) for part, e in zip(scales.view(record.planes, -1), record.exponents, strict=True)])
        return CODECS["sign"].add(record, {**stored, "scale": halves}, base).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Sums of grad o S over what each scale covers."""
        (scales,) = ctx.saved_tensors
        record: TensorRecord = ctx.record
        result = torch.zeros_like(scales).view(record.planes, -1)
        common = grad[:record.shape[0] - record.tail]
        for plane, (signs, values) in enumerate(zip(ctx.signs, scales.view(record.planes, -1), strict=True)):
            signed = common * unpack_signs(signs.to(grad.device), record.shape[1], dtype=torch.float32)
            at = 0
            for piece, row, column in split_scales(record, values):
                part = signed.T if record.output_dimension else signed[piece.start:piece.stop]
                outputs = piece.stop - piece.start
                if piece.axis == "scalar":
                    result[plane, at] = part.sum()
                elif piece.axis == "row":
                    result[plane, at:at + outputs] = part.sum(1)
                elif piece.axis == "column":
                    result[plane, at:at + record.inputs] = part.sum(0)
                else:
                    assert row is not None and column is not None
                    result[plane, at:at + outputs] = part @ column
                    result[plane, at + outputs:at + outputs + record.inputs] = part.T @ row
                at += piece.slots
        return result.flatten(), None, None, None


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
    """Tunes a variant's sign scales on token sequences `ids` (samples, tokens)."""

    def __init__(self, model: StagedModel, variant: Variant, target: Weights, ids: Tensor, device: torch.device, *,
                 objective: str = "kl", tokens_per_step: int = 1024) -> None:
        self.model, self.variant, self.target, self.device, self.objective = model, variant, target, device, objective
        self.names = [n for n in model.placements if variant.records[n].codec == "sign"]
        self.start_scales = {n: self._scales(n) for n in self.names}
        self.offsets: dict[str, slice] = {}
        at = 0
        for name in self.names:
            self.offsets[name] = slice(at, at + self.start_scales[name].numel())
            at += self.start_scales[name].numel()
        self.size = at
        self.batches = cut_batches(ids, at_once=tokens_per_step) if len(ids) else Batches([], [])
        # Products of a step run in bf16 where that is fast: a gradient's noise is far above its rounding. The losses that
        # decide anything (before, after) are always in FP32, and so is the head in a step.
        self.narrow = has_fast_bf16(device)
        self.outer_is_fixed = not any(p.tensor in self.start_scales for p in model.by_stage.get(OUTER, []))

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run: one pass over the samples."""
        return len(self.batches.ids)

    def _scales(self, name: str) -> Tensor:

        return torch.cat(plane_scales(self.variant.records[name], self.variant.learnt[name])).to(self.device)

    def fresh(self, before: float) -> TuneState:
        """The state before the first step."""
        zero = torch.zeros(self.size, device=self.device)
        return TuneState(zero, zero.clone(), zero.clone(), 0, [], before)

    def stage(self, stage: int, gains: Tensor) -> dict[str, Tensor]:
        """Parameters of a stage as a differentiable function of the gains."""
        tensors = {}
        for name in self.model.tensors(stage):
            record = self.variant.records[name]
            if name not in self.start_scales:
                tensors[name] = to_device(self.variant.read(name), self.device)
                continue
            base = self.variant.base_view(record)
            assert base is not None
            stored = {k: v.to(self.device) for k, v in self.variant.encode(record).items()}
            scales = self.start_scales[name] * (1 + gains[self.offsets[name]])
            tensors[name] = _SignedWeight.apply(scales, record, base.to(self.device), stored)  # type: ignore[no-untyped-call]
        return self.model.assemble(stage, tensors)

    def prepare(self, held_out: Tensor, tick: Callable[[], None] | None = None) -> None:
        """Run the fine-tune over all samples once and keep its last hidden states."""
        self.held_out = cut_batches(held_out)
        self.target_outer = self.target.stage(OUTER)
        self.target_held = carry(self.model.skeleton, self.target, self.held_out, self.device, tick)
        self.target_states = None
        if self.batches.ids:
            self.target_states = carry(self.model.skeleton, self.target, self.batches, self.device, tick, narrow=self.narrow)

    def held_out_loss(self, gains: Tensor, tick: Callable[[], None] | None = None) -> float:
        """Mean objective per token on the held-out samples."""
        total = 0.0
        with torch.no_grad():
            hidden = carry(self.model.skeleton, _Gained(self, gains), self.held_out, self.device, tick)
            outer = self.stage(OUTER, gains)
            for i, ids in enumerate(self.held_out.ids):
                total += float(self._loss(outer, ids.to(self.device), hidden[i], self.target_held[i])) * ids.numel()
        return total / self.held_out.tokens

    def base_loss(self, base: Weights, tick: Callable[[], None] | None = None) -> float:
        """The same of other weights for this model (the base's)."""
        total = 0.0
        with torch.no_grad():
            hidden = carry(self.model.skeleton, base, self.held_out, self.device, tick)
            outer = base.stage(OUTER)
            for i, ids in enumerate(self.held_out.ids):
                total += float(self._loss(outer, ids.to(self.device), hidden[i], self.target_held[i])) * ids.numel()
        return total / self.held_out.tokens

    def _loss(self, outer: Mapping[str, Tensor], ids: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean per token over a batch, in pieces of sequences so that logits stay small."""
        rows = max(1, ROWS_AT_ONCE // (ids.shape[1] * self.model.skeleton.vocabulary))
        total = hidden.new_zeros(())
        for at in range(0, len(ids), rows):
            part = slice(at, at + rows)
            with torch.no_grad():
                wanted = self.model.skeleton.epilogue(self.target_outer, ids[part], target[part]).float()
            logits = self.model.skeleton.epilogue(outer, ids[part], hidden[part]).float()
            if self.objective == "mse":
                loss = (logits - wanted).square().mean(-1).sum()
            else:
                p = wanted.log_softmax(-1)
                loss = (p.exp() * (p - logits.log_softmax(-1))).sum()
            total = total + loss / ids.numel()
        return total

    def step(self, state: TuneState, tick: Callable[[], None] | None = None) -> TuneState:
        """One optimiser step; returns the new state."""
        assert self.target_states is not None
        i = state.step
        ids = self.batches.ids[i].to(self.device)
        gains = state.gains.clone().requires_grad_(True)
        loss = self._forward_backward(ids, i, gains, tick)
        assert gains.grad is not None
        grad = gains.grad
        beta1, beta2 = 0.9, 0.95
        first = beta1 * state.first + (1 - beta1) * grad
        second = beta2 * state.second + (1 - beta2) * grad.square()
        t = i + 1
        rate = LEARNING_RATE * min(1.0, t / max(1, self.steps // 10)) * 0.5 * (1 + math.cos(math.pi * i / self.steps))
        update = (first / (1 - beta1**t)) / ((second / (1 - beta2**t)).sqrt() + 1e-12)
        return TuneState(state.gains - rate * update, first, second, t, [*state.losses, loss], state.before)

    def _forward_backward(self, ids: Tensor, i: int, gains: Tensor, tick: Callable[[], None] | None) -> float:
        skeleton = self.model.skeleton
        with torch.no_grad():
            outer = self.stage(OUTER, gains.detach())
            prologue = skeleton.prologue(outer, ids)
            inputs, hidden = [], prologue.hidden
            for block in range(skeleton.depth):
                # All that grows with depth here, so kept in bf16: a gradient's noise is far above that rounding.
                inputs.append(hidden.bfloat16())
                parameters = self.stage(block, gains)
                with narrow_products(self.device, self.narrow):
                    hidden = skeleton.run_block(block, parameters, hidden, prologue.calls[block]).float()
                if tick:
                    tick()
        leaf = hidden.detach().requires_grad_(True)
        loss = self._loss(outer if self.outer_is_fixed else self.stage(OUTER, gains), ids, leaf, self.target_states[i])  # type: ignore[index]
        loss.backward()
        grad = leaf.grad
        for block in reversed(range(skeleton.depth)):
            leaf = inputs.pop().float().requires_grad_(True)
            parameters = self.stage(block, gains)
            with narrow_products(self.device, self.narrow):
                out = skeleton.run_block(block, parameters, leaf, prologue.calls[block]).float()
            out.backward(grad)
            grad = leaf.grad
            if tick:
                tick()
        if not self.outer_is_fixed:
            embedded = skeleton.prologue(self.stage(OUTER, gains), ids).hidden
            if embedded.requires_grad:                 # it does not where the head alone is learnt
                embedded.backward(grad)
        return float(loss.detach())

    def finish(self, state: TuneState) -> None:
        """Put the tuned scales into the variant."""
        for name in self.names:
            record = self.variant.records[name]
            scales = self.start_scales[name] * (1 + state.gains[self.offsets[name]])
            self.variant.learn_scales(record, list(scales.view(record.planes, -1)))


class _Gained:
    """Weights of the variant under given gains."""

    def __init__(self, tuner: Tuner, gains: Tensor) -> None:
        self.tuner, self.gains = tuner, gains

    def stage(self, stage: int) -> dict[str, Tensor]:
        return self.tuner.stage(stage, self.gains)




"""Scales of a changed embedding or head: one per row and sign plane, under a metric over the inputs.

A row of the embedding enters the model as it is; a row of the head meets the final hidden states, of second moment H.
A tied one does both. So a row's change d is coded under M = H / mean(diag H) + identity: minimise (d - sum_p v_p s_p) M
(...)^T over the scales v of the planes, closed form. How often a token occurs weighs its whole row, so it does not move
the row's own optimum. Signs are chosen under M too, all planes together, where the recipe chooses signs.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from core.chosen_kernels import choose_signs
from core.distil import head_inputs
from core.fit import FEW_TOKENS
from core.gptq import inverse_factor
from core.record import Losses, TensorRecord
from core.signs import pack_signs
from core.skeleton import OUTER
from core.stream import Watch, carry, cut_batches
from core.variant import Variant
from core.weights import StagedModel, Weights, to_device

ROWS = 8192
"""Rows coded together."""

CHOICES = 3
"""Choices of signs at most."""
DAMP = 0.1
"""Added to the diagonal of M where signs are chosen, in mean diagonals: M is known from `HEAD_TOKENS` tokens only."""

HEAD_TOKENS = 4096
"""Tokens that the fine-tune is run on to see what its head reads."""


def head_moment(model: StagedModel, tuned: Weights, ids: Tensor, device: torch.device) -> Tensor | None:
    """Second moment (in, in) of what the fine-tune's head reads, scaled to a mean diagonal of 1; None without a head."""
    batches = cut_batches(ids[:max(1, HEAD_TOKENS // ids.shape[1])])
    outer = tuned.stage(OUTER)
    hidden = carry(model.skeleton, tuned, batches, device, outer=outer)
    name = model.skeleton.output_name
    if name is None or name not in outer:
        return None
    seen: list[Tensor] = []
    with torch.inference_mode():
        for i, batch in enumerate(batches.ids):
            inputs = head_inputs(model.skeleton, outer, batch.to(device), hidden[i])
            if inputs is not None:                     # without the logits, which may take more memory than all else
                seen.append(inputs)
                continue
            with Watch({name: outer[name]}, lambda use: seen.append(use.inputs) if use.inputs.is_floating_point() else None):
                model.skeleton.epilogue(outer, batch.to(device), hidden[i])
    x = torch.cat([s.reshape(-1, s.shape[-1]) for s in seen])
    if len(x) < FEW_TOKENS:
        return None
    h = x.T @ x
    return h / h.diagonal().mean()


def metric_for(record: TensorRecord, head: Tensor | None, model: StagedModel) -> Tensor | None:
    """What an embedding or head is coded under, given the head's moment (in, in): see the module's text."""
    if head is None or (record.kind == "head" and not model.skeleton.tied):
        return head
    if not model.skeleton.tied:
        return None                                    # an embedding alone: every input counts alike
    return head + torch.eye(len(head), dtype=head.dtype, device=head.device)


def fit_rows(variant: Variant, record: TensorRecord, metric: Tensor | None, device: torch.device, *,
             chosen: bool = False) -> TensorRecord:
    """Learn signs and row scales of all planes of an embedding or head under `metric` (in, in), identity when None.

    With `chosen`, signs are chosen under the metric wherever that loses less of a row; else they are those of what is left.
    """
    base, tuned = variant.base_view(record), variant.tuned.view(record.name)
    assert base is not None
    rows = record.outputs
    signs, scales = [], []
    lost = energy = 0.0
    under = torch.eye(record.inputs, dtype=torch.float32, device=device) if metric is None else metric
    factor = inverse_factor(under, DAMP) if chosen else None
    for at in range(0, rows, ROWS):
        part = slice(at, min(at + ROWS, rows))
        change = to_device(tuned[part], device) - to_device(base[part], device)
        planes, values = code_rows(change, record.planes, metric)
        if factor is not None:
            planes, values = choose_rows(change, planes, values, metric, factor)
        signs.append(torch.stack([pack_signs(p < 0).cpu() for p in planes]))
        scales.append(values)
        left = change - sum((v[:, None] * p for v, p in zip(values, planes, strict=True)), torch.zeros_like(change))
        lost += float((_under(left, metric) * left).sum(dtype=torch.float64))
        energy += float((_under(change, metric) * change).sum(dtype=torch.float64))
    loss = round(lost / energy, 9) if energy else 0.0
    record = msgspec.structs.replace(record, losses=(Losses(axis={"row": loss}, training=loss, held_out=loss),))
    return variant.learn_scales(record, list(torch.cat(scales, 1)), torch.cat(signs, 1))


def _under(change: Tensor, metric: Tensor | None) -> Tensor:
    return change if metric is None else change @ metric


def code_rows(change: Tensor, planes: int, metric: Tensor | None) -> tuple[list[Tensor], Tensor]:
    """Signs (planes of (rows, in), +-1) and scales (planes, rows) that code `change` (rows, in) under `metric`.

    Plane after plane on what is left, then all of a row's scales together (a small linear system per row).
    """
    left = change
    found: list[Tensor] = []
    for _ in range(planes):
        sign = torch.where(left < 0, -1.0, 1.0)
        found.append(sign)
        scales = _row_scales(change, found, metric)
        left = change - sum((v[:, None] * s for v, s in zip(scales, found, strict=True)), torch.zeros_like(change))
    return found, scales


def choose_rows(change: Tensor, signs: list[Tensor], scales: Tensor, metric: Tensor | None,
                factor: tuple[Tensor, Tensor]) -> tuple[list[Tensor], Tensor]:
    """Signs and scales as of `code_rows`, chosen anew with error feedback for the rows that lose less so.

    Choice and scales by turns, each row for itself, while the metric's loss falls; `factor` is the metric's.
    """
    best, values = torch.stack(signs), scales.clone()
    least = _row_losses(change, best, values, metric)
    now = scales
    for _ in range(CHOICES):
        sizes = now.abs().sort(0, descending=True).values      # the largest plane first: then the nearest sum is chosen
        found = choose_signs(change, factor, sizes)
        now = _row_scales(change, list(found), metric)
        losses = _row_losses(change, found, now, metric)
        better = losses < least
        if not bool(better.any()):
            break
        best[:, better], values[:, better], least = found[:, better], now[:, better], torch.minimum(least, losses)
    return list(best), values


def _row_losses(change: Tensor, signs: Tensor, scales: Tensor, metric: Tensor | None) -> Tensor:
    """What each row (rows,) loses under the metric."""
    left = change - (signs * scales[:, :, None]).sum(0)
    return (_under(left, metric) * left).sum(1)


def _row_scales(change: Tensor, signs: list[Tensor], metric: Tensor | None) -> Tensor:
    """Least-squares scales (planes, rows) of given signs."""
    below = [_under(s, metric) for s in signs]
    gram = torch.stack([torch.stack([(a * b).sum(1) for b in signs], 1) for a in below], 1)   # (rows, planes, planes)
    top = torch.stack([(a * change).sum(1) for a in below], 1)                                 # (rows, planes)
    ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    eye = torch.eye(len(signs), dtype=change.dtype, device=change.device)
    scales: Tensor = torch.linalg.solve(gram + ridge[:, None, None] * eye, top)
    return scales.T.contiguous()

"""All that a fit needs to know of the data that enters a matrix, gathered once and independent of the scales.

For inputs X of the compressed prefix and Xt of the fine-tune (n tokens each), with drift E = Xt - X:

    H  = X^T X / n                     (in, in)
    CK = X^T (E W_ft^T) / n            (in, out)    what the drift adds to X^T R
    e2 = |E W_ft^T|^2 / n per output   (out,)

R = Xt W_ft^T - X W_base^T = X D^T + E W_ft^T for the true change D, so X^T R / n = H D^T + CK without ever
subtracting two large outputs: with the drift apart, FP32 sums are exact enough for changes of a thousandth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NARROWEST = 192
"""Columns that a symmetric sum is cut into at least; narrower products are slow."""


def add_gram(total: Tensor, x: Tensor) -> None:
    """Add x^T x to `total` (in, in) for x (n, in): only what lies on and below a diagonal of blocks, about half the work."""
    step = max(NARROWEST, x.shape[1] // 6)
    for i in range(0, x.shape[1], step):
        total[i:i + step, :i + step].addmm_(x[:, i:i + step].T, x[:, :i + step])


def mirrored(total: Tensor) -> Tensor:
    """A symmetric matrix (n, n) from what lies on and below its diagonal."""
    return mirror(total.clone())


def mirror(total: Tensor) -> Tensor:
    """The same in place: a down-projection's matrix of a large model takes gigabytes. Returns `total`."""
    for i in range(0, len(total), NARROWEST):
        end = i + NARROWEST
        own = total[i:end, i:end]
        own.copy_(own.tril() + own.tril(-1).T)
        total[i:end, end:] = total[end:, i:end].T
    return total


@dataclass
class Moments:
    """Sums over tokens, not yet divided by `tokens`; of X^T X and E^T E only the lower half means anything.

    With `wide` products the drift is kept as X^T E and E^T E (in, in each) and multiplied by W_ft once at the end;
    otherwise as CK and e2 directly. Whichever is the smaller product is chosen by who makes the moments.
    """

    tokens: int
    h: Tensor
    cross: Tensor | None
    drift: Tensor | None
    wide: bool

    @classmethod
    def empty(cls, inputs: int, outputs: int, device: torch.device, *, drift: bool) -> Moments:
        """Zero moments for a group of matrices with `outputs` outputs in all."""
        wide = outputs >= inputs
        shapes = ((inputs, inputs), (inputs, inputs)) if wide else ((inputs, outputs), (outputs,))
        cross, energy = (torch.zeros(s, dtype=torch.float32, device=device) if drift else None for s in shapes)
        return cls(0, torch.zeros(inputs, inputs, dtype=torch.float32, device=device), cross, energy, wide)

    def add(self, x: Tensor, target: Tensor | None, tuned: Tensor | None) -> None:
        """Take in inputs x (n, in) of the student and `target` (n, in) of the fine-tune; `tuned` is W_ft (out, in)."""
        self.tokens += x.shape[0]
        add_gram(self.h, x)
        if self.cross is None or self.drift is None or target is None:
            return
        drift = target - x
        if self.wide:
            self.cross.addmm_(x.T, drift)
            add_gram(self.drift, drift)
        else:
            assert tuned is not None
            outputs = drift @ tuned.T                  # (n, out)
            self.cross.addmm_(x.T, outputs)
            self.drift += outputs.square().sum(0)

    def finish(self, tuned: Tensor, *, last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """H (in, in), CK (in, out), e2 (out,), each divided by the tokens; `tuned` is W_ft (out, in).

        With `last` the sums' own memory becomes the result's, and the moments are empty from then on.
        """
        n = max(1, self.tokens)
        h, cross, drift = self.h, self.cross, self.drift
        if last:
            self.h, self.cross, self.drift = h.new_empty(0), None, None
        h = mirror(h if last else h.clone()).div_(n)
        if cross is None or drift is None:
            zero = torch.zeros(tuned.shape[1], tuned.shape[0], dtype=torch.float32, device=tuned.device)
            return h, zero, zero.new_zeros(tuned.shape[0])
        if not self.wide:
            return h, cross.div_(n) if last else cross / n, drift / n
        ck = (cross @ tuned.T).div_(n)
        return h, ck, (tuned @ mirror(drift if last else drift.clone())).mul_(tuned).sum(1) / n


@dataclass(frozen=True)
class Target:
    """What one slice of a matrix is fitted to: its true change and the moments of its inputs, for one part of the data.

    `change` (out, in), `h` (in, in), `c` (in, out) = X^T R / n, `zero` = |R|^2 / n, the loss of no delta at all.
    """

    h: Tensor
    c: Tensor
    zero: float
    own: float
    """tr(D H D^T): what the matrix's own change adds to its outputs."""

    @classmethod
    def of(cls, change: Tensor, h: Tensor, ck: Tensor, e2: Tensor, *, last: bool = False) -> Target:
        """From finished moments of the slice; with `last`, CK's memory becomes the target's."""
        hd = h @ change.T                              # (in, out)
        own = (hd * change.T).sum(dtype=torch.float64)
        mixed = (ck * change.T).sum(dtype=torch.float64)
        return cls(h, ck.add_(hd) if last else hd.add_(ck), float(own + 2 * mixed + e2.sum(dtype=torch.float64)), float(own))

    def loss(self, dense: Tensor) -> float:
        """|R - X D^T|^2 / n of a dense change D (out, in), relative to no delta."""
        quadratic = ((self.h @ dense.T) * dense.T).sum(dtype=torch.float64)
        linear = (self.c * dense.T).sum(dtype=torch.float64)
        return self.relative(float(quadratic - 2 * linear))

    def relative(self, gain: float) -> float:
        """Loss whose part that depends on the scales is `gain`, relative to no delta; never below rounding."""
        return max(0.0, 1 + gain / self.zero) if self.zero > 0 else 1.0

    def lost(self, left: Tensor) -> float:
        """Share of the matrix's own change that is lost, for what is left of it, D - D^ (out, in): 0 to about 1.

        Unlike `loss`, this leaves the drift of earlier layers out, of which one matrix can remove little.
        """
        return float(((self.h @ left.T) * left.T).sum(dtype=torch.float64)) / self.own if self.own > 0 else 0.0



@dataclass(frozen=True)
class Evidence:
    """All that a method learns a matrix from: its change (out, in), and finished moments (H, CK, e2) of the training part
    and, where there are tokens enough, of the held-out part."""

    change: Tensor
    parts: tuple[tuple[Tensor, Tensor, Tensor], ...]

    def target(self, part: int = 0, rows: slice | None = None) -> Target:
        """What outputs `rows` are fitted to in the training (0) or held-out (1) part; the former where that is all there is."""
        h, ck, e2 = self.parts[min(part, len(self.parts) - 1)]
        rows = slice(None) if rows is None else rows
        return Target.of(self.change[rows], h, ck[:, rows], e2[rows])

    def lost(self, dense: Tensor) -> tuple[float, float]:
        """Share of the matrix's own change that is lost by a dense change (out, in), in training and held-out data."""
        training, held_out = (self.target(i).lost(self.change - dense) for i in (0, 1))
        return training, held_out

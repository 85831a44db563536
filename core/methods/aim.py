"""What a dense approximation should come close to, and when it is worth storing."""

from __future__ import annotations

from torch import Tensor

from core.moments import Evidence


def aim(evidence: Evidence) -> Tensor:
    """The change (out, in) to approximate: between the matrix's own, D, and the optimum O of the training part, the D + a (O - D)
    of least held-out loss, 0 <= a <= 1.

    O also makes up for the drift of earlier layers, and overfits where tokens are few. Without a held-out part, D.
    In closed form: the loss is a quadratic in a, and the slope at D is <O - D, CK^T> (see `core.moments`).
    """
    if len(evidence.parts) < 2 or evidence.optimum is evidence.change:
        return evidence.change
    h, ck, _ = evidence.parts[1]
    step = evidence.optimum - evidence.change
    curve = float(((step @ h) * step).sum())
    share = float((step * ck.T).sum()) / curve if curve > 0 else 0.0
    return evidence.change + min(max(share, 0.0), 1.0) * step


def is_worth_it(evidence: Evidence, dense: Tensor) -> bool:
    """Whether a dense change (out, in) loses no more than none at all, on held-out data."""
    return evidence.target(1).loss(dense) <= 1.0

"""The paper's way to fit a layer (arXiv 2512.19720): AdamW on cached inputs and outputs, for comparison.

Learning rate 1e-4, 5 epochs over the cached samples, start at mean |change|; both axes, the lower held-out loss wins.
Reports the same losses as the exact solver, once per epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.solve import Fitted, Problem, expand, first_guess

EPOCHS = 5
LEARNING_RATE = 1e-4


def fit_adamw(problem: Problem, axis: str, samples: list[tuple[Tensor, Tensor]]) -> Fitted:
    """Fit one axis of one slice. `samples` are (inputs (n, in), wanted change of the outputs (n, out)) pairs."""
    start = first_guess(problem.change, axis)
    guess = problem.losses(expand(problem.signs, axis, start))
    problem.report(axis, 0, *guess)
    values = start.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([values], lr=LEARNING_RATE)
    best = Fitted(axis, start, *guess, guess[1])
    for epoch in range(1, EPOCHS + 1):
        for x, wanted in samples:
            loss = (x @ expand(problem.signs, axis, values).T - wanted).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        training, held_out = problem.losses(expand(problem.signs, axis, values.detach()))
        problem.report(axis, epoch, training, held_out)
        best = Fitted(axis, values.detach().clone(), training, held_out, guess[1])
    return best

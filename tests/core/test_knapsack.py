"""The multiple-choice knapsack against every choice there is, and against an exact program."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from core.knapsack import Option, choose, frontier, hull

OPTIONS = st.lists(st.builds(Option, st.integers(0, 60), st.floats(0, 50, allow_nan=False)), min_size=1, max_size=5)


def test_hull_leaves_out_what_never_pays() -> None:
    options = [Option(10, 5.0), Option(0, 10.0), Option(5, 9.0), Option(20, 4.5), Option(20, 6.0), Option(30, 4.6)]
    assert hull(options) == [1, 0, 3]


@given(st.lists(OPTIONS, min_size=1, max_size=4), st.integers(0, 200))
def test_never_over_budget_and_near_the_best(items: list[list[Option]], budget: int) -> None:
    chosen = choose(items, budget)
    fitting = [combination for combination in itertools.product(*(range(len(o)) for o in items))
               if sum(o[i].nbytes for o, i in zip(items, combination, strict=True)) <= budget]
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None and tuple(chosen) in fitting

    def loss(combination: list[int]) -> float:
        return sum(o[i].loss for o, i in zip(items, combination, strict=True))
    largest = max(o.loss for options in items for o in options) - min(o.loss for options in items for o in options)
    assert loss(chosen) <= min(loss(list(c)) for c in fitting) + largest + 1e-9


def _exact(items: list[list[Option]], budget: int) -> float:
    flat = [o for options in items for o in options]
    which = np.zeros((len(items), len(flat)))
    at = 0
    for i, options in enumerate(items):
        which[i, at:at + len(options)] = 1
        at += len(options)
    found = milp([o.loss for o in flat], integrality=np.ones(len(flat)), bounds=Bounds(0, 1),
                 constraints=[LinearConstraint(which, 1, 1), LinearConstraint([[o.nbytes for o in flat]], -np.inf, budget)])
    return float(found.fun)


@pytest.mark.parametrize("share", [0.1, 0.35, 0.7])
def test_within_a_percent_of_the_exact_program_at_the_size_of_a_model(share: float) -> None:
    dice = random.Random(3)
    items = []
    for _ in range(210):
        size, weight = dice.choice((110_592, 331_776, 884_736)), dice.lognormvariate(0, 1)
        items.append([Option(int(size * b / 8), weight * dice.uniform(0.8, 1.2) * 4.0 ** -b) for b in (0, 0.5, 1, 2, 3, 4)])
    budget = int(share * sum(options[-1].nbytes for options in items))
    chosen = choose(items, budget)
    assert chosen is not None
    got = sum(options[i].loss for options, i in zip(items, chosen, strict=True))
    assert got <= _exact(items, budget) * 1.01


def test_the_curve_falls_and_ends_at_the_best() -> None:
    items = [[Option(0, 3.0), Option(4, 1.0), Option(9, 0.0)], [Option(2, 1.0), Option(3, 0.5)]]
    curve = frontier(items)
    assert curve[0] == (2, 4.0) and curve[-1] == (12, 0.0 + 0.5)
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(curve))

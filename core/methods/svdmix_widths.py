"""Which singular vector gets how many bits: a 0/1 linear program, solved exactly or by a multiplier on the bytes.

Source: DeltaMix (arXiv 2506.11087) gives each vector over the inputs one width, or none, so that the sum of errors is least
within a size, with at most so many different widths. Here the vector over the outputs has a width of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from core.codecs.svdmix import WIDTHS

MOST_WIDTHS = 4
"""Different widths in one matrix. More than that gain 1 to 2 % of the loss."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SWAPS = 200
"""Exchanges tried at most to fill what the multiplier leaves."""
FEW = 24
"""Pairs up to which all sets of widths are looked at, and filled from several multipliers: there single pairs decide."""
STARTS = (1.1, 1.3, 1.7, 2.5)
"""Those others, times the smallest that stays within the bits."""


@dataclass(frozen=True)
class Program:
    """What each pair of vectors loses: `dropped` (pairs,) without it, else `outputs[i, j] + inputs[i, k]` (pairs, 7) at
    widths WIDTHS[j] and WIDTHS[k], which cost `pair_bits`: `shape` (out, in) times the widths, and 16 for the scale."""

    dropped: Floats
    outputs: Floats
    inputs: Floats
    shape: tuple[int, int]

    def cost(self, chosen: Ints) -> Ints:
        """Bits of choices (..., 2): a place in WIDTHS for outputs and inputs each, -1 for both where dropped."""
        widths = np.array([*WIDTHS, 0])
        bits = widths[chosen[..., 0]] * self.shape[0] + widths[chosen[..., 1]] * self.shape[1]
        return np.where(chosen[..., 0] < 0, 0, bits + 16)

    def loss(self, chosen: Ints) -> float:
        """The sum of errors of choices (pairs, 2)."""
        rows = np.arange(len(chosen))
        kept = self.outputs[rows, chosen[:, 0]] + self.inputs[rows, chosen[:, 1]]
        return float(np.where(chosen[:, 0] < 0, self.dropped, kept).sum())


def by_multiplier(program: Program, bits: int, most: int = MOST_WIDTHS) -> Ints:
    """Choices (pairs, 2) within `bits` and at most `most` widths, close to the best: Lagrange's multiplier by bisection for
    each set of widths that might win, then exchanges. Milliseconds; within 1 % of `by_milp` as tests and benchmarks find."""
    everything = tuple(range(len(WIDTHS)))
    multiplier, best = _bisect(program, bits, everything)
    if len(best) <= FEW or len(set(best[best >= 0].tolist())) > most:
        # By weak duality no choice within a set is better than its bound: few of the sets need a closer look.
        sets = list(combinations(everything, most))
        bounds = [_dual(program, bits, multiplier, s) for s in sets]
        best_loss = np.inf
        for i in np.argsort(bounds, kind="stable"):
            if bounds[i] >= best_loss:
                break
            tried = _best_filled(program, bits, sets[i])
            if (loss := program.loss(tried)) < best_loss:
                best, best_loss = tried, loss
        return best
    used = sorted({*best[best >= 0].tolist()})
    spare = [i for i in everything if i not in used]
    return _best_filled(program, bits, tuple(sorted(used + spare[:most - len(used)])))


def _at(program: Program, multiplier: float, widths: tuple[int, ...]) -> tuple[Ints, Floats]:
    """(choices (pairs, 2), error + multiplier * bits (pairs,)) of the least for one multiplier."""
    places = np.array(widths)
    sizes = np.array(WIDTHS)[places]
    sides = [table[:, places] + multiplier * sizes * size
             for table, size in ((program.outputs, program.shape[0]), (program.inputs, program.shape[1]))]
    chosen = np.stack([places[side.argmin(1)] for side in sides], 1)
    price = sides[0].min(1) + sides[1].min(1) + multiplier * 16
    keep = price < program.dropped
    return np.where(keep[:, None], chosen, -1), np.where(keep, price, program.dropped)


def _dual(program: Program, bits: int, multiplier: float, widths: tuple[int, ...]) -> float:
    return float(_at(program, multiplier, widths)[1].sum()) - multiplier * bits


def _bisect(program: Program, bits: int, widths: tuple[int, ...]) -> tuple[float, Ints]:
    """(multiplier, choices): the smallest multiplier found whose choices stay within `bits`."""
    high = max(float(program.dropped.max(initial=0.0)), 1e-300)    # nothing is worth a bit of that price
    low = high * 1e-18
    chosen = _at(program, high, widths)[0]
    for _ in range(60):
        middle = (low * high) ** 0.5
        tried = _at(program, middle, widths)[0]
        used = int(program.cost(tried).sum())
        if used > bits:
            low = middle
        else:
            high, chosen = middle, tried
            if used == bits:
                break
        if high < low * 1.00001:
            break
    return high, chosen


def _best_filled(program: Program, bits: int, widths: tuple[int, ...]) -> Ints:
    """The best of what `_fill` makes of the choices at several multipliers."""
    multiplier, chosen = _bisect(program, bits, widths)
    if len(chosen) > FEW:
        return _fill(program, bits, chosen, widths)
    starts = [chosen, *(_at(program, multiplier * s, widths)[0] for s in STARTS)]
    return min((_fill(program, bits, start, widths) for start in starts), key=program.loss)


def _fill(program: Program, bits: int, chosen: Ints, widths: tuple[int, ...]) -> Ints:
    """Better choices within `bits`: what is left is spent, and pairs exchange bits, as long as the loss falls."""
    options = np.array([(-1, -1), *product(widths, widths)])       # (options, 2)
    rows = np.arange(len(chosen))
    kept = program.outputs[:, options[1:, 0]] + program.inputs[:, options[1:, 1]]
    losses = np.concatenate([program.dropped[:, None], kept], 1)   # (pairs, options)
    costs = program.cost(options)
    now = (chosen[:, None] == options).all(2).argmax(1)
    for _ in range(SWAPS):
        left = bits - int(costs[now].sum())
        gain = losses[rows, now][:, None] - losses                 # > 0 is better
        extra = costs - costs[now][:, None]                        # > 0 costs more
        plain = np.where(extra <= left, gain, -np.inf)
        best = np.unravel_index(plain.argmax(), plain.shape)
        change, worth = [best], float(plain[best])
        swap, swap_worth = _exchange(gain, extra, left)
        if swap_worth > worth:
            change, worth = swap, swap_worth
        if worth <= 0:
            break
        for row, option in change:
            now[row] = option
    result: Ints = options[now]
    return result


def _exchange(gain: Floats, extra: Ints, left: int) -> tuple[list[tuple[np.intp, ...]], float]:
    """The best move that does not fit into `left` together with the one of another pair that makes room for it."""
    down = np.where(extra < 0, gain, -np.inf)
    rows, options = np.nonzero(np.isfinite(down))
    if not len(rows):
        return [], -np.inf
    order = np.argsort(extra[rows, options], kind="stable")        # those that free most first
    freed, worth = -extra[rows, options][order], down[rows, options][order]
    best = np.maximum.accumulate(worth)
    where = np.maximum.accumulate(np.where(worth == best, np.arange(len(worth)), 0))
    wanted = (extra > left) & (gain > 0)
    if not wanted.any():
        return [], -np.inf
    up = np.argwhere(wanted)
    enough = np.searchsorted(-freed, -(extra[wanted] - left), side="right") - 1
    possible = enough >= 0
    place = where[np.maximum(enough, 0)]
    total = np.where(possible & (rows[order][place] != up[:, 0]), gain[wanted] + best[np.maximum(enough, 0)], -np.inf)
    i = int(total.argmax())
    source = order[place[i]]
    return [(up[i, 0], up[i, 1]), (rows[source], options[source])], float(total[i])


def by_milp(program: Program, bits: int, most: int = MOST_WIDTHS, seconds: float = 60.0) -> Ints:
    """Choices (pairs, 2) by `scipy.optimize.milp`, the best where it ends within `seconds`. Raises ValueError if nothing
    was found by then."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    pairs, kinds = program.outputs.shape
    # Unknowns: dropped (pairs), outputs' widths (pairs x kinds), inputs' widths (pairs x kinds), used widths (kinds).
    count = pairs * (1 + 2 * kinds) + kinds
    scale = max(float(program.dropped.max()), 1e-300)
    goal = np.concatenate([program.dropped, program.outputs.ravel(), program.inputs.ravel(), np.zeros(kinds)]) / scale
    widths = np.array(WIDTHS)
    price = np.concatenate([np.zeros(pairs), np.tile(widths * program.shape[0] + 16, pairs),
                            np.tile(widths * program.shape[1], pairs), np.zeros(kinds)])
    used = pairs * (1 + 2 * kinds) + np.arange(kinds)
    entries: list[tuple[int, int, float]] = []
    for side in range(2):
        for i in range(pairs):                         # dropped, or exactly one width on either side
            row = side * pairs + i
            first = pairs + side * pairs * kinds + i * kinds
            entries += [(row, i, 1.0), *((row, first + k, 1.0) for k in range(kinds))]
    links = 2 * pairs
    for j in range(2 * pairs * kinds):                 # a width that a vector has is used
        entries += [(links + j, pairs + j, -1.0), (links + j, int(used[j % kinds]), 1.0)]
    budget = links + 2 * pairs * kinds
    entries += [(budget, int(j), float(price[j])) for j in np.nonzero(price)[0]]
    entries += [(budget + 1, int(j), 1.0) for j in used]
    rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
    matrix = csr_array((values, (rows, columns)), shape=(budget + 2, count))
    low = np.concatenate([np.ones(links), np.zeros(budget - links), [0, 0]])
    high = np.concatenate([np.ones(links), np.full(budget - links, np.inf), [bits, most]])
    found = milp(goal, constraints=LinearConstraint(matrix, low, high), integrality=np.ones(count), bounds=Bounds(0, 1),
                 options={"time_limit": seconds, "mip_rel_gap": 1e-6})
    if found.x is None:
        raise ValueError(f"The program was not solved in {seconds:g} s.")
    sides = found.x[pairs:pairs * (1 + 2 * kinds)].reshape(2, pairs, kinds)
    chosen = sides.argmax(2).T.astype(np.int64)
    result: Ints = np.where(found.x[:pairs, None] > 0.5, -1, chosen)
    return result

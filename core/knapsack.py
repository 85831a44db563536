"""Choose one option per item so that the sum of losses is least within a sum of bytes: the multiple-choice knapsack.

Lagrangian relaxation on each item's lower convex hull gives every optimum of the relaxed problem as one sorted list of
upgrades; what is left of the budget is filled greedily with the best single steps that still fit. The loss lies within
one upgrade of the optimum (Sinha and Zoltners, The Multiple-Choice Knapsack Problem, 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Option:
    """What an item costs and loses if this is chosen."""

    nbytes: int
    loss: float


@dataclass(frozen=True)
class _Step:
    gain: float
    """Loss saved per byte."""
    item: int
    before: int
    after: int


def hull(options: Sequence[Option]) -> list[int]:
    """Positions of an item's options on the lower convex hull of (bytes, loss), by bytes ascending; at least one."""
    order = sorted(range(len(options)), key=lambda i: (options[i].nbytes, options[i].loss))
    found: list[int] = []
    for i in order:
        if found and options[i].loss >= options[found[-1]].loss:
            continue
        while found and options[found[-1]].nbytes == options[i].nbytes:
            found.pop()
        while len(found) > 1 and _slope(options, found[-1], i) >= _slope(options, found[-2], found[-1]):
            found.pop()
        found.append(i)
    return found


def _slope(options: Sequence[Option], a: int, b: int) -> float:
    return (options[a].loss - options[b].loss) / (options[b].nbytes - options[a].nbytes)


def _upgrades(items: Sequence[Sequence[Option]]) -> tuple[list[int], list[_Step]]:
    """(the cheapest option of each item, all hull upgrades by falling gain per byte)."""
    start, steps = [], []
    for i, options in enumerate(items):
        line = hull(options)
        start.append(line[0])
        steps += [_Step(_slope(options, a, b), i, a, b) for a, b in pairwise(line)]
    # Equal gains of one item keep their order: an upgrade needs the one before it.
    return start, sorted(steps, key=lambda s: -s.gain)


def frontier(items: Sequence[Sequence[Option]]) -> list[tuple[int, float]]:
    """(bytes, loss) of every optimum of the relaxed problem, by bytes ascending: the size-against-loss curve."""
    start, steps = _upgrades(items)
    nbytes = sum(options[i].nbytes for options, i in zip(items, start, strict=True))
    loss = sum(options[i].loss for options, i in zip(items, start, strict=True))
    curve = [(nbytes, loss)]
    for step in steps:
        before, after = items[step.item][step.before], items[step.item][step.after]
        nbytes, loss = nbytes + after.nbytes - before.nbytes, loss + after.loss - before.loss
        curve.append((nbytes, max(0.0, loss)))
    return curve


def choose(items: Sequence[Sequence[Option]], budget: int) -> list[int] | None:
    """An option per item, of at most `budget` bytes together; None where even the smallest ones exceed it."""
    chosen, steps = _upgrades(items)
    used = sum(options[i].nbytes for options, i in zip(items, chosen, strict=True))
    if used > budget:
        return None
    stuck: set[int] = set()
    for step in steps:
        extra = items[step.item][step.after].nbytes - items[step.item][step.before].nbytes
        if step.item in stuck or used + extra > budget:
            stuck.add(step.item)
            continue
        chosen[step.item] = step.after
        used += extra
    return _fill(items, chosen, budget - used)


def _fill(items: Sequence[Sequence[Option]], chosen: list[int], left: int) -> list[int]:
    """Spend what is left on the best single changes that fit, those off the hull too."""
    while True:
        best: tuple[float, int, int, int] | None = None
        for i, options in enumerate(items):
            now = options[chosen[i]]
            for j, option in enumerate(options):
                extra, saved = option.nbytes - now.nbytes, now.loss - option.loss
                if extra <= left and saved > 0 and (best is None or saved > best[0]):
                    best = saved, i, j, extra
        if best is None:
            return chosen
        _, i, j, extra = best
        chosen[i], left = j, left - extra

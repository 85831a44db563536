"""What comes of mutated delta folders and checkpoints: refusals, right results, other valid files, and nothing else.

`python -m tests.benchmarks.bench_fuzz --count 10000` makes that many of each and prints counts by outcome and by kind; any
mutation can be made again by its number (`--only delta --first 1234 --count 1`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.hostile.fuzz import FINE, MEMORY, OUTCOMES, Tally
from tests.hostile.fuzz import run as mutate

KINDS = ("delta", "checkpoint")
COUNT = 500
"""Of each, where no number is asked for."""


def run() -> list[dict[str, Any]]:
    """Figures for the runner: how many mutations ended in a defect."""
    figures = []
    for what in KINDS:
        tally = mutate(what, COUNT)
        counts = ", ".join(f"{tally.outcomes[o]} {o}" for o in OUTCOMES if tally.outcomes[o])
        figures.append({"name": f"Mutated {what}s: defects", "value": len(tally.defects), "unit": f"of {tally.total:,}",
                        "reference": counts, "goal": 0, "better": "lower"})
    return figures


def table(tallies: dict[str, Tally]) -> Table:
    """Counts by outcome, one column for each sort of file."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("outcome")
    for what in tallies:
        shown.add_column(f"{what}s", justify="right")
    for outcome in OUTCOMES:
        shown.add_row(outcome, *(f"{t.outcomes[outcome]:,}" for t in tallies.values()))
    shown.add_row("all", *(f"{t.total:,}" for t in tallies.values()))
    shown.add_row("refused, though the judge would take it", *(f"{len(t.stricter):,}" for t in tallies.values()))
    shown.add_row("seconds", *(f"{t.seconds:.0f}" for t in tallies.values()))
    shown.add_row("seconds of the slowest", *(f"{t.slowest[0]:.2f}" for t in tallies.values()))
    shown.add_row(f"MB more at most (limit {MEMORY >> 20})", *(f"{t.memory / 2**20:.0f}" for t in tallies.values()))
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the mutations that are asked for; 1 where there were defects."""
    parser = argparse.ArgumentParser(description="Mutate delta folders and checkpoints, and count what comes of it.")
    parser.add_argument("--count", type=int, default=COUNT, help=f"of each (default: {COUNT})")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, help="one of the two")
    given = parser.parse_args(arguments)
    tallies = {what: mutate(what, given.count, seed=given.seed, first=given.first)
               for what in ((given.only,) if given.only else KINDS)}
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table(tallies))
    for what, tally in tallies.items():
        console.print(f"\n{what}s by kind of mutation:")
        for kind in sorted({kind for kind, _ in tally.kinds}):
            console.print(f"  {kind or '(unknown)'}: " + ", ".join(
                f"{tally.kinds[kind, o]:,} {o}" for o in OUTCOMES if tally.kinds[kind, o]))
        for line in tally.defects:
            console.print(f"  DEFECT {line}")
    return 0 if all(sum(t.outcomes[o] for o in FINE) == t.total for t in tallies.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())

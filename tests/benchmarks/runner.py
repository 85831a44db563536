"""Run every `bench_*.py` beside this file, print a table, write `build/benchmarks.json`.

Each benchmark runs in a process of its own, so that none meets another's memory, threads or crash. One that fails
is reported and makes the exit code 1; the others still run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

FIELDS = ("name", "value", "unit", "reference", "goal", "better")
_OUTPUT = Path("build/benchmarks.json")

Figure = dict[str, Any]  # the FIELDS


def discover(package: str = "tests.benchmarks") -> list[str]:
    """Names of the package's benchmark modules, without the package's own."""
    folders = map(Path, importlib.import_module(package).__path__)
    return sorted(path.stem for folder in folders for path in folder.glob("bench_*.py"))


def figures_of(module: str) -> list[Figure]:
    """What one module's `run()` returns, checked. Raises ValueError for a figure that is not as agreed."""
    figures: list[Figure] = importlib.import_module(module).run()
    if not figures:
        raise ValueError(f"{module} measured nothing.")
    for figure in figures:
        if problem := problem_with(figure):
            raise ValueError(f"{module} returned {figure!r}: {problem}.")
    return figures


def problem_with(figure: Mapping[str, Any]) -> str:
    """What keeps a figure from the table, or an empty string."""
    if set(figure) != set(FIELDS):
        return f"its keys are not {', '.join(FIELDS)}"
    if figure["better"] not in ("lower", "higher"):
        return "`better` is neither 'lower' nor 'higher'"
    for key in ("value", "goal"):
        number = figure[key]
        if number is None and key == "goal":
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            return f"`{key}` is not a finite number"
    return ""


def verdict(figure: Figure) -> str:
    """Whether the goal was met, in a word."""
    if figure["goal"] is None:
        return "no goal"
    gap = figure["value"] - figure["goal"]
    return "met" if (gap <= 0 if figure["better"] == "lower" else gap >= 0) else "missed"


def table(figures: Iterable[Figure]) -> Table:
    """All figures for a terminal."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("benchmark", "value", "goal", "", "reference"):
        shown.add_column(heading, justify="right" if heading in ("value", "goal") else "left", overflow="fold")
    for figure in figures:
        sign = "<=" if figure["better"] == "lower" else ">="
        goal = "" if figure["goal"] is None else f"{sign} {figure['goal']:g}"
        cells = (figure["name"], f"{figure['value']:g} {figure['unit']}", goal, verdict(figure), str(figure["reference"]))
        shown.add_row(*map(escape, cells))
    return shown


def main(arguments: Sequence[str] | None = None, package: str = "tests.benchmarks") -> int:
    """Run the benchmarks that `arguments` ask for; the exit code."""
    names = discover(package)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Run Deltadeck's benchmarks.")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"run this one; may be repeated: {', '.join(names)}")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help=f"where the figures go (default: {_OUTPUT})")
    options = parser.parse_args(arguments)
    chosen = [name if name.startswith("bench_") else f"bench_{name}" for name in options.only or names]
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(names)}")

    log, figures, failed = Console(stderr=True, highlight=False), [], []
    for name in chosen:
        log.print(f"{name} ...")
        began = time.perf_counter()
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
                figures += child.submit(figures_of, f"{package}.{name}").result()
        except Exception:
            failed.append(name)
            sys.stderr.write(traceback.format_exc())
        log.print(f"{name} {'FAILED' if name in failed else 'done'} after {time.perf_counter() - began:.0f} s")

    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    Console(highlight=False).print(table(figures))
    if failed:
        log.print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0

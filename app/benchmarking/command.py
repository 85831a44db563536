"""The benchmark command: runs cells, says how each came out, ends with the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.benchmarking.run import Settings, run
from app.benchmarking.table import kl_words
from app.benchmarking.ways import Cell, cells, left_out_words
from app.compressing import calibration_place, place
from app.console import Failed, Terminal
from app.words import count, duration, percent, size
from core.errors import BadOption


def benchmark(terminal: Terminal, settings: Settings, methods: str, sizes: str, folder: Path) -> None:
    """Run methods x sizes on a pair. Raises `Failed` where a cell failed, after all others are done."""
    names = [n.strip() for n in methods.split(",") if n.strip()]
    try:
        numbers = [int(s) for s in sizes.split(",") if s.strip()]
    except ValueError:
        raise BadOption(f"'{sizes}' is no list of sizes.", "", "Use numbers such as 4,8,16,32.") from None
    todo = cells(names, numbers)
    if missing := left_out_words(names, numbers):
        terminal.say(f"[yellow]Note:[/] left out: {escape(missing)}")
    terminal.say(f"{count(len(todo), 'cell')}; finished ones are kept in {folder} and not run again.", "dim")

    def tell(cell: Cell, position: int, row: dict[str, Any] | None) -> None:
        head = f"[{position + 1}/{len(todo)}] {cell.way.label}, 1/{cell.size}"
        if row is None:
            terminal.say(f"{head} ...", "dim")
        elif "error" in row:
            terminal.say(f"{head}: {row['error']}", "yellow")
        else:
            terminal.say(
                f"{head}: KL {kl_words(row['kl_mean'], row['kl_se'])}, {size(row['bytes'])}, {duration(row['fit_seconds'])}"
            )

    local = Settings(
        **{
            **vars(settings),
            "base": place(settings.base),
            "fine_tuned": place(settings.fine_tuned),
            "calibration": calibration_place(settings.calibration),
            "text": calibration_place(settings.text),
        }
    )
    value = run(todo, local, folder.expanduser().absolute(), terminal.check, tell)

    def show(out: Console) -> None:
        out.print(_table(value["rows"]))
        if others := value["kept_not_shown"]:
            out.print(f"{count(others, 'cell')} measured with other settings or files {'is' if others == 1 else 'are'} kept, not "
                      "shown.", style="dim")
        out.print(f"Table and curve: {folder}/benchmark.md, benchmark.csv, benchmark.json, curve.svg", soft_wrap=True)

    terminal.result(value, show)
    if value["failures"]:
        raise Failed


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    found = Table("Method", "Size", "Weights", "KL", "Top-1", "Recovery", "Time", "Memory", box=None, header_style="bold")
    for r in rows:
        found.add_row(
            str(r["label"]),
            f"1/{r['size']}",
            size(r["bytes"]),
            kl_words(r["kl_mean"], r["kl_se"]),
            percent(r["top1"]),
            percent(r["recovery"], 2),
            duration(r["fit_seconds"]),
            size(r["peak_memory"]),
        )
    return found

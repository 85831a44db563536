"""Runs a benchmark: each cell is a `compress` and an `evaluate` in processes of their own, kept as soon as it is known."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.benchmarking.table import as_csv, as_markdown, as_svg
from app.benchmarking.ways import WAYS, Cell, limit_bytes
from app.console import REFUSED
from core.errors import Cancelled, DeltadeckError, OutputExists, Refused

NUMBERS = ("bytes", "ratio", "kl_mean", "kl_se", "kl_p99", "top1", "ppl", "recovery", "base_kl", "fit_seconds", "peak_memory",
           "tokens")
"""What every row of a table has."""


@dataclass(frozen=True)
class Settings:
    """What all cells share. `text` and `calibration` are sources as `compress` takes them."""

    base: str
    fine_tuned: str
    samples: int
    tune_samples: int
    sequence_length: int | None
    seed: int
    device: str
    calibration: str
    text: str
    tokens: int

    def common(self) -> list[str]:
        """Options of both commands."""
        length = [] if self.sequence_length is None else ["--sequence-length", str(self.sequence_length)]
        return ["--device", self.device, *length]


@dataclass(frozen=True)
class Outcome:
    """One child process: what it printed, how long it took (seconds), the most memory it held (bytes)."""

    value: dict[str, Any]
    seconds: float
    memory: int


Check = Callable[[], None]
"""Raises `Cancelled` when the user wants a stop; asked a few times a second."""


def call(arguments: Sequence[str], check: Check) -> Outcome:
    """Run one of Deltadeck's commands with --json. Raises `DeltadeckError` with its own words where it failed."""
    begin, peak = time.monotonic(), 0
    with subprocess.Popen(
        [sys.executable, "-m", "app", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as child:
        watched = psutil.Process(child.pid)
        try:
            while True:
                try:
                    printed, _ = child.communicate(timeout=0.25)
                    break
                except subprocess.TimeoutExpired:
                    check()
                    try:
                        peak = max(peak, watched.memory_info().rss)
                    except psutil.Error:
                        continue
        except BaseException:
            child.terminate()
            raise
    value: dict[str, Any] = json.loads(printed) if printed.strip() else {}
    if child.returncode or not value:
        error = value.get("error", {})
        said = error if isinstance(error, dict) else {"what": str(error)}
        if child.returncode == REFUSED and said.get("what"):
            raise Refused(str(said["what"]), str(said.get("why", "")), str(said.get("remedy", "")))
        raise DeltadeckError(
            f"'{arguments[0]}' ended with code {child.returncode}.",
            str(said.get("what", "")) + " " + str(said.get("why", "")),
            str(said.get("remedy", "")) or "Run it alone to see more.",
        )
    return Outcome(value, time.monotonic() - begin, peak)


def measure_cell(cell: Cell, settings: Settings, folder: Path, limit: int, check: Check) -> dict[str, Any]:
    """Make the cell's delta, evaluate it, throw it away; its row of the table."""
    output = folder / f"{cell.name}.delta"
    shutil.rmtree(output, ignore_errors=True)  # left by a run that was stopped while it evaluated
    options = [x for k, v in cell.way.options.items() for x in (f"--{k}", v)]
    size = ["--budget", str(limit)] if cell.way.is_sized else []
    made = call(
        [
            "compress",
            settings.base,
            settings.fine_tuned,
            "-o",
            str(output),
            *options,
            *size,
            "--samples",
            str(settings.samples),
            "--tune-samples",
            str(settings.tune_samples),
            "--seed",
            str(settings.seed),
            "--calibration",
            settings.calibration,
            *settings.common(),
        ],
        check,
    )
    found = call(
        [
            "evaluate",
            str(output),
            "--base",
            settings.base,
            "--fine-tuned",
            settings.fine_tuned,
            "--text",
            settings.text,
            "--tokens",
            str(settings.tokens),
            "--prompts",
            "0",
            *settings.common(),
        ],
        check,
    )
    config = json.loads((output / "delta_config.json").read_text("utf-8"))
    variant = found.value["variant"]
    row = {
        "method": cell.way.key,
        "label": cell.way.label,
        "size": cell.size,
        "bytes": made.value["weights_bytes"],
        "ratio": made.value["full_bytes"] / made.value["weights_bytes"],
        **{k: variant[k] for k in ("kl_mean", "kl_se", "kl_p99", "top1", "ppl")},
        "recovery": found.value["recovery"],
        "base_kl": found.value["base"]["kl_mean"],
        "fit_seconds": made.seconds,
        "peak_memory": made.memory,
        "expected_kl": config["fidelity"].get("expected_kl"),
        "allocation": config["fidelity"].get("methods"),
        "tokens": found.value["tokens"],
    }
    shutil.rmtree(output)
    return row


def run(
    todo: Sequence[Cell], settings: Settings, folder: Path, check: Check, tell: Callable[[Cell, int, dict[str, Any] | None], None]
) -> dict[str, Any]:
    """Run what is not yet known; writes table and curve after every cell. `tell` gets (cell, position, row or None at its start).

    The table has what earlier runs left in the folder too, where it was measured in the same way; what was measured in
    another stays in its file and is counted as `kept_not_shown`. A cell counts as known when
    it was measured with the same settings on the same files. A cell that fails is told of, noted in the table's JSON and tried
    again next time. Raises `OutputExists` for a folder of something else.
    """
    marker = folder / "benchmark.json"
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"'{folder}' is a file.", "A benchmark has a folder of its own.", "Choose another name.")
    if folder.exists() and any(folder.iterdir()) and not marker.exists() and not (folder / "cells").is_dir():
        raise OutputExists(f"'{folder}' is not empty and no benchmark's folder.", "", "Choose another folder.")
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    shared = ["plan", settings.base, settings.fine_tuned, "--recipe", "exact", "--device", settings.device]
    plan = call(shared, check).value
    signs = sum(t["bytes"] for t in plan["tensors"] if t["codec"] == "sign" and t["block"] is not None)
    rest = plan["weights_bytes"] - signs
    state = _state(settings)

    def key_of(cell: Cell) -> str:
        limit = limit_bytes(signs, rest, cell.size)
        return hashlib.sha256(repr((settings, cell, limit, state)).encode()).hexdigest()
    there = found_cells(folder / "cells")
    others = sum(_key(path) not in ("", key_of(cell)) for path, cell in there.items())
    rows = [row for cell in {c.name: c for c in there.values()}.values() if cell not in todo
            if (row := known_row(folder / "cells", cell, key_of(cell))) is not None]
    failures: list[dict[str, str]] = []
    result: dict[str, Any] = {}
    for i, cell in enumerate(todo):
        limit = limit_bytes(signs, rest, cell.size)
        key = key_of(cell)
        row = known_row(folder / "cells", cell, key)
        if row is None:
            tell(cell, i, None)
            try:
                row = measure_cell(cell, settings, folder, limit, check)
            except Cancelled:
                raise
            except DeltadeckError as e:
                failures.append({"cell": cell.name, "what": e.what, "why": e.why})
                tell(cell, i, {"error": f"{e.what} {e.why}".strip()})
                continue
            _write(cell_path(folder / "cells", cell, key), json.dumps({"key": key, "row": row}))
        rows.append(row)
        tell(cell, i, row)
        result = _publish(folder, rows, failures, settings, others)
    return result or _publish(folder, rows, failures, settings, others)


def _state(settings: Settings) -> list[Any]:
    """The program's version; sizes and times of the pair's files, and of the texts', where they are local."""
    from core import __version__

    places = [Path(p) for p in (settings.base, settings.fine_tuned, settings.calibration, settings.text)]
    found = [f for p in places for f in (sorted(p.iterdir()) if p.is_dir() else [p]) if f.is_file()]
    return [__version__, *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in found)]


def cell_path(folder: Path, cell: Cell, key: str) -> Path:
    """Where a cell is kept: other settings have another key, so that they stay beside each other."""
    return folder / f"{cell.name}.{key[:8]}.json"


def known_row(folder: Path, cell: Cell, key: str) -> dict[str, Any] | None:
    """The row of a cell that was measured under this key; from a file without the key in its name too."""
    for path in (cell_path(folder, cell, key), folder / f"{cell.name}.json"):
        kept = _read(path)
        if kept.get("key") == key and _is_row(kept.get("row"), cell):
            return dict(kept["row"])
    return None


def _is_row(row: Any, cell: Cell) -> bool:
    """Whether it is a whole row of that cell: a file may be damaged."""
    return (isinstance(row, dict) and row.get("method") == cell.way.key and row.get("size") == cell.size
            and isinstance(row.get("label"), str) and all(isinstance(row.get(k), int | float) for k in NUMBERS))


def _key(path: Path) -> str:
    """The key that a cell's file states; empty where it states none."""
    return str(_read(path).get("key", ""))


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def found_cells(folder: Path) -> dict[Path, Cell]:
    """The files of cells in a folder, whatever they hold; names that are no cell's are passed over."""
    known = {way.key: way for way in WAYS}
    names = {path: path.name.partition(".")[0] for path in sorted(folder.glob("*.json"))}
    parts = {path: name.rpartition("-") for path, name in names.items()}
    found = {path: Cell(known[way], int(size)) for path, (way, _, size) in parts.items()
             if way in known and size.isdecimal() and 0 < len(size) < 10 and int(size) > 0}
    return {path: cell for path, cell in found.items() if cell.name == names[path]}


def _publish(folder: Path, rows: list[dict[str, Any]], failures: list[dict[str, str]], settings: Settings,
             others: int) -> dict[str, Any]:
    order = [way.key for way in WAYS]
    rows = sorted(rows, key=lambda row: (-row["size"], order.index(row["method"])))
    facts = {
        "base": Path(settings.base).name,
        "fine_tuned": Path(settings.fine_tuned).name,
        "samples": settings.samples,
        "tune_samples": settings.tune_samples,
        "text": "the embedded text" if settings.text == "default" else Path(settings.text).name,
        "tokens": rows[0]["tokens"] if rows else 0,
        "base_kl": rows[0]["base_kl"] if rows else 0.0,
    }
    value = {"pair": facts, "rows": rows, "failures": failures, "kept_not_shown": others}
    _write(folder / "benchmark.json", json.dumps(value, indent=1))
    if rows:
        _write(folder / "benchmark.csv", as_csv(rows))
        _write(folder / "benchmark.md", as_markdown(rows, facts))
        _write(folder / "curve.svg", as_svg(rows, facts))
    return value


def _write(path: Path, text: str) -> None:
    work = path.with_suffix(path.suffix + ".partial")
    work.write_text(text, "utf-8")
    work.replace(path)

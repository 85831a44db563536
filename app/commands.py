"""What each command does, from arguments to result. Heavy libraries are imported here, when a command runs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from app import tables
from app.compressing import calibration_place, place, read_request, run_job
from app.console import Failed, Terminal, quiet_transformers
from app.progress import showing
from app.tables import shown
from app.words import count, duration, listed, percent, program, short_path, size, smaller_than

if TYPE_CHECKING:
    from core.job import Result
    from core.request import Request


def prepare(terminal: Terminal) -> None:
    """Load the engine, which takes some seconds, and keep its libraries quiet."""
    if terminal.live:
        with terminal.err.status("Starting the engine"):
            _load_engine()
    else:
        _load_engine()


def _load_engine() -> None:
    import core.job  # noqa: F401

    quiet_transformers()


# --------------------------------------------------------------------------------------------------- plan
def plan(terminal: Terminal, request_options: dict[str, Any], curve: bool = False) -> None:
    """Look at a pair and say what a job would do; with `curve`, how faithful it would be at every size."""
    prepare(terminal)
    from app.forecasting import curve_table, forecast_curve
    from core.budget_stage import shaped
    from core.checkpoint import open_checkpoint
    from core.devices import choose_device
    from core.estimate import estimate, sizes_of
    from core.plan import make_plan
    from core.request import Request, sequence_length
    from core.shortage import free_memory, memory_warning

    request = Request(**request_options, output="")
    options = request.options()
    with showing(terminal) as display, open_checkpoint(request.base) as base, open_checkpoint(request.fine_tuned) as tuned:
        device = choose_device(request.device)
        display.stage("Planning", len(tuned.tensors), "tensors")
        found = shaped(make_plan(base, tuned, options, display.counter), request)
        ahead = forecast_curve(request, found, base, tuned, device, display, curve)
        found = ahead.plan if ahead is not None else found
        sizes = sizes_of(request, sequence_length(request, tuned.config))
        width = int(tuned.config.get("hidden_size") or tuned.config.get("n_embd") or 1024)
        cost = estimate(found, sizes, device, width, forecast=request.is_allocated)
        short = memory_warning(cost.memory_bytes, device)
        summaries = {"base": base.describe(), "fine_tuned": tuned.describe()}
    kinds = tables.by_kind(found.records)
    smaller = found.full_bytes / found.weights_bytes
    value = {
        "fits": True, **{k: asdict(s) for k, s in summaries.items()}, "weights_bytes": found.weights_bytes,
        "sidecar_bytes": found.sidecar_bytes, "artifact_bytes": found.artifact_bytes, "full_bytes": found.full_bytes,
        "ratio": smaller, "sidecars": sorted(found.sidecars), "device": str(device),
        "estimate": {"seconds": cost.seconds, "block_seconds": cost.block_seconds, "memory_bytes": cost.memory_bytes,
                     "memory_by_stage": cost.memory, "disk_bytes": cost.disk_bytes},
        "kinds": [asdict(k) for k in kinds], "warnings": [*([short] if short else []), *found.warnings],
        "tensors": [{"name": r.name, "kind": r.kind, "block": r.block, "codec": r.codec, "axes": [s.axis for s in r.slices],
                     "shape": r.shape, "dtype": r.dtype, "base": r.base, "bytes": tables.record_size(r),
                     "full_bytes": tables.full_size(r), "change": r.change, "unchanged": r.unchanged, "rank": r.rank,
                     "count": r.count, "planes": r.planes, "method": r.method} for r in found.records]}
    if ahead is not None:
        value["curve"] = ahead.value()

    def show(out: Console) -> None:
        s = summaries["fine_tuned"]
        out.print(f"[bold green]These two fit.[/] {escape(s.architecture)}, {s.parameters / 1e6:,.1f} M parameters, "
                  f"{count(s.blocks or 0, 'block')}, {', '.join(s.dtypes)}")
        out.print(tables.kinds_table(kinds, out.width, planned=True))
        out.print(tables.facts([
            ("Delta weights", f"[bold]{size(found.weights_bytes)}[/] ({found.weights_bytes:,} bytes), "
                              f"{smaller_than(found.full_bytes, found.weights_bytes)}"),
            ("Other files", f"{size(found.sidecar_bytes)} in {count(len(found.sidecars), 'file')} that differ from the base's"
             if found.sidecars else "none that differ from the base's"),
            ("Time", f"about {duration(cost.seconds)} on {device}" + (
                f", of it {duration(cost.block_seconds)} to fit each of {count(s.blocks, 'block')}" if s.blocks else "")),
            ("Memory", f"about {size(cost.memory_bytes)} at most, {size(free_memory(device))} free"),
            ("Disk", f"about {size(cost.disk_bytes)} while working")]))
        if ahead is not None:
            out.print(curve_table(ahead))
        for message in (*([short] if short else []), *found.warnings):
            out.print(f"[yellow]Note:[/] {escape(message)}")
        given = f"{request.base} {request.fine_tuned} -o DELTA{given_options(request)}"
        out.print(f"\nNext: [cyan]{escape(program())} compress {escape(given)}[/]", soft_wrap=True)
    terminal.result(value, show)


def given_options(request: Request) -> str:
    """The options of a request that are not the default ones, as one types them: ` --samples 8`."""
    from core.request import Request as Struct

    usual = Struct(base="", fine_tuned="", output="")
    names = ("recipe", "axis", "embeddings", "samples", "tune_samples", "sequence_length", "device",
             "budget", "quality")
    return "".join(f" --{name.replace('_', '-')} {getattr(request, name)}" for name in names
                   if getattr(request, name) != getattr(usual, name))


# ----------------------------------------------------------------------------------------------- compress
def compress(terminal: Terminal, request_options: dict[str, Any], events: Path | None) -> None:
    """Make a delta."""
    prepare(terminal)
    from core.request import Request

    options = {**request_options, "base": place(request_options["base"]), "fine_tuned": place(request_options["fine_tuned"]),
               "output": str(Path(request_options["output"]).expanduser().absolute()),
               "calibration": calibration_place(request_options["calibration"])}
    _run(terminal, Request(**options), events)


def resume(terminal: Terminal, folder: Path, events: Path | None) -> None:
    """Go on with an interrupted job."""
    found = read_request(folder.expanduser().absolute())
    prepare(terminal)
    import msgspec

    from core.errors import JobMismatch
    from core.request import Request

    try:
        request = msgspec.convert(found, Request)
    except msgspec.ValidationError as e:
        raise JobMismatch(f"The request in '{folder}' can't be read.", f"{e}.",
                          f"Delete '{folder}' and run deltadeck compress again.") from e
    _run(terminal, request, events)


def _run(terminal: Terminal, request: Request, events: Path | None) -> None:
    with showing(terminal) as display:
        result = run_job(terminal, display, request, events)
    terminal.result(summary(result), lambda out: show_summary(out, result, request.base, request.fine_tuned))


def summary(result: Result) -> dict[str, Any]:
    """A finished job as plain data."""
    config = result.delta.config
    return {"folder": str(result.folder), "weights_bytes": result.delta.weights_bytes, "planned_bytes": result.plan.weights_bytes,
            "folder_bytes": sum(e.bytes for e in config.files.values()), "full_bytes": result.plan.full_bytes,
            "ratio": result.plan.full_bytes / max(1, result.delta.weights_bytes), "seconds": result.seconds,
            "recovery": recovery(config.fidelity), "fidelity": {k: v for k, v in config.fidelity.items() if k != "training"},
            "method": config.method, "calibration": config.calibration, "warnings": list(config.warnings),
            "kinds": [asdict(k) for k in tables.by_kind(config.tensors)]}


def recovery(fidelity: dict[str, Any]) -> float | None:
    """1 - loss(variant) / loss(base) of a delta's own figures."""
    base, variant = fidelity.get("base"), fidelity.get("variant")
    if not isinstance(base, int | float) or not isinstance(variant, int | float):
        return None
    return 1 - variant / base if base > 0 else 1.0


def fidelity_line(fidelity: dict[str, Any]) -> str:
    """A delta's own figures in a line."""
    found = recovery(fidelity)
    if found is None:
        return "not measured"
    unit = "KL" if fidelity.get("objective") == "kl" else "logit error"
    return (f"[bold]{percent(found, 2)}[/] of the change ({unit} {fidelity['base']:.4g} -> {fidelity['variant']:.4g}, "
            f"{fidelity.get('kept')} scales, {fidelity.get('tokens', 0):,} held-out tokens)")


def show_summary(out: Console, result: Result, base: str, tuned: str) -> None:
    """The end of a job on screen."""
    config = result.delta.config
    here = short_path(result.folder)
    axes: dict[str, int] = {}
    for kind in tables.by_kind(config.tensors):
        for axis, n in kind.axes.items():
            axes[axis] = axes.get(axis, 0) + n
    rows = [("Delta", f"[bold]{escape(here)}[/]"),
            ("Weights", f"[bold]{size(result.delta.weights_bytes)}[/], "
                        f"{smaller_than(result.plan.full_bytes, result.delta.weights_bytes)}"),
            ("Recovery", fidelity_line(config.fidelity))]
    if axes:
        rows.append(("Axes", tables.counts(axes, tables.AXIS_WORDS)))
    rows.append(("Time", duration(result.seconds)))
    if config.warnings:
        rows.append(("Notes", f"{count(len(config.warnings), 'note')}, kept in README.md"))
    out.print(Panel(tables.facts(rows), title="Done", title_align="left", border_style="green", expand=False))
    base, tuned = short_path(Path(base)), short_path(Path(tuned))
    show_next(out, f"evaluate {here} --base {base} --fine-tuned {tuned}", f"export {here} --base {base} -o FOLDER")


def show_next(out: Console, *commands: str) -> None:
    """What one might do now, to be typed as it stands."""
    for i, command in enumerate(commands):
        out.print(f"{'      ' if i else 'Next: '}[cyan]{escape(f'{program()} {command}')}[/]", soft_wrap=True)


# ------------------------------------------------------------------------------------- inspect and verify
def inspect(terminal: Terminal, folder: Path, kind: str | None) -> None:
    """Show what a delta holds."""
    from core.artifact import open_delta
    from core.errors import BadOption

    delta = open_delta(folder)
    config = delta.config
    records = [r for r in config.tensors if kind in (None, r.kind)]
    if kind is not None and not records:
        known = ", ".join(k.kind for k in tables.by_kind(config.tensors))
        raise BadOption(f"There are no layers of kind '{kind}'.", "", f"Choose one of: {known}.")
    kinds, rows = tables.by_kind(records), tables.axis_map(records)
    full = sum(map(tables.full_size, config.tensors))
    value = {
        "folder": str(folder), "base": config.base.name, "fine_tuned": config.fine_tuned,
        "architecture": config.base.architecture,
        "format_version": config.format_version, "tool_version": config.tool_version, "weights_bytes": delta.weights_bytes,
        "full_bytes": full, "ratio": full / max(1, delta.weights_bytes), "files": {n: e.bytes for n, e in config.files.items()},
        "method": config.method, "calibration": config.calibration, "fidelity": config.fidelity,
        "recovery": recovery(config.fidelity),
        "warnings": list(config.warnings), "kinds": [asdict(k) for k in kinds], "axis_map": rows,
        "tensors": [{"name": r.name, "kind": r.kind, "block": r.block, "codec": r.codec, "axes": [s.axis for s in r.slices],
                     "shape": r.shape, "dtype": r.dtype, "bytes": tables.record_size(r), "full_bytes": tables.full_size(r),
                     "change": r.change, "unchanged": r.unchanged, "rank": r.rank, "count": r.count, "planes": r.planes,
                     "losses": [{"axis": x.axis, "guess": x.guess, "training": x.training, "held_out": x.held_out}
                                for x in r.losses],
                     "recovery": tables.record_recovery(r), "note": r.note} for r in records]}

    def show(out: Console) -> None:
        out.print(tables.tensors_table(records, out.width))
        out.print(tables.kinds_table(kinds, out.width, planned=False))
        if len(rows) > 1:
            out.print(tables.axis_map_table(rows))
            out.print(f"{tables.legend(rows)}\n", style="dim")
        out.print(tables.facts([
            ("Delta", f"[bold]{shown(config.fine_tuned)}[/] on {shown(config.base.name)} ({shown(config.base.architecture)})"),
            ("Weights", f"[bold]{size(delta.weights_bytes)}[/], {smaller_than(full, delta.weights_bytes)}"),
            ("Recovery", fidelity_line(config.fidelity)),
            ("Method", shown(listed(config.method))),
            ("Calibration", shown(listed({k: v for k, v in config.calibration.items() if k != "sha256"})))]))
        for message in config.warnings:
            out.print(f"[yellow]Note:[/] {shown(message)}")
    terminal.result(value, show)


def verify(terminal: Terminal, folder: Path, base: str | None) -> None:
    """Read every byte of a delta, and of the base tensors it needs."""
    from core.artifact import check_base, open_delta, verify_files
    from core.checkpoint import open_checkpoint
    from core.errors import DeltaCorrupt, WrongBase

    files: list[dict[str, str]] = []
    problems: list[str] = []
    checked: bool | None = None
    with showing(terminal) as display, ExitStack() as stack:
        opened = stack.enter_context(open_checkpoint(base)) if base is not None else None
        try:
            delta = open_delta(folder)
            display.stage("Verifying", len(delta.config.files) + 1, "files")
            for name, problem in verify_files(delta):
                files.append({"file": name, "problem": problem})
                if problem:
                    problems.append(f"{name} {problem}.")
                display.advance(len(files))
            if opened is not None:
                display.stage("Base", len(delta.records), "tensors")
                for i, record in enumerate(delta.records.values()):
                    display.advance(i)
                    if record.base and record.base in opened.tensors:
                        opened.sha256(record.base)      # kept by the checkpoint, for the check below
                check_base(delta, opened)
                checked = True
        except DeltaCorrupt as e:
            problems.append(str(e))
        except WrongBase as e:
            problems.append(str(e))
            checked = False
    value = {"ok": not problems, "folder": str(folder), "files": files, "base": {"source": base, "ok": checked},
             "problems": problems}

    def show(out: Console) -> None:
        if problems:
            out.print(f"[bold red]{count(len(problems), 'problem')} in {escape(str(folder))}[/]")
            for problem in problems:
                out.print(f"  - {escape(problem)}")
            return
        out.print(f"[bold green]Every byte is as it was written[/] in {count(len(files), 'file')} of {escape(str(folder))}.",
                  soft_wrap=True)
        out.print(f"The base '{escape(base)}' is the one it was made for." if base is not None
                  else "Give --base BASE to check that it goes with a base too.", style="" if base is not None else "dim")
    terminal.result(value, show)
    if problems:
        if terminal.as_json:
            for problem in problems:
                terminal.say(f"[bold red]Error:[/] {escape(problem)}")
        raise Failed


# --------------------------------------------------------------------------------- export, evaluate, bench
def export(terminal: Terminal, folder: Path, base: str, output: Path) -> None:
    """Write the variant as a checkpoint."""
    from core.artifact import open_delta
    from core.checkpoint import open_checkpoint
    from core.export import export_checkpoint

    delta = open_delta(folder)
    with showing(terminal) as display, open_checkpoint(base) as opened:
        display.stage("Exporting", sum(map(tables.full_size, delta.records.values())), "bytes")
        made = export_checkpoint(delta, opened, output, progress=display.counter)

    def show(out: Console) -> None:
        out.print(f"[bold green]Done.[/] {size(made.bytes)} in {count(len(made.files), 'file')}: [bold]{escape(str(output))}[/]")
        out.print(f"Next: [cyan]AutoModelForCausalLM.from_pretrained({str(output)!r})[/]", soft_wrap=True)
    terminal.result({"folder": str(output), "files": list(made.files), "weights_bytes": made.weights_bytes,
                     "bytes": made.bytes}, show)


def bench(terminal: Terminal, folder: Path, base: str, tuned: str, repeats: int) -> None:
    """Time loading."""
    prepare(terminal)
    from core.checkpoint import open_checkpoint
    from core.loadtime import measure_load_times

    with showing(terminal) as display, open_checkpoint(base) as zero, open_checkpoint(tuned) as target:
        display.stage("Timing", 1, "runs")
        times = measure_load_times(folder, zero, target, repeats=repeats, progress=display.counter)
    # Where a "cold" run was no slower, its pages were cached all the same, out of the system's sight.
    cold = {way: t for way, t in times.cold.items() if t.median > times.warm[way].median}
    ratios = {kind: found["full"].median / found["switch"].median
              for kind, found in (("warm", times.warm), ("cold", cold)) if "full" in found and "switch" in found}
    value = {**asdict(times), "cold": {way: asdict(t) for way, t in cold.items()}, "repeats": repeats, "ratio": ratios}

    def show(out: Console) -> None:
        out.print(tables.times_table(value))
        out.print(f"Median of {count(repeats, 'run')}. The fine-tune's weights are {size(times.full_bytes)}, the delta's "
                  f"{size(times.delta_bytes)}; a switch writes {times.written} of {count(times.tensors, 'tensor')} into the "
                  "model in place.")
        out.print("Warm: files in the page cache. Cold: their pages dropped before each run (for a switch the delta's only, "
                  "since the base is in use).", style="dim")
        if len(cold) < len(times.cold):
            out.print("Left out: cold runs that were no slower than warm ones, so the files were cached all the same.",
                      style="dim")
        if times.note:
            out.print(f"[yellow]Note:[/] {escape(times.note)}")
        for kind, ratio in ratios.items():
            out.print(f"Switching to the delta is [bold]{tables.speed(ratio)}[/] loading the whole fine-tune ({kind}).")
        show_next(out, f"export {folder} --base {base} -o FOLDER")
    terminal.result(value, show)

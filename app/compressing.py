"""Run a compression job from the command line: events to the display and to a file, an interrupted one picked up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.markup import escape

from app.console import Terminal
from app.forecasting import forecasts_folder
from app.progress import SHARE, Display
from app.words import program
from core.errors import BadOption, Cancelled, JobMismatch, NotADelta
from core.events import (
    AnyEvent,
    LayerFitted,
    LayerStarted,
    Progress,
    StageStarted,
    TunePoint,
    Warned,
    Written,
    as_dict,
)

_UNITS = {"plan": "tensors", "prepare": "tensors", "fit": "blocks", "tune": "steps", "write": "bytes"}
_NAMES = {"plan": "Planning", "prepare": "Preparing", "fit": "Fitting", "tune": "Tuning", "write": "Writing"}
_BEFORE_TUNING = 4
"""Measurements that a job counts before its first step of tuning."""
_WORDS = ("auto", "default", "c4")


def place(text: str) -> str:
    """A checkpoint as a job keeps it: local folders by their full path, so that a job can be resumed from anywhere."""
    path = Path(text).expanduser()
    return str(path.absolute()) if path.exists() else text


def calibration_place(text: str) -> str:
    """A calibration source as a job keeps it."""
    return text if text in _WORDS or text.startswith("hub:") else place(text)


def job_folder(output: Path) -> Path:
    """Where the job of an output keeps its steps."""
    return output.with_name(output.name + ".job")


def blocks_done(folder: Path) -> int:
    """How many blocks an interrupted job has finished."""
    return len(list(folder.glob("block-*-done.step")))


def read_request(folder: Path) -> dict[str, Any]:
    """The request in a job folder. Raises `BadOption` or `NotADelta` for no job folder, `JobMismatch` for a damaged one."""
    path = folder / "job.json"
    if not folder.is_dir():
        raise BadOption(f"There is no folder '{folder}'.", "A job that has finished removes its folder.",
                        "Give the folder NAME.job beside the delta that was being made.")
    if not path.is_file():
        if (folder / "delta_config.json").is_file():
            raise NotADelta(f"'{folder}' is a finished delta, not a job.", "", f"See it with: {program()} inspect {folder}")
        raise BadOption(f"'{folder}' is no job folder.", "There is no job.json in it.",
                        "Give the folder NAME.job beside the delta that was being made.")
    if not folder.name.endswith(".job"):
        raise BadOption(f"'{folder}' is not named after its delta.", "A job's folder is called NAME.job, its delta NAME.",
                        "Give the folder its name back.")
    try:
        request = json.loads(path.read_text(encoding="utf-8"))["full_request"]
        if not isinstance(request, dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise JobMismatch(f"'{path}' can't be read.", "It was damaged or changed.",
                          f"Delete '{folder}' and run deltadeck compress again.") from e
    # The folder may have moved since, and its delta goes beside it.
    return {**request, "output": str(folder.with_name(folder.name.removesuffix(".job")))}


@contextmanager
def _events_file(path: Path | None) -> Iterator[Callable[[AnyEvent], None]]:
    """Append each event to a file as one line of JSON, flushed; nothing without a path."""
    if path is None:
        yield lambda event: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        def write(event: AnyEvent) -> None:
            _write_line(file, event)
        yield write


def _write_line(file: IO[str], event: AnyEvent) -> None:
    file.write(json.dumps(as_dict(event), ensure_ascii=False) + "\n")
    file.flush()


class Listener:
    """Turns a job's events into what the display shows, and keeps what a summary needs."""

    def __init__(self, display: Display, folder: Path) -> None:
        self.display = display
        self.resuming = (folder / "job.json").is_file()
        self.blocks_before = blocks_done(folder)
        self.blocks = 0
        self.axes: Counter[str] = Counter()

    def __call__(self, event: AnyEvent) -> None:
        """Show one event."""
        show = self.display
        if isinstance(event, StageStarted):
            show.stage(_NAMES.get(event.stage, event.stage.capitalize()), event.total, _UNITS.get(event.stage, "steps"))
            if event.stage == "prepare" and self.resuming and not self.blocks_before:
                show.say("[cyan]Resuming:[/] this job was interrupted before its first block was done.")
            if event.stage == "fit":
                self.blocks = event.total
                if self.blocks_before:
                    show.say(f"[cyan]Resuming:[/] {self.blocks_before} of {event.total} blocks are done.")
        elif isinstance(event, Progress):
            whole = event.fraction if event.stage != "plan" else None
            tuning = event.stage == "tune"
            if event.stage == "prepare":
                # Before tensors are prepared, the curve is predicted: a share, of 1.
                show.count_in(SHARE if event.total == 1 else _UNITS["prepare"])
            show.advance(max(0.0, event.done - _BEFORE_TUNING) if tuning else event.done, None if tuning else event.total,
                         fraction=whole, seconds_left=event.seconds_left, check=False)
        elif isinstance(event, LayerStarted):
            show.note = f"{event.tensor}  ({event.index + 1} of {event.total})"
        elif isinstance(event, LayerFitted):
            self.axes.update(event.axes)
            if event.recovery is not None:
                show.note = f"{event.tensor}: {', '.join(event.axes) or event.codec}, recovery {event.recovery:.3f}"
        elif isinstance(event, TunePoint):
            loss = event.held_out if event.held_out is not None else event.training
            kind = "held-out" if event.held_out is not None else "training"
            if loss is not None:
                show.note = f"step {event.step} of {event.total}, {kind} loss {loss:.6g}"
        elif isinstance(event, Written):
            show.advance(event.bytes, event.total, fraction=1 - 0.02 * (1 - event.bytes / max(1, event.total)), check=False)
        elif isinstance(event, Warned):
            show.say(f"[yellow]Note:[/] {escape(event.message)}")


def run_job(terminal: Terminal, display: Display, request: Any, events: Path | None = None) -> Any:
    """Run a `core.job.Request`; returns its Result. A cancelled job says what is kept and how to go on."""
    from core.job import Job

    folder = job_folder(Path(request.output))
    listener = Listener(display, folder)
    terminal.stop_words = "Stopping after this step, finished layers are kept. Press Ctrl-C again to end at once."
    with _events_file(events) as record:
        def tell(event: AnyEvent) -> None:
            record(event)
            listener(event)
        try:
            return Job(request, tell, terminal.wants_stop, forecasts_folder()).run()
        except Cancelled as e:
            done, of = blocks_done(folder), listener.blocks
            if not folder.is_dir():
                raise Cancelled("Nothing was written.") from e
            raise Cancelled(f"{done} of {of} blocks are done." if of else "No block was done yet.",
                            f"What is finished is kept in '{folder}'.",
                            f"To go on, run the same command again, or: {program()} resume {folder}") from e

"""`deltadeck fleet`: many fine-tunes of one base as one batch, with a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.commands import prepare
from app.compressing import calibration_place, place
from app.console import Failed, Terminal, to_json
from app.forecasting import forecasts_folder
from app.progress import Display, showing
from app.tables import shown
from app.words import count, duration, percent, short_path, size, smaller_than
from core.errors import BadOption, Cancelled
from core.events import AnyEvent, LayerFitted, Progress, StageStarted, TunePoint, Warned, as_dict

if TYPE_CHECKING:
    from core.fleet import Engine, Member, Outcome

_STATES = {"done": "[green]done[/]", "kept": "[green]done before[/]", "failed": "[bold red]failed[/]",
           "stopped": "[yellow]stopped[/]", "waiting": "[dim]not begun[/]"}
_SETTLED = 0.01
"""Share of the batch from which on its pace says something about its end."""


def fleet(terminal: Terminal, base: str, fine_tunes: Sequence[str], folder: Path, options: dict[str, Any], on: str,
          workers: int | None, events: Path | None) -> None:
    """Make a delta of each fine-tune. Exit code 1 if any failed; the others are done all the same."""
    if on not in ("local", "ray") and not on.startswith("ray://"):
        raise BadOption(f"There is no engine '{on}'.", "", "Choose local, ray or ray://HOST:PORT.")
    prepare(terminal)
    import torch

    from core.fleet import members_of, run_fleet

    folder = folder.expanduser().absolute()
    options = {**options, "calibration": calibration_place(options["calibration"])}
    members = members_of(place(base), [place(f) for f in fine_tunes], folder, options, torch.get_num_threads())
    terminal.stop_words = "Stopping after this step, what is done is kept. Press Ctrl-C again to end at once."
    began = time.monotonic()
    with _engine(on, members, options["device"], workers) as engine, showing(terminal) as display, \
            Board(display, members, events) as board:
        outcomes = run_fleet(members, engine, board.tell, terminal.wants_stop, board.told)
    seconds = time.monotonic() - began
    if any(o.state in ("stopped", "waiting") for o in outcomes):
        if not terminal.as_json:
            _show(terminal.err, outcomes, seconds)
        done = sum(o.state in ("done", "kept") for o in outcomes)
        raise Cancelled(f"{done} of {count(len(outcomes), 'delta')} are done.", f"What is finished is kept in '{folder}'.",
                        "To go on, run the same command again.")
    terminal.result(summary(folder, on, outcomes, seconds), lambda out: _show(out, outcomes, seconds))
    if any(o.state == "failed" for o in outcomes):
        raise Failed


@contextmanager
def _engine(on: str, members: Sequence[Member], device: str, workers: int | None) -> Iterator[Engine]:
    if on == "local":
        from core.fleet_local import local_engine, plan_slots

        yield local_engine(plan_slots(device, workers, members[0].threads), forecasts_folder())
        return
    from app import fleet_ray

    fleet_ray.check_shared(members)
    with fleet_ray.connected(on) as ray:
        needs = fleet_ray.plan_needs(fleet_ray.node_resources(ray), device, workers, fleet_ray.asked_threads())
        yield fleet_ray.ray_engine(ray, needs)


class Board:
    """What a batch tells while it runs: how far all of it is, who works on what, each outcome as it comes."""

    def __init__(self, display: Display, members: Sequence[Member], events: Path | None) -> None:
        self.display, self.total = display, len(members)
        self.fractions: dict[str, float] = {}
        self.working: dict[str, str] = {}
        """What each running job is at, the latest last."""
        self.settled = 0
        self.skipped = 0
        self.began: float | None = None
        self.file = None
        if events is not None:
            events.parent.mkdir(parents=True, exist_ok=True)
            self.file = events.open("a", encoding="utf-8")
        display.stage("Fleet", self.total, "deltas")

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *ending: object) -> None:
        if self.file is not None:
            self.file.close()

    def tell(self, name: str, event: AnyEvent) -> None:
        """Show and keep one event of the job of that name."""
        self._write({"job": name, **as_dict(event)})
        if self.began is None:
            self.began, self.skipped = time.monotonic(), self.settled
        if isinstance(event, StageStarted):
            self._note(name, event.stage)
        elif isinstance(event, Progress):
            self.fractions[name] = event.fraction
            self._advance()
        elif isinstance(event, LayerFitted):
            self._note(name, f"{event.tensor} ({event.index + 1} of {event.total})")
        elif isinstance(event, TunePoint):
            self._note(name, f"tuning, step {event.step} of {event.total}")
        elif isinstance(event, Warned):
            self.display.say(f"[yellow]Note:[/] {escape(name)}: {escape(event.message)}")

    def told(self, outcome: Outcome) -> None:
        """Say how a job ended."""
        self._write({"job": outcome.name, "event": "outcome", **value(outcome)})
        self.settled += 1
        self.fractions.pop(outcome.name, None)
        self.working.pop(outcome.name, None)
        name = escape(outcome.name)
        if outcome.problem is not None:
            problem = outcome.problem
            self.display.say(f"[bold red]{name} failed:[/] {escape(' '.join(x for x in (problem.what, problem.why) if x))}")
            if problem.remedy:
                self.display.say(f"  [cyan]{escape(problem.remedy)}[/]")
        elif outcome.state in ("done", "kept"):
            self.display.say(f"{name}: {_STATES[outcome.state]}, {size(outcome.weights_bytes)}")
        self._advance()

    def _write(self, line: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.write(to_json(line) + "\n")
            self.file.flush()

    def _note(self, name: str, text: str) -> None:
        self.working.pop(name, None)
        self.working[name] = text
        if not self.display.terminal.stopping:
            self.display.note = "   ".join(f"{n}: {t}" for n, t in reversed(self.working.items()))

    def _advance(self) -> None:
        whole = min(1.0, (self.settled + sum(self.fractions.values())) / max(1, self.total))
        before = self.skipped / max(1, self.total)
        left = None
        if self.began is not None and whole - before > _SETTLED:
            left = (time.monotonic() - self.began) * (1 - whole) / (whole - before)
        self.display.advance(self.settled, fraction=whole, seconds_left=left, check=False)


def value(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain data."""
    found: dict[str, Any] = msgspec.to_builtins(outcome)
    return {**found, "recovery": outcome.recovery}


def summary(folder: Path, on: str, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """A batch as plain data."""
    return {"folder": str(folder), "engine": on, "seconds": seconds,
            "counts": {state: sum(o.state == state for o in outcomes) for state in _STATES},
            "jobs": [value(o) for o in outcomes]}


def _show(out: Console, outcomes: Sequence[Outcome], seconds: float) -> None:
    objective = next((o.fidelity.get("objective") for o in outcomes if o.fidelity), "kl")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "size", "smaller", "KL" if objective == "kl" else "logit error", "recovery", "time", "state"):
        table.add_column(heading, justify="left" if heading in ("name", "state") else "right", overflow="fold")
    for o in outcomes:
        kept, loss = o.state in ("done", "kept"), o.fidelity.get("variant")
        table.add_row(shown(o.name), size(o.weights_bytes) if kept else "",
                      f"{o.full_bytes / o.weights_bytes:,.1f} x" if kept and o.weights_bytes else "",
                      f"{loss:.4g}" if isinstance(loss, int | float) else "",
                      percent(o.recovery, 2) if o.recovery is not None else "",
                      duration(o.seconds) if o.seconds else "",
                      _STATES[o.state])
    out.print(table)
    for o in outcomes:
        if o.problem is not None:
            out.print(f"[bold red]{shown(o.name)} failed:[/] {shown(o.problem.what)}", soft_wrap=True)
    done = [o for o in outcomes if o.state in ("done", "kept")]
    if done:
        total, full = sum(o.weights_bytes for o in done), sum(o.full_bytes for o in done)
        where = short_path(Path(done[0].folder).parent)
        out.print(f"{count(len(done), 'delta')} in [bold]{escape(where)}[/], {size(total)} together, "
                  f"{smaller_than(full, total)}, in {duration(seconds)}", soft_wrap=True)

"""What a running command shows on stderr: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.console import Terminal
from app.words import duration, size

PLAIN_EVERY = 10.0
"""Seconds between two plain lines of one stage."""

_ROOMY = 110
"""Columns from which on the pace and a long bar fit."""

_SETTLED = 0.02
"""Share of a stage from which on its own pace says something about its end."""


SHARE = "share"
"""The unit of what is told as a share of 1, in percent of a prediction."""


@dataclass(frozen=True)
class Standing:
    """How far a stage is. `fraction` and `seconds_left` are of the whole job where that is known, else of the stage."""

    stage: str
    done: float
    total: int
    unit: str
    fraction: float
    seconds_left: float | None
    elapsed: float
    rate: float | None
    """Units per second in this stage."""


def standing(stage: str, done: float, total: int, unit: str, stage_seconds: float, elapsed: float, *, began_at: float = 0,
             fraction: float | None = None, seconds_left: float | None = None) -> Standing:
    """Work out rate and time left; `began_at` is what was done already when the stage began in this process."""
    worked = done - began_at
    rate = worked / stage_seconds if worked > 0 and stage_seconds > 0 else None
    if fraction is None:
        fraction = min(1.0, done / total) if total else 0.0
        if rate and worked >= _SETTLED * total:
            seconds_left = max(0.0, (total - done) / rate)
    return Standing(stage, done, total, unit, fraction, seconds_left, elapsed, rate)


def pace(s: Standing) -> str:
    """`0.8 blocks/s`, or `4.2 s/block` where that reads better; empty while unknown."""
    if s.rate is None or s.unit == SHARE:
        return ""
    if s.unit == "bytes":
        return f"{size(s.rate)}/s"
    return f"{s.rate:.1f} {s.unit}/s" if s.rate >= 1 else f"{1 / s.rate:.1f} s/{s.unit.removesuffix('s')}"


def amount(s: Standing) -> str:
    """`13/30 blocks`, `predicting 71 %`."""
    if s.unit == "bytes":
        return f"{size(s.done)} of {size(s.total)}" if s.total else size(s.done)
    if s.unit == SHARE:
        return f"predicting {int(100 * min(1.0, s.done) + 1e-6)} %"
    return f"{int(s.done)}/{s.total} {s.unit}" if s.total else ""


def plain_line(s: Standing) -> str:
    """One line for a log."""
    left = f"about {duration(s.seconds_left)} left" if s.seconds_left is not None else ""
    return ", ".join(p for p in (f"{s.stage:<10} {100 * s.fraction:3.0f} %", amount(s), pace(s), left) if p)


class Display:
    """Shows stages as they go. Ask for one by `showing`; `advance` raises `Cancelled` once the user wants a stop."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.began = self.stage_began = time.monotonic()
        self.now: Standing | None = None
        self.note = ""
        self.part = ""
        """Put before the names of stages, where a command has several parts: `2/3`."""
        self._unit, self._began_at = "", 0.0
        self._told = float("-inf")
        self._live: Live | None = None

    def stage(self, name: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units."""
        self.stage_began = time.monotonic()
        self._unit, self._began_at, self.note = unit, -1.0, ""
        self._told = float("-inf")
        self.now = standing(f"{self.part} {name}".strip(), 0, total, unit, 0, self.stage_began - self.began)

    def advance(self, done: float, total: int | None = None, *, fraction: float | None = None,
                seconds_left: float | None = None, check: bool = True) -> None:
        """`done` units of the current stage are done."""
        if check:
            self.terminal.check()
        if self.now is None:
            return
        time_now = time.monotonic()
        if self._began_at < 0:
            self._began_at, self.stage_began = done, time_now
        self.now = standing(self.now.stage, done, self.now.total if total is None else total, self._unit,
                            time_now - self.stage_began, time_now - self.began, began_at=self._began_at, fraction=fraction,
                            seconds_left=seconds_left)
        if self._live is None and time_now - self._told >= PLAIN_EVERY:
            self._told = time_now
            self.terminal.say(escape(plain_line(self.now)))

    def count_in(self, unit: str) -> None:
        """From now on the stage counts in another unit."""
        if unit != self._unit:
            self._unit, self._began_at = unit, -1.0

    def counter(self, done: int, total: int) -> None:
        """`advance` in the form in which the engine's functions call their `progress`."""
        self.advance(done, total)

    def say(self, text: str) -> None:
        """A line above the bar. May hold rich markup."""
        self.terminal.say(text)

    def stopped(self) -> None:
        """Show that a stop was asked for."""
        self.note = self.terminal.stop_words

    def __rich__(self) -> Group:
        if self.now is None:
            return Group()
        s = self.now
        roomy = self.terminal.err.width >= _ROOMY
        cells: list[Text | ProgressBar] = [
            Text(f"{s.stage:<10}", style="bold"), ProgressBar(total=1, completed=s.fraction, width=28 if roomy else 12),
            Text(f"{100 * s.fraction:3.0f} %"), Text(amount(s)), *([Text(pace(s), style="dim")] if roomy else []),
            Text(_clock(time.monotonic() - self.began), style="dim"),
            Text(f"{_clock(s.seconds_left)} left" if s.seconds_left is not None else "", style="cyan")]
        table = Table.grid(padding=(0, 2))
        for _ in cells:
            table.add_column(no_wrap=True)
        table.add_row(*cells)
        # What Ctrl-C does next must be read to its end; a layer's note need not.
        stopping = self.terminal.stopping
        return Group(table, Text(f"  {self.note}", style="yellow" if stopping else "dim", no_wrap=not stopping,
                                 overflow="fold" if stopping else "ellipsis"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@contextmanager
def showing(terminal: Terminal) -> Iterator[Display]:
    """A display for the length of a command; a live one is wiped off at its end."""
    display = Display(terminal)
    if not terminal.live:
        yield display
        return
    announce: Callable[[], None] | None = terminal.announce
    terminal.announce = display.stopped
    live = Live(display, console=terminal.err, refresh_per_second=10, transient=True, redirect_stdout=False,
                redirect_stderr=False)
    display._live = live
    try:
        with live:
            yield display
    finally:
        terminal.announce = announce

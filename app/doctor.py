"""`deltadeck doctor` and the window's self-check: the engine's examination, and what the window needs beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.control import Control
from rich.segment import ControlType

from app.display import has_display
from app.paths import data_folder
from app.system_libraries import install_line, missing_libraries, this_system
from core.doctor import Finding, Report, examine

if TYPE_CHECKING:
    from rich.console import Console

    from app.console import Terminal

_MARKS = {"fine": ("green", "ok"), "note": ("yellow", "note"), "broken": ("bold red", "BROKEN")}


def check_up(data: Path, tell: Callable[[str], object] | None = None) -> Report:
    """Everything, as findings. Takes some seconds, and loads neither torch nor Qt into this process."""
    if tell is not None:
        tell("loading Qt")
    return examine(data, tell, tuple(window_findings()))


def window_findings() -> list[Finding]:
    """Whether Qt loads here, and the system's libraries that it lacks."""
    missing = missing_libraries()
    found = []
    # Without a screen, what only a screen needs is worth a note.
    broken = missing if has_screen() else [name for name in missing if not is_for_screens(name)]
    if missing:
        found.append(Finding("window", "system libraries", "broken" if broken else "note",
                             f"Missing: {', '.join(missing)}." + ("" if broken else " Commands work without them, a window does "
                                                                  "not."),
                             install_line(missing, this_system(), is_root=hasattr(os, "geteuid") and os.geteuid() == 0)))
    else:
        found.append(Finding("window", "system libraries", "fine", "All that Qt's window needs is here."))
    problem = _qt_problem()
    found.append(Finding("window", "Qt", "broken" if problem else "fine", problem or "It loads.",
                         "" if not problem else "See the line above." if missing else "Install a font, for example DejaVu."
                         if "font" in problem else "Install PySide6-Essentials and shiboken6 again."))
    if not has_display():
        found.append(Finding("window", "display", "note", "Neither DISPLAY nor WAYLAND_DISPLAY is set, so no window can open.",
                             "The commands work without one."))
    return found


def is_for_screens(name: str) -> bool:
    """Whether Qt needs a library on an X11 screen only."""
    return name.startswith(("libxcb", "libX11", "libxkbcommon-x11"))


def has_screen() -> bool:
    """Whether there is an X11 or Wayland screen, whatever platform Qt was told to take."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _qt_problem() -> str:
    """What keeps Qt from loading, found out by a process of its own: a failed start of Qt ends the process."""
    root = str(Path(__file__).resolve().parents[1])
    code = f"import sys; sys.path.append({root!r}); from app.display import problem; print(problem())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, errors="replace",
                              stdin=subprocess.DEVNULL, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"})
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"Qt could not be tried: {e}."
    if done.returncode == 0:
        return (done.stdout.strip().splitlines() or [""])[-1]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"Qt ended the process (code {done.returncode}): {lines[-1] if lines else ''}".strip()


def _anew() -> Control:
    """Goes back to the beginning of the line and clears it."""
    return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


def doctor(terminal: Terminal) -> None:
    """The command. Raises `Failed` if anything is broken."""
    from app.console import Failed

    data = data_folder()

    def tell(name: str) -> None:
        terminal.check()
        if terminal.live:
            terminal.err.control(_anew())
            terminal.err.print(name, end="", highlight=False, markup=False)
    report = check_up(data, tell)
    terminal.check()                                   # Ctrl-C ends the trial process too: that is no finding
    if terminal.live:
        terminal.err.control(_anew())
    terminal.result(report.as_json(), lambda console: show(console, report))
    if report.problems:
        raise Failed


def show(console: Console, report: Report) -> None:
    """The report for people: facts, then findings, each problem with what to do."""
    from rich.markup import escape

    for line in facts(report):
        console.print(escape(line), soft_wrap=True)
    group = ""
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            console.print(f"\n[bold]{escape(group.capitalize())}[/]")
        style, mark = _MARKS[finding.state]
        console.print(f"  [{style}]{mark:<6}[/] {escape(finding.name)}  [dim]{escape(finding.detail)}[/]", soft_wrap=True)
        if finding.remedy:
            console.print(f"         [cyan]{escape(finding.remedy)}[/]", soft_wrap=True)
    number = len(report.problems)
    console.print(f"\n[green]{summary(report)}[/]" if not number else f"\n[bold red]{summary(report)}[/]")


def summary(report: Report) -> str:
    """The outcome in one sentence."""
    from app.words import count

    number = len(report.problems)
    if number:
        return "One thing is broken." if number == 1 else f"{number} things are broken."
    checks = sum(f.group == "self-test" and f.state == "fine" for f in report.findings)
    return f"Everything works: {count(checks, 'check')} of kernels against the reference passed."


def facts(report: Report) -> list[str]:
    """Versions and the machine, a line each."""
    from app.words import size

    named = report.versions
    lines = ["  ".join(f"{name} {named[name]}" for name in ("deltadeck", "python", "torch", "transformers", "PySide6-Essentials",
                                                          "numba", "safetensors") if name in named)]
    machine = report.machine
    lines.append(f"{machine.get('system', '')}, {machine.get('cores', '?')} cores"
                 + (f", {size(machine['memory'])} of memory, {size(machine['memory_free'])} free" if "memory" in machine else "")
                 + (f", {size(machine['disk_free'])} free on disk" if "disk_free" in machine else ""))
    for device in machine.get("devices", ()):
        memory = f", {size(device['memory'])}" if "memory" in device else ""
        lines.append(f"{device['kind']}: {device['name']}{memory}  {' '.join(device['features'])}".rstrip())
    if took := machine.get("seconds"):
        lines.append(f"self-check: {took['libraries']:.1f} s to load libraries, {took['kernels']:.1f} s until kernels were "
                     f"ready, {took['checks']:.1f} s of checks")
    return lines

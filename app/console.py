"""Where a command's words go: results to stdout, everything else to stderr; how commands end.

With `--json` stdout holds exactly one JSON object, also when the command fails.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from app import logs
from app.words import printable
from core.errors import Cancelled, DeltadeckError, Refused

DONE, FAILED, REFUSED, CANCELLED = 0, 1, 2, 130
STOPPING = "Stopping after this step. Press Ctrl-C again to end at once."


class Failed(Exception):
    """A command has told all there is to tell and ends with exit code 1."""


class CleanConsole(Console):
    """A console on which no text can steer the terminal: what is printed holds names out of anybody's files."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As `Console.render`, without control characters in texts; rich's own controls are no texts."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield Segment(printable(segment.text), segment.style)
            else:
                yield segment


class Terminal:
    """The two consoles of one command, whether JSON was asked for, and whether the user wants it to stop."""

    def __init__(self, as_json: bool = False, debug: bool = False) -> None:
        self.out: Console = CleanConsole(highlight=False)
        self.err: Console = CleanConsole(stderr=True, highlight=False)
        self.as_json, self.debug = as_json, debug
        self.stopping = False
        self.stop_words = STOPPING
        self.announce: Callable[[], None] | None = None
        """Shows that a stop was asked for, where a live display would overwrite a plain line."""

    @property
    def live(self) -> bool:
        """Whether bars can be drawn: stderr is a terminal that can move its cursor."""
        return self.err.is_terminal and not self.err.is_dumb_terminal

    def say(self, text: str, style: str = "") -> None:
        """A line for the log. `text` may hold rich markup."""
        self.err.print(text, style=style or None, soft_wrap=True)

    def result(self, value: dict[str, Any], show: Callable[[Console], None]) -> None:
        """The command's outcome: `value` as JSON, or as `show` draws it."""
        if self.as_json:
            sys.stdout.write(to_json(value) + "\n")
            sys.stdout.flush()
        else:
            show(self.out)

    def wants_stop(self) -> bool:
        """Whether Ctrl-C was pressed; asked between steps."""
        return self.stopping

    def check(self) -> None:
        """Raise `Cancelled` if the user wants a stop."""
        if self.stopping:
            raise Cancelled("The command was cancelled.")

    def fail(self, kind: str, what: str, why: str = "", remedy: str = "") -> None:
        """Tell of an error, on stderr and with `--json` on stdout too."""
        colour = "yellow" if kind == "Cancelled" else "bold red"
        self.say(f"[{colour}]{'Stopped' if kind == 'Cancelled' else 'Error'}:[/] {escape(what)}")
        if why:
            self.say(f"  {escape(why)}", style="dim")
        if remedy:
            self.say(f"  [cyan]{escape(remedy)}[/]")
        if self.as_json:
            sys.stdout.write(to_json({"error": {"kind": kind, "what": what, "why": why, "remedy": remedy}}) + "\n")
            sys.stdout.flush()


def to_json(value: Any) -> str:
    """JSON that any reader takes: numbers that are not finite become null, characters that steer a terminal escapes."""
    def plain(x: Any) -> Any:
        if isinstance(x, float):
            return x if math.isfinite(x) else None
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [plain(v) for v in x]
        return str(x) if isinstance(x, Path) else x
    text = json.dumps(plain(value), ensure_ascii=False)
    return text if text.isprintable() else "".join(c if printable(c) else f"\\u{ord(c):04x}" for c in text)


@contextmanager
def stop_signals(terminal: Terminal) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks for a stop between steps, the second ends the process at once."""
    def handle(number: int, _: FrameType | None) -> None:
        if terminal.stopping:
            os._exit(CANCELLED)
        terminal.stopping = True
        if terminal.announce is not None:
            terminal.announce()
        else:
            os.write(2, f"\n{terminal.stop_words}\n".encode())      # printing from a handler could run into a print going on
    former = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            former[number] = signal.signal(number, handle)
        except ValueError:                              # not the main thread
            break
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def quiet_process() -> None:
    """Keep the libraries' own bars and notices off the screen; for a process of our own, before they are imported."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Threads that wait must not spin: beside any other busy process, spinning makes sums many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import logging
    import warnings

    logging.disable(logging.WARNING)
    if not sys.warnoptions:                             # -W asks to see them
        warnings.simplefilter("ignore")


def quiet_transformers() -> None:
    """Silence transformers' own logging and bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def run(terminal: Terminal, work: Callable[[], None]) -> int:
    """Carry a command out and turn whatever ends it into words and an exit code."""
    try:
        with stop_signals(terminal):
            work()
    except Failed:
        return FAILED
    except Cancelled as e:
        terminal.fail("Cancelled", e.what, e.why, e.remedy)
        return CANCELLED
    except DeltadeckError as e:
        logs.note(e, "a command failed")
        terminal.fail(type(e).__name__, e.what, e.why, e.remedy)
        _trace(terminal)
        return REFUSED if isinstance(e, Refused) else FAILED
    except KeyboardInterrupt:
        terminal.fail("Cancelled", "The command was cancelled.")
        return CANCELLED
    except BrokenPipeError:
        # Whoever read the output has gone (as `head` does): nothing is left to say, nor at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except OSError as e:
        logs.note(e, "a command failed")
        place = f"'{e.filename}': " if e.filename else ""
        terminal.fail("OSError", f"The system refused: {place}{e.strerror or e}.", "",
                      "Check the path, its permissions and free space.")
        _trace(terminal)
        return FAILED
    except Exception as e:
        logs.note(e, "a command failed")
        what = f"Something unexpected went wrong: {type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
        if terminal.debug:
            terminal.fail(type(e).__name__, what)
            _trace(terminal)
        else:
            kept = _keep_trace()
            terminal.fail(type(e).__name__, what, f"The full traceback is in {kept}." if kept else "",
                          "Please report it with that file; --debug shows it here.")
        return FAILED
    return DONE


def _trace(terminal: Terminal) -> None:
    if terminal.debug:
        sys.stderr.write(printable(traceback.format_exc()))


def _keep_trace() -> Path | None:
    """Write the current exception's traceback to the log folder, or the temporary one; None if neither can be written."""
    from platformdirs import user_log_path

    name = f"deltadeck-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (user_log_path("deltadeck"), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"deltadeck {' '.join(sys.argv[1:])}\n\n{traceback.format_exc()}", encoding="utf-8")
            return folder / name
        except OSError:
            continue
    return None

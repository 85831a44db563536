"""The program's log: warnings and errors with their tracebacks, in a few files of bounded size in the data folder.

No text of the user's gets into it. A traceback's frames are lines of code; what an exception *says* is kept only for kinds whose
words can't quote a prompt, an answer or a note, and of other libraries' records only the place is kept, where their
words can be looked up.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from core.errors import Cancelled, DeltadeckError, Refused

FOLDER = "logs"
LARGEST, KEPT = 1 << 20, 4
"""Bytes of one file, and how many older ones are kept beside it."""
_FRAMES, _LONGEST = 30, 400
"""Frames of one traceback, the innermost ones, and characters of one message."""
_OURS = ("deltadeck", "app", "core")
_SPEAKING = (MemoryError, ImportError, AttributeError, TypeError, IndexError, NameError, RuntimeError, ArithmeticError,
             AssertionError)
"""Kinds of exception whose words name types, sizes, modules and devices, not what the user wrote."""
_SEEN = "_deltadeck_logged"

log = logging.getLogger("deltadeck")


def words_of(error: BaseException) -> str:
    """`Kind: what it says`, or the kind and how much was left out where the words could quote the user's."""
    kind = type(error)
    name = kind.__name__ if kind.__module__ in ("builtins", "core.errors") else f"{kind.__module__}.{kind.__name__}"
    if isinstance(error, DeltadeckError):
        said = error.what                              # `why` may hold what a template or a library said
    elif isinstance(error, OSError) and error.strerror:
        said = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    elif isinstance(error, _SPEAKING):
        said = str(error)
    else:
        length = len(str(error))
        said = f"({length} characters left out)" if length else ""
    said = " ".join(said.split())
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
    return f"{name}: {said}" if said else name


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    """An exception and those it came from, the first one first, as Python prints them."""
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _lines(before, seen)
        yield "which led to:"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield from "".join(traceback.format_tb(error.__traceback__, -_FRAMES)).rstrip().splitlines()
    yield words_of(error)
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(part) not in seen:
            yield from (f"  | {line}" for line in _lines(part, seen))


class _Lines(logging.Formatter):
    """A record as lines: time in UTC, level, thread, what happened, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        ours = record.name.partition(".")[0] in _OURS
        said = record.getMessage() if ours else f"a message from {record.module}:{record.lineno}"
        head = f"{when} {record.levelname} {record.name} [{record.threadName}] {' '.join(said.split())[:_LONGEST]}"
        error = record.exc_info[1] if record.exc_info else None
        return "\n".join([head, *(f"    {line}" for line in _lines(error, set()))]) if error is not None else head


class _Files(RotatingFileHandler):
    """Files that nobody else can read, and that bring nothing down when they can't be written."""

    def _open(self):  # type: ignore[no-untyped-def]
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        stream = super()._open()
        with suppress(OSError):
            Path(self.baseFilename).chmod(0o600)
        return stream

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk or a folder that is gone is told elsewhere."""


def log_folder(data: Path) -> Path:
    """Where the logs are."""
    return data / FOLDER


def begin(data: Path, name: str) -> logging.Handler:
    """Write warnings and errors of the whole process to NAME.log in the data folder, made with the first. See `end`."""
    handler = _Files(log_folder(data) / f"{name}.log", maxBytes=LARGEST, backupCount=KEPT, encoding="utf-8", delay=True,
                     errors="backslashreplace")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Lines())
    logging.getLogger().addHandler(handler)
    return handler


def end(handler: logging.Handler) -> None:
    """Write no more."""
    logging.getLogger().removeHandler(handler)
    handler.close()


def note(error: BaseException, where: str = "") -> None:
    """Log an exception once, however many hands it goes through: a refusal as a warning, all else as an error.

    Costs next to nothing where nobody listens; what the user asked for (a cancel, Ctrl-C, an exit) is no error.
    """
    if isinstance(error, Cancelled | KeyboardInterrupt | SystemExit) or getattr(error, _SEEN, False):
        return
    with suppress(AttributeError, TypeError):          # a kind without room for more
        setattr(error, _SEEN, True)
    level = logging.WARNING if isinstance(error, Refused) else logging.ERROR
    # Straight to our own handlers: quiet commands switch warnings off for all loggers, and libraries' ones must stay off.
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Files):
            handler.handle(log.makeRecord(log.name, level, __file__, 0, "%s", (where or "failed",),
                                          (type(error), error, error.__traceback__)))


def versions() -> str:
    """What the first line of a report says."""
    import platform

    from core import __version__

    return f"deltadeck {__version__}, Python {platform.python_version()}, {sys.platform} {platform.machine()}"

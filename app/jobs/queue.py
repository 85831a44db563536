"""The items of the job queue, and the file that brings them back."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from app import logs
from app.jobs.files import finished_blocks, set_aside
from core.errors import BadOption, DeltadeckError

_VERSION = 1
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class State(StrEnum):
    """Where a job stands. `pausing` and `cancelling` wait for the step that is under way."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    INTERRUPTED = "interrupted"
    """The program was closed or died while it ran; it can be resumed."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    DONE = "done"


ON_WORKER = frozenset({State.RUNNING, State.PAUSING, State.CANCELLING})
RESUMABLE = frozenset({State.PAUSED, State.INTERRUPTED})
RETRIABLE = frozenset({State.FAILED, State.CANCELLED})
OPEN = frozenset({State.WAITING}) | ON_WORKER | RESUMABLE
"""Jobs that will, or may, still write their output."""
ENDED = RETRIABLE | {State.DONE}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed, as an error card shows it."""

    what: str
    why: str = ""
    remedy: str = ""
    details: str = ""
    """For a report: a traceback, or the three again."""
    kind: str = ""
    """The error's class name."""


class QueueItem(msgspec.Struct, frozen=True, kw_only=True):
    """One job. `request` holds the fields of `core.request.Request`; times are seconds since 1970."""

    id: str
    name: str
    request: dict[str, Any]
    state: State = State.WAITING
    created: float = 0.0
    began: float | None = None
    """When it first ran."""
    ended: float | None = None
    seconds: float = 0.0
    """Spent over all its runs that have ended."""
    estimate: float | None = None
    """Seconds that the plan foresaw."""
    fraction: float = 0.0
    seconds_left: float | None = None
    base_name: str = ""
    fine_tuned_name: str = ""
    folder: str = ""
    """The finished delta."""
    weights_bytes: int = 0
    blocks_done: int = 0
    blocks: int = 0
    error: Failure | None = None
    where: str = ""
    """The cluster that it was queued for, `ray://HOST:PORT`; empty: this computer."""

    @property
    def output(self) -> Path:
        """Where the delta goes."""
        return Path(str(self.request.get("output", "")))

    @property
    def asked(self) -> str:
        """The size or fidelity that was asked for: `12x`, `900MB`, `recovery 0.98`; empty where none was."""
        budget, quality = (str(self.request.get(k) or "") for k in ("budget", "quality"))
        return budget or (f"recovery {quality}" if quality else "")

    @property
    def job_folder(self) -> Path:
        """Where the job keeps its steps until it is done."""
        return Path(f"{self.output}.job")              # a damaged queue may name an output without a name

    @property
    def is_on_worker(self) -> bool:
        """Whether the worker is at it."""
        return self.state in ON_WORKER

    @property
    def is_ended(self) -> bool:
        """Done, failed or cancelled."""
        return self.state in ENDED

    @property
    def can_pause(self) -> bool:
        """Whether `JobManager.pause` does something."""
        return self.state in (State.RUNNING, State.WAITING)

    @property
    def can_resume(self) -> bool:
        """Whether `JobManager.resume` does something."""
        return self.state in RESUMABLE

    @property
    def can_cancel(self) -> bool:
        """Whether `JobManager.cancel` does something."""
        return self.state in OPEN and self.state != State.CANCELLING

    @property
    def can_retry(self) -> bool:
        """Whether `JobManager.retry` does something."""
        return self.state in RETRIABLE

    @property
    def can_remove(self) -> bool:
        """Whether `JobManager.remove` is allowed."""
        return self.state not in ON_WORKER


class _File(msgspec.Struct, frozen=True):
    version: int
    items: list[QueueItem]


def same_place(first: Path, second: Path) -> bool:
    """Whether two outputs are the same path."""
    return os.path.normcase(os.path.abspath(first)) == os.path.normcase(os.path.abspath(second))


def encode_queue(items: Iterable[QueueItem]) -> bytes:
    """The queue as it stands in its file (JSON)."""
    return msgspec.json.format(msgspec.json.encode(_File(_VERSION, list(items))))


def read_queue(path: Path) -> tuple[list[QueueItem], str]:
    """(items, message). What was running when the program ended is interrupted, or done if its delta is there.

    A file that can't be understood is set aside under another name: the message says so, and the queue is empty.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], ""
    except OSError as e:
        return [], f"The job queue '{path}' can't be read: {e.strerror or e}."
    try:
        found = msgspec.json.decode(raw, type=_File)
        if found.version != _VERSION or len({item.id for item in found.items}) != len(found.items):
            raise msgspec.DecodeError("unknown version, or two jobs with one id")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            kept = set_aside(path)
        except OSError as e:
            return [], f"The job queue '{path}' is damaged and could not be set aside: {e.strerror or e}."
        return [], f"The job queue was damaged: it begins empty, and the old file is kept as '{kept}'."
    return [_after_restart(_bounded(item)) for item in found.items], ""


def _bounded(item: QueueItem) -> QueueItem:
    # What was changed by hand or by a fault must not be more than a progress bar can show.
    fraction = min(1.0, max(0.0, item.fraction))
    return item if fraction == item.fraction else msgspec.structs.replace(item, fraction=fraction)


def _after_restart(item: QueueItem) -> QueueItem:
    if item.state == State.CANCELLING:
        return msgspec.structs.replace(item, state=State.CANCELLED, seconds_left=None)
    if item.state not in (State.RUNNING, State.PAUSING):
        return item
    # A job never starts where something stands already, and its delta appears in one rename: it is there, so it was done.
    if os.path.isfile(item.output / "delta_config.json"):
        return msgspec.structs.replace(item, state=State.DONE, folder=str(item.output), fraction=1.0, seconds_left=None)
    done = max(item.blocks_done, len(finished_blocks(item.job_folder)))     # the queue's file may be older than its steps
    return msgspec.structs.replace(item, state=State.INTERRUPTED, seconds_left=None, blocks_done=done)


def refuse_unshared(item: QueueItem) -> None:
    """Raise `BadOption` for a hub id on a cluster: each node would have a copy of its own."""
    for key, words in (("base", "The base"), ("fine_tuned", "The fine-tune")) if item.where else ():
        source = str(item.request.get(key) or "")
        if not os.path.isdir(source):
            raise BadOption(f"{words} '{source}' is no folder, and jobs go to the Ray cluster.",
                            "All nodes have to read the very same files.",
                            "Choose a folder on storage that all nodes share under the same path, or let jobs run on this "
                            "computer (Settings, Where jobs run).")


def open_words(items: Iterable[QueueItem]) -> str:
    """`1 running, 1 waiting, 1 paused`: the jobs of a queue that have not ended; empty without any."""
    states = [State.RUNNING if item.is_on_worker else item.state for item in items if not item.is_ended]
    known = (State.RUNNING, State.WAITING, State.PAUSED, State.INTERRUPTED)
    return ", ".join(f"{states.count(state)} {state}" for state in known if state in states)


def explain(error: BaseException) -> Failure:
    """What an error card shows of any exception, which is logged."""
    logs.note(error, "a job failed")
    kind, trace = type(error).__name__, "".join(traceback.format_exception(error))
    if isinstance(error, DeltadeckError):
        return Failure(what=error.what, why=error.why, remedy=error.remedy, details=trace, kind=kind)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return Failure(what="There was not enough memory.", why="Finished layers are kept.", kind=kind, details=trace,
                       remedy="Close other programs or take fewer samples, then try again.")
    if isinstance(error, OSError) and error.errno in _FULL:
        return Failure(what="The disk is full.", why="Finished layers are kept.", kind=kind, details=trace,
                       remedy="Free some space, then try again.")
    if isinstance(error, OSError) and error.errno is not None:
        place = f" to use '{error.filename}'" if error.filename else ""
        return Failure(what=f"The system refused{place}: {error.strerror or kind}.", why="Finished layers are kept.", kind=kind,
                       details=trace, remedy="Check the folder, its permissions and its disk, then try again.")
    said, why = str(error).strip().split("\n")[0], "Deltadeck did not foresee this. Finished layers are kept."
    return Failure(what=f"{kind}: {said}" if said else f"{kind}.", why=why,
                   remedy="Try again. If it comes back, copy the details into a report.", kind=kind, details=trace)

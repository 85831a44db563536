"""Many fine-tunes of one base as one batch: each job writes its own delta and journal into one folder.

A batch can be run again at any time: finished deltas are skipped, begun ones go on from their journal. One that fails
is told and stops no other. `FOLDER/.fleet/NAME.json` notes what a delta was asked for, before its job begins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from filelock import FileLock, Timeout

from core.artifact import Delta, open_delta
from core.checkpoint import Checkpoint, open_checkpoint
from core.errors import BadOption, Cancelled, DeltadeckError, JobMismatch, OutputExists
from core.events import AnyEvent
from core.fleet_sources import FRESH, Sources
from core.job import Job
from core.request import Request, identity

NOTES = ".fleet"
"""The folder beside the deltas with the batch's notes."""

_LOCK_PATIENCE = 0.5
"""Seconds between two looks at the lock of a job that another process still holds."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One fine-tune of a batch. `threads`: of its sums, which decide the last bits of a delta."""

    name: str
    request: Request
    threads: int

    @property
    def output(self) -> Path:
        """The delta's folder."""
        return Path(self.request.output)

    @property
    def note(self) -> Path:
        """The file that says what the delta was asked for."""
        return self.output.parent / NOTES / f"{self.name}.json"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed, as the errors say it."""

    kind: str
    what: str
    why: str = ""
    remedy: str = ""


State = Literal["done", "kept", "failed", "stopped", "waiting"]
"""`kept`: it was there from an earlier run. `stopped`: begun, its finished steps are kept. `waiting`: not begun."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one member of a batch ended."""

    name: str
    state: State
    folder: str = ""
    weights_bytes: int = 0
    full_bytes: int = 0
    """Of the fine-tune's weights, as tensors."""
    fidelity: dict[str, Any] = msgspec.field(default_factory=dict)
    """The delta's own figures."""
    seconds: float = 0.0
    problem: Problem | None = None

    @property
    def recovery(self) -> float | None:
        """1 - loss(variant) / loss(base) on held-out text; None where it was not measured."""
        base, variant = self.fidelity.get("base"), self.fidelity.get("variant")
        if not isinstance(base, int | float) or not isinstance(variant, int | float):
            return None
        return 1 - variant / base if base > 0 else 1.0


Tell = Callable[[str, AnyEvent], None]
"""Called with a member's name and what its job tells."""
Engine = Callable[[Sequence[Member], Tell, Callable[[], bool]], Iterator[Outcome]]
"""Runs members' jobs wherever it does, and yields each outcome when it is known, in any order."""


# ------------------------------------------------------------------------------------------------ who takes part
def members_of(base: str, fine_tunes: Sequence[str], folder: Path, options: Mapping[str, Any],
               threads: int) -> tuple[Member, ...]:
    """A member for each fine-tune, its delta named after it in `folder` (absolute). `options`: further ones of `Request`.

    Raises `BadOption` for options that can't be used, and for a fine-tune that is given twice.
    """
    if len(set(fine_tunes)) < len(fine_tunes):
        twice = next(f for f in fine_tunes if list(fine_tunes).count(f) > 1)
        raise BadOption(f"'{twice}' is given twice.", "Each fine-tune has one delta.", "Name it once.")
    names = _names(fine_tunes)
    members = tuple(Member(name=name, threads=threads, request=Request(
        base=base, fine_tuned=tuned, output=str(folder / name), **options))
        for name, tuned in zip(names, fine_tunes, strict=True))
    if members:
        members[0].request.options()                   # the same for all
    return members


def _names(fine_tunes: Sequence[str]) -> list[str]:
    """The last part of each path or hub id, with as many of the parts before it as make all different."""
    parts = [[p for p in Path(f.split("@")[0] if not Path(f).exists() else f).parts if p not in ("/", ".", "..")]
             for f in fine_tunes]
    for depth in range(1, 1 + max(map(len, parts), default=1)):
        names = ["-".join(p[-depth:]).removesuffix(".job").lstrip(".") or "fine-tune" for p in parts]
        if len({name.casefold() for name in names}) == len(names):
            return names
    raise BadOption("Two fine-tunes have the same name.", "Their deltas would go to the same folder.",
                    "Rename one of them, or give it a folder of its own.")


# -------------------------------------------------------------------------------------------- what is there already
def _identities(base: Checkpoint, tuned: Checkpoint) -> dict[str, Any]:
    """Files of both by name, size and time of writing: copying a folder or changing its rights makes no other checkpoint."""
    return {"base": [entry[:3] for entry in identity(base)], "fine_tuned": [entry[:3] for entry in identity(tuned)]}


def _wanted(member: Member, base: Checkpoint) -> bytes:
    with open_checkpoint(member.request.fine_tuned) as tuned:
        asked = msgspec.to_builtins(msgspec.structs.replace(member.request, base="", fine_tuned="", output="", device=""))
        return msgspec.json.format(msgspec.json.encode({"asked": asked, **_identities(base, tuned)}))


def prepare(member: Member, base: Checkpoint) -> Outcome | None:
    """Note what is asked for. The outcome, if it is known without a job: a delta of an earlier run, or nothing to begin with.

    Raises nothing but OSError: what is wrong with this fine-tune becomes its outcome.
    """
    try:
        wanted = _wanted(member, base)
        if os.path.lexists(member.output):
            if not member.note.is_file() or member.note.read_bytes() != wanted:
                raise OutputExists(f"'{member.output}' exists already, made from something else or with other options.", "",
                                   "Choose another folder, or move it away.")
            return _kept(member)
    except DeltadeckError as e:
        return failed(member, e)
    member.note.parent.mkdir(parents=True, exist_ok=True)
    work = member.note.with_suffix(".partial")
    work.write_bytes(wanted)
    work.replace(member.note)
    return None


def _kept(member: Member) -> Outcome:
    delta = open_delta(member.output)
    job = Job(member.request, lambda event: None)
    if job.folder.is_dir():                            # killed between the delta and the end of its job
        lock = FileLock(job.folder / "lock")
        try:
            with lock.acquire(timeout=0):
                job.clear()
        except Timeout:
            pass
    return finished(member, delta, "kept", 0.0)


def finished(member: Member, delta: Delta, state: State, seconds: float) -> Outcome:
    """The outcome that a delta is."""
    full = sum(prod(r.shape) * r.torch_dtype.itemsize for r in delta.config.tensors)
    figures = {k: v for k, v in delta.config.fidelity.items() if k != "training"}
    return Outcome(name=member.name, state=state, folder=str(member.output), weights_bytes=delta.weights_bytes, full_bytes=full,
                   fidelity=figures, seconds=round(seconds, 3))


def failed(member: Member, error: BaseException, seconds: float = 0.0) -> Outcome:
    """The outcome that an error is."""
    kind = type(error).__name__
    if isinstance(error, DeltadeckError):
        problem = Problem(kind=kind, what=error.what, why=error.why, remedy=error.remedy)
    elif isinstance(error, OSError):
        place = f"'{error.filename}': " if error.filename else ""
        problem = Problem(kind=kind, what=f"The system refused: {place}{error.strerror or error}.",
                          remedy="Check the path, its permissions and free space, then run the same command again.")
    else:
        problem = Problem(kind=kind, what=f"Something unexpected went wrong: {kind}: {(str(error).splitlines() or [''])[0]}",
                          remedy="What is finished is kept; run the same command again.")
    return Outcome(name=member.name, state="failed", problem=problem, seconds=round(seconds, 3))


# ---------------------------------------------------------------------------------------------------- one job of it
@dataclass(frozen=True)
class Surroundings:
    """What a member's job is given by the process it runs in."""

    sources: Sources = FRESH
    forecasts: Path | None = None
    lock_seconds: float = 0.0
    """How long to wait for the lock of a process that may be about to end."""


ALONE = Surroundings()


def carry_out(member: Member, tell: Callable[[AnyEvent], None], cancelled: Callable[[], bool],
              around: Surroundings = ALONE) -> Outcome:
    """Run a member's job to its end, or take the delta that is there: it was asked for by this batch. Raises nothing that a job
    raises: failures and stops are outcomes."""
    began = time.monotonic()
    threads = torch.get_num_threads()
    try:
        if os.path.lexists(member.output):             # an earlier attempt wrote it and was lost before it could say so
            return _kept(member)
        torch.set_num_threads(member.threads)
        _wait_for_lock(member, cancelled, around.lock_seconds)
        result = Job(member.request, tell, cancelled, around.forecasts, around.sources).run()
        return finished(member, result.delta, "done", time.monotonic() - began)
    except Cancelled:
        return Outcome(name=member.name, state="stopped", seconds=round(time.monotonic() - began, 3))
    except Exception as e:
        return failed(member, e, time.monotonic() - began)
    finally:
        torch.set_num_threads(threads)                 # a resumed job takes those it began with


def _wait_for_lock(member: Member, cancelled: Callable[[], bool], seconds: float) -> None:
    """Give a process that is being ended elsewhere the time to let go of the job's lock."""
    folder = Job(member.request, lambda event: None).folder
    end = time.monotonic() + seconds
    while seconds > 0 and folder.is_dir():
        try:
            with FileLock(folder / "lock").acquire(timeout=0):
                return
        except Timeout as e:
            if cancelled():
                raise Cancelled("Cancelled.") from e
            if time.monotonic() > end:
                raise JobMismatch(f"Another process is working on '{folder}'.", f"It kept its lock for {seconds:.0f} seconds.",
                                  "Wait for it, or stop it first.") from e
            time.sleep(_LOCK_PATIENCE)


# ---------------------------------------------------------------------------------------------------- the batch
def run_fleet(members: Sequence[Member], engine: Engine, tell: Tell = lambda name, event: None,
              cancelled: Callable[[], bool] = lambda: False,
              told: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
    """Run a batch; `told` gets each outcome when it is known. Returns all, in the members' order.

    Raises one of the `Refused` errors, before anything is written, when the base itself can't be used.
    """
    outcomes: dict[str, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        told(outcome)
    pending = []
    with open_checkpoint(members[0].request.base) as base:
        for member in members:
            known = prepare(member, base)
            if known is None:
                pending.append(member)
            else:
                settle(known)
    if pending:
        for outcome in engine(pending, tell, cancelled):
            settle(outcome)
    for member in members:
        if member.name not in outcomes:
            begun = Path(f"{member.output}.job").is_dir()
            settle(Outcome(name=member.name, state="stopped" if begun else "waiting"))
    return [outcomes[m.name] for m in members]

"""kill -9 at random moments of a job and of the writing of its delta, then the same job again: are the bytes the same?

`python -m tests.benchmarks.bench_kills --count 50` kills a child process that many times at each, every fifth job one with
a budget (which takes ten times as long), on the tiny models that come with the program. A child that ended before its kill
does not count: another takes its place. After each kill the library must list
whole deltas only; after the job was run again, its delta must have the bytes of one that was never interrupted, and nothing
else may be left. `--seed` chooses other moments.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from core.demo import tiny_trio
from core.events import AnyEvent, StageStarted
from core.job import Job
from core.request import Request
from tests.faults.whole import check_library, digest, leftovers

COUNT = 5
"""Kills of each sort where no number is asked for."""
KINDS: dict[str, dict[str, Any]] = {"chosen": {}, "budget 12x": {"budget": "12x"}}


@dataclass
class Tally:
    """What came of the kills of one sort."""

    total: int = 0
    same: int = 0
    late: int = 0
    """Children that had ended before they were to be killed."""
    problems: list[str] = field(default_factory=list)


def request(library: Path, kind: str) -> Request:
    """A small job on the tiny models."""
    trio = tiny_trio()
    return Request(base=str(trio.base), fine_tuned=str(trio.pirate), output=str(library / "delta"), samples=8, tune_samples=8,
                   sequence_length=64, **KINDS[kind])


def child(wanted: Request, tell: Callable[[AnyEvent], None] = lambda event: None) -> int:
    """Fork a process that carries a request out; its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                # this process has threads, none of which does anything now
        number = os.fork()
    if number:
        return number
    _carry_out(wanted, tell)


def _carry_out(wanted: Request, tell: Callable[[AnyEvent], None]) -> NoReturn:
    code = 1
    try:
        Job(wanted, tell).run()
        code = 0
    finally:
        os._exit(code)


def ended(number: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def killed_after(number: int, seconds: float) -> bool:
    """Let a child live that long, then kill it; whether it was still at work."""
    time.sleep(seconds)
    os.kill(number, signal.SIGKILL)
    return ended(number) == -signal.SIGKILL


def judge(tally: Tally, library: Path, kind: str, wanted: str, moment: str) -> None:
    """After a kill: look at the library, run the job again, compare."""
    tally.total += 1
    try:
        check_library(library)
        # Killed when its own folder was being removed: the same job again finds its delta there, and takes the rest away.
        is_done = (library / "delta").is_dir() and not (library / "delta.job" / "job.json").exists()
        code = ended(child(request(library, kind)))
        if code and not is_done:
            tally.problems.append(f"{moment}: the job could not be resumed (exit code {code})")
        elif digest(library / "delta") != wanted:
            tally.problems.append(f"{moment}: other bytes")
        elif left := leftovers(library):
            tally.problems.append(f"{moment}: {', '.join(left)} left behind")
        else:
            tally.same += 1
    except Exception as error:
        tally.problems.append(f"{moment}: {type(error).__name__}: {error}")


def kill_jobs(place: Path, kind: str, count: int, chance: random.Random) -> Tally:
    """Kills at moments spread over a whole job."""
    wanted, seconds = _reference(place, kind)
    tally = Tally()
    while tally.total < count:
        library = place / f"job-{tally.total + tally.late}"
        library.mkdir()
        after = chance.uniform(0, seconds)
        if killed_after(child(request(library, kind)), after):
            judge(tally, library, kind, wanted, f"job '{kind}' killed after {after:.2f} s")
        else:
            tally.late += 1
        shutil.rmtree(library)
    return tally


def kill_writes(place: Path, kind: str, count: int, chance: random.Random) -> Tally:
    """Kills at moments spread over the writing of a delta, from the first byte to the end of the process."""
    wanted, _ = _reference(place, kind)
    ready = place / "ready"                            # a job whose every step but the last is done
    ready.mkdir()

    def stop(event: AnyEvent) -> None:
        if isinstance(event, StageStarted) and event.stage == "write":
            os.kill(os.getpid(), signal.SIGKILL)
    assert ended(child(request(ready, kind), stop)) == -signal.SIGKILL
    tally, seconds = Tally(), [_write(place / f"timed-{i}", ready, kind, None)[1] for i in range(3)]
    while tally.total < count:
        library = place / f"write-{tally.total + tally.late}"
        after = chance.uniform(0, sorted(seconds)[1])
        if _write(library, ready, kind, after)[0]:
            judge(tally, library, kind, wanted, f"write killed after {1000 * after:.1f} ms")
        else:
            tally.late += 1
        shutil.rmtree(library)
    return tally


def _write(library: Path, ready: Path, kind: str, after: float | None) -> tuple[bool, float]:
    """Write a delta in a child, killed some seconds after it began to (or never): (whether it was, seconds it took)."""
    shutil.copytree(ready, library)
    reading, writing = os.pipe()

    def tell(event: AnyEvent) -> None:
        if isinstance(event, StageStarted) and event.stage == "write":
            os.write(writing, b"w")
    number = child(request(library, kind), tell)
    os.close(writing)
    os.read(reading, 1)
    began = time.monotonic()
    is_killed = ended(number) == 0 if after is None else killed_after(number, after)
    os.close(reading)
    return is_killed, time.monotonic() - began


def _reference(place: Path, kind: str) -> tuple[str, float]:
    library = place / "reference"
    library.mkdir(parents=True)
    assert ended(child(request(library, kind))) == 0   # compiles and reads what later ones find ready
    shutil.rmtree(library / "delta")
    began = time.monotonic()
    assert ended(child(request(library, kind))) == 0
    seconds = time.monotonic() - began
    return digest(library / "delta"), seconds


def kill_all(count: int, seed: int = 0) -> dict[str, Tally]:
    """`count` kills of jobs and as many of writes."""
    torch.set_num_threads(1)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        few = count // 5
        jobs = [kill_jobs(place / f"kind-{i}", kind, (count - few, few)[i], chance) for i, kind in enumerate(KINDS)]
        writes = kill_writes(place / "write", "chosen", count, chance)
    total, same, late = (sum(getattr(t, name) for t in jobs) for name in ("total", "same", "late"))
    both = Tally(total, same, late, [p for t in jobs for p in t.problems])
    return {"job": both, "write": writes}


def run() -> list[dict[str, Any]]:
    """Figures for the runner."""
    return [{"name": f"kill -9 in a {what}: resumed to the same bytes", "value": tally.same, "unit": f"of {tally.total}",
             "reference": f"{tally.late} more had ended before", "goal": tally.total, "better": "higher"}
            for what, tally in kill_all(COUNT).items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill as often as asked for; 1 where something was lost."""
    parser = argparse.ArgumentParser(description="Kill jobs and writes at random moments, and run them again.")
    parser.add_argument("--count", type=int, default=50, help="kills of jobs, and as many of writes (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    found = kill_all(given.count, given.seed)
    for what, tally in found.items():
        print(f"{what}: {tally.same}/{tally.total} resumed to the same bytes ({tally.late} more had ended before)")
        for problem in tally.problems:
            print(f"  {problem}")
    return 0 if all(t.same == t.total for t in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())

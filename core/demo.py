"""The demo models: the tiny trio that ships with the program, and the real pair that is made on the spot.

The real pair is SmolLM2-135M-Instruct, de-quantised from a package of the Python index, and a full
fine-tune of its linear layers that speaks like a pirate in every answer. It is made once, in some minutes,
and kept in a cache folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.demo_base import SMOLLM2, fetch_member, index_answers
from core.demo_process import run_watched
from core.errors import Cancelled, DeltadeckError, NoSpace, OutputExists
from resources.demo.chats import DEMO_FOLDER, HELD_OUT_PROMPTS
from resources.demo.manner import PIRATE_MARKS, pirate_share

__all__ = [
    "HELD_OUT_PROMPTS",
    "PIRATE_MARKS",
    "DemoEvent",
    "DemoPair",
    "PairMaker",
    "Trio",
    "chat_answers",
    "default_demo_folder",
    "make_demo_pair",
    "pirate_share",
    "real_pair_available",
    "tiny_trio",
]

Stage = Literal["download", "dequantise", "train", "save"]
Report = Callable[[int, int, str], None]  # done, total, message

# Raised whenever what the makers below write would differ, so that an older cached pair is made again.
_RECIPE_VERSION = 1
_ROOM_NEEDED = 1_000_000_000  # bytes: the wheel, the GGUF and two checkpoints of 270 MB
# glibc hands freed blocks straight back to the system; keeping up to 1 GB of the middling ones makes
# training on a CPU about 1.2 times faster.
# Waiting threads that spin starve each other as soon as another program wants a core as well.
_CHILD_SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class DemoEvent:
    """How far one stage is: `done` of `total` in `unit` ("bytes", "steps" or "folders")."""

    stage: Stage
    done: int
    total: int
    unit: str
    message: str


@dataclass(frozen=True)
class DemoPair:
    """Two checkpoint folders."""

    base: Path
    fine_tuned: Path


@dataclass(frozen=True)
class Trio:
    """The three embedded checkpoint folders; all know one closed world (`resources.demo.world`)."""

    base: Path
    pirate: Path
    json: Path


@dataclass(frozen=True)
class PairMaker:
    """The three steps of making a pair, replaceable for tests.

    `fetch(work, report, cancelled)` returns the downloaded source file; `dequantise(source, target, report,
    cancelled)` and `train(base, target, report, cancelled)` write a checkpoint folder.
    """

    fetch: Callable[[Path, Callable[[int, int], None], Callable[[], bool]], Path]
    dequantise: Callable[[Path, Path, Report, Callable[[], bool]], None]
    train: Callable[[Path, Path, Report, Callable[[], bool]], None]


def tiny_trio() -> Trio:
    """Paths of the embedded trio."""
    return Trio(DEMO_FOLDER / "tiny-base", DEMO_FOLDER / "tiny-pirate", DEMO_FOLDER / "tiny-json")


def default_demo_folder() -> Path:
    """Where the real pair is cached when nothing else is said."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("deltadeck")) / "demo"


def real_pair_available(folder: Path | None = None) -> bool:
    """Whether the real pair is in `folder` (default: the cache) already, or the package index answers."""
    folder = folder or default_demo_folder()
    return all(_is_whole(folder / name) for name in ("base", "pirate")) or index_answers()


def make_demo_pair(
    folder: Path,
    *,
    progress: Callable[[DemoEvent], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    maker: PairMaker | None = None,
) -> DemoPair:
    """The real pair in `folder`: reused where whole, else made (two to five minutes, 1 GB of disk).

    Each checkpoint is written under another name and renamed when whole, so what an interrupted run leaves
    is redone. A second process that wants the same pair waits for the first. Raises DemoUnavailable when
    the package index doesn't answer or sends another file than the pinned one, OutputExists when `folder`
    holds a `base` or `pirate` that was not made here, NoSpace, Cancelled, and DeltadeckError when a
    step fails.
    """
    tell = progress or (lambda _: None)
    stop = cancelled or (lambda: False)
    steps = maker or _REAL
    base, tuned = folder / "base", folder / "pirate"
    if _is_whole(base) and _is_whole(tuned):
        return DemoPair(base, tuned)
    _make_room(folder)
    for target in (base, tuned):
        _refuse_foreign(target)
    with _only_one(folder, stop):
        if not _is_whole(base):
            work = folder / ".download"
            work.mkdir(exist_ok=True)
            source = steps.fetch(work, lambda n, of: tell(DemoEvent("download", n, of, "bytes", "")), stop)
            say = _teller(tell, "dequantise")
            _write_whole(base, tell, lambda part: steps.dequantise(source, part, say, stop))
            shutil.rmtree(work)
        if not _is_whole(tuned):
            learn = _teller(tell, "train")
            _write_whole(tuned, tell, lambda part: steps.train(base, part, learn, stop))
    return DemoPair(base, tuned)


def chat_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 96,
    batch: int = 12,
    repetition_penalty: float = 1.1,
) -> list[str]:
    """One greedy reply per prompt. `model` is a transformers model, or a folder to load in float32.

    `tokenizer` may be None when a folder is given. For the tiny trio use `repetition_penalty=1.0`: its
    answers repeat words of the question, and are compared exactly.
    """
    from resources.demo.decode import greedy_answers

    if isinstance(model, str | Path):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = model
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.eval()
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder)
    return greedy_answers(model, tokenizer, prompts, max_new_tokens, batch, repetition_penalty)


# ------------------------------------------------------------------------------------------ folders
def _mark(target: Path) -> Path:
    return target.with_name(target.name + ".whole.json")


def _sizes(target: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(target.iterdir()) if path.is_file()}


def _is_whole(target: Path) -> bool:
    """Whether the folder holds exactly what was noted when it was finished, by this version's recipe."""
    try:
        noted = json.loads(_mark(target).read_text(encoding="utf-8"))
        return bool(noted == {"recipe": _RECIPE_VERSION, "bytes": _sizes(target)})
    except (OSError, ValueError):
        return False


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not _mark(target).is_file():
        raise OutputExists(
            f"{target} exists already and is not part of a demo pair.",
            "Making the pair there would overwrite it.",
            "Choose another folder for the demo.",
        )


def _write_whole(target: Path, tell: Callable[[DemoEvent], None], write: Callable[[Path], None]) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was interrupted
    if target.exists():  # damaged, or of an older recipe
        shutil.rmtree(target)
    _mark(target).unlink(missing_ok=True)
    write(part)
    tell(DemoEvent("save", 0, 1, "folders", target.name))
    for path in part.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    # The note first: so a folder without one is never ours, and never deleted.
    note = {"recipe": _RECIPE_VERSION, "bytes": _sizes(part)}
    _mark(target).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    part.rename(target)
    tell(DemoEvent("save", 1, 1, "folders", target.name))


def _make_room(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < _ROOM_NEEDED:
        raise NoSpace(
            f"There is too little room in {folder} for the demo pair.",
            f"It needs {_ROOM_NEEDED / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
            "Free some space or choose another folder.",
        )


@contextmanager
def _only_one(folder: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the folder's lock, waiting for it in small steps so that a cancel is heard."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            if stop():
                raise Cancelled("Waiting for the demo pair was stopped.") from None
    try:
        yield
    finally:
        lock.release()


# ---------------------------------------------------------------------------------------- real steps
def _teller(tell: Callable[[DemoEvent], None], stage: Stage) -> Report:
    unit = "steps" if stage == "train" else "folders"
    return lambda done, total, message: tell(DemoEvent(stage, done, total, unit, message))


def _run_step(arguments: Sequence[str], report: Report, cancelled: Callable[[], bool]) -> None:
    """Run `core.demo_train` in a child process and pass its progress on."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **_CHILD_SETTINGS, "PYTHONPATH": os.pathsep.join(paths)}

    def on_line(line: str) -> None:
        if line.startswith("{"):  # libraries may print too
            said = json.loads(line)
            report(said["done"], said["total"], said["message"])

    command = [sys.executable, "-m", "core.demo_train", *arguments]
    code, errors = run_watched(command, environment, on_line, lambda: None, cancelled)
    if code != 0:
        reason = (errors.splitlines() or ["It gave no reason"])[-1].rstrip(".")
        raise DeltadeckError(
            f"Making the demo pair failed (step {arguments[0]}, exit code {code}).",
            f"{reason}.",
            "Try again, or use the tiny trio.",
        )


def _dequantise(source: Path, target: Path, report: Report, cancelled: Callable[[], bool]) -> None:
    report(0, 1, "")
    _run_step(["dequantise", str(source), str(target)], report, cancelled)


def _train(base: Path, target: Path, report: Report, cancelled: Callable[[], bool]) -> None:
    _run_step(["train", str(base), str(target)], report, cancelled)


_REAL = PairMaker(lambda work, report, stop: fetch_member(work, SMOLLM2, report, stop), _dequantise, _train)

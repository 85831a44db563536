"""How long it takes until a fine-tune can answer: loaded whole, or made from its base and a delta.

Three ways are timed, each in this process, each as often as asked, as a median with the lowest and highest run:

- *full*: `AutoModelForCausalLM.from_pretrained` on the fine-tune's folder, from the call to the model it returns.
- *switch*: the base is loaded as a model and mapped from disk already; opening the delta folder (its headers checked)
  and writing base + change into the parameters of every tensor that differs, in place.
- *start*: nothing is loaded; `from_pretrained` on the base, mapping it, and then a switch.

*Warm* runs follow an untimed one, with all files in the system's page cache. For *cold* ones the pages of the files
that a run reads are dropped before it (of the delta alone for a switch, since the base is in use); where the system
can't drop them, or did not, there are no cold figures. The fine-tune's hash checks are in none of the three.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import garbage
from core.artifact import check_base, open_delta
from core.checkpoint import Checkpoint, open_checkpoint
from core.errors import BadOption, WrongBase
from core.merge import merge_into, variant_model
from core.skeleton import BUILDING

WAYS = ("full", "switch", "start")
"""What is timed, as in this module's description."""

_PROBES = 64
_DROPPED = 0.1
"""At most this share of probed pages may still be cached for a run to count as cold."""


@dataclass(frozen=True)
class Timing:
    """Seconds: the median of all runs, the quickest, the slowest, and each in order."""

    median: float
    lowest: float
    highest: float
    runs: tuple[float, ...]


@dataclass(frozen=True)
class LoadTimes:
    """Timings by way (see `WAYS`); `cold` is empty where pages could not be dropped, and `note` then says so.

    Bytes are of the weight files that a way reads; `written` counts the tensors that a switch writes, of `tensors`.
    """

    warm: dict[str, Timing]
    cold: dict[str, Timing]
    full_bytes: int
    delta_bytes: int
    written: int
    tensors: int
    note: str = ""


def measure_load_times(delta_folder: Path, base: Checkpoint, tuned: Checkpoint, *, repeats: int = 5,
                       progress: Callable[[int, int], None] | None = None) -> LoadTimes:
    """Time all three ways on the CPU, warm and cold, `repeats` times each.

    `progress` is called with (runs done, of how many) between runs and may raise to stop. Raises `WrongBase` when the
    base is another one, or has a vocabulary of another size (its model can't hold the variant), `BadOption`.
    """
    if repeats < 1:
        raise BadOption(f"{repeats} repeats measure nothing.", "", "Use at least 1.")
    first = open_delta(delta_folder)
    check_base(first, base)
    grown = next((r for r in first.records.values() if r.base and r.base_shape != r.shape), None)
    if grown is not None:
        raise WrongBase(f"'{grown.name}' is {list(grown.base_shape)} in the base and {list(grown.shape)} in the variant.",
                        "A loaded base of another shape can't become the variant in place, so there is no switch to time.",
                        "Export the variant and load that instead.")
    placements = variant_model(first, base).placements
    config, dtype = first.config, _dtype(first.records.values())
    written = sum(r.codec != "same" for r in first.records.values())
    files = {"base": _files(base), "full": _files(tuned),
             "delta": [delta_folder / n for n in config.files if ".safetensors" in n]}
    del first
    ticks = _Ticks(progress, 2 * len(WAYS) * repeats)

    def full() -> None:
        _load(tuned.folder, None)

    def start() -> None:
        model = _load(base.folder, dtype)
        with open_checkpoint(base.folder) as mapped:
            merge_into(model, open_delta(delta_folder), mapped, placements)

    def loaded() -> Callable[[], None]:
        model, mapped = _load(base.folder, dtype), open_checkpoint(base.folder)
        for name in mapped.tensors:
            mapped.view(name)

        def switch() -> None:
            merge_into(model, open_delta(delta_folder), mapped, placements)
        return switch

    ways: list[tuple[str, Callable[[], Callable[[], None]], list[Path]]] = [
        ("full", lambda: full, files["full"]), ("switch", loaded, files["delta"]),
        ("start", lambda: start, files["base"] + files["delta"])]
    warm: dict[str, Timing] = {}
    cold: dict[str, Timing] = {}
    note = ""
    for name, prepare, reads in ways:
        run = prepare()
        run()
        warm[name] = _timing([_timed(run, ticks) for _ in range(repeats)])
        runs: list[float] = []
        for _ in range(repeats):
            garbage.collect()                                # mapped pages can't be dropped: let go of earlier runs' first
            problem = drop_pages(reads)
            if problem:
                note = problem
                ticks.skip(repeats - len(runs))
                break
            runs.append(_timed(run, ticks))
        if len(runs) == repeats:
            cold[name] = _timing(runs)
        del run
        garbage.collect()
    return LoadTimes(warm, cold, sum(f.stat().st_size for f in files["full"]),
                     sum(f.stat().st_size for f in files["delta"]), written, len(config.tensors), note)


class _Ticks:
    """Counts runs and tells of them."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def skip(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def _timed(run: Callable[[], None], ticks: _Ticks) -> float:
    begin = time.perf_counter()
    run()
    seconds = time.perf_counter() - begin
    ticks.skip(1)
    return seconds


def _timing(runs: Sequence[float]) -> Timing:
    return Timing(statistics.median(runs), min(runs), max(runs), tuple(runs))


def _dtype(records: Any) -> Any:
    """The type in which the base is loaded: that of most of the variant's values, as from_pretrained would."""
    sizes: dict[Any, int] = {}
    for record in records:
        count = 1
        for side in record.shape:
            count *= side
        sizes[record.torch_dtype] = sizes.get(record.torch_dtype, 0) + count
    return max(sizes, key=lambda dtype: sizes[dtype])


def _load(folder: Path, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with BUILDING:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto", local_files_only=True, trust_remote_code=False)


def _files(checkpoint: Checkpoint) -> list[Path]:
    return sorted({info.file for info in checkpoint.tensors.values()})


def drop_pages(files: Sequence[Path]) -> str:
    """Drop the files' pages from the system's cache; what kept it from that, empty when it worked."""
    if not hasattr(os, "posix_fadvise"):
        return "This system can't drop a file's cached pages, so there are no cold figures."
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)                            # pages not yet on disk stay otherwise
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    share = cached_share(files)
    if share is not None and share > _DROPPED:
        return (f"{share:.0%} of the files' pages stayed in the system's cache, so some cold figures are missing; "
                "another program may be using the files.")
    return ""


def cached_share(files: Sequence[Path]) -> float | None:
    """Share of probed places in the files that lie in the page cache; None where the system doesn't tell."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    cached = probed = 0
    for path in files:
        size = path.stat().st_size
        handle = os.open(path, os.O_RDONLY)
        try:
            for i in range(_PROBES):
                # From the end on: a probe that reads must not make the next one's page be read ahead.
                at = (size - 1) * (_PROBES - 1 - i) // (_PROBES - 1)
                with suppress(BlockingIOError):
                    cached += os.preadv(handle, [bytearray(1)], at, os.RWF_NOWAIT) > 0
                probed += 1
        except OSError:
            return None
        finally:
            os.close(handle)
    return cached / max(1, probed)

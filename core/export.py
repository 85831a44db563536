"""Rebuild a checkpoint from a delta and its base: a folder that transformers loads, whole or not at all."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from core.artifact import Delta, check_base, check_whole
from core.checkpoint import Checkpoint
from core.errors import NoSpace, OutputExists
from core.record import StoredTensor
from core.safefile import cut_shards, file_bytes, sync_folder, write_file
from core.shortage import in_words

SHARD_BYTES = 2_000_000_000
"""Data in one weight file, unless a single tensor is larger."""

_METADATA = {"format": "pt"}
_STEM = "model"


@dataclass(frozen=True)
class Exported:
    """A checkpoint folder as written: its file names in order, and bytes of weights and of everything."""

    folder: Path
    files: tuple[str, ...]
    weights_bytes: int
    bytes: int


def variant_sidecars(delta: Delta, base: Checkpoint) -> dict[str, Path]:
    """Config and tokenizer files of the variant by name: the base's, overlaid by those the delta brings."""
    return {**base.sidecars(), **delta.sidecars()}


def checkpoint_shards(tensors: Sequence[StoredTensor], limit: int = SHARD_BYTES) -> dict[str, list[StoredTensor]]:
    """Files of a checkpoint by the hub's names, each with at most `limit` bytes of data (or one larger tensor)."""
    return cut_shards(tensors, _STEM, limit)


def export_checkpoint(delta: Delta, base: Checkpoint, target: Path, *, limit: int = SHARD_BYTES,
                      progress: Callable[[int, int], None] | None = None) -> Exported:
    """Write the variant as a checkpoint folder: to a temporary name, synced, renamed.

    Tensors are made and written one at a time. `progress` is called with (bytes written, of how many) and may raise
    to stop; nothing is left behind then. Raises `OutputExists`, `WrongBase` and `NoSpace` before anything is written,
    `StorageFailed`, `DiskFull` or `OutOfMemory` where that happens on the way.
    """
    if target.exists():
        raise OutputExists(f"'{target}' exists already.", "", "Choose another output, or move it away.")
    need = 0
    with in_words(target.absolute().parent, lambda: need):
        check_whole(delta)
        check_base(delta, base)
        sidecars = variant_sidecars(delta, base)
        shards = checkpoint_shards([StoredTensor(r.name, r.dtype, r.shape) for r in delta.records.values()], limit)
        need = _room(sum(file_bytes(s, _METADATA) for s in shards.values()), sidecars)
        _check_room(target, need)
        weights = _write_whole(delta, base, target, shards, sidecars, progress)
    files = sorted(target.iterdir())
    return Exported(target, tuple(f.name for f in files), weights, sum(f.stat().st_size for f in files))


def _write_whole(delta: Delta, base: Checkpoint, target: Path, shards: dict[str, list[StoredTensor]],
                 sidecars: Mapping[str, Path], progress: Callable[[int, int], None] | None) -> int:
    """Write the folder under another name, and give it its own once it is whole; returns bytes of the weights."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):      # of a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        work.chmod(0o755)
        weights = _write_weights(delta, base, work, shards, progress)
        for name, path in sidecars.items():
            shutil.copyfile(path, work / name)
        for path in work.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(work)
        base.check()
        delta.check()
        # A folder that has appeared meanwhile must not be replaced, which a rename does with an empty one.
        if target.exists():
            raise OutputExists(f"'{target}' exists already.", "It has just appeared.", "Choose another output, or move it away.")
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    with suppress(OSError):                            # the checkpoint is there, and whole
        sync_folder(target.parent)
    return weights


def _write_weights(delta: Delta, base: Checkpoint, work: Path, shards: dict[str, list[StoredTensor]],
                   progress: Callable[[int, int], None] | None) -> int:
    """Write the weight files and their index; returns their bytes."""
    total = sum(t.nbytes for shard in shards.values() for t in shard)
    done = 0

    def make(tensor: StoredTensor) -> Tensor:
        nonlocal done
        if progress:
            progress(done, total)
        done += tensor.nbytes
        return delta.variant(base, tensor.name)

    for name, shard in shards.items():
        write_file(work / name, shard, _METADATA, make)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": {t.name: n for n, shard in shards.items() for t in shard}}
        (work / f"{_STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    if progress:
        progress(total, total)
    return sum(path.stat().st_size for path in work.iterdir())


def _room(weights: int, sidecars: Mapping[str, Path]) -> int:
    return weights + sum(path.stat().st_size for path in sidecars.values()) + (1 << 20)


def _check_room(target: Path, need: int) -> None:
    where = target.absolute().parent
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    if free < need:
        raise NoSpace(f"The checkpoint needs {need / 1e6:,.0f} MB on the disk of '{where}', {free / 1e6:,.0f} MB are free.",
                      "", "Free some space, or choose an output on another disk.")

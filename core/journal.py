"""What a job has finished, one small file per step, so that a killed job goes on where it was.

Each entry is written to a temporary name, synced and renamed, and carries its own hash: an entry is whole or absent.
Nothing in the folder is believed: what contradicts itself is absent too, and no key leads out of the folder.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from core.record import DTYPE_NAMES, DTYPES, TensorRecord
from core.safefile import raw_bytes, sync_folder


class _Packed(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Entry(msgspec.Struct, frozen=True):
    records: list[TensorRecord]
    tensors: dict[str, dict[str, _Packed]]
    extra: dict[str, Any]


class Entry(msgspec.Struct, frozen=True):
    """Records fitted in a step, what was learnt for each (by name and suffix), and anything else as plain data."""

    records: list[TensorRecord]
    tensors: dict[str, dict[str, Tensor]]
    extra: dict[str, Any]


def _unpacked(packed: _Packed) -> Tensor:
    """A tensor in memory of its own. Raises ValueError where type, shape and bytes contradict one another."""
    dtype = DTYPES.get(packed.dtype)
    if dtype is None or len(packed.shape) > 64 or any(size < 0 for size in packed.shape):
        raise ValueError("no type or shape that there is")
    if math.prod(packed.shape) * dtype.itemsize != len(packed.data) or math.prod(max(s, 1) for s in packed.shape) >= 2**63:
        raise ValueError("bytes that do not fit the shape")
    if not packed.data:
        return torch.empty(packed.shape, dtype=dtype)
    return torch.frombuffer(bytearray(packed.data), dtype=dtype).reshape(packed.shape)


def read_job_note(path: Path) -> dict[str, Any]:
    """What a job's `job.json` says; nothing where it can't be understood, or asks for a number of threads that can't be."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 24:
            return {}
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if type(threads := found.get("threads")) is int and 0 < threads <= 4096 else {}


class Journal:
    """The entries of one job folder by key."""

    def __init__(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        """`check` is called before anything is kept; it raises where what the step was made from can't be trusted."""
        self.folder, self.check = folder, check

    def _path(self, key: str) -> Path:
        if not re.fullmatch(r"\w[\w.-]{0,149}", key, re.ASCII):     # the names of tensors may hold anything
            key = f"key-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()}"
        return self.folder / f"{key}.step"

    def write(self, key: str, records: list[TensorRecord], tensors: Mapping[str, Mapping[str, Tensor]],
              extra: Mapping[str, Any] | None = None) -> None:
        """Keep an entry; durable on return. Raises OSError, and whatever `check` raises; the entry is as before then."""
        self.check()
        packed = {name: {s: _Packed(DTYPE_NAMES[t.dtype], tuple(t.shape), bytes(raw_bytes(t))) for s, t in learnt.items()}
                  for name, learnt in tensors.items()}
        body = msgspec.msgpack.encode(_Entry(records, packed, dict(extra or {})))
        path = self._path(key)
        work = path.with_suffix(".partial")
        with work.open("wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
        sync_folder(self.folder)

    def read(self, key: str) -> Entry | None:
        """An entry, or None where there is no whole one."""
        path = self._path(key)
        try:
            if path.is_symlink() or not path.is_file():
                return None
            raw = path.read_bytes()
            if hashlib.sha256(raw[32:]).digest() != raw[:32]:
                return None
            entry = msgspec.msgpack.decode(raw[32:], type=_Entry)
            tensors = {name: {s: _unpacked(p) for s, p in learnt.items()} for name, learnt in entry.tensors.items()}
        except (OSError, ValueError, RecursionError, MemoryError):     # msgspec's errors are ValueErrors
            return None
        return Entry(entry.records, tensors, entry.extra)

    def forget(self, key: str) -> None:
        """Remove an entry."""
        self._path(key).unlink(missing_ok=True)

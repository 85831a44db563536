"""What a job has finished, one small file per step, so that a killed job goes on where it was.

Each entry is written to a temporary name, synced and renamed, and carries its own hash: an entry is whole or absent.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
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


class Journal:
    """The entries of one job folder by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.step"

    def write(self, key: str, records: list[TensorRecord], tensors: Mapping[str, Mapping[str, Tensor]],
              extra: Mapping[str, Any] | None = None) -> None:
        """Keep an entry; durable on return."""
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
        try:
            raw = self._path(key).read_bytes()
            if hashlib.sha256(raw[32:]).digest() != raw[:32]:
                return None
            entry = msgspec.msgpack.decode(raw[32:], type=_Entry)
        except (OSError, msgspec.DecodeError):
            return None
        tensors = {name: {s: torch.frombuffer(bytearray(p.data), dtype=DTYPES[p.dtype]).reshape(p.shape) if p.data
                          else torch.empty(p.shape, dtype=DTYPES[p.dtype]) for s, p in learnt.items()}
                   for name, learnt in entry.tensors.items()}
        return Entry(entry.records, tensors, entry.extra)

    def forget(self, key: str) -> None:
        """Remove an entry."""
        self._path(key).unlink(missing_ok=True)

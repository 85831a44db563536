"""Writing safetensors files: a header known before the data, data streamed in, the same bytes each time.

Reading is left to the `safetensors` library. Writing is ours because the plan needs the exact size of a file that
does not exist yet, and because a delta's tensors are made one at a time, never all in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.record import DTYPE_NAMES, StoredTensor

ALIGNMENT = 64
"""The data begins at a multiple of this, so that a mapped file's large tensors start on a cache line."""


def header_bytes(tensors: Sequence[StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """Length word and header of a file that holds `tensors` in this order, padded with spaces."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape),
                               "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def file_bytes(tensors: Sequence[StoredTensor], metadata: Mapping[str, str]) -> int:
    """Exact size of such a file."""
    return len(header_bytes(tensors, metadata)) + sum(t.nbytes for t in tensors)


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in row-major order, without a copy where it lies contiguous on the host."""
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()  # before Python 3.12, numpy's types don't say that it is a buffer
    return memoryview(array) if flat.numel() else memoryview(b"")


def write_file(path: Path, tensors: Sequence[StoredTensor], metadata: Mapping[str, str],
               make: Callable[[StoredTensor], Tensor]) -> str:
    """Write a safetensors file and sync it; `make` is asked for each tensor in turn. Returns the file's sha256.

    Raises `ValueError` when `make` returns another type or shape than announced.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        header = header_bytes(tensors, metadata)
        file.write(header)
        digest.update(header)
        for announced in tensors:
            data = raw_bytes(checked(announced, make(announced)))
            file.write(data)
            digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def checked(announced: StoredTensor, tensor: Tensor) -> Tensor:
    """`tensor`, if it is what was announced; otherwise `ValueError`."""

    if tuple(tensor.shape) != announced.shape or DTYPE_NAMES.get(tensor.dtype) != announced.dtype:
        raise ValueError(f"{announced.name}: announced as {announced.dtype} {announced.shape}, "
                         f"made as {tensor.dtype} {tuple(tensor.shape)}")
    return tensor


def write_synced(path: Path, content: bytes) -> None:
    """Write a small file and sync it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cut_shards(tensors: Iterable[StoredTensor], stem: str, limit: int) -> dict[str, list[StoredTensor]]:
    """Files by the hub's names and what each holds, in order: one, or numbered ones of at most `limit` bytes of data.

    A tensor larger than the limit gets a file to itself.
    """
    shards: list[list[StoredTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    return {f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}


_OWN_HASH = re.compile(rb'"sha256": "([0-9a-f]{64})"\n}\n\Z')


def own_hash(text: bytes) -> str | None:
    """The hash that a config's text ends with, if it is right: that of the text without these 64 digits."""
    found = _OWN_HASH.search(text, max(0, len(text) - 100))
    if found is None:
        return None
    digest = hashlib.sha256(text[:found.start(1)] + text[found.end(1):]).hexdigest()
    return digest if digest.encode() == found[1] else None

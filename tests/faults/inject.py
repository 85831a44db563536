"""Make the k-th write, rename, sync, opening, mapping, allocation or device call fail, at the border to the system.

`failing` counts one kind of call within some folders while it is in force; the k-th one raises (and all after it, where the
fault lasts). With `at=None` nothing fails and the calls are only counted, so that all of them can be gone through later.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import core.artifact
import core.checkpoint


def full() -> OSError:
    """The disk is full."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken() -> OSError:
    """The disk fails."""
    return OSError(errno.EIO, os.strerror(errno.EIO))


def forbidden() -> OSError:
    """The folder may only be read."""
    return OSError(errno.EROFS, os.strerror(errno.EROFS))


def no_map() -> OSError:
    """There is no room to map a file."""
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def no_cuda_memory() -> RuntimeError:
    """As CUDA's allocator tells it."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB.")


def no_host_memory() -> RuntimeError:
    """As torch tells it of the host: by a plain RuntimeError."""
    return RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                        "to allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)")


def no_array_memory() -> MemoryError:
    """As NumPy and Python tell it."""
    return MemoryError("Unable to allocate 3.00 GiB for an array with shape (1,) and data type float32")


def no_device() -> RuntimeError:
    """A device that gives up, as torch tells it where it has no class of its own for that."""
    return RuntimeError("CUDA error: an illegal memory access was encountered")


KINDS: dict[str, tuple[Callable[[], BaseException], ...]] = {
    "write": (full, broken), "rename": (broken, full), "sync": (full, broken), "make": (forbidden, full),
    "open": (forbidden, broken), "remove": (broken,), "map": (no_map,), "device": (no_device,),
    "allocate": (no_cuda_memory, no_host_memory, no_array_memory)}
"""What can fail, and how."""


@dataclass
class Count:
    """How many calls there were, and whether one failed."""

    seen: int = 0
    failed: int = 0


class _Writer:
    """A file that is written to: each write is asked for; one that fails has written half of its data."""

    def __init__(self, file: Any, ask: Callable[[], None]) -> None:
        self._file, self._ask = file, ask

    def write(self, data: Any) -> int:
        try:
            self._ask()
        except BaseException:
            self._file.write(data[:len(data) // 2])
            raise
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *given: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


_MAPPING = ("set_", "empty", "select", "_local_scalar_dense")
"""What torch does when it wraps a mapped file: nothing there can run short, and it hides what is raised."""


class _Operations(TorchDispatchMode):
    """Every operation on tensors that makes or computes something."""

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ask = ask

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and (name not in _MAPPING or (name == "empty" and any(args[0]))):
            self._ask()
        return func(*args, **(kwargs or {}))


def _place(target: Any) -> str:
    if isinstance(target, int):
        try:
            return os.readlink(f"/proc/self/fd/{target}")
        except OSError:
            return ""
    return os.fsdecode(target) if isinstance(target, str | bytes | os.PathLike) else ""


@contextmanager
def failing(kind: str, at: int | None, error: Callable[[], BaseException], *folders: Path,
            lasts: bool = False) -> Iterator[Count]:
    """The `at`-th call (from 0) of a kind that concerns one of the folders raises; where the fault lasts, all later ones too."""
    count, roots = Count(), tuple(str(f) for f in folders)

    def ask() -> None:
        number = count.seen
        count.seen += 1
        if at is not None and (number == at or (lasts and number > at)):
            count.failed += 1
            raise error()

    def is_ours(target: Any) -> bool:
        return _place(target).startswith(roots)

    def asked(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(target: Any, *given: Any, **named: Any) -> Any:
            if is_ours(target):
                ask()
            return call(target, *given, **named)
        return wrapped

    opened = io.open

    def opening(target: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        writes = any(c in mode for c in "wxa+")
        if kind == "open" and is_ours(target):
            ask()
        file = opened(target, mode, *given, **named)
        return _Writer(file, ask) if kind == "write" and writes and is_ours(target) else file

    with ExitStack() as stack:
        calls: dict[str, tuple[str, ...]] = {"rename": ("rename", "replace"), "sync": ("fsync",), "make": ("mkdir",),
                                             "remove": ("unlink", "rmdir"), "open": ("open",), "write": ("sendfile",)}
        for name in calls.get(kind, ()):
            stack.enter_context(patch.object(os, name, asked(getattr(os, name))))
        if kind in ("open", "write"):
            stack.enter_context(patch.object(io, "open", opening))
            stack.enter_context(patch.object(builtins, "open", opening))
        if kind == "map":
            for module in (core.checkpoint, core.artifact):
                stack.enter_context(patch.object(module, "safe_open", asked(vars(module)["safe_open"])))
        if kind in ("allocate", "device"):
            stack.enter_context(_Operations(ask))
        yield count

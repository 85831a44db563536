"""What ran short or failed beneath us (memory, disk, a device), told apart and put into words that name the number."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from core.errors import DeltadeckError, DeviceFailed, DiskFull, OutOfMemory, StorageFailed

FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_ELSEWHERE = (BrokenPipeError, ConnectionError, TimeoutError, BlockingIOError, InterruptedError)
"""Of no file: they mean something to whoever called."""
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|ALLOC_FAILED|unable to allocate|"
                        r"not enough memory", re.I)
_ASKED = re.compile(r"(?:tried to|unable to) allocate ([\d.]+) ?([KMGTP]i?B|bytes)", re.I)
STEPS_KEPT, FEWER_SAMPLES = "Finished steps are kept.", "Close other programs, take fewer samples, or use another device."
"""Of a job whose memory ran out."""
_UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: the host's (which torch tells of by a plain RuntimeError) or a device's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def is_device_failure(error: BaseException) -> bool:
    """Whether an accelerator gave up for another reason than its memory."""
    return isinstance(error, RuntimeError) and not is_out_of_memory(error) and (
        isinstance(error, torch.AcceleratorError) or str(error).startswith(("CUDA error", "CUDA driver error", "MPS backend")))


def asked_bytes(error: BaseException) -> int | None:
    """How much memory was asked for in vain, as far as the exception says it."""
    found = _ASKED.search(str(error))
    return None if found is None else int(float(found[1]) * _UNITS[found[2][0].lower()])


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, or on the host where the device shares it."""
    if device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def memory_warning(need: int, device: torch.device) -> str:
    """What to say before a job that is predicted to need so many bytes of memory at its peak; nothing where they are free."""
    free = free_memory(device)
    if need <= free:
        return ""
    return (f"The job is predicted to need {_megabytes(need)} MB of memory at its peak, {_megabytes(free)} MB are free on "
            f"'{device}'. It may slow down or be ended half way. Close other programs, or take fewer samples.")


def memory_words(error: BaseException, device: torch.device) -> str:
    """`2,000 MB were asked for, 310 MB are free`."""
    asked, free = asked_bytes(error), f"{free_memory(device) / 1e6:,.0f} MB are free"
    return free if asked is None else f"{_megabytes(asked)} MB were asked for, {free}"


def out_of_memory(error: BaseException, device: torch.device, when: str = "", kept: str = STEPS_KEPT,
                  remedy: str = FEWER_SAMPLES) -> OutOfMemory:
    """The error to raise; `when` says what was under way (" even with 64 tokens at a time"), `kept` what is not lost."""
    whose = "This computer's memory" if device.type == "cpu" else f"The memory of '{device}'"
    return OutOfMemory(f"{whose} ran out{when}: {memory_words(error, device)}.", kept, remedy)


def storage_failed(error: OSError, where: Path, need: int = 0) -> StorageFailed:
    """The error to raise for a file operation that failed while up to `need` bytes were to be written to the folder `where`."""
    if error.errno in FULL:
        short = f"{_megabytes(_free_disk(where))} MB are free"
        if need:
            short += f", up to {_megabytes(need)} MB are needed"
        return DiskFull(f"The disk of '{where}' is full: {short}.", "What was finished before is kept.",
                        "Free some space, then try again.")
    said = (error.strerror or type(error).__name__).rstrip(".")
    return StorageFailed(f"The system refused to use '{error.filename or where}': {said}.", "What was finished before is kept.",
                         "Check the folder, its permissions and its disk, then try again.")


@contextmanager
def in_words(where: Path, need: Callable[[], int] = lambda: 0, device: torch.device | None = None,
             kept: str = STEPS_KEPT, remedy: str = FEWER_SAMPLES) -> Iterator[None]:
    """Turn what the system, the memory or a device refuses into errors of ours; anything else is raised on as it is.

    Up to `need()` bytes are written to the folder `where` meanwhile. Where memory runs out, `kept` says what is not lost and
    `remedy` what to do.
    """
    try:
        yield
    except (DeltadeckError, *_ELSEWHERE):
        raise
    except (OSError, MemoryError, RuntimeError) as error:
        own = device or torch.device("cpu")
        if is_out_of_memory(error):
            raise out_of_memory(error, own, kept=kept, remedy=remedy) from error
        if is_device_failure(error):
            said = str(error).strip().splitlines()[0].rstrip(".")
            raise DeviceFailed(f"The device '{own}' failed: {said}.", "Finished steps are kept.",
                               "Start the program again; if it comes back, use another device.") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise storage_failed(error, where, need()) from error
        raise


def _free_disk(where: Path) -> int:
    while not where.exists() and where != where.parent:
        where = where.parent
    try:
        return shutil.disk_usage(where).free
    except OSError:
        return 0


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 10e6 else f"{count / 1e6:,.1f}"

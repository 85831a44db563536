"""Which device computes, how exactly, and what to do when its memory runs out."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from core.errors import BadOption
from core.shortage import is_out_of_memory, out_of_memory
from core.stream import TOKENS_AT_ONCE, limited

T = TypeVar("T")

SMALLEST = 64
"""Tokens at a time below which nothing smaller is tried."""


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's GPU, then the CPU. Raises `BadOption` for a device that is not there."""
    present = available_devices()
    if name == "auto":
        return torch.device(present[0])
    if name.split(":")[0] not in present:
        raise BadOption(f"There is no device '{name}' here.", f"This machine has: {', '.join(present)}.",
                        "Choose one of those, or auto.")
    try:
        return torch.device(name)
    except RuntimeError as e:
        raise BadOption(f"'{name}' names no device.", "", f"Choose one of: auto, {', '.join(present)}.") from e


def available_devices() -> list[str]:
    """Kinds of device present, the fastest first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def cuda_devices() -> list[str]:
    """CUDA devices of this process, named as CUDA_VISIBLE_DEVICES takes them; a process given one of them has it as `cuda`."""
    count = torch.cuda.device_count()
    named = [n.strip() for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    return named[:count] if len(named) >= count else [str(i) for i in range(count)]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether products of bf16 matrices run in the processor's own instructions."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """FP32 products in full FP32 (no TF32), the same kernels each run; the former settings come back."""
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def retry_smaller(work: Callable[[int], T], device: torch.device, at_once: int = TOKENS_AT_ONCE) -> T:
    """Call `work(tokens at once)`; after an out-of-memory error again with half as many, down to 64.

    Batches that `work` cuts are no larger than that, whether or not it says so itself (`stream.limited`).

    Raises `OutOfMemory` with the number that was short, and anything else that `work` raises.
    """
    while True:
        try:
            with limited(at_once):
                return work(at_once)
        except (RuntimeError, MemoryError, OSError) as e:          # the host's own shortage is a plain RuntimeError of torch
            if not is_out_of_memory(e):
                raise
            if at_once <= SMALLEST:
                raise out_of_memory(e, device, f" even with {at_once} tokens at a time") from e
            at_once //= 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
        give_back_memory()


def give_back_memory() -> None:
    """Hand free memory between live tensors back to the system, where the C library has a call for it (glibc).

    Without it the heap keeps some of every stage's and block's peak: freed pieces of different sizes do not fit the next.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

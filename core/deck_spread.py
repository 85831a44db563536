"""A base over several devices: all GPUs, then the CPU, module by module. Each weight stays where it is put, and is used there.

The map comes from accelerate, and so do the hooks that bring a module's inputs to its weights. What lies on the CPU is
computed there, not carried to a GPU at each step: for a few tokens moving weights costs more than using them, and a weight
that stays in place can be rewritten in place, which is what a switch does.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.errors import OutOfMemory
from core.shortage import free_memory

Places = Mapping[str, int | str]
"""Devices by module name, as accelerate has them: a GPU's number, "cpu", or any name of a device."""

SHARE = 0.85
"""Of a device's free memory what the base may take where it needs several: the rest is for variants, keys and values."""


def bytes_of(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers; one that is shared counts once."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def devices_of(model: torch.nn.Module) -> tuple[torch.device, ...]:
    """The devices of a model's parameters, in the order in which they are come upon."""
    return tuple(dict.fromkeys(p.device for p in model.parameters()))


def spread_words(devices: Sequence[torch.device]) -> str:
    """`2 GPUs and the CPU` for a base over several devices; empty for one."""
    kinds = Counter("the CPU" if d.type == "cpu" else "GPU" for d in devices)
    gpus = kinds.pop("GPU", 0)
    words = [*([f"{gpus} GPUs" if gpus > 1 else "the GPU"] if gpus else []), *kinds]
    return " and ".join(words) if len(devices) > 1 else ""


def rooms() -> dict[int | str, int]:
    """Bytes for a base on each device: GPUs by number, then the CPU."""
    gpus: dict[int | str, int] = {i: int(free_memory(torch.device("cuda", i)) * SHARE) for i in range(torch.cuda.device_count())}
    return {**gpus, "cpu": int(free_memory(torch.device("cpu")) * SHARE)}


def plan_places(model: Any, room: Mapping[int | str, int]) -> Places:
    """Which module goes where so that no device holds more than its room; a transformers model's blocks stay whole.

    Raises `OutOfMemory` where all of them together are too small.
    """
    from accelerate import infer_auto_device_map

    found: dict[str, int | str] = infer_auto_device_map(model, max_memory=dict(room), offload_buffers=True,
                                                        no_split_module_classes=sorted(model._no_split_modules or ()))
    if "disk" in found.values():
        raise OutOfMemory(
            f"The model's {bytes_of(model) / 1e6:,.0f} MB do not fit into the memory of all devices: "
            f"{sum(room.values()) / 1e6:,.0f} MB of it can be used.", "Nothing was loaded.",
            "Close other programs, or use a machine with more memory.")
    return found


def spread(model: Any, places: Places) -> None:
    """Put a loaded transformers model's modules on their devices; it is called as before, from any device."""
    from accelerate import dispatch_model

    log = logging.getLogger("accelerate.big_modeling")
    level = log.level
    log.setLevel(logging.ERROR)                        # it says that what is on the CPU were on `meta`, which is not so here
    try:
        # A main device that is the CPU: weights there stay there.
        dispatch_model(model, dict(places), main_device="cpu", skip_keys=sorted(model._skip_keys_device_placement or ()) or None,
                       force_hooks=True)
    finally:
        log.setLevel(level)
    for module in model.modules():
        own = next((p for p in module._parameters.values() if p is not None), None)
        if own is not None and hasattr(module, "_hf_hook"):
            module._hf_hook.execution_device = own.device      # a tied head lies where the embedding does, whatever the map says
    model._hf_hook.execution_device = model.get_input_embeddings().weight.device


def set_forward(module: torch.nn.Module, forward: Any | None) -> None:
    """Let `forward` stand in for a module's own, behind a hook that brings its inputs; None for its own again."""
    own = vars(module)
    if "_old_forward" in own:
        own["_old_forward"] = forward or type(module).forward.__get__(module)
    elif forward is None:
        own.pop("forward", None)
    else:
        own["forward"] = forward

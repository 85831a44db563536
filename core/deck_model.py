"""A base model in memory: loaded, measured, and let go of again; and the tokenizer files of its variants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from core import garbage
from core.checkpoint import Checkpoint
from core.deck_spread import Places, bytes_of, plan_places, rooms, spread
from core.devices import give_back_memory
from core.errors import DeltadeckError, OutOfMemory
from core.shortage import free_memory, is_out_of_memory, memory_words
from core.skeleton import BUILDING, Skeleton
from core.tokenizer_files import make_tokenizer

_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "chat_template")


@dataclass(frozen=True)
class Memory:
    """Bytes in use: of this process (resident), and on the accelerator (0 without one)."""

    process: int
    device: int


def memory_now(*devices: torch.device) -> Memory:
    """What is in use at the moment, on all of these devices together."""
    on_device = 0
    for device in devices:
        if device.type == "cuda":
            on_device += torch.cuda.memory_allocated(device)
        elif device.type == "mps":
            on_device += torch.mps.current_allocated_memory()
    return Memory(psutil.Process().memory_info().rss, on_device)


def load_model(checkpoint: Checkpoint, device: torch.device, places: Places | None = None) -> Any:
    """The model of an opened checkpoint, in the type it is stored in, ready to answer.

    On one device; over several where `places` say so, or where a GPU has too little free memory for it.

    Its parameters lie in memory of their own, not in the mapped file, so that what is reported is what is used and nothing
    that happens to the file reaches them. Raises `OutOfMemory`, and `BadSafetensors` where a file changed
    meanwhile.
    """
    from transformers import AutoModelForCausalLM

    try:
        with BUILDING:
            model: Any = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype="auto", local_files_only=True,
                                                              trust_remote_code=False, use_safetensors=True)
        model.eval().requires_grad_(False)
        if places is None and device.type == "cuda" and bytes_of(model) > free_memory(device):
            places = plan_places(model, rooms())
        if places is not None:
            spread(model, places)
        elif device.type != "cpu":
            model.to(device)
        for parameter in model.parameters():
            if parameter.device.type == "cpu":
                parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        give_back()                                    # what loading leaves behind, the mapped file above all
    except (RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            whose = "This computer's memory" if device.type == "cpu" else f"The memory of '{device}'"
            raise OutOfMemory(f"{whose} is too small for '{checkpoint.source}': {memory_words(error, device)}.",
                              "Nothing was loaded.", "Close other programs, or use another device.") from error
        raise
    checkpoint.check()
    return model


def key_of(model: nn.Module, module: nn.Module | None, leaf: str = "weight") -> str:
    """Name of a module's parameter in the model; empty without a module."""
    return next((f"{name}.{leaf}" for name, m in model.named_modules() if m is module), "") if module is not None else ""


def is_one(model: Any, one: str, other: str) -> bool:
    """Whether two parameters are the same tensor."""
    return bool(one and other) and model.get_parameter(one) is model.get_parameter(other)


def skeleton_of(checkpoint: Checkpoint) -> Skeleton:
    """The shape of a checkpoint's model; raises `UnsupportedModel`."""
    return Skeleton(checkpoint.config)


def give_back() -> None:
    """Return freed memory to the system, as far as the allocators know how."""
    garbage.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_memory()


def brings_tokenizer(sidecars: Mapping[str, Path]) -> bool:
    """Whether any of these files shapes a tokenizer or a chat template."""
    return any(name.startswith(_TOKENIZER) or name.endswith(".model") for name in sidecars)


def load_tokenizer(files: Mapping[str, Path]) -> Any:
    """The tokenizer that these files (by name) make, with its chat template; None when there is none among them.

    Raises `DeltadeckError` for files that transformers can't use.
    """
    if not brings_tokenizer(files):
        return None
    try:
        return make_tokenizer(files)
    except ValueError as error:
        raise DeltadeckError("The tokenizer can't be loaded.", f"transformers said: {error}.",
                             "Get the files again, or check that they belong to this model.") from error


def load_generation_config(files: Mapping[str, Path], fallback: Any) -> Any:
    """generation_config.json among the files, else `fallback`."""
    from transformers import GenerationConfig

    path = files.get("generation_config.json")
    if path is None:
        return fallback
    try:
        return GenerationConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DeltadeckError(f"'{path}' can't be used.", f"transformers said: {error}.", "Get the file again.") from error

"""Small deltas for tests: the golden one under other names, with other records."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from core.artifact import CONFIG, BaseInfo, DeltaConfig, base_digest, config_bytes

GOLDEN = Path(__file__).parents[2] / "golden"
FIDELITY = {"objective": "kl", "base": 0.4, "fitted": 0.02, "tuned": 0.01, "variant": 0.01, "kept": "tuned", "tokens": 3840}


def make_delta(parent: Path, name: str, *, base_name: str = "base", loss: float = 0.01, foreign: bool = False, age: float = 0,
               **changes: Any) -> Path:
    """A delta folder. `foreign` belongs to another base of the same shapes; `age` is in days; more fields by keyword."""
    folder = parent / name
    shutil.copytree(GOLDEN / "delta", folder)
    config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=DeltaConfig)
    tensors = config.tensors
    if foreign:
        at = next(i for i, t in enumerate(tensors) if t.base is not None)
        tensors = (*tensors[:at], msgspec.structs.replace(tensors[at], base_sha256="0" * 64), *tensors[at + 1:])
    config = msgspec.structs.replace(config, **{
        "base": BaseInfo(base_name, "LlamaForCausalLM", base_digest(tensors)), "tensors": tensors, "fine_tuned": f"{name}-whole",
        "method": {"recipe": "exact", "axis": "auto"}, "fidelity": {**FIDELITY, "tuned": loss, "variant": loss}, **changes})
    (folder / CONFIG).write_bytes(config_bytes(config))
    if age:
        before = (folder / CONFIG).stat().st_mtime - age * 86400
        os.utime(folder / CONFIG, (before, before))
    return folder


def break_weights(folder: Path) -> None:
    """Change one byte in the middle of the weights: lengths and headers stay as they were."""
    path = folder / "delta_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(bytes(data))

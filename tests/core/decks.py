"""Deltas for decks, without a fit: each changed tensor by a codec that is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.artifact import BaseInfo, DeltaConfig, base_digest, write_delta
from core.checkpoint import open_checkpoint
from core.codecs import CODECS
from core.codecs.exact import changed_rows
from core.codecs.lowrank import factors
from core.codecs.scales import exponent_for
from core.codecs.sign import join_scales, scale_count
from core.record import DTYPE_NAMES, Slice, TensorRecord
from tests.models import Tensors, make_model, perturb, save_beside, save_model, tensors_of

AXES = ("row", "column", "both", "scalar")


def record_of(name: str, codec: str, tuned: Tensor, before: Tensor, base_name: str, sha256: str = "", *, conv1d: bool = False,
              axis: str = "row", planes: int = 1, cuts: tuple[int, ...] = ()) -> TensorRecord:
    """A record as a plan makes it; `cuts` are outputs at which another slice begins, on the next axis of `AXES`."""
    record = TensorRecord(name=name, codec=codec, shape=tuple(tuned.shape), dtype=DTYPE_NAMES[tuned.dtype], base=base_name,
                          base_shape=tuple(before.shape), base_dtype=DTYPE_NAMES[before.dtype], base_sha256=sha256,
                          output_dimension=int(conv1d))
    if codec == "sign":
        slices = []
        for i, (start, stop) in enumerate(itertools.pairwise([0, *cuts, record.outputs])):
            piece = Slice(start, stop, AXES[(AXES.index(axis) + i) % 4], 0)
            slices.append(Slice(start, stop, piece.axis, piece.used(record.inputs)))
        return replace(record, slices=tuple(slices), planes=planes, exponents=(0,) * planes)
    if codec == "rows":
        return replace(record, count=len(changed_rows(before, tuned)))
    if codec == "sparse":
        return replace(record, count=int((before[:len(tuned)] != tuned).sum()))
    if codec == "lowrank":
        rank = min(3, *tuned.shape)
        left, right = factors(tuned.float() - before[:len(tuned)].float(), rank)
        return replace(record, rank=rank, exponents=(exponent_for(torch.cat([left.flatten(), right.flatten()])),))
    return record


def encode(record: TensorRecord, before: Tensor, tuned: Tensor) -> Mapping[str, Tensor]:
    """A record's stored tensors, with scales of a fair size where the codec learns some."""
    fitted = None
    if record.codec == "sign":
        common = min(len(before), len(tuned))
        size = float((tuned[:common].float() - before[:common].float()).abs().mean())
        scales = [size * 2.0**-p * (0.5 + torch.rand(scale_count(record), generator=torch.Generator().manual_seed(p)))
                  for p in range(record.planes)]
        fitted = {"scale": join_scales(record, scales)}
    return CODECS[record.codec].encode(record, before, tuned, fitted)


def replace(record: TensorRecord, **changes: Any) -> TensorRecord:
    """A record with other values."""
    return TensorRecord(**{**{f: getattr(record, f) for f in record.__struct_fields__}, **changes})


def write(folder: Path, base: Path, tuned: Mapping[str, Tensor], codecs: Callable[[str, Tensor], Mapping[str, Any]],
          sidecars: Mapping[str, Path] | None = None) -> Path:
    """A delta of `tuned`; `codecs` gives {"codec": ..., further arguments of `record_of`} per tensor that changed."""
    with open_checkpoint(base) as opened:
        records = []
        for name, tensor in sorted(tuned.items()):
            base_name = name if name in opened.tensors else "model.embed_tokens.weight"
            before = opened.view(base_name)
            same = before.shape == tensor.shape and torch.equal(before, tensor)
            settings = {"codec": "same"} if same else dict(codecs(name, tensor))
            records.append(record_of(name, settings.pop("codec"), tensor, before, base_name, opened.sha256(base_name),
                                     **settings))
        config = DeltaConfig(tool_version="0", base=BaseInfo("base", "x", base_digest(records)), fine_tuned="x", method={},
                             calibration={}, fidelity={}, files={}, tensors=tuple(records))
        write_delta(folder, config, lambda r: encode(r, opened.view(str(r.base)), tuned[r.name]), sidecars or {}, "A delta.\n")
    return folder


def signs_by_turns(planes: int = 1, conv1d: bool = False, **more: Any) -> Callable[[str, Tensor], Mapping[str, Any]]:
    """Matrices as signs, on one axis after the other; what is no matrix as it is."""
    turns = iter(AXES * 1000)

    def choose(name: str, tensor: Tensor) -> Mapping[str, Any]:
        if tensor.dim() != 2:
            return {"codec": "full"}
        inner = conv1d and any(part.isdigit() for part in name.split("."))
        return {"codec": "sign", "axis": next(turns), "planes": planes, "conv1d": inner, **more}
    return choose


def exact_by_turns(conv1d: bool = False) -> Callable[[str, Tensor], Mapping[str, Any]]:
    """Matrices by every codec that needs no signs, one after the other; what is no matrix as it is."""
    turns = iter(("rows", "sparse", "lowrank", "full") * 1000)

    def choose(name: str, tensor: Tensor) -> Mapping[str, Any]:
        if tensor.dim() != 2:
            return {"codec": "full"}
        return {"codec": next(turns), "conv1d": conv1d and any(part.isdigit() for part in name.split("."))}
    return choose


def make_base(folder: Path, architecture: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A random base of an architecture."""
    return save_model(folder / "base", make_model(architecture, **changes).to(dtype))


def make_deltas(folder: Path, base: Path, *, conv1d: bool = False) -> dict[str, Path]:
    """Three variants: all matrices as signs, two planes, every exact codec; norms and biases move too."""
    start = tensors_of(base)
    everything = lambda name, tensor: tensor.is_floating_point()          # noqa: E731
    first, second = perturb(start, 0.02, 1, everything), perturb(start, 0.05, 2, lambda n, t: t.dim() == 2)
    third: Tensors = {}
    for i, (name, tensor) in enumerate(sorted(perturb(start, 0.05, 3, everything).items())):
        some = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(i)) < 0.05
        third[name] = torch.where(some, tensor, start[name])
    return {"one": write(folder / "one", base, first, signs_by_turns(conv1d=conv1d)),
            "two": write(folder / "two", base, second, signs_by_turns(2, conv1d)),
            "exact": write(folder / "exact", base, third, exact_by_turns(conv1d))}


def whole(folder: Path, base: Path) -> Path:
    """A full fine-tune of the base."""
    return save_beside(folder / "whole", base, perturb(tensors_of(base), 0.05, 7, lambda n, t: t.is_floating_point()))

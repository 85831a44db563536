"""What lies on a deck: a delta or a whole checkpoint, and which of the loaded model's parameters it turns into what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from core.artifact import Delta, check_base, check_whole, open_delta
from core.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from core.codecs import CODECS
from core.codecs.contract import Stored
from core.codecs.sign import plane_scales, split_scales
from core.errors import UnsupportedModel, WrongBase
from core.merge import variant_config
from core.record import DTYPE_NAMES, Slice, TensorRecord
from core.signs import add_signs, add_signs_float32
from core.skeleton import Placement, Skeleton

BASE = "base"
"""Name of the base as a variant of its own."""

_SAYS_NOTHING = {"_name_or_path", "transformers_version", "use_cache", "bos_token_id", "eos_token_id", "dtype", "torch_dtype"}
"""Keys of a config that change nothing of the model's shape."""
_AT_ONCE = 1 << 19
"""Weights with several sign planes that are summed at a time: they stay in the cache."""


@dataclass(frozen=True)
class Loaded:
    """What all variants of a deck refer to: the base's files, and where each of its tensors goes in the loaded model.

    `pieces`: tensors by parameter. `input_key`, `output_key`: the embedding's and the head's parameter; `tied` when the
    loaded model holds them as one. `homes`: the device of each parameter that does not lie on `device`.
    """

    checkpoint: Checkpoint
    pieces: Mapping[str, tuple[Placement, ...]]
    input_key: str
    output_key: str
    tied: bool
    device: torch.device
    skeleton: Skeleton
    homes: Mapping[str, torch.device] = field(default_factory=dict)

    def home(self, key: str) -> torch.device:
        """The device of a parameter."""
        return self.homes.get(key, self.device)

    def skeleton_of(self, config: Mapping[str, Any]) -> Skeleton:
        """The shape of a variant's model: the base's own where the configs say the same of it. Raises `UnsupportedModel`."""
        own = self.checkpoint.config
        differ = {k for k in own.keys() | config.keys() if own.get(k) != config.get(k)}
        return self.skeleton if differ <= _SAYS_NOTHING else Skeleton(config)


class Source(Protocol):
    """Values for parameters: the base's, or a variant's."""

    @property
    def name(self) -> str:
        """As it is called on the deck."""

    @property
    def pieces(self) -> Mapping[str, tuple[Placement, ...]]:
        """Its tensors on disk by parameter, in order."""

    @property
    def changed(self) -> frozenset[str]:
        """Parameters that differ from the base's."""

    @property
    def ties(self) -> bool:
        """Whether embedding and head are one parameter."""

    def shape(self, key: str) -> tuple[int, ...] | None:
        """A parameter's shape where one tensor makes it; None for stacked experts, which have the base's."""

    def write(self, tensor: str, target: Tensor) -> None:
        """Fill `target` with a tensor by its name on disk, rounded to the target's type."""

    def check(self) -> None:
        """Raise where a file that `write` reads is not what it was: what was written may be wrong then."""

    def close(self) -> None:
        """Let go of files and memory."""


def group(placements: Mapping[str, Placement], skeleton: Skeleton) -> tuple[dict[str, tuple[Placement, ...]], bool]:
    """Placements by parameter, and whether the head follows the embedding (its entry is then the embedding's).

    A head that is on disk counts, whatever the config says; so transformers sees it too.
    """
    found: dict[str, list[Placement]] = {}
    for placement in placements.values():
        found.setdefault(placement.parameter, []).append(placement)
    pieces = {key: tuple(sorted(p, key=lambda p: (p.expert or 0, p.part))) for key, p in found.items()}
    source, head = skeleton.input_name, skeleton.output_name
    follows = bool(skeleton.tied and source in pieces and head and head not in pieces)
    if follows and source and head:
        pieces[head] = pieces[source]
    return pieces, follows


class Base:
    """The base itself."""

    def __init__(self, loaded: Loaded) -> None:
        self.name, self.loaded, self.pieces = BASE, loaded, loaded.pieces
        self.changed: frozenset[str] = frozenset()
        self.ties = loaded.tied

    def shape(self, key: str) -> tuple[int, ...] | None:
        return _single_shape(self.pieces[key], self.loaded.checkpoint.tensors)

    def write(self, tensor: str, target: Tensor) -> None:
        target.copy_(self.loaded.checkpoint.view(tensor))

    def check(self) -> None:
        self.loaded.checkpoint.check()

    def close(self) -> None:
        self.loaded.checkpoint.close()


def _single_shape(pieces: tuple[Placement, ...], tensors: Mapping[str, TensorInfo | TensorRecord]) -> tuple[int, ...] | None:
    return tuple(tensors[pieces[0].tensor].shape) if pieces[0].expert is None else None


class DeltaVariant:
    """A delta, its stored tensors in memory where the parameter lies that they change: nothing depends on its files any more."""

    def __init__(self, name: str, delta: Delta, loaded: Loaded) -> None:
        self.name, self.loaded, self.folder = name, loaded, delta.folder
        self.config = dict(variant_config(delta, loaded.checkpoint))
        self.records = delta.records
        skeleton = loaded.skeleton_of(self.config)
        self.pieces, self.ties = group(skeleton.place({r.name: r.shape for r in delta.records.values()}), skeleton)
        self.sidecars = delta.sidecars()
        same = {r.name for r in self.records.values() if _is_same(r)}
        origin = {name: r.base for name, r in self.records.items()}
        self.changed, self.ties = compare(self.pieces, loaded, lambda name: name in same, origin, self.ties)
        homes = {piece.tensor: loaded.home(key) for key, pieces in self.pieces.items() for piece in pieces}
        self.stored: dict[str, Stored] = {n: {k: v.to(homes.get(n, loaded.device), copy=True) for k, v in delta.stored(n).items()}
                                          for n in self.records}
        delta.check()

    @property
    def stored_bytes(self) -> int:
        """Bytes that it holds in memory."""
        return sum(t.nbytes for stored in self.stored.values() for t in stored.values())

    def shape(self, key: str) -> tuple[int, ...] | None:
        return _single_shape(self.pieces[key], self.records)

    def base_view(self, record: TensorRecord, device: torch.device) -> Tensor | None:
        """The mapped base tensor of a record, on a device."""
        return None if record.base is None else self.loaded.checkpoint.view(record.base).to(device)

    def stored_on(self, tensor: str, device: torch.device) -> Stored:
        """A tensor's parts on a device: as they lie there, but for one that serves parameters on several."""
        return {k: v.to(device) for k, v in self.stored[tensor].items()}

    def write(self, tensor: str, target: Tensor) -> None:
        record, stored = self.records[tensor], self.stored_on(tensor, target.device)
        base = self.base_view(record, target.device)
        plain = (record.codec == "sign" and not record.tail and target.dtype == record.torch_dtype and target.is_contiguous())
        if not plain or base is None or (record.planes > 1 and record.output_dimension):
            target.copy_(CODECS[record.codec].add(record, stored, base))
            return
        # The codec's sum, bit for bit, but written where it belongs and without a copy of the whole in FP32.
        common, signs = base[:record.shape[0]], stored["signs"]
        scales = [list(split_scales(record, s)) for s in plane_scales(record, stored)]
        if record.planes > 1:
            in_threads([partial(_add_planes, common, signs, pieces, part, target)
                        for pieces in zip(*scales, strict=True) for part in _parts(pieces[0][0], record.shape[1])])
            return
        for piece, row, column in scales[0]:
            if record.output_dimension:
                add_signs(common, signs[0], column, row, out=target)
            else:
                part = slice(piece.start, piece.stop)
                add_signs(common[part], signs[0, part], row, column, out=target[part])

    def check(self) -> None:
        self.loaded.checkpoint.check()

    def close(self) -> None:
        self.stored = {}


def _parts(piece: Slice, columns: int) -> Iterator[slice]:
    """Rows of a slice, some at a time."""
    step = max(1, _AT_ONCE // max(1, columns))
    for start in range(piece.start, piece.stop, step):
        yield slice(start, min(start + step, piece.stop))


def _add_planes(base: Tensor, signs: Tensor, pieces: Sequence[tuple[Slice, Tensor | None, Tensor | None]], part: slice,
                target: Tensor) -> None:
    """target = base + all planes for the rows of `part`, which lie in one slice (with its scales per plane)."""
    total = base[part].to(torch.float32, copy=True)
    for plane, (piece, row, column) in zip(signs, pieces, strict=True):
        here = None if row is None else row[part.start - piece.start:part.stop - piece.start]
        add_signs_float32(total, plane[part], here, column)
    target[part] = total


def in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    """Do tasks that do not depend on each other on as many threads as torch uses; the first failure stops them."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads < 2:
        for task in tasks:
            task()
        return
    left = iter(tasks)         # one iterator for all: whoever is free takes the next

    def work() -> None:
        with torch.no_grad():  # which holds for one thread only
            for task in left:
                task()

    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        try:
            work()
        except BaseException:
            for _ in left:     # the others are to stop
                pass
            raise
    for other in others:
        other.result()


class WholeVariant:
    """A whole checkpoint, mapped from disk: what differs from the base is read where it lies."""

    def __init__(self, name: str, checkpoint: Checkpoint, loaded: Loaded) -> None:
        self.name, self.loaded, self.checkpoint, self.folder = name, loaded, checkpoint, checkpoint.folder
        self.config = dict(checkpoint.config)
        skeleton = loaded.skeleton_of(self.config)
        shapes = {n: t.shape for n, t in checkpoint.tensors.items()}
        self.pieces, follows = group(skeleton.place(shapes), skeleton)
        self.sidecars = checkpoint.sidecars()
        base = loaded.checkpoint
        _check_fits(self.pieces, shapes, loaded, checkpoint.source)
        origin = {p.tensor: q.tensor for key, pieces in self.pieces.items() if key in loaded.pieces
                  for p, q in zip(pieces, loaded.pieces[key], strict=True)}

        def same(tensor: str) -> bool:
            one, other = checkpoint.tensors[tensor], base.tensors[origin[tensor]]
            return (one.dtype == other.dtype and tuple(one.shape) == tuple(other.shape)
                    and checkpoint.sha256(tensor) == base.sha256(origin[tensor]))
        self.changed, self.ties = compare(self.pieces, loaded, same, origin, follows)

    @property
    def stored_bytes(self) -> int:
        """Bytes that it holds in memory: none, all lies in mapped files."""
        return 0

    def shape(self, key: str) -> tuple[int, ...] | None:
        return _single_shape(self.pieces[key], self.checkpoint.tensors)

    def write(self, tensor: str, target: Tensor) -> None:
        target.copy_(self.checkpoint.view(tensor))

    def check(self) -> None:
        self.checkpoint.check()

    def close(self) -> None:
        self.checkpoint.close()


Variant = DeltaVariant | WholeVariant


def _is_same(record: TensorRecord) -> bool:
    return record.codec == "same" and record.dtype == record.base_dtype and record.shape == record.base_shape


def compare(pieces: Mapping[str, tuple[Placement, ...]], loaded: Loaded, same: Any, origin: Mapping[str, str | None],
            follows: bool) -> tuple[frozenset[str], bool]:
    """(parameters that differ from the base's, whether embedding and head stay one parameter).

    `same` tells of a tensor whether it equals the base's tensor that `origin` names.
    """
    changed = set()
    for key, parts in pieces.items():
        own = {p.tensor for p in loaded.pieces.get(key, ())}
        if not all(same(p.tensor) and origin[p.tensor] in own for p in parts):
            changed.add(key)
    ties = loaded.tied and follows
    if loaded.tied and not follows:
        # A head of its own on a base that has none: as long as both equal the base's embedding, they are still one.
        ties = loaded.input_key not in changed and loaded.output_key not in changed
        if not ties:
            changed.add(loaded.output_key)
    return frozenset(changed), ties


def _check_fits(pieces: Mapping[str, tuple[Placement, ...]], shapes: Mapping[str, tuple[int, ...]], loaded: Loaded,
                source: str) -> None:
    """`WrongBase` unless the checkpoint has the base's parameters, in its shapes but for the size of the vocabulary."""
    base = {n: t.shape for n, t in loaded.checkpoint.tensors.items()}
    what = f"'{source}' is no variant of the loaded base"
    if odd := sorted(pieces.keys() ^ loaded.pieces.keys()):
        raise WrongBase(f"{what}: only one of them has '{odd[0]}'.", "", "Load the base that it was fine-tuned from.")
    for key, parts in pieces.items():
        theirs = [tuple(shapes[p.tensor])[parts[0].expert is None:] for p in parts]
        ours = [tuple(base[p.tensor])[parts[0].expert is None:] for p in loaded.pieces[key]]
        if theirs != ours:
            raise WrongBase(f"{what}: '{key}' has another shape.", "", "Load the base that it was fine-tuned from.")


def open_variant(folder: Path, name: str, loaded: Loaded) -> Variant:
    """Open and check a delta or a whole checkpoint for a loaded base.

    Raises `NotADelta`, `DeltaCorrupt`, `WrongBase`, what `open_checkpoint` raises for a folder that is neither, and
    `UnsupportedModel` where the variant's config makes another kind of model.
    """
    if not (folder / "delta_config.json").is_file() and (folder / "config.json").is_file():
        return WholeVariant(name, open_checkpoint(folder), loaded)
    delta = open_delta(folder)
    check_whole(delta)
    check_base(delta, loaded.checkpoint)
    variant = DeltaVariant(name, delta, loaded)
    if odd := sorted(variant.pieces.keys() ^ loaded.pieces.keys()):
        raise UnsupportedModel(f"The delta in '{folder}' makes a model with other parameters: '{odd[0]}'.",
                               "Its config.json differs from the base's in more than values.", "Export it, and load that.")
    return variant


def slot(parameter: Tensor, pieces: tuple[Placement, ...], at: Placement) -> Tensor:
    """The part of a parameter that a tensor on disk fills: all of it, or one matrix of one stacked expert."""
    if at.expert is None:
        return parameter
    parts = 1 + max(p.part for p in pieces)
    rows = parameter.shape[1] // parts
    return parameter[at.expert, at.part * rows:(at.part + 1) * rows]


def fill(source: Source, key: str, parameter: Tensor) -> None:
    """Write a source's value of a whole parameter."""
    for piece in source.pieces[key]:
        source.write(piece.tensor, slot(parameter, source.pieces[key], piece))


def digest(tensors: Iterator[Tensor], dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    """SHA-256 over type, shape and bytes of a parameter that comes in consecutive parts."""
    found = hashlib.sha256(f"{DTYPE_NAMES[dtype]} {json.dumps(list(shape))}\n".encode())
    for tensor in tensors:
        data = tensor.detach().contiguous().cpu()
        if data.numel():
            found.update(data.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def combined(digests: Mapping[str, str]) -> str:
    """One hash for all parameters, by name."""
    return hashlib.sha256("".join(f"{k} {v}\n" for k, v in sorted(digests.items())).encode()).hexdigest()


def expected_digest(source: Source, key: str, parameter: Tensor) -> str:
    """What `digest` must find for a parameter, made from files; `parameter` gives type and (for experts) shape."""
    shape = source.shape(key) or tuple(parameter.shape)
    target = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)
    fill(source, key, target)
    return digest(iter([target]), target.dtype, shape)

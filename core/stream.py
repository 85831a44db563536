"""Carry calibration hidden states through one block at a time, and look at what enters each matrix.

Two such streams (the fine-tune's and the compressed student's) are all that a fit needs: memory is one block plus
the hidden states, whatever the model's depth, and each block runs a handful of times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.products import narrow_products, narrowed
from core.skeleton import OUTER, BlockCall, Skeleton
from core.weights import Weights

TOKENS_AT_ONCE = 4096
"""Tokens that go through a block together."""

_LIMIT: ContextVar[int] = ContextVar("tokens at once at most", default=TOKENS_AT_ONCE)

SPILL_FROM = 2 << 30
"""Bytes of one stream's hidden states from which on they live in a file."""


@dataclass(frozen=True)
class Use:
    """One matrix product seen: the parameter's path in its stage, the expert in it, and what came in."""

    parameter: str
    expert: int | None
    inputs: Tensor
    """(..., in) for a product, token ids for an embedding."""


class _Enough(Exception):
    """Raised inside a forward pass once everything that was asked for has been seen."""


class Watch(TorchFunctionMode):
    """Reports the inputs of matrix products whose weight is one of `parameters` (or a part of one).

    Works on calls, not modules, so that experts stacked in one parameter are seen one by one.
    """

    def __init__(self, parameters: Mapping[str, Tensor], report: Callable[[Use], None],
                 stop_after: frozenset[str] | None = None) -> None:
        super().__init__()
        self.parameters = {p.untyped_storage().data_ptr(): (name, p) for name, p in reversed(list(parameters.items()))}
        self.report, self.missing = report, set(stop_after) if stop_after is not None else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear or func is F.embedding:
            self._look(args[0], args[1] if len(args) > 1 else kwargs["weight"])
        elif func is torch.addmm:
            self._look(args[1], args[2])
        elif func in (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm) and len(args) > 1:
            self._look(args[0], args[1])
        if self.missing is not None and not self.missing:
            raise _Enough
        return func(*args, **kwargs)

    def _look(self, inputs: Any, weight: Any) -> None:
        if not isinstance(weight, Tensor) or not isinstance(inputs, Tensor):
            return
        known = self.parameters.get(weight.untyped_storage().data_ptr())
        if known is None:
            return
        name, parameter = known
        expert = None
        if parameter.dim() == 3:
            if weight.dim() != 2:
                return
            expert = (weight.storage_offset() - parameter.storage_offset()) // parameter.stride(0)
        if self.missing is None or name in self.missing:
            self.report(Use(name, expert, inputs.detach()))
        if self.missing is not None and parameter.dim() == 2:
            self.missing.discard(name)


class Remembered(dict[str, Tensor]):
    """Parameters of a block that remember results of their products, so that passes over the same data make them once.

    A result is kept when nothing before it in the pass may still change: all earlier products have `final` weights.
    """

    def __init__(self, parameters: Mapping[str, Tensor], final: frozenset[str],
                 results: list[dict[tuple[str, int], Tensor]]) -> None:
        super().__init__(parameters)
        self.final, self.results = final, results


class _Recall(TorchFunctionMode):
    """Takes results of products and attention of one batch over from earlier passes, or keeps them for later ones."""

    def __init__(self, parameters: Remembered, batch: int) -> None:
        super().__init__()
        self.names = {p.data_ptr(): name for name, p in parameters.items() if p.dim() == 2}
        self.changing = {p.untyped_storage().data_ptr() for name, p in parameters.items() if name not in parameters.final}
        self.results = parameters.results[batch]
        self.certain, self.calls = True, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        written = given[0] if given and _writes(func, kwargs) else kwargs.get("out")
        if isinstance(written, Tensor):
            for key, result in self.results.items():   # the model may write into its own copy
                if result.untyped_storage().data_ptr() == written.untyped_storage().data_ptr():
                    self.results[key] = result.clone()
        changing = any(a.untyped_storage().data_ptr() in self.changing for a in given)
        name = ""
        if func is F.linear and len(args) > 1:
            name = self.names.get(args[1].data_ptr(), "")
        elif func is F.scaled_dot_product_attention:
            name = "attention"
        if not name or changing or not self.certain:
            value = func(*args, **kwargs)
            self.certain = self.certain and not (changing and isinstance(value, Tensor | tuple | list))
            return value
        self.calls += 1
        key = name, self.calls
        if key not in self.results:
            self.results[key] = func(*args, **kwargs)
        return self.results[key]


def _writes(func: Any, kwargs: Any) -> bool:
    """Whether a call changes its first argument."""
    name = getattr(func, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or name == "__setitem__" or bool(
        kwargs and kwargs.get("inplace"))


def _recalled(parameters: Mapping[str, Tensor], batch: int) -> AbstractContextManager[object]:
    return _Recall(parameters, batch) if isinstance(parameters, Remembered) and parameters.results else nullcontext()


@dataclass
class Batches:
    """Calibration tokens cut into batches, and how a backbone calls its blocks for each."""

    ids: list[Tensor]
    """(samples, tokens) int64 each."""
    held_out: list[bool]
    calls: list[list[BlockCall]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """All tokens together."""
        return sum(i.numel() for i in self.ids)


@contextmanager
def limited(tokens: int) -> Iterator[None]:
    """Whatever cuts its tokens into batches meanwhile, on this thread, takes at most this many at a time."""
    token = _LIMIT.set(tokens)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def cut_batches(training: Tensor, held_out: Tensor | None = None, at_once: int = TOKENS_AT_ONCE) -> Batches:
    """Batches of (samples, tokens) ids; a batch is training or held-out as a whole. `limited` may make them smaller."""
    at_once = min(at_once, _LIMIT.get())
    ids: list[Tensor] = []
    flags: list[bool] = []
    for part, flag in ((training, False), (held_out, True)):
        if part is not None and len(part):
            pieces = part.split(max(1, at_once // part.shape[1]))
            ids += pieces
            flags += [flag] * len(pieces)
    return Batches(ids, flags)


class Hidden:
    """Hidden states of all batches between two blocks: in memory, or in a file once they are large."""

    def __init__(self, batches: Batches, width: int, device: torch.device, folder: Path | None = None,
                 name: str = "hidden") -> None:
        self.shapes = [(*ids.shape, width) for ids in batches.ids]
        self.device = device
        sizes = [a * b * c for a, b, c in self.shapes]
        total = sum(sizes)
        self.path = folder / f"{name}.bin" if folder is not None and total * 4 > SPILL_FROM else None
        if self.path is not None:
            _reserve(self.path, total * 4)
            flat = torch.from_file(str(self.path), shared=True, size=total, dtype=torch.float32)
        else:
            flat = torch.empty(total, dtype=torch.float32, pin_memory=device.type == "cuda")
        self.parts: list[Tensor] = [p.view(shape) for p, shape in zip(flat.split(sizes), self.shapes, strict=True)]

    def __getitem__(self, i: int) -> Tensor:
        return self.parts[i].to(self.device, non_blocking=True)

    def __setitem__(self, i: int, value: Tensor) -> None:
        with torch.inference_mode():                   # what was made in that mode can only be written to in it
            self.parts[i].copy_(value)

    def drop(self) -> None:
        """Remove the file, if there is one."""
        self.parts = []
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _reserve(path: Path, size: int) -> None:
    """Have the disk's blocks of a file that is to be mapped. Raises OSError: writing to a page that finds none kills."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        zeros = bytes(1 << 20)
        for at in range(0, size, len(zeros)):
            file.write(zeros[:size - at])


def start(skeleton: Skeleton, weights: Weights, batches: Batches, device: torch.device, folder: Path | None = None,
          name: str = "hidden", outer: Mapping[str, Tensor] | None = None) -> Hidden:
    """Embed all batches; fills `batches.calls` when they are still unknown."""
    parameters = outer if outer is not None else weights.stage(OUTER)
    hidden: Hidden | None = None
    known = bool(batches.calls)
    with torch.inference_mode():
        for i, ids in enumerate(batches.ids):
            prologue = skeleton.prologue(parameters, ids.to(device))
            if hidden is None:
                hidden = Hidden(batches, prologue.hidden.shape[-1], device, folder, name)
            hidden[i] = prologue.hidden
            if not known:
                batches.calls.append(_shared(prologue.calls, batches.calls))
    assert hidden is not None
    return hidden


def _shared(calls: list[BlockCall], earlier: Sequence[list[BlockCall]]) -> list[BlockCall]:
    """`calls`, or an earlier batch's when they are equal: masks and rotary tables are then held once."""
    for other in (*earlier[:1], *earlier[-1:]):
        if _equal([(c.args, c.kwargs) for c in calls], [(c.args, c.kwargs) for c in other]):
            return other
    first: dict[int, Tensor] = {}

    def shared(value: Any) -> Any:
        if isinstance(value, Tensor):
            return first.setdefault(id(value), value)
        if isinstance(value, tuple):
            return tuple(shared(v) for v in value)
        return value
    return [BlockCall(tuple(shared(a) for a in c.args), {k: shared(v) for k, v in c.kwargs.items()}) for c in calls]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return bool(a == b)


def advance(skeleton: Skeleton, block: int, parameters: Mapping[str, Tensor], hidden: Hidden, batches: Batches,
            tick: Callable[[], None] | None = None, *, narrow: bool = False) -> None:
    """Replace all hidden states by what the block makes of them; with `narrow`, products in bf16."""
    with torch.inference_mode(), narrow_products(hidden.device, narrow):
        if narrow:
            parameters = narrowed(parameters)
        for i in range(len(batches.ids)):
            with _recalled(parameters, i):
                hidden[i] = skeleton.run_block(block, parameters, hidden[i], batches.calls[i][block])
            if tick:
                tick()


def observe(skeleton: Skeleton, block: int, parameters: Mapping[str, Tensor], hidden: Tensor, call: BlockCall,
            only: frozenset[str]) -> tuple[list[Use], Tensor]:
    """The products with `only` these parameters of one whole pass through a block, and the hidden states after it."""
    seen: list[Use] = []
    with torch.inference_mode(), Watch({k: v for k, v in parameters.items() if k in only}, seen.append):
        return seen, skeleton.run_block(block, parameters, hidden, call)


def uses(skeleton: Skeleton, block: int, parameters: Mapping[str, Tensor], hidden: Tensor, call: BlockCall,
         only: frozenset[str] | None = None, whole: bool = False, batch: int = 0) -> Iterator[Use]:
    """Matrix products of one block on one batch (of that number), in order. With `only`, those parameters' alone, and
    the pass ends once each was seen (unless `whole`: an expert may come at any time)."""
    seen: list[Use] = []
    watched = {k: v for k, v in parameters.items() if v.dim() in (2, 3) and (only is None or k in only)}
    watch = Watch(watched, seen.append, None if whole or only is None else only)
    with torch.inference_mode():
        try:
            with _recalled(parameters, batch), watch:
                skeleton.run_block(block, parameters, hidden, call)
        except _Enough:
            pass
    yield from seen


def carry(skeleton: Skeleton, weights: Weights, batches: Batches, device: torch.device,
          tick: Callable[[], None] | None = None, *, narrow: bool = False,
          outer: Mapping[str, Tensor] | None = None) -> Hidden:
    """Hidden states after the last block, for all batches; with `narrow`, products in bf16. `outer`: what is read already."""
    own = Batches(batches.ids, batches.held_out)       # calls may differ between configs
    hidden = start(skeleton, weights, own, device, outer=outer)
    for block in range(skeleton.depth):
        advance(skeleton, block, weights.stage(block), hidden, own, tick, narrow=narrow)
    return hidden


@dataclass(frozen=True)
class Level:
    """Parameters of a block that are fitted together: they read the same input, or are one stack of experts."""

    parameters: tuple[str, ...]
    experts: bool


def levels(skeleton: Skeleton, block: int, parameters: Mapping[str, Tensor], hidden: Tensor, call: BlockCall) -> list[Level]:
    """The block's matrices in the order in which data reaches them; found by running it on one batch.

    Neighbours in that order that read the very same tensor form a level (q, k, v; gate, up). Blocks of the same class
    and parameters have the same levels: only the first of them is run.
    """
    like = (type(skeleton.blocks[block]), tuple(sorted((k, tuple(v.shape)) for k, v in parameters.items())))
    known: list[Level] | None = skeleton.levels.get(like)
    if known is not None:
        return known
    found: list[tuple[list[str], bool, tuple[int, torch.Size]]] = []
    for use in uses(skeleton, block, parameters, hidden, call):
        if any(use.parameter in names for names, _, _ in found):
            continue
        key = (use.inputs.data_ptr(), use.inputs.shape)
        if found and found[-1][2] == key and use.expert is None and not found[-1][1]:
            found[-1][0].append(use.parameter)
        else:
            found.append(([use.parameter], use.expert is not None, key))
    known = [Level(tuple(names), experts) for names, experts, _ in found]
    skeleton.levels[like] = known
    return known

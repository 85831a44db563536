"""Forwards that stand in for those of modules whose weights some variants change (see core.overlay)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from core import overlay_kernels as kernels
from core.errors import BadOption
from core.overlay_launch import FEW, Segment, Table, launcher, make_table, usable
from core.overlay_weights import Change, Dense, Signs, product


@dataclass(frozen=True)
class Group:
    """One variant's form of a linear layer, and the rows of the batch that it answers (None: all of them)."""

    change: Change
    bias: Tensor | None
    rows: Tensor | None


@dataclass(frozen=True)
class EmbeddingRows:
    """One variant's form of an embedding, and the rows of the batch that it answers (None: all of them)."""

    change: Change
    rows: Tensor | None


def _tokens_of(rows: Tensor | None, batch: int, count: int) -> Tensor | None:
    """Indices of a group's tokens among `count` tokens of a whole batch, laid out row after row; None for all."""
    if rows is None:
        return None
    if count % batch:
        raise BadOption(f"A batch came that {batch} rows can't have made.", f"Variants were assigned to {batch} rows.",
                        "Assign one variant to each row of the batch.")
    each = count // batch
    return (rows[:, None] * each + torch.arange(each, device=rows.device)).flatten()


def _kernel_segments(group: Group) -> list[Segment] | None:
    """A group for the kernels, None where they can't do it."""
    change = group.change
    if isinstance(change, Signs) and usable(change.weight) and change.weight.shape[0] > 0:
        return change.segments(group.bias)
    if isinstance(change, Dense) and usable(change.weight):
        return [Segment(0, change.outputs, change.weight, group.bias)]
    return None


def forward_of_linear(groups: Sequence[Group], batch: int, by_input: bool) -> Callable[[Tensor], Tensor]:
    """A linear layer's forward: x (..., in) -> (..., out), the batch's rows first in x.

    A lone group takes any batch. Where groups differ in outputs (vocabularies), what a row lacks is -inf.
    """
    width = max(g.change.outputs for g in groups)
    ragged = any(g.change.outputs != width for g in groups)
    segments = [_kernel_segments(g) for g in groups]
    by_kernel = [(g, s) for g, s in zip(groups, segments, strict=True) if s is not None]
    by_torch = [g for g, s in zip(groups, segments, strict=True) if s is None]
    plain_only = all(isinstance(g.change, Dense) for g, _ in by_kernel)
    weight = by_kernel[0][1][0].weight if by_kernel else None
    launch = launcher(weight, by_input) if weight is not None and not plain_only else None
    dtype = None if weight is None else weight.dtype
    tables: dict[int, tuple[Table, list[tuple[Tensor | None, Group]], Any]] = {}

    def table_for(count: int) -> tuple[Table, list[tuple[Tensor | None, Group]], Any]:
        parts, tails, keep = [], [], []
        outputs = 0
        for group, pieces in by_kernel:
            tokens = _tokens_of(group.rows, batch, count)
            every = torch.arange(count) if tokens is None else tokens
            keep.append(every)
            parts += [(piece, every) for piece in pieces]
            outputs = max(outputs, *(p.stop for p in pieces))
            if isinstance(group.change, Signs) and group.change.tail is not None:
                tails.append((tokens, group))
        assert weight is not None
        inputs = weight.shape[0 if by_input else 1]
        tables[count] = make_table(parts, outputs, inputs, width, count, by_input), tails, (parts, keep)
        return tables[count]

    def few(x: Tensor, count: int) -> Tensor:
        template, tails, _ = tables.get(count) or table_for(count)
        x = x if x.is_contiguous() else x.contiguous()
        y = x.new_empty((*x.shape[:-1], width))
        if ragged:
            y.fill_(float("-inf"))
        table = template.copy()
        table[kernels.X], table[kernels.Y] = x.data_ptr(), y.data_ptr()
        assert launch is not None
        launch(table)
        for tokens, group in tails:
            change = group.change
            assert isinstance(change, Signs) and change.tail is not None
            flat, out = x.reshape(count, -1), y.view(count, width)
            bias = None if group.bias is None else group.bias[change.known:]
            part = product(flat if tokens is None else flat[tokens], change.tail, bias, False)
            every = slice(None) if tokens is None else tokens
            out[every, change.known:change.outputs] = part
        if by_torch:
            _by_group(by_torch, x.reshape(count, -1), y.view(count, width), batch)
        return y

    def forward(x: Tensor) -> Tensor:
        count = x.numel() // x.shape[-1] if x.shape[-1] else 0
        if launch is not None and 0 < count <= FEW and x.dtype == dtype:
            return few(x, count)
        flat = x.reshape(-1, x.shape[-1])
        if len(groups) == 1:
            return groups[0].change.multiply(flat, groups[0].bias).reshape(*x.shape[:-1], width)
        y = x.new_full((count, width), float("-inf")) if ragged else x.new_empty((count, width))
        _by_group(groups, flat, y, batch)
        return y.reshape(*x.shape[:-1], width)

    return forward


def _by_group(groups: Sequence[Group], x: Tensor, y: Tensor, batch: int) -> None:
    """Fill the groups' tokens of y (tokens, width)."""
    for group in groups:
        tokens = _tokens_of(group.rows, batch, x.shape[0])
        every = slice(None) if tokens is None else tokens
        y[every, :group.change.outputs] = group.change.multiply(x[every], group.bias)


def forward_of_embedding(module: nn.Embedding, groups: Sequence[EmbeddingRows], batch: int) -> Callable[[Tensor], Tensor]:
    """An embedding's forward: ids (batch, tokens) -> (batch, tokens, width). Only rows that are asked for are made."""
    before = partial(type(module).forward, module)

    def forward(ids: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        if len(groups) == 1:
            rows = groups[0].change.rows(flat)
        else:
            rows = module.weight.new_empty((len(flat), module.weight.shape[1]))
            for group in groups:
                tokens = _tokens_of(group.rows, batch, len(flat))
                rows[tokens] = group.change.rows(flat[tokens])
        if type(module) is nn.Embedding:
            return rows.reshape(*ids.shape, -1)
        # Some scale what they look up: let them, on the rows alone.
        padding, module.padding_idx = module.padding_idx, None
        try:
            with _standing_in(module, {"weight": nn.Parameter(rows, requires_grad=False)}):
                looked_up: Tensor = before(torch.arange(len(flat), device=ids.device).reshape(ids.shape))
        finally:
            module.padding_idx = padding
        return looked_up

    return forward


@contextmanager
def _standing_in(module: nn.Module, parameters: dict[str, nn.Parameter]) -> Any:
    before = {leaf: module._parameters[leaf] for leaf in parameters}
    module._parameters.update(parameters)
    try:
        yield
    finally:
        module._parameters.update(before)


def forward_of_other(module: nn.Module, groups: Sequence[tuple[dict[str, nn.Parameter], Tensor]],
                     batch: int) -> Callable[..., Any]:
    """Any other module's forward: run once per variant on its rows, with the variant's parameters standing in.

    groups: parameters by name in the module, and the rows of the batch. Tensors whose first dimension is a multiple of the
    batch are cut by rows, any other argument (positions shared by all rows) goes to each run whole.
    """
    before = partial(type(module).forward, module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        found, places = [], []
        sizes = [len(a) for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.dim() and len(a) % batch == 0]
        count = sizes[0] if sizes else batch
        for parameters, rows in groups:
            def cut(value: Any, rows: Tensor = rows) -> Any:
                if not isinstance(value, Tensor) or not value.dim() or len(value) % batch:
                    return value
                return value[_tokens_of(rows, batch, len(value))]
            with _standing_in(module, parameters):
                found.append(before(*map(cut, args), **{k: cut(v) for k, v in kwargs.items()}))
            places.append(_tokens_of(rows, batch, count))
        return _join(found, places, count)

    return forward


def _join(found: list[Any], places: list[Any], count: int) -> Any:
    """Results of all groups as those of one run over the whole batch."""
    if isinstance(found[0], tuple):
        return tuple(_join(list(parts), places, count) for parts in zip(*found, strict=True))
    if not isinstance(found[0], Tensor):
        return found[0]
    whole = found[0].new_empty((count, *found[0].shape[1:]))
    for part, place in zip(found, places, strict=True):
        whole[place] = part                            # a lone row (shared positions) is repeated
    return whole

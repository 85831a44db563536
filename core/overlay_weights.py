"""What a variant makes of one weight matrix while the base's stays in memory: one class per way a change is stored.

Each is a `Change` of a linear layer's (or an embedding's) weight: it multiplies tokens, hands out single blocks of the
variant's weights (for many tokens at once, and for hashing), and looks up rows. Blocks hold the very values that a merge
writes. `weight` is the base's, as the model stores it: (out, in), or (in, out) for Conv1D (`by_input`).
"""

from __future__ import annotations

import os
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from core.codecs import CODECS
from core.codecs.contract import Stored
from core.codecs.scales import from_half
from core.codecs.sign import plane_scales, split_scales
from core.overlay_launch import Segment
from core.record import TensorRecord
from core.signs import add_signs, add_signs_float32

BLOCK = 1 << 20
"""Weights made at a time for many tokens."""
TILE = 512
"""Columns whose signs can be cut off on their own (a tile of the sign layout)."""


class Change(Protocol):
    """A variant's form of one weight matrix."""

    @property
    def outputs(self) -> int:
        """Outputs, which differ from the base's where the vocabulary does."""

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (tokens, in) -> (tokens, outputs), in x's type."""

    def block(self, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` of the variant's weights: (stop - start, in), or (in, stop - start) if by input."""

    def rows(self, ids: Tensor) -> Tensor:
        """Rows (k, in) of the variant's weights by their indices (k,); not for weights stored by input."""


def block_rows(inputs: int) -> int:
    """How many outputs make a block."""
    return max(TILE, BLOCK // max(1, inputs) // TILE * TILE)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, by_input: bool) -> Tensor:
    """x W^T (or x W) plus bias; x (tokens, in)."""
    if not by_input:
        return functional.linear(x, weight, bias)
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


def multiply_blocks(change: Change, x: Tensor, bias: Tensor | None, by_input: bool) -> Tensor:
    """`Change.multiply` by blocks of weights, never the whole matrix."""
    result = x.new_empty((x.shape[0], change.outputs))
    step = block_rows(x.shape[1])
    for i in range(0, change.outputs, step):
        part = slice(i, min(i + step, change.outputs))
        result[:, part] = product(x, change.block(part.start, part.stop), None if bias is None else bias[part], by_input)
    return result


@cache
def _gpu_kernel(device: str) -> Any:
    """The module with the kernels for few tokens on this kind of device, None where there are none (torch does it then).

    On a CPU the layers' forwards use kernels that serve several variants at once, before any `multiply`.
    """
    wanted = device == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    if not wanted or find_spec("triton") is None:
        return None
    return import_module("core.overlay_triton")


class Dense:
    """The variant's weights as they are."""

    def __init__(self, weight: Tensor, by_input: bool) -> None:
        self.weight, self.by_input = weight, by_input
        self.outputs = weight.shape[1 if by_input else 0]

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, self.weight, bias, self.by_input)

    def block(self, start: int, stop: int) -> Tensor:
        return self.weight[:, start:stop] if self.by_input else self.weight[start:stop]

    def rows(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


class Signs:
    """Scaled sign bits on the base, and rows that the base lacks."""

    def __init__(self, record: TensorRecord, stored: Stored, weight: Tensor) -> None:
        self.by_input = bool(record.output_dimension)
        self.known = record.outputs                    # those that stand on the base
        self.weight = weight[:record.shape[0] - record.tail]
        self.signs, self.tail = stored["signs"], stored.get("tail")
        self.outputs = record.shape[record.output_dimension]
        scales = plane_scales(record, stored)
        m, n = self.weight.shape
        device = weight.device
        self.by_row = torch.ones((record.planes, m), dtype=torch.float32, device=device)
        columns: list[Tensor | None] = []
        for pieces in zip(*(split_scales(record, s) for s in scales), strict=True):
            found = []
            for p, (piece, row, column) in enumerate(pieces):
                if record.output_dimension:            # stored rows are inputs
                    row, column = column, row
                part = slice(0, m) if record.output_dimension else slice(piece.start, piece.stop)
                if row is not None:
                    self.by_row[p, part] = row
                found.append(column)
            ones = torch.ones(n, dtype=torch.float32, device=device)
            columns.append(torch.stack([c if c is not None else ones for c in found])
                           if any(c is not None for c in found) else None)
        self.parts = [(s.start, s.stop, c) for s, c in zip(record.slices, columns, strict=True)]

    def segments(self, bias: Tensor | None) -> list[Segment]:
        """For the kernels: everything but the tail."""
        return [Segment(start, stop, self.weight, bias, self.signs, self.by_row, c) for start, stop, c in self.parts]

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        kernel = _gpu_kernel(x.device.type)
        if kernel is None or not kernel.usable(x) or self.weight.dtype != x.dtype or not self.weight.is_contiguous():
            return multiply_blocks(self, x, bias, self.by_input)
        y = x.new_empty((x.shape[0], self.outputs))
        for start, stop, column in self.parts:         # stored by input: one part, of all outputs
            rows = slice(None) if self.by_input else slice(start, stop)
            kernel.multiply(x, self.weight[rows], self.signs[:, rows], self.by_row[:, rows], column,
                            None if bias is None else bias[start:stop], y[:, start:stop], self.by_input)
        if self.tail is not None:
            y[:, self.known:] = product(x, self.tail, None if bias is None else bias[self.known:], False)
        return y

    def block(self, start: int, stop: int) -> Tensor:
        if self.by_input:                              # tiles of columns; one part
            cut = slice(start // 8, (stop + 7) // 8)
            column = self.parts[0][2]
            return self._sum(self.weight[:, start:stop].contiguous(), [s[:, cut].contiguous() for s in self.signs],
                             list(self.by_row), None if column is None else [c[start:stop] for c in column])
        found = []
        for first, last, column in self.parts:
            part = slice(max(start, first), min(stop, last))
            if part.start < part.stop:
                found.append(self._sum(self.weight[part], [s[part] for s in self.signs], [r[part] for r in self.by_row],
                                       None if column is None else list(column)))
        if self.tail is not None and stop > self.known:
            found.append(self.tail[max(0, start - self.known):stop - self.known])
        return found[0] if len(found) == 1 else torch.cat(found)

    def rows(self, ids: Tensor) -> Tensor:
        if self.tail is not None:
            old = ids < self.known
            result = self.tail[(ids - self.known).clamp_min(0)]
            result[old] = self._known_rows(ids[old])
            return result
        return self._known_rows(ids)

    def _known_rows(self, ids: Tensor) -> Tensor:
        if len(self.parts) == 1:
            column = self.parts[0][2]
            return self._sum(self.weight[ids], [s[ids] for s in self.signs], [r[ids] for r in self.by_row],
                             None if column is None else list(column))
        result = self.weight[ids]
        for start, stop, column in self.parts:
            here = ((ids >= start) & (ids < stop)).nonzero().flatten()
            at = ids[here]
            result[here] = self._sum(self.weight[at], [s[at] for s in self.signs], [r[at] for r in self.by_row],
                                     None if column is None else list(column))
        return result

    @staticmethod
    def _sum(base: Tensor, signs: list[Tensor], by_row: list[Tensor], by_column: list[Tensor] | None) -> Tensor:
        """Base plus all planes in FP32, rounded once: as the codec does it."""
        if len(signs) == 1:
            return add_signs(base, signs[0], by_row[0], None if by_column is None else by_column[0])
        total = base.to(torch.float32, copy=True)
        for p, plane in enumerate(signs):
            add_signs_float32(total, plane, by_row[p], None if by_column is None else by_column[p])
        return total.to(base.dtype)


class Rows:
    """A few rows changed or new; the stored rows are outputs, or for Conv1D inputs."""

    def __init__(self, record: TensorRecord, stored: Stored, weight: Tensor) -> None:
        self.record, self.stored, self.weight = record, stored, weight
        self.by_input = bool(record.output_dimension)
        self.outputs = record.shape[record.output_dimension]
        self.index, self.values = stored["rows"].long(), stored["values"]

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.by_input or self.weight.shape[0] > self.outputs:
            return multiply_blocks(self, x, bias, self.by_input)
        result = x.new_empty((x.shape[0], self.outputs))
        known = self.weight.shape[0]
        result[:, :known] = functional.linear(x, self.weight, None if bias is None else bias[:known])
        result[:, self.index] = functional.linear(x, self.values, None if bias is None else bias[self.index])
        return result

    def block(self, start: int, stop: int) -> Tensor:
        if self.by_input:
            result = self.weight[:, start:stop].clone()
            result[self.index] = self.values[:, start:stop]
            return result
        return self.rows(torch.arange(start, stop, device=self.weight.device))

    def rows(self, ids: Tensor) -> Tensor:
        result = self.weight[ids.clamp_max(self.weight.shape[0] - 1)]
        if len(self.index):
            at = torch.searchsorted(self.index, ids).clamp_max(len(self.index) - 1)
            changed = self.index[at] == ids
            result[changed] = self.values[at[changed]]
        return result


class Sparse:
    """Few entries changed, at flat ascending indices."""

    def __init__(self, record: TensorRecord, stored: Stored, weight: Tensor) -> None:
        self.weight = weight[:record.shape[0]]
        self.by_input = bool(record.output_dimension)
        self.outputs = record.shape[record.output_dimension]
        self.index, self.values = stored["index"], stored["values"]

    @cached_property
    def _change(self) -> tuple[Tensor, Tensor, Tensor]:
        """(output, input, change FP32) of each entry."""
        flat = self.index.long()
        row, column = flat // self.weight.shape[1], flat % self.weight.shape[1]
        change = self.values.float() - self.weight.flatten()[flat].float()
        return (column, row, change) if self.by_input else (row, column, change)

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if x.shape[0] * len(self.index) > self.weight.numel() * 4:
            return multiply_blocks(self, x, bias, self.by_input)
        output, entry, change = self._change
        total = product(x, self.weight, bias, self.by_input).float()
        total.index_add_(1, output, x[:, entry].float() * change)
        return total.to(x.dtype)

    def block(self, start: int, stop: int) -> Tensor:
        columns = self.weight.shape[1]
        if not self.by_input:
            return self._filled(self.weight[start:stop].clone(), start * columns, stop * columns)
        result = self._filled(self.weight.clone(), 0, self.weight.numel())
        return result[:, start:stop]

    def _filled(self, part: Tensor, first: int, last: int) -> Tensor:
        ends = torch.searchsorted(self.index, torch.tensor([first, last], dtype=self.index.dtype, device=self.index.device))
        here = slice(int(ends[0]), int(ends[1]))
        part.view(-1)[self.index[here].long() - first] = self.values[here]
        return part

    def rows(self, ids: Tensor) -> Tensor:
        columns = self.weight.shape[1]
        result = self.weight[ids]
        wide = self.index.long()
        first, last = torch.searchsorted(wide, ids * columns), torch.searchsorted(wide, (ids + 1) * columns)
        counts = last - first
        row = torch.arange(len(ids), device=ids.device).repeat_interleave(counts)
        start = (counts.cumsum(0) - counts).repeat_interleave(counts)
        entry = torch.arange(len(row), device=ids.device) - start + first.repeat_interleave(counts)
        result[row, wide[entry] % columns] = self.values[entry]
        return result


class LowRank:
    """Two factors on the base."""

    def __init__(self, record: TensorRecord, stored: Stored, weight: Tensor) -> None:
        self.weight = weight[:record.shape[0]]
        self.by_input = bool(record.output_dimension)
        self.outputs = record.shape[record.output_dimension]
        self.stored, self.exponent = stored, record.exponents[0]
        left, right = self._factors(weight.dtype)
        self.inner, self.outer = (left.T, right.T) if self.by_input else (right, left)    # x inner^T outer^T

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        left, right = (from_half(self.stored[k], self.exponent).to(dtype) for k in ("left", "right"))
        return left, right

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        change = functional.linear(functional.linear(x, self.inner), self.outer)
        return product(x, self.weight, bias, self.by_input) + change

    def block(self, start: int, stop: int) -> Tensor:
        left, right = self._factors(torch.float32)
        if self.by_input:
            return self._sum(self.weight[:, start:stop], left, right[:, start:stop])
        return self._sum(self.weight[start:stop], left[start:stop], right)

    def rows(self, ids: Tensor) -> Tensor:
        left, right = self._factors(torch.float32)
        return self._sum(self.weight[ids], left[ids], right)

    @staticmethod
    def _sum(base: Tensor, left: Tensor, right: Tensor) -> Tensor:
        wide = torch.float32 if base.device.type == "mps" else torch.float64      # as the codec does it
        return (base.float() + (left.to(wide) @ right.to(wide)).float()).to(base.dtype)


def change_of(record: TensorRecord, stored: Stored, base: Tensor | None, dtype: torch.dtype) -> Change:
    """The change that a record makes of the base's tensor as the model holds it.

    Where the model holds another type than the record or its base names, the sum is made once and kept whole.
    """
    by_input = bool(record.output_dimension)
    types = {record.torch_dtype, dtype} | (set() if base is None else {base.dtype})
    if base is not None and len(types) == 1 and base.dim() == 2:
        if record.codec == "same":
            return Dense(base[:record.shape[0]], by_input)
        for name, made in (("sign", Signs), ("rows", Rows), ("sparse", Sparse), ("lowrank", LowRank)):
            if record.codec == name:
                change: Change = made(record, stored, base)
                return change
    if record.codec == "full":
        return Dense(stored["weight"].to(dtype), by_input)
    return Dense(CODECS[record.codec].add(record, stored, base).to(dtype), by_input)

"""The contract of a codec, and what its files share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from core.record import StoredTensor, TensorRecord

Stored = Mapping[str, Tensor]
"""A codec's stored tensors by suffix: {"signs": ..., "scale": ...}."""


class Codec(Protocol):
    """How the change of one tensor is stored. Codecs hold no state.

    Shapes follow the stored weight W; `D` is the change in its logical form (out, in).
    """

    @property
    def name(self) -> str:
        """As written in the record."""

    def problem(self, record: TensorRecord) -> str:
        """What makes no sense in a record that was read, in words that follow its name; empty if all does.

        Shapes are sound by then, and the base's differs from the record's in its first dimension at most.
        """

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        """The same of stored tensors whose types and shapes are right: indices out of range, scales that are NaN."""

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        """What `encode` will return, by suffix: exact types and shapes, from the record alone."""

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        """The tensors to store. `fitted` holds what a fit or the plan has learnt (scales, factors), if anything."""

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        """The variant's tensor: base + change in FP32, rounded once to the record's type; a tensor of its own."""

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        """x D^T for x (..., in) -> (..., out) in FP32, without building the dense change where the codec allows."""


class Tunable(Protocol):
    """What a codec offers besides if scales of what it stores can be moved by gradients, end to end (`core.tune`)."""

    def scales(self, record: TensorRecord, stored: Stored) -> Tensor:
        """FP32 scales (n,); the change is linear in each of them, but for their rounding to FP16."""

    def rescaled(self, record: TensorRecord, stored: Stored, scales: Tensor) -> tuple[TensorRecord, dict[str, Tensor]]:
        """The record and the stored tensors with other scales (n,); all bytes but theirs stay."""

    def opened(self, record: TensorRecord, stored: Stored) -> Stored:
        """What `tuned` and `slopes` read: unpacked once, used in every step. `stored` itself where nothing needs that."""

    def tuned(self, record: TensorRecord, opened: Stored, scales: Tensor, base: Tensor, dtype: torch.dtype) -> Tensor:
        """The variant's tensor with other scales (n,), rounded to the record's type, handed out as `dtype` (FP32 or BF16).

        What `add` makes after `rescaled`, but that products may be in `dtype`: a gradient's noise is far above that.
        """

    def slopes(self, record: TensorRecord, opened: Stored, scales: Tensor, grad: Tensor) -> Tensor:
        """Gradient into scales (n,) of one into the stored-layout weight `grad`."""


def layout_of(record: TensorRecord, **stored: tuple[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    """Full names for a codec's stored tensors."""
    return {suffix: StoredTensor(f"{record.name}.{suffix}", dtype, shape)
            for suffix, (dtype, shape) in stored.items()}


def exact_result(record: TensorRecord, base: Tensor) -> Tensor:
    """The base's tensor cut or grown to the record's shape, in the record's type; grown rows are left unset."""
    if tuple(base.shape) == record.shape:
        return base.to(record.torch_dtype, copy=True)
    result = torch.empty(record.shape, dtype=record.torch_dtype, device=base.device)
    common = min(base.shape[0], record.shape[0])
    result[:common] = base[:common]
    return result


def index_problem(index: Tensor, size: int, last: int = 0) -> str:
    """What is wrong with stored indices (k,): they must ascend, lie below `size` and end in its `last` ones."""
    if index.numel() == 0:
        return "lacks its last rows" if last else ""
    if int(index[0]) < 0 or int(index[-1]) >= size or not bool((index[1:] > index[:-1]).all()):
        return f"has indices that do not ascend from 0 to {size - 1}"
    if last and (index.numel() < last or int(index[-last]) != size - last or int(index[-1]) != size - 1):
        return "lacks its last rows"
    return ""


def logical(record: TensorRecord, change: Tensor) -> Tensor:
    """A stored-layout matrix as (out, in)."""
    return change.T if record.output_dimension else change

"""The codecs that lose nothing: same, rows, sparse, full."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.codecs.contract import Stored, exact_result, index_problem, layout_of, logical
from core.record import StoredTensor, TensorRecord


def changed_rows(base: Tensor, tuned: Tensor) -> Tensor:
    """Indices (k,) I32 of the rows of `tuned` that differ from the base's, new rows included."""
    common = min(base.shape[0], tuned.shape[0])
    differs = torch.ones(tuned.shape[0], dtype=torch.bool, device=tuned.device)
    differs[:common] = (base[:common] != tuned[:common]).reshape(common, math.prod(tuned.shape[1:])).any(1)
    return differs.nonzero().flatten().to(torch.int32)


def _dense_change(record: TensorRecord, variant: Tensor, base: Tensor | None) -> Tensor:
    change = variant.float()
    if base is not None:
        common = min(base.shape[0], variant.shape[0])
        change[:common] -= base[:common].float()
    return logical(record, change)


class Same:
    """Equal to the base once cast to the fine-tune's type (and cut to its rows): nothing is stored."""

    name = "same"

    def problem(self, record: TensorRecord) -> str:
        return "has more rows than its base" if record.tail else ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        return ""

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        return {}

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        return {}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        return exact_result(record, base)

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        return x.new_zeros((*x.shape[:-1], record.shape[record.output_dimension]), dtype=torch.float32)


class Rows:
    """A few rows changed or new (added tokens): those rows exactly, by index."""

    name = "rows"

    def problem(self, record: TensorRecord) -> str:
        return "has an impossible count" if not record.shape or not record.tail <= record.count <= record.shape[0] else ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        return index_problem(stored["rows"], record.shape[0], record.tail)

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        return layout_of(record, values=(record.dtype, (record.count, *record.shape[1:])),
                         rows=("I32", (record.count,)))

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        assert base is not None
        rows = changed_rows(base, tuned)
        return {"values": tuned[rows.long()].contiguous(), "rows": rows}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        result = exact_result(record, base)
        result[stored["rows"].long().to(result.device)] = stored["values"].to(result.device)
        return result

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        assert base is not None
        rows = stored["rows"].long()
        change = stored["values"].float()
        known = rows < base.shape[0]
        change = change - torch.where(known[:, None], base[rows.clamp(max=base.shape[0] - 1)].float(), 0.0)
        if record.output_dimension:
            return x.float()[..., rows] @ change
        result = x.new_zeros((*x.shape[:-1], record.shape[0]), dtype=torch.float32)
        result[..., rows] = x.float() @ change.T
        return result


class Sparse:
    """Few entries changed (an RL step): flat index and new value of each."""

    name = "sparse"

    def problem(self, record: TensorRecord) -> str:
        return "has an impossible count" if record.tail or not 0 <= record.count <= math.prod(record.shape) else ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        return index_problem(stored["index"], math.prod(record.shape))

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        return layout_of(record, index=("I32" if math.prod(record.shape) < 2**31 else "I64", (record.count,)),
                         values=(record.dtype, (record.count,)))

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        assert base is not None
        flat = tuned.flatten()
        index = (base[:tuned.shape[0]].flatten() != flat).nonzero().flatten()
        return {"index": index.to(torch.int32 if flat.numel() < 2**31 else torch.int64), "values": flat[index]}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        result = exact_result(record, base)
        result.view(-1)[stored["index"].long().to(result.device)] = stored["values"].to(result.device)
        return result

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        assert base is not None
        index = stored["index"].long()
        change = stored["values"].float() - base.flatten()[index].float()
        row, column = index // record.shape[1], index % record.shape[1]
        out, into = (column, row) if record.output_dimension else (row, column)
        flat = x.float().reshape(-1, x.shape[-1])
        result = flat.new_zeros((flat.shape[0], record.shape[record.output_dimension]))
        result.index_add_(1, out, flat[:, into] * change)
        return result.reshape(*x.shape[:-1], -1)


class Full:
    """The fine-tune's tensor as it is."""

    name = "full"

    def problem(self, record: TensorRecord) -> str:
        return ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        return ""

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        return layout_of(record, weight=(record.dtype, record.shape))

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        return {"weight": tuned.contiguous()}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        return stored["weight"].clone()

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        return x.float() @ _dense_change(record, stored["weight"], base).T


SAME, ROWS, SPARSE, FULL = Same(), Rows(), Sparse(), Full()

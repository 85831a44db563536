"""One sign bit per weight, scaled per tensor, row (output), column (input) or row x column.

Sources: the scalar is BitDelta's (arXiv 2402.10193, section 3.1), rows and columns those of Per-Axis Weight Deltas
(arXiv 2512.19720). A second plane codes what the first one leaves. Rows that the base lacks are stored as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import torch
from torch import Tensor

from core.codecs.contract import Stored, exact_result, layout_of
from core.codecs.scales import exponent_for, from_half, to_half
from core.record import AXES, Slice, StoredTensor, TensorRecord
from core.signs import (
    add_signs,
    add_signs_float32,
    has_stray_bits,
    pack_change,
    pack_signs,
    packed_shape,
    unpack_signs,
)

CHUNK = 1024
"""Outputs that `multiply` unpacks at a time."""


def scale_count(record: TensorRecord) -> int:
    """Scales of one plane."""
    return sum(piece.slots for piece in record.slices)


def split_scales(record: TensorRecord, scales: Tensor) -> Iterator[tuple[Slice, Tensor | None, Tensor | None]]:
    """(slice, row scales (outputs,) | None, column scales (in,) | None) of one plane's scales (slots,)."""
    offset = 0
    for piece in record.slices:
        values = scales[offset:offset + piece.used(record.inputs)]
        offset += piece.slots
        outputs = piece.stop - piece.start
        if piece.axis == "scalar":
            yield piece, values.expand(outputs).contiguous(), None
        elif piece.axis == "row":
            yield piece, values, None
        elif piece.axis == "column":
            yield piece, None, values
        else:
            yield piece, values[:outputs], values[outputs:]


def plane_scales(record: TensorRecord, stored: Stored) -> list[Tensor]:
    """FP32 scales (slots,) of each plane."""
    count = scale_count(record)
    return [from_half(stored["scale"][i * count:(i + 1) * count], record.exponents[i])
            for i in range(record.planes)]


def join_scales(record: TensorRecord, planes: list[Tensor]) -> Tensor:
    """The stored FP16 vector of FP32 scales per plane; the inverse of `plane_scales`."""
    return torch.cat([to_half(scales, e) for scales, e in zip(planes, record.exponents, strict=True)])


def _common(record: TensorRecord, tensor: Tensor) -> Tensor:
    """The rows that base and variant share."""
    return tensor[:record.shape[0] - record.tail]


def accumulate(record: TensorRecord, total: Tensor, signs: Tensor, scales: Tensor) -> None:
    """Add one plane to `total` (m, n) FP32 in place; signs (m, bytes)."""
    for piece, row, column in split_scales(record, scales):
        if record.output_dimension:
            add_signs_float32(total, signs, column, row)
        else:
            add_signs_float32(total[piece.start:piece.stop], signs[piece.start:piece.stop], row, column)


class Sign:
    """See the module's text."""

    name = "sign"

    def problem(self, record: TensorRecord) -> str:
        if len(record.shape) != 2:
            return "is no matrix"
        if not 1 <= record.planes <= 8 or len(record.exponents) != record.planes or (record.tail and record.output_dimension):
            return "has impossible sign planes"
        at = 0
        for piece in record.slices:
            if piece.start != at or piece.stop <= at or piece.axis not in AXES or piece.slots < piece.used(record.inputs):
                return "has impossible slices"
            at = piece.stop
        if at != record.outputs or (record.output_dimension and len(record.slices) != 1):
            return "has slices that do not cover its outputs"
        return ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        if not bool(stored["scale"].isfinite().all()):
            return "has scales that are not finite"
        at = 0
        for piece in record.slices * record.planes:
            if bool(stored["scale"][at + piece.used(record.inputs):at + piece.slots].any()):
                return "has scales that stand for nothing"
            at += piece.slots
        if any(has_stray_bits(plane, record.shape[1]) for plane in stored["signs"]):
            return "has sign bits that stand for nothing"
        return ""

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        rows, width = packed_shape((record.shape[0] - record.tail, record.shape[1]))
        stored = {"signs": ("U8", (record.planes, rows, width)), "scale": ("F16", (record.planes * scale_count(record),))}
        if record.tail:
            stored["tail"] = (record.dtype, (record.tail, record.shape[1]))
        return layout_of(record, **stored)

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        assert base is not None and fitted is not None
        scales = plane_scales(record, fitted)
        common = base[:tuned.shape[0]]
        if "signs" in fitted:                          # chosen by the fit, not the change's own
            signs = fitted["signs"]
        else:
            planes = [pack_change(common, _common(record, tuned))]
            if record.planes > 1:
                left = _common(record, tuned).float() - common.float()
                for i in range(record.planes - 1):
                    accumulate(record, left, ~planes[i], scales[i])    # subtracts, whatever the axis
                    planes.append(pack_signs(left < 0))
            signs = torch.stack(planes)
        stored = {"signs": signs, "scale": fitted["scale"]}
        if record.tail:
            stored["tail"] = tuned[record.shape[0] - record.tail:].contiguous()
        return stored

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        common = base[:record.shape[0]].contiguous()
        scales = plane_scales(record, stored)
        if record.planes > 1:
            total = common.to(torch.float32, copy=True)
            for signs, plane in zip(stored["signs"], scales, strict=True):
                accumulate(record, total, signs, plane)
            whole = total.to(record.torch_dtype)
        else:
            signs = stored["signs"][0]
            whole = torch.empty(common.shape, dtype=record.torch_dtype, device=common.device)
            for piece, row, column in split_scales(record, scales[0]):
                if record.output_dimension:
                    add_signs(common, signs, column, row, out=whole)
                else:
                    part = slice(piece.start, piece.stop)
                    add_signs(common[part], signs[part], row, column, out=whole[part])
        if not record.tail:
            return whole
        result = exact_result(record, base)
        result[:whole.shape[0]] = whole
        result[whole.shape[0]:] = stored["tail"]
        return result

    def scales(self, record: TensorRecord, stored: Stored) -> Tensor:
        """Those of all planes (planes * slots,)."""
        return torch.cat(plane_scales(record, stored))

    def rescaled(self, record: TensorRecord, stored: Stored, scales: Tensor) -> tuple[TensorRecord, dict[str, Tensor]]:
        planes = list(scales.view(record.planes, -1))
        record = msgspec.structs.replace(record, exponents=tuple(exponent_for(p) for p in planes))
        return record, {**stored, "scale": join_scales(record, planes)}

    def opened(self, record: TensorRecord, stored: Stored) -> Stored:
        return stored

    def tuned(self, record: TensorRecord, opened: Stored, scales: Tensor, base: Tensor, dtype: torch.dtype) -> Tensor:
        record, stored = self.rescaled(record, opened, scales)
        return self.add(record, stored, base).to(dtype)

    def slopes(self, record: TensorRecord, opened: Stored, scales: Tensor, grad: Tensor) -> Tensor:
        """Sums of grad o S over what each scale covers."""
        result = torch.zeros_like(scales).view(record.planes, -1)
        common = _common(record, grad)
        for plane, (signs, values) in enumerate(zip(opened["signs"], scales.view(record.planes, -1), strict=True)):
            signed = common * unpack_signs(signs.to(grad.device), record.shape[1], dtype=grad.dtype)
            at = 0
            for piece, row, column in split_scales(record, values):
                part = signed.T if record.output_dimension else signed[piece.start:piece.stop]
                outputs = piece.stop - piece.start
                if piece.axis == "scalar":
                    result[plane, at] = part.sum(dtype=torch.float32)
                elif piece.axis == "row":
                    result[plane, at:at + outputs] = part.sum(1, dtype=torch.float32)
                elif piece.axis == "column":
                    result[plane, at:at + record.inputs] = part.sum(0, dtype=torch.float32)
                else:
                    assert row is not None and column is not None
                    result[plane, at:at + outputs] = part.float() @ column
                    result[plane, at + outputs:at + outputs + record.inputs] = part.T.float() @ row
                at += piece.slots
        return result.flatten()

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        flat = x.float().reshape(-1, x.shape[-1])
        result = flat.new_zeros((flat.shape[0], record.shape[record.output_dimension]))
        for signs, scales in zip(stored["signs"], plane_scales(record, stored), strict=True):
            for piece, row, column in split_scales(record, scales):
                scaled = flat if column is None else flat * column
                if record.output_dimension:
                    for i in range(0, record.inputs, CHUNK):
                        part = unpack_signs(signs[i:i + CHUNK], record.outputs, dtype=torch.float32)
                        result += (scaled[:, i:i + CHUNK] @ part) * (1.0 if row is None else row)
                    continue
                for i in range(piece.start, piece.stop, CHUNK):
                    stop = min(i + CHUNK, piece.stop)
                    part = scaled @ unpack_signs(signs[i:stop], record.inputs, dtype=torch.float32).T
                    result[:, i:stop] += part if row is None else part * row[i - piece.start:stop - piece.start]
        if record.tail:
            result[:, record.outputs:] = flat @ stored["tail"].float().T
        return result.reshape(*x.shape[:-1], -1)


SIGN = Sign()

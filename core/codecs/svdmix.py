"""The change as a sum of outer products of vectors in few bits each, as many bits as each is worth.

Sources: mixed widths over singular vectors as in Delta-CoMe (arXiv 2406.08903) and DeltaMix (arXiv 2506.11087). Both
vectors of a pair are whole numbers, so that one scale per pair is enough and sums are exact (FORMAT.md). Which vectors
and widths is for a method to say; the bytes are fixed beforehand, and zeros fill what is left of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import torch
from torch import Tensor

from core.codecs.bits import has_stray_tail, pack_numbers, packed_bytes, unpack_numbers
from core.codecs.contract import Stored, layout_of, logical
from core.codecs.scales import exponent_for, from_half, to_half
from core.record import Ranks, StoredTensor, TensorRecord

WIDTHS = (2, 3, 4, 5, 6, 8, 16)
"""Bits per entry of a vector."""

CHUNK = 1024
"""Rows that `add` works on at a time."""


def pair_bits(shape: tuple[int, int], outputs: int, inputs: int) -> int:
    """Bits of one pair of vectors of an (out, in) matrix at these widths, its scale among them."""
    return shape[0] * outputs + shape[1] * inputs + 16


def packed_size(shape: tuple[int, int], ranks: tuple[Ranks, ...]) -> int:
    """Bytes that `ranks` of an (out, in) matrix need: scales, then each entry's two runs of whole bytes."""
    return sum(2 * r.count + packed_bytes(r.count * shape[0], r.outputs) + packed_bytes(r.count * shape[1], r.inputs)
               for r in ranks)


def grid(bits: Tensor | int) -> Tensor | int:
    """The largest whole number of a width: values are the odd ones from -grid to grid."""
    return 2**bits - 1


def _sections(record: TensorRecord) -> Iterator[tuple[int, int, int, int]]:
    """(first byte, numbers, width, length of a vector) of each run of vectors, outputs and inputs by turns."""
    at = 2 * sum(r.count for r in record.ranks)
    for ranks in record.ranks:
        for width, size in ((ranks.outputs, record.outputs), (ranks.inputs, record.inputs)):
            yield at, ranks.count * size, width, size
            at += packed_bytes(ranks.count * size, width)


def pack(record: TensorRecord, scale: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """The bytes (record.packed,) of FP32 scales (pairs,) and odd whole numbers (pairs, out), (pairs, in) in FP32."""
    result = torch.zeros(record.packed, dtype=torch.uint8, device=scale.device)
    halves = to_half(scale, record.exponents[0]).view(torch.uint8)
    result[:halves.numel()] = halves
    sides, first = (outputs, inputs), [0, 0]
    for i, (at, count, width, size) in enumerate(_sections(record)):
        vectors = sides[i % 2][first[i % 2]:first[i % 2] + count // size]
        first[i % 2] += count // size
        packed = pack_numbers(((vectors + grid(width)) / 2).long(), width)
        result[at:at + packed.numel()] = packed
    return result


def unpack(record: TensorRecord, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `pack` was given: scales (pairs,), vectors over the outputs (pairs, out) and over the inputs (pairs, in)."""
    pairs = sum(r.count for r in record.ranks)
    scale = from_half(packed[:2 * pairs].clone().view(torch.float16), record.exponents[0])
    sides: tuple[list[Tensor], list[Tensor]] = ([scale.new_empty(0, record.outputs)], [scale.new_empty(0, record.inputs)])
    for i, (at, count, width, size) in enumerate(_sections(record)):
        numbers = unpack_numbers(packed[at:at + packed_bytes(count, width)], count, width)
        sides[i % 2].append((numbers * 2 - grid(width)).view(-1, size))
    return scale, torch.cat(sides[0]), torch.cat(sides[1])


class SvdMix:
    """See the module's text."""

    name = "svdmix"

    def problem(self, record: TensorRecord) -> str:
        if len(record.shape) != 2 or record.tail:
            return "is no matrix of its base's rows"
        if len(record.exponents) != 1 or record.packed < 1:
            return "has an impossible size"
        if any(r.count < 1 or r.outputs not in WIDTHS or r.inputs not in WIDTHS for r in record.ranks) \
                or sum(r.count for r in record.ranks) > min(record.shape):
            return "has impossible ranks"
        if packed_size((record.outputs, record.inputs), record.ranks) > record.packed:
            return "has more ranks than its bytes hold"
        return ""

    def stored_problem(self, record: TensorRecord, stored: Stored) -> str:
        packed = stored["packed"]
        pairs = sum(r.count for r in record.ranks)
        if not bool(packed[:2 * pairs].clone().view(torch.float16).isfinite().all()):
            return "has scales that are not finite"
        end = 2 * pairs
        for at, count, width, _ in _sections(record):
            end = at + packed_bytes(count, width)
            if has_stray_tail(packed[at:end], count, width):
                return "has bits that stand for nothing"
        return "has bytes that stand for nothing" if bool(packed[end:].any()) else ""

    def layout(self, record: TensorRecord) -> dict[str, StoredTensor]:
        return layout_of(record, packed=("U8", (record.packed,)))

    def encode(self, record: TensorRecord, base: Tensor | None, tuned: Tensor,
               fitted: Stored | None = None) -> dict[str, Tensor]:
        assert fitted is not None                      # vectors are chosen by a method, under the inputs' moments
        if "packed" in fitted:
            return {"packed": fitted["packed"]}
        return {"packed": pack(record, fitted["scale"], fitted["outputs"], fitted["inputs"])}

    def add(self, record: TensorRecord, stored: Stored, base: Tensor | None) -> Tensor:
        assert base is not None
        # In FP64 the order of the sum does not show: every device and reader gets the same FP32 change (FORMAT.md).
        device = torch.device("cpu") if base.device.type == "mps" else base.device
        scale, outputs, inputs = unpack(record, stored["packed"].to(device))
        over_outputs = outputs.double() * scale.double()[:, None]
        sides = (inputs.double(), over_outputs) if record.output_dimension else (over_outputs, inputs.double())
        result = torch.empty(record.shape, dtype=record.torch_dtype, device=base.device)
        for i in range(0, record.shape[0], CHUNK):
            change = (sides[0][:, i:i + CHUNK].T @ sides[1]).float().to(base.device)
            result[i:i + CHUNK] = base[i:i + len(change)].float() + change
        return result

    def scales(self, record: TensorRecord, stored: Stored) -> Tensor:
        """One per pair of vectors (pairs,)."""
        return unpack(record, stored["packed"])[0]

    def rescaled(self, record: TensorRecord, stored: Stored, scales: Tensor) -> tuple[TensorRecord, dict[str, Tensor]]:
        record = msgspec.structs.replace(record, exponents=(exponent_for(scales),))
        packed = stored["packed"].clone()
        packed[:2 * len(scales)] = to_half(scales, record.exponents[0]).view(torch.uint8)
        return record, {"packed": packed}

    def opened(self, record: TensorRecord, stored: Stored) -> Stored:
        _, outputs, inputs = unpack(record, stored["packed"])
        # Whole numbers up to 256 are exact in BF16.
        dtype = torch.bfloat16 if max((max(r.outputs, r.inputs) for r in record.ranks), default=0) <= 8 else torch.float32
        return {"outputs": outputs.to(dtype), "inputs": inputs.to(dtype)}

    def tuned(self, record: TensorRecord, opened: Stored, scales: Tensor, base: Tensor, dtype: torch.dtype) -> Tensor:
        exponent = exponent_for(scales)
        scale = from_half(to_half(scales, exponent), exponent)
        over, inputs = (opened["outputs"].float() * scale[:, None]).to(dtype), opened["inputs"].to(dtype)
        change = inputs.T @ over if record.output_dimension else over.T @ inputs
        return (base[:record.shape[0]].float() + change).to(record.torch_dtype).to(dtype)

    def slopes(self, record: TensorRecord, opened: Stored, scales: Tensor, grad: Tensor) -> Tensor:
        outputs, inputs = opened["outputs"].to(grad.dtype), opened["inputs"]
        return ((outputs @ logical(record, grad)).float() * inputs.float()).sum(1)

    def multiply(self, record: TensorRecord, stored: Stored, base: Tensor | None, x: Tensor) -> Tensor:
        scale, outputs, inputs = unpack(record, stored["packed"])
        return ((x.float() @ inputs.T) * scale) @ outputs


SVDMIX = SvdMix()

"""Do this machine's kernels compute what they should? Each against a plain reference, on every device that is present.

The references work number by number, in numpy and Python's integers, and share no code with what they check: sign bits as
the format words them (core/FORMAT.md), sums in FP32, one rounding to the stored type. Shapes have full tiles and a ragged
tail. Sums and bits must agree exactly; products within what FP32 sums and the stored type allow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numba.core.event import install_timer
from torch import Tensor

from core.codecs import CODECS, rans
from core.codecs.scales import exponent_for, from_half, to_half
from core.codecs.sign import join_scales
from core.devices import available_devices
from core.overlay_forward import Group, forward_of_linear
from core.overlay_weights import change_of
from core.record import AXES, DTYPES, Ranks, Slice, TensorRecord
from core.signs import add_signs, pack_change, pack_signs, unpack_signs

Array = np.ndarray[Any, np.dtype[Any]]

_ROWS, _COLUMNS = 12, 1100
"""Two full tiles of signs and a tail of 76 columns, which is no multiple of 8."""
_TOKENS = 3


@dataclass(frozen=True)
class Check:
    """What was computed where. `run()` returns what is wrong, empty if nothing is; it may raise as well."""

    name: str
    device: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Result:
    """The outcome of a check: seconds of the check itself, and of compiling its kernels or reading them from their cache."""

    name: str
    device: str
    seconds: float
    problem: str
    preparing: float = 0.0


def perform(check: Check) -> Result:
    """Run a check; whatever it raises is its problem."""
    preparing: list[float] = []
    began = time.perf_counter()
    with install_timer("numba:compiler_lock", preparing.append):
        try:
            problem = check.run()
        except Exception as e:
            problem = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
    lost = sum(preparing)
    return Result(check.name, check.device, time.perf_counter() - began - lost, problem, lost)


def checks() -> Iterator[Check]:
    """All of them, device by device."""
    for device in available_devices():
        for name in ("BF16", "F16", "F32"):
            yield Check(f"signs packed and unpacked, {name}", device, partial(_packing, device, name))
            yield Check(f"signs added, {name}", device, partial(_adding, device, name))
            for by_input in (False, True):
                way = "inputs by outputs" if by_input else "outputs by inputs"
                yield Check(f"overlay, {way}, {name}", device, partial(_overlay, device, name, by_input))
        for codec in CODECS:
            yield Check(f"codec {codec}", device, partial(_codec, device, codec))
        if device == "cuda" and find_spec("triton") is not None:
            for name in ("BF16", "F16", "F32"):
                yield Check(f"Triton kernels, {name}", device, partial(_triton, device, name))


# ---------------------------------------------------------------------------------------- the references
def _book_pack(negative: Array) -> Array:
    """Signs packed bit by bit; true (m, n) means negative."""
    rows, columns = negative.shape
    lines = []
    for i in range(rows):
        line = []
        for begin in range(0, columns, 512):
            width = min(512, columns - begin)
            stride = (width + 7) // 8
            truth = negative[i, begin:begin + width].tolist()
            line += [sum(1 << k for k in range(8) if k * stride + j < width and truth[k * stride + j]) for j in range(stride)]
        lines.append(line)
    return np.array(lines, np.uint8)


def _book_signs(packed: Array, columns: int) -> Array:
    """FP32 (m, columns) of +1 and -1, read bit by bit."""
    signs = np.ones((len(packed), columns), np.float32)
    for i, line in enumerate(packed.tolist()):
        for c in range(columns):
            begin = c // 512 * 512
            stride = (min(512, columns - begin) + 7) // 8
            bit, byte = divmod(c - begin, stride)
            if line[begin // 8 + byte] >> bit & 1:
                signs[i, c] = -1.0
    return signs


def _wide(tensor: Tensor) -> Array:
    """A tensor's values in FP32, from its bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy().view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32)
    return tensor.numpy().astype(np.float32)


def _rounded(values: Array, name: str) -> Array:
    """FP32 values rounded once to a stored type, to nearest even, as FP32 again."""
    if name == "F32":
        return values
    if name == "F16":
        return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def _same(what: str, got: Tensor, expected: Array) -> str:
    found = _wide(got)
    if found.shape != expected.shape:
        return f"{what}: shape {found.shape}, expected {expected.shape}"
    wrong = int((found != expected).sum())
    return f"{what}: {wrong} of {expected.size} values differ from the reference" if wrong else ""


def _near(what: str, got: Tensor, x: Tensor, weight: Array, bias: Array, name: str) -> str:
    """Compare a product x W^T + bias with a sum in FP64; W (out, in)."""
    wide, matrix = _wide(x).astype(np.float64), weight.astype(np.float64)
    expected = wide @ matrix.T + bias
    step = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24}[name]
    # The result is rounded to its type, perhaps once more before the bias; sums in FP32 err by their terms' sizes.
    allowed = 2 * step * (np.abs(expected) + np.abs(bias)) + 2.0**-20 * (np.abs(wide) @ np.abs(matrix).T) + 1e-7
    wrong = ~(np.abs(_wide(got).astype(np.float64) - expected) <= allowed)
    return f"{what}: {int(wrong.sum())} of {wrong.size} values are off" if wrong.any() else ""


def _sample(name: str, shape: tuple[int, int] = (_ROWS, _COLUMNS), seed: int = 0) -> tuple[Tensor, Tensor]:
    """(base, tuned) weights on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator) * 0.02
    tuned = base + torch.randn(shape, generator=generator) * 0.002
    return base.to(DTYPES[name]), tuned.to(DTYPES[name])


# --------------------------------------------------------------------------------------------- the checks
def _packing(device: str, name: str) -> str:
    base, tuned = _sample(name)
    negative = _wide(tuned) < _wide(base)
    book = _book_pack(negative)
    packed = pack_signs(torch.from_numpy(negative).to(device))
    changed = pack_change(base.to(device), tuned.to(device))
    back = unpack_signs(torch.from_numpy(book).to(device), base.shape[1], DTYPES[name])
    return (_same("packing", packed, book.astype(np.float32)) or _same("packing a change", changed, book.astype(np.float32))
            or _same("unpacking", back, np.where(negative, np.float32(-1), np.float32(1))))


def _adding(device: str, name: str) -> str:
    base, tuned = _sample(name)
    packed = _book_pack(_wide(tuned) < _wide(base))
    signs = _book_signs(packed, base.shape[1])
    generator = torch.Generator().manual_seed(1)
    row, column = (torch.rand(n, generator=generator) * 0.01 for n in base.shape)
    for by_row, by_column in ((row, None), (None, column), (row, column)):
        size = np.ones((1, 1), np.float32)
        if by_row is not None:
            size = size * by_row.numpy()[:, None]
        if by_column is not None:
            size = size * by_column.numpy()[None, :]
        got = add_signs(base.to(device), torch.from_numpy(packed).to(device), None if by_row is None else by_row.to(device),
                        None if by_column is None else by_column.to(device))
        axis = "both" if by_row is not None and by_column is not None else "row" if by_column is None else "column"
        if wrong := _same(f"adding by {axis}", got, _rounded(_wide(base) + signs * size, name)):
            return wrong
    return ""


def _sign_record(name: str, shape: tuple[int, int], axis: str, planes: int = 1, by_input: bool = False) -> TensorRecord:
    outputs, inputs = shape[::-1] if by_input else shape
    slots = {"scalar": 1, "row": outputs, "column": inputs, "both": outputs + inputs}[axis]
    return TensorRecord(name="w", codec="sign", shape=shape, dtype=name, base="w", base_shape=shape, base_dtype=name,
                        slices=(Slice(0, outputs, axis, slots),), planes=planes, exponents=(-20,) * planes,
                        output_dimension=int(by_input))


def _sign_case(name: str, axis: str, planes: int = 1, by_input: bool = False) -> tuple[TensorRecord, dict[str, Tensor], Tensor,
                                                                                       Array]:
    """(record, what is stored, base, the variant's weights by the book) of a matrix in its stored layout."""
    base, tuned = _sample(name)
    record = _sign_record(name, (_ROWS, _COLUMNS), axis, planes, by_input)
    generator = torch.Generator().manual_seed(2)
    count = sum(piece.slots for piece in record.slices)
    # Of `both` the product is the scale, so each factor is about the root of it.
    sizes = [torch.rand(count, generator=generator) * (0.05 if axis == "both" else 0.004) / (p + 1) for p in range(planes)]
    scale = join_scales(record, sizes)
    stored = CODECS["sign"].encode(record, base, tuned, {"scale": scale})
    total = _wide(base)
    for p in range(planes):
        values = from_half(scale[p * count:(p + 1) * count], record.exponents[p]).numpy()
        cut = record.outputs
        by_output, by_in = {"scalar": (values, None), "row": (values, None), "column": (None, values),
                            "both": (values[:cut], values[cut:])}[axis]
        size = np.ones((1, 1), np.float32)
        for factor, side in ((by_output, 1 if by_input else 0), (by_in, 0 if by_input else 1)):
            if factor is not None:
                size = size * (factor[:, None] if side == 0 else factor[None, :])
        total = total + _book_signs(stored["signs"][p].numpy(), _COLUMNS) * size
    return record, stored, base, _rounded(total, name)


def _moved(stored: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    return {suffix: tensor.to(device) for suffix, tensor in stored.items()}


def _tokens(name: str, width: int) -> Tensor:
    return torch.randn((_TOKENS, width), generator=torch.Generator().manual_seed(3)).to(DTYPES[name])


def _overlay(device: str, name: str, by_input: bool) -> str:
    """A layer's answer from base, signs and scales, as the chat's overlay makes it."""
    for axis, planes in (("row", 1), ("both", 1), ("row", 2)):
        record, stored, base, weight = _sign_case(name, axis, planes, by_input)
        x, outputs = _tokens(name, record.inputs), record.outputs
        bias = (torch.arange(outputs) / outputs).to(DTYPES[name])
        change = change_of(record, _moved(stored, device), base.to(device), DTYPES[name])
        got = forward_of_linear([Group(change, bias.to(device), None)], 1, by_input)(x.to(device))
        if wrong := _near(f"{axis}, {planes} planes", got, x, weight.T if by_input else weight, _wide(bias), name):
            return wrong
    return ""


def _triton(device: str, name: str) -> str:
    from core import overlay_triton

    for axis, by_input in (("row", False), ("both", False), ("both", True)):
        record, stored, base, weight = _sign_case(name, axis, by_input=by_input)
        x = _tokens(name, record.inputs)
        change: Any = change_of(record, _moved(stored, device), base.to(device), DTYPES[name])
        y = torch.empty((_TOKENS, record.outputs), dtype=DTYPES[name], device=device)
        overlay_triton.multiply(x.to(device), change.weight, change.signs, change.by_row, change.parts[0][2], None, y, by_input)
        if wrong := _near(f"{axis}{', by input' if by_input else ''}", y, x, weight.T if by_input else weight,
                          np.zeros(record.outputs), name):
            return wrong
    return ""


def _cases(codec: str) -> Iterator[tuple[str, TensorRecord, dict[str, Tensor], Tensor, Array]]:
    """(what, record, what is stored, base, the variant's weights by the book); BF16, and nothing for an unknown codec."""
    name = "BF16"
    base, tuned = _sample(name)
    if codec == "sign":
        for axis in AXES:
            for planes in (1, 2):
                yield f"{axis}, {planes} planes", *_sign_case(name, axis, planes)
        return
    record: dict[str, Any] = {"name": "w", "codec": codec, "shape": tuple(base.shape), "dtype": name, "base": "w",
                              "base_shape": tuple(base.shape), "base_dtype": name}
    fitted = None
    if codec == "lowrank":
        left, right = (torch.randn(s, generator=torch.Generator().manual_seed(4)) * 0.02 for s in ((_ROWS, 3), (3, _COLUMNS)))
        exponent = max(exponent_for(left), exponent_for(right))
        record |= {"rank": 3, "exponents": (exponent,)}
        fitted = {"left": left, "right": right}
        halves = (from_half(to_half(part, exponent), exponent).numpy().astype(np.float64) for part in (left, right))
        weight = _rounded(_wide(base) + exact_product(*halves), name)
    elif codec == "same":
        weight = _wide(base)
    elif codec == "full":
        weight = _wide(tuned)
    elif codec == "rows":                              # two rows changed, two new
        grown = torch.cat((base, tuned[:2]))
        grown[[1, 5]] = tuned[[1, 5]]
        tuned, weight = grown, _wide(grown)
        record |= {"shape": tuple(grown.shape), "count": 4}
    elif codec == "sparse":
        mixed = base.clone()
        mixed.view(-1)[::997] += 1
        tuned, weight = mixed, _wide(mixed)
        record |= {"count": math.ceil(base.numel() / 997)}
    elif codec == "svdmix":
        facts, fitted, change = _pairs()
        record |= facts
        weight = _rounded(_wide(base) + change, name)
    elif codec == "coded":
        facts, fitted, change = _levels()
        record |= facts
        weight = _rounded(_wide(base) + change, name)
    else:
        return
    made = TensorRecord(**record)
    yield "", made, CODECS[codec].encode(made, base, tuned, fitted), base, weight


def _odd(shape: tuple[int, int], bits: int, generator: torch.Generator) -> Tensor:
    """Odd whole numbers of a width in FP32."""
    return (2 * torch.randint(0, 1 << bits, shape, generator=generator) + 1 - (1 << bits)).float()


def _pairs() -> tuple[dict[str, Any], dict[str, Tensor], Array]:
    """(fields of a record, what a fit gives, the change by the book) of three outer products at two widths."""
    generator, exponent = torch.Generator().manual_seed(5), -26
    sides = [torch.cat((_odd((1, n), wide, generator), _odd((2, n), narrow, generator))) for n, wide, narrow in
             ((_ROWS, 8, 3), (_COLUMNS, 5, 2))]
    scale = torch.tensor([1e-6, 1e-4, 2e-4])
    half = from_half(to_half(scale, exponent), exponent).numpy().astype(np.float64)
    outer, inner = (side.numpy().astype(np.float64) for side in sides)
    facts = {"exponents": (exponent,), "packed": 2048, "ranks": (Ranks(1, 8, 5), Ranks(2, 3, 2))}
    return facts, {"scale": scale, "outputs": sides[0], "inputs": sides[1]}, exact_product(outer.T * half, inner)


def _levels() -> tuple[dict[str, Any], dict[str, Tensor], Array]:
    """The same of entropy-coded levels, of two classes of columns, with two components of low rank."""
    generator, exponents, largest = torch.Generator().manual_seed(6), (-24, -34), 5
    levels = (torch.randn((_ROWS, _COLUMNS), generator=generator) * 1.5).round().clamp(-largest, largest).numpy().astype(np.int8)
    classes = np.arange(_COLUMNS) % 2
    code = np.arange(_COLUMNS) // 2 % 4
    counts = np.zeros((rans.CLASSES, largest + 1), np.int64)
    np.add.at(counts, (np.broadcast_to(classes, levels.shape), np.abs(levels)), 1)
    frequencies = rans.frequencies_of(counts)
    stream = rans.encode(levels, classes, frequencies)
    left, right = (torch.randint(0, 256, s, generator=generator, dtype=torch.uint8) for s in ((_ROWS, 2), (2, _COLUMNS)))
    scale = torch.cat([to_half(torch.tensor([1e-4]), exponents[0]), to_half(torch.tensor([2e-8, 1e-8]), exponents[1])])
    exact = scale.numpy().astype(np.float64) * 2.0 ** np.array([exponents[0], exponents[1], exponents[1]])
    step = exact[0] * (2 + code % 2) * 2.0 ** (code // 2)
    outer, inner = ((factor.numpy().astype(np.float64) - 128) for factor in (left, right))
    change = (levels * step + (outer * exact[1:]) @ inner).astype(np.float32)
    tables = torch.from_numpy(np.stack((frequencies % 256, frequencies // 256), -1).astype(np.uint8))
    fitted = {"columns": torch.from_numpy((code << 4 | classes).astype(np.uint8)), "tables": tables, "scale": scale, "left": left,
              "right": right, "stream": torch.from_numpy(stream.copy())}
    return {"exponents": exponents, "rank": 2, "levels": largest, "count": len(stream)}, fitted, change


def exact_product(left: Array, right: Array) -> Array:
    """A product of two FP64 matrices, each entry summed by itself, exactly, and rounded to FP32."""
    return np.array([[math.fsum((row * column).tolist()) for column in right.T] for row in left]).astype(np.float32)


def _codec(device: str, codec: str) -> str:
    """Its layout as announced, its sum with a base, its product."""
    count = 0
    for what, record, stored, base, weight in _cases(codec):
        count += 1
        announced = {suffix: (DTYPES[s.dtype], s.shape) for suffix, s in CODECS[codec].layout(record).items()}
        if announced != {suffix: (t.dtype, tuple(t.shape)) for suffix, t in stored.items()}:
            return f"{what}: what is stored is not what was announced"
        there, on_device = _moved(stored, device), base.to(device)
        if wrong := _same(f"{what} sum".strip(), CODECS[codec].add(record, there, on_device), weight):
            return wrong
        x = _tokens("F32", record.inputs)
        known = np.zeros_like(weight)
        known[:len(base)] = _wide(base)
        # The product is of the change itself, not of the rounded sum: it may differ by half a step of the weights' type.
        got = CODECS[codec].multiply(record, there, on_device, x.to(device)).cpu().double().numpy()
        expected = _wide(x).astype(np.float64) @ (weight - known).astype(np.float64).T
        allowed = np.abs(_wide(x)).astype(np.float64) @ (2.0**-8 * np.abs(weight) + 1e-7).astype(np.float64).T
        if not bool((np.abs(got - expected) <= allowed).all()):
            return f"{what} product: values are off".strip()
    return "" if count else "there is no reference for it"

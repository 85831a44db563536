"""Sign bits: one bit per weight of a 2-D tensor, and the sum of a base and a change stored that way.

The layout is part of the file format. Bit 1 means negative (-1), bit 0 positive (+1; zero counts as
positive). Rows are packed one by one. A row falls into tiles of 512 columns of 64 bytes each, where bit k of
byte j is column `64 k + j` of the tile. If t < 512 columns remain, they follow as a narrower tile of
`s = ceil(t / 8)` bytes, where bit k of byte j is column `s k + j`; bits for which there is no column
are 0 and mean nothing. So a row of n columns takes exactly `ceil(n / 8)` bytes.

Worked example, n = 10: s = 2, so byte 0 holds columns 0, 2, 4, 6, 8 in bits 0 to 4, and byte 1 holds columns
1, 3, 5, 7, 9. Negative at columns 0, 3 and 9 gives byte 0 = 0b00001 = 1 and byte 1 = 0b10010 = 18.

Every function takes any device: on a CPU compiled kernels do the work, elsewhere plain torch does it, and
both give the same bits.
"""

from __future__ import annotations

import torch

from core import signs_kernels as kernels
from core.vector_ir import RUN, TILE

_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_CHUNK = 1 << 24  # elements that the torch path holds in FP32 at a time


# --------------------------------------------------------------------------------------------- layout
def row_bytes(columns: int) -> int:
    """Bytes that the signs of one row of `columns` weights take."""
    return (columns + 7) // 8


def packed_shape(shape: tuple[int, int] | torch.Size) -> tuple[int, int]:
    """Shape of the uint8 tensor that holds the signs of an (m, n) tensor."""
    rows, columns = shape
    return rows, row_bytes(columns)


def has_stray_bits(packed: torch.Tensor, columns: int) -> bool:
    """Whether any bit that stands for no column is set. Such bits change no result, but no writer sets them.

    packed: uint8 (m, row_bytes(columns)).
    """
    _check_packed(packed, packed.shape[0], columns)
    tail = columns % TILE
    stride = row_bytes(tail)
    if stride * 8 == tail:
        return False
    column = torch.arange(8 * stride, device=packed.device).reshape(8, stride)
    unused = ((column >= tail) * _weights(packed.device)).sum(dim=0, dtype=torch.uint8)  # (stride,)
    return bool((packed[:, -stride:] & unused).any())


# ----------------------------------------------------------------------------------- pack and unpack
def pack_signs(negative: torch.Tensor) -> torch.Tensor:
    """Pack truth values (m, n), true for a negative sign, into uint8 (m, row_bytes(n)) on the same device."""
    _check_matrix("negative", negative, (torch.bool,))
    if not kernels.handles(negative):
        return _pack_with_torch(negative)
    packed = torch.zeros(packed_shape(negative.shape), dtype=torch.uint8, device=negative.device)
    kernels.run(kernels.COLLECT, packed, negative.shape[1], a=negative.contiguous())
    return packed


def unpack_signs(packed: torch.Tensor, columns: int, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    """The signs as +1 and -1, (m, columns) in `dtype`, on the same device. Stray bits are ignored."""
    _check_packed(packed, packed.shape[0], columns)
    if not dtype.is_signed:
        raise TypeError(f"Signs can't be unpacked to {dtype}, which has no -1. Use a signed type.")
    signs = torch.empty((packed.shape[0], columns), dtype=dtype, device=packed.device)
    if not kernels.handles(signs):
        return _unpack_with_torch(packed, columns).to(dtype)
    kernels.run(kernels.UNPACK, packed.contiguous(), columns, b=signs)
    return signs


def pack_change(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Packed signs of `tuned - base`, both (m, n) of BF16, F16 or F32: negative where tuned < base in FP32.

    The two may differ in type. On a CPU neither is copied, if contiguous.
    """
    _check_matrix("base", base, _FLOATS)
    _check_matrix("tuned", tuned, _FLOATS)
    if base.shape != tuned.shape or base.device != tuned.device:
        raise ValueError(
            f"The base is {tuple(base.shape)} on {base.device} and the tuned weight {tuple(tuned.shape)} on "
            f"{tuned.device}. They must agree."
        )
    if not kernels.handles(base, tuned):
        return _pack_with_torch(tuned.float() < base.float())
    packed = torch.zeros(packed_shape(base.shape), dtype=torch.uint8, device=base.device)
    kernels.run(kernels.COMPARE, packed, base.shape[1], a=base.contiguous(), b=tuned.contiguous())
    return packed


# ------------------------------------------------------------------------------------------------ add
@torch.no_grad()
def add_signs(
    base: torch.Tensor,
    packed: torch.Tensor,
    row_scale: torch.Tensor | None = None,
    column_scale: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`base[i, j] + sign[i, j] * (row_scale[i] * column_scale[j])`, in FP32, rounded once, to nearest even.

    base: (m, n) contiguous, BF16, F16 or F32, at any address; packed: uint8 (m, row_bytes(n)); row_scale: f32
    (m,); column_scale: f32 (n,). A scale left out is 1; one of them must be given. The result goes to `out`
    (contiguous; `base` itself will do, any other overlap won't) or to a new tensor of `out_dtype` (the base's
    if left out). No gradient flows. Raises ValueError or TypeError where the arguments don't fit together.
    """
    _check_matrix("base", base, _FLOATS, contiguous=True)
    rows, columns = base.shape
    _check_packed(packed, rows, columns, contiguous=True)
    if row_scale is None and column_scale is None:
        raise ValueError("Signs without a scale are not a change. Give a row scale, a column scale, or both.")
    _check_scale("row", row_scale, rows)
    _check_scale("column", column_scale, columns)
    if out is None:
        out = torch.empty_like(base, dtype=out_dtype or base.dtype)
    elif out.shape != base.shape or out_dtype not in (None, out.dtype):
        raise ValueError(
            f"The output is {tuple(out.shape)} of {out.dtype}, but {tuple(base.shape)} of {out_dtype or out.dtype} is asked for."
        )
    _check_matrix("output", out, _FLOATS, contiguous=True)
    given = [t for t in (packed, row_scale, column_scale, out) if t is not None]
    if any(t.device != base.device for t in given):
        raise ValueError("The base, its signs, their scales and the output must be on the same device.")

    if not kernels.handles(base, out):
        return _add_with_torch(base, packed, row_scale, column_scale, out)
    row = torch.ones(rows, dtype=torch.float32, device=base.device) if row_scale is None else row_scale.contiguous()
    column = None if column_scale is None else column_scale.contiguous()
    kernels.run(kernels.ADD, packed, columns, a=base, b=out, row_scale=row, column_scale=column)
    return out


def add_signs_float32(
    accumulator: torch.Tensor,
    packed: torch.Tensor,
    row_scale: torch.Tensor | None = None,
    column_scale: torch.Tensor | None = None,
) -> None:
    """Add one plane of scaled signs to an FP32 accumulator (m, n) in place; arguments as for `add_signs`.

    For changes made of several planes: sum them in FP32, then round once.
    """
    _check_matrix("accumulator", accumulator, (torch.float32,), contiguous=True)
    add_signs(accumulator, packed, row_scale, column_scale, out=accumulator)


# ----------------------------------------------------------------------- the same, in torch operations
def _weights(device: torch.device) -> torch.Tensor:
    """The value of each bit of a byte, uint8 (8, 1)."""
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)[:, None]


def _pack_with_torch(negative: torch.Tensor) -> torch.Tensor:
    rows, columns = negative.shape
    tiles, tail = divmod(columns, TILE)
    stride, body = row_bytes(tail), tiles * TILE
    weights = _weights(negative.device)
    planes = negative[:, :body].reshape(rows, tiles, 8, RUN) * weights
    packed = planes.sum(dim=2, dtype=torch.uint8).reshape(rows, tiles * RUN)  # (rows, tiles * 64)
    padded = torch.nn.functional.pad(negative[:, body:], (0, stride * 8 - tail))
    rest = (padded.reshape(rows, 8, stride) * weights).sum(dim=1, dtype=torch.uint8)  # (rows, stride)
    return torch.cat((packed, rest), dim=1)


def _unpack_with_torch(packed: torch.Tensor, columns: int) -> torch.Tensor:
    """The signs as int8 (m, columns)."""
    rows = packed.shape[0]
    tiles, tail = divmod(columns, TILE)
    body, weights = tiles * RUN, _weights(packed.device)
    full = packed[:, :body].reshape(rows, tiles, 1, RUN) & weights  # (rows, tiles, 8, 64)
    rest = packed[:, None, body:] & weights  # (rows, 8, stride)
    bits = torch.cat((full.flatten(1), rest.flatten(1)[:, :tail]), dim=1)
    return 1 - 2 * (bits != 0).to(torch.int8)


def _add_with_torch(
    base: torch.Tensor,
    packed: torch.Tensor,
    row_scale: torch.Tensor | None,
    column_scale: torch.Tensor | None,
    out: torch.Tensor,
) -> torch.Tensor:
    rows, columns = base.shape
    step = max(1, _CHUNK // max(1, columns))
    for first in range(0, rows, step):
        part = slice(first, first + step)
        change = _unpack_with_torch(packed[part], columns).float()
        if row_scale is not None and column_scale is not None:
            change *= row_scale[part, None] * column_scale
        elif row_scale is not None:
            change *= row_scale[part, None]
        elif column_scale is not None:
            change *= column_scale
        out[part] = (base[part].float() + change).to(out.dtype)
    return out


# -------------------------------------------------------------------------------------------- checks
def _check_matrix(name: str, tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...], contiguous: bool = False) -> None:
    if tensor.dtype not in dtypes:
        expected = ", ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"The {name} is of {tensor.dtype}. It must be one of: {expected}.")
    if tensor.dim() != 2:
        raise ValueError(f"The {name} has the shape {tuple(tensor.shape)}. It must have two dimensions.")
    if contiguous and not tensor.is_contiguous():
        raise ValueError(f"The {name} is not contiguous in memory. Call contiguous() on it first.")


def _check_packed(packed: torch.Tensor, rows: int, columns: int, contiguous: bool = False) -> None:
    _check_matrix("packed tensor", packed, (torch.uint8,), contiguous)
    if packed.shape != packed_shape((rows, columns)):
        raise ValueError(
            f"The signs of {rows} x {columns} weights take {packed_shape((rows, columns))} bytes, "
            f"but the packed tensor has the shape {tuple(packed.shape)}."
        )


def _check_scale(axis: str, scale: torch.Tensor | None, length: int) -> None:
    if scale is not None and (scale.dtype != torch.float32 or scale.shape != (length,)):
        raise ValueError(f"The {axis} scale is {tuple(scale.shape)} of {scale.dtype}. It must be ({length},) of torch.float32.")

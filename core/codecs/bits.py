"""Small whole numbers as a dense stream of bits.

Number j of width b takes bits j * b to j * b + b - 1 of the stream, its least significant first; bit k of the stream is
bit k mod 8 of byte k div 8. What is left of the last byte is 0. So eight numbers take exactly b bytes.

Example: 5, 0, 7, 2 in 3 bits are the bits 101 000 111 010, as bytes 0b11000101 = 197 and 0b0101 = 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
"""Those that the functions here take."""

CHUNK = 1 << 20
"""Numbers that are worked on at a time, a multiple of eight: bounds the memory beside the result to some 20 MB."""


def packed_bytes(count: int, width: int) -> int:
    """Bytes that `count` numbers of `width` bits take."""
    return -(-count * width // 8)


def pack_numbers(numbers: Tensor, width: int) -> Tensor:
    """Bytes U8 of whole numbers (any shape, taken row by row), each from 0 to 2**width - 1."""
    flat = numbers.reshape(-1)
    if width == 16:                                    # two's complement has the same 16 bits
        return torch.where(flat < 1 << 15, flat, flat - (1 << 16)).to(torch.int16).view(torch.uint8)
    result = torch.empty(packed_bytes(flat.numel(), width), dtype=torch.uint8, device=flat.device)
    places = torch.arange(8, device=flat.device) * width
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start:start + CHUNK].long()
        eights = torch.nn.functional.pad(part, (0, -part.numel() % 8)).reshape(-1, 8)
        words = (eights << places).sum(1)              # bits of different numbers never meet: the sum is their union
        packed = words.view(torch.uint8).reshape(-1, 8)[:, :width].reshape(-1)
        first = start * width // 8
        result[first:first + packed.numel()] = packed[:result.numel() - first]
    return result


def unpack_numbers(packed: Tensor, count: int, width: int) -> Tensor:
    """The first `count` numbers (count,) FP32 of bytes U8; exact, as none has more than 16 bits."""
    if width == 16:
        pairs = packed[:2 * count].reshape(-1, 2).float()
        return pairs[:, 0] + pairs[:, 1] * 256
    if width == 8:
        return packed[:count].float()
    result = torch.empty(count, dtype=torch.float32, device=packed.device)
    places = torch.arange(8, device=packed.device) * width
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        part = packed[start * width // 8:packed_bytes(stop, width)]
        part = torch.nn.functional.pad(part, (0, -part.numel() % width)).reshape(-1, width)      # (eights, width)
        words = torch.nn.functional.pad(part, (0, 8 - width)).view(torch.int64)                  # (eights, 1)
        result[start:stop] = (words >> places & (1 << width) - 1).reshape(-1)[:stop - start]
    return result


def has_stray_tail(packed: Tensor, count: int, width: int) -> bool:
    """Whether a bit behind the last of `count` numbers is set, up to the end of `packed`."""
    whole, rest = divmod(count * width, 8)
    if rest and int(packed[whole]) >> rest:
        return True
    return bool(packed[packed_bytes(count, width):].any())

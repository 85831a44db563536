"""The overlay's kernels for CUDA: few tokens times base weights plus scaled signs, made in registers and never stored.

Like the CPU's they multiply with the very weights of a merge: base and change summed in FP32, rounded to the weights'
type. Import this module only where Triton is (it comes with torch's CUDA builds). With TRITON_INTERPRET=1 in the
environment the kernels run on the CPU, slowly, for tests.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

# Not a dependency of its own: it is there where torch can use it, and absent elsewhere.
triton: Any = import_module("triton")
tl: Any = import_module("triton.language")

TOKENS = 16
"""Tokens that a launch takes at most; products of matrices want no fewer rows than this anyway."""
_BLOCK = 32


@triton.jit  # type: ignore[untyped-decorator]
def _weights(  # type: ignore[no-untyped-def]
        weight, signs, by_row, by_column, i, j, bytes_at, bit, inside, columns, width, signs_step, by_row_step,
        by_column_step, PLANES: tl.constexpr, COLUMNWISE: tl.constexpr):
    """Weights at stored rows i and columns j, both (a, b), rounded to the stored type; 0 outside."""
    stored = tl.load(weight + i.to(tl.int64) * columns + j, mask=inside, other=0.0)
    total = stored.to(tl.float32)
    for p in tl.static_range(PLANES):
        packed = tl.load(signs + p * signs_step + i.to(tl.int64) * width + bytes_at, mask=inside, other=0)
        change = tl.load(by_row + p * by_row_step + i, mask=inside, other=0.0)
        if COLUMNWISE:
            change = change * tl.load(by_column + p * by_column_step + j, mask=inside, other=0.0)
        negative = ((packed.to(tl.int32) >> bit) & 1) != 0
        total = total + tl.where(negative, -change, change)
    return tl.where(inside, total, 0.0).to(stored.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _by_output(  # type: ignore[no-untyped-def]
        x, weight, signs, by_row, by_column, bias, y, tokens, outputs, inputs, width, signs_step, by_row_step,
        by_column_step, y_step, PLANES: tl.constexpr, COLUMNWISE: tl.constexpr, BIASED: tl.constexpr,
        BLOCK: tl.constexpr, TOKENS: tl.constexpr, WIDE: tl.constexpr):
    """y[t, i] = sum over j of x[t, j] W[i, j]; a program makes BLOCK outputs, run by run of the sign layout."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    t = tl.arange(0, TOKENS)[:, None]
    run = tl.arange(0, 64)[None, :]
    total = tl.zeros((TOKENS, BLOCK), dtype=tl.float32)
    for tile in range(0, tl.cdiv(inputs, 512)):
        left = tl.minimum(inputs - tile * 512, 512)
        stride = (left + 7) // 8
        for bit in range(0, 8):
            column = bit * stride + run
            there = (run < stride) & (column < left)
            j = tile * 512 + column
            w = _weights(weight, signs, by_row, by_column, i + 0 * run, j + 0 * i, tile * 64 + run + 0 * i, bit,
                         there & (i < outputs), inputs, width, signs_step, by_row_step, by_column_step, PLANES, COLUMNWISE)
            values = tl.load(x + t * inputs + j, mask=there & (t < tokens), other=0.0)
            if WIDE:
                total = tl.dot(values.to(tl.float32), tl.trans(w.to(tl.float32)), acc=total, input_precision="ieee")
            else:
                total = tl.dot(values, tl.trans(w), acc=total, input_precision="ieee")
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    if BIASED:
        total = total + tl.load(bias + o, mask=o < outputs, other=0.0).to(tl.float32)
    tl.store(y + t * y_step + o, total.to(y.dtype.element_ty), mask=(o < outputs) & (t < tokens))


@triton.jit  # type: ignore[untyped-decorator]
def _by_input(  # type: ignore[no-untyped-def]
        x, weight, signs, by_row, by_column, bias, y, tokens, outputs, inputs, width, signs_step, by_row_step,
        by_column_step, y_step, PLANES: tl.constexpr, COLUMNWISE: tl.constexpr, BIASED: tl.constexpr,
        BLOCK: tl.constexpr, TOKENS: tl.constexpr, WIDE: tl.constexpr):
    """y[t, j] = sum over i of x[t, i] W[i, j]; a program makes the outputs of one bit plane of one tile."""
    tile, bit = tl.program_id(0) // 8, tl.program_id(0) % 8
    left = tl.minimum(outputs - tile * 512, 512)
    stride = (left + 7) // 8
    run = tl.arange(0, 64)[None, :]
    column = bit * stride + run
    there = (run < stride) & (column < left)
    j = tile * 512 + column
    t = tl.arange(0, TOKENS)[:, None]
    total = tl.zeros((TOKENS, 64), dtype=tl.float32)
    for first in range(0, inputs, BLOCK):
        i = first + tl.arange(0, BLOCK)[:, None]
        w = _weights(weight, signs, by_row, by_column, i + 0 * run, j + 0 * i, tile * 64 + run + 0 * i, bit,
                     there & (i < inputs), outputs, width, signs_step, by_row_step, by_column_step, PLANES, COLUMNWISE)
        k = first + tl.arange(0, BLOCK)[None, :]
        values = tl.load(x + t * inputs + k, mask=(k < inputs) & (t < tokens), other=0.0)
        if WIDE:
            total = tl.dot(values.to(tl.float32), w.to(tl.float32), acc=total, input_precision="ieee")
        else:
            total = tl.dot(values, w, acc=total, input_precision="ieee")
    if BIASED:
        total = total + tl.load(bias + j, mask=there, other=0.0).to(tl.float32)
    tl.store(y + t * y_step + j, total.to(y.dtype.element_ty), mask=there & (t < tokens))


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def usable(x: Tensor) -> bool:
    """Whether the kernels take these activations (tokens, in)."""
    return 0 < len(x) <= TOKENS and (x.is_cuda or _interpreted()) and x.dtype in (torch.bfloat16, torch.float16, torch.float32)


def multiply(x: Tensor, weight: Tensor, signs: Tensor, by_row: Tensor, by_column: Tensor | None, bias: Tensor | None,
             y: Tensor, by_input: bool) -> None:
    """y (tokens, out) = x (tokens, in) times base plus signs, plus bias.

    weight: (out, in), or (in, out) if `by_input`, contiguous, of x's type; signs: uint8 (planes, m, bytes); by_row: FP32
    (planes, m); by_column: FP32 (planes, n) or None; bias: (out,) or None. y may be some columns of a wider tensor.
    """
    x = x.contiguous()
    inputs, outputs = weight.shape if by_input else weight.shape[::-1]
    grid = (8 * triton.cdiv(outputs, 512),) if by_input else (triton.cdiv(outputs, _BLOCK),)
    kernel = _by_input if by_input else _by_output
    kernel[grid](x, weight, signs, by_row, by_row if by_column is None else by_column, x if bias is None else bias, y, len(x),
                 outputs, inputs, signs.shape[2], signs.stride(0), by_row.stride(0),
                 0 if by_column is None else by_column.stride(0), y.stride(0), PLANES=len(signs),
                 COLUMNWISE=by_column is not None, BIASED=bias is not None, BLOCK=_BLOCK, TOKENS=TOKENS,
                 WIDE=_interpreted())      # the interpreter can't multiply matrices of bf16

"""Kernels and changes of the overlay: any shape, axis, type and orientation, against the codec's own sum."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core import overlay_kernels as kernels
from core.codecs import CODECS
from core.overlay_launch import FEW, Segment, launcher, make_table, usable
from core.overlay_weights import Change, Dense, change_of
from core.record import DTYPE_NAMES, TensorRecord
from core.signs import add_signs_float32, pack_signs
from tests.core.decks import encode, record_of

SHAPES = [(60, 173), (1, 37), (37, 1), (830, 545), (24, 512), (17, 576), (8, 1024 + 192)]
TYPES = [torch.bfloat16, torch.float16, torch.float32]
NEAR = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10, torch.float32: 2.0**-20}
"""Rounding of a result, relative to the sum of what was added up."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signs_of(rows: int, columns: int, seed: int) -> Tensor:
    return pack_signs(noise(rows, columns, seed=seed) < 0)


def merged(segment: Segment) -> Tensor:
    """The weights that a segment stands for, as a merge writes them."""
    if segment.signs is None or segment.by_row is None:
        return segment.weight
    total = segment.weight.float().clone()
    for p, plane in enumerate(segment.signs):
        add_signs_float32(total, plane, segment.by_row[p], None if segment.by_column is None else segment.by_column[p])
    return total.to(segment.weight.dtype)


def run(segments: list[tuple[Segment, Tensor]], x: Tensor, outputs: int, by_input: bool) -> Tensor:
    y = torch.full((len(x), outputs + 3), float("nan"), dtype=x.dtype)      # wider than needed: strides count
    table = make_table(segments, outputs, x.shape[1], outputs + 3, len(x), by_input)
    table[kernels.X], table[kernels.Y] = x.data_ptr(), y.data_ptr()
    launcher(segments[0][0].weight, by_input)(table)
    assert bool(y[:, outputs:].isnan().all())
    return y[:, :outputs]


def check(found: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, by_input: bool) -> None:
    wide = weight.double() if by_input else weight.double().T
    wanted, size = x.double() @ wide, x.double().abs() @ wide.abs()
    if bias is not None:
        wanted, size = wanted + bias.double(), size + bias.double().abs()
    assert bool(((found.double() - wanted).abs() <= NEAR[x.dtype] * size + 1e-30).all())


@settings(max_examples=40, deadline=None)
@given(shape=st.sampled_from(SHAPES) | st.tuples(st.integers(1, 90), st.integers(1, 63)), dtype=st.sampled_from(TYPES),
       by_input=st.booleans(), planes=st.integers(0, 3), columnwise=st.booleans(), biased=st.booleans(),
       tokens=st.integers(1, FEW), threads=st.integers(1, 2), seed=st.integers(0, 99))
def test_a_launch_multiplies_with_merged_weights(shape: tuple[int, int], dtype: torch.dtype, by_input: bool, planes: int,
                                                 columnwise: bool, biased: bool, tokens: int, threads: int, seed: int) -> None:
    m, n = shape
    inputs, outputs = shape if by_input else shape[::-1]
    weight, x = noise(m, n, seed=seed).to(dtype), noise(tokens, inputs, seed=seed + 1).to(dtype)
    bias = noise(outputs, seed=seed + 2).to(dtype) if biased else None
    segment = Segment(0, outputs, weight, bias)
    if planes:
        signs = torch.stack([signs_of(m, n, seed + p) for p in range(planes)])
        by_column = noise(planes, n, seed=seed + 4) if columnwise else None
        segment = Segment(0, outputs, weight, bias, signs, noise(planes, m, seed=seed + 3).abs() * 0.1, by_column)
    assert usable(weight)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = run([(segment, torch.arange(tokens))], x, outputs, by_input)
    finally:
        torch.set_num_threads(before)
    check(found, x, merged(segment), bias, by_input)


@pytest.mark.parametrize("by_input", [False, True])
def test_one_launch_serves_several_variants(by_input: bool) -> None:
    m, n, dtype = 96, 576, torch.bfloat16
    inputs, outputs = (m, n) if by_input else (n, m)
    weight, x = noise(m, n).to(dtype), noise(7, inputs, seed=1).to(dtype)
    variants = [Segment(0, outputs, weight, None)]
    for p in (1, 2):
        signs = torch.stack([signs_of(m, n, p + i) for i in range(p)])
        variants.append(Segment(0, outputs, weight, noise(outputs, seed=p).to(dtype), signs, noise(p, m, seed=p).abs() * 0.1))
    rows = [torch.tensor([5, 0]), torch.tensor([3]), torch.tensor([1, 2, 4, 6])]
    found = run(list(zip(variants, rows, strict=True)), x, outputs, by_input)
    for variant, index in zip(variants, rows, strict=True):
        check(found[index], x[index], merged(variant), variant.bias, by_input)


def test_outputs_in_parts_with_scales_of_their_own() -> None:
    weight, x = noise(90, 173), noise(2, 173, seed=1)
    signs, by_row = signs_of(90, 173, 2)[None], noise(1, 90, seed=3).abs() * 0.1
    parts = [Segment(0, 30, weight, None, signs, by_row), Segment(30, 31, weight, None, signs, by_row, noise(1, 173, seed=4)),
             Segment(31, 90, weight, None, signs, by_row, noise(1, 173, seed=5))]
    found = run([(p, torch.arange(2)) for p in parts], x, 90, False)
    for part in parts:
        check(found[:, part.start:part.stop], x, merged(part)[part.start:part.stop], None, False)


def test_tokens_that_are_not_finite_stay_so() -> None:
    weight = torch.ones(3, 64, dtype=torch.bfloat16)
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    x[0, 5], x[1, 3] = float("nan"), float("inf")
    found = run([(Segment(0, 3, weight, None), torch.arange(2))], x, 3, False)
    assert bool(found[0].isnan().all())
    assert bool(found[1].isposinf().all())


def test_what_the_kernels_leave_to_torch() -> None:
    assert not usable(noise(4, 6).double())
    assert not usable(noise(4, 6).T)
    assert not usable(torch.empty(4, 6, device="meta"))


# ---------------------------------------------------------------------------------------------------- changes
def changes(codec: str, dtype: torch.dtype, shape: tuple[int, int], conv1d: bool,
            tail: int = 0) -> tuple[Change, Tensor, TensorRecord]:
    """(change, the codec's own sum, record)."""
    base = noise(*shape).to(dtype)
    tuned = base if codec == "same" else (base.float() + 0.02 * noise(*shape, seed=1)).to(dtype)
    if codec in ("rows", "sparse"):
        keep = noise(shape[0], 1 if codec == "rows" else shape[1], seed=2) < 1.0
        tuned = torch.where(keep, base, tuned)
    if tail > 0:
        tuned = torch.cat([tuned, noise(tail, shape[1], seed=3).to(dtype)])
    elif tail < 0:
        tuned = tuned[:tail]
    record = record_of("w", codec, tuned, base, "w", conv1d=conv1d, axis="both" if codec == "sign" else "row")
    stored = encode(record, base, tuned)
    return change_of(record, stored, base, dtype), CODECS[codec].add(record, stored, base), record


@pytest.mark.parametrize("conv1d", [False, True], ids=["linear", "conv1d"])
@pytest.mark.parametrize("shape", [(60, 173), (1, 37), (37, 1), (210, 545), (17, 576)], ids=str)
@pytest.mark.parametrize("codec", ["same", "rows", "sparse", "lowrank", "sign", "full"])
def test_blocks_and_rows_are_the_codecs_sum_bit_for_bit(codec: str, shape: tuple[int, int], conv1d: bool) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        change, wanted, record = changes(codec, dtype, shape, conv1d)
        assert change.outputs == record.outputs
        dimension = int(conv1d)
        whole = torch.cat([change.block(i, min(i + 512, change.outputs)) for i in range(0, change.outputs, 512)], dimension)
        assert torch.equal(whole, wanted)
        if not conv1d:
            ids = torch.tensor([shape[0] - 1, 0, 0, shape[0] // 2])
            assert torch.equal(change.rows(ids), wanted[ids])
            assert torch.equal(change.block(shape[0] // 3, shape[0]), wanted[shape[0] // 3:])
        for tokens in (1, 40):
            x = noise(tokens, record.inputs, seed=5).to(dtype)
            bias = noise(change.outputs, seed=6).to(dtype)
            found = change.multiply(x, bias).double()
            wide = wanted.double() if conv1d else wanted.double().T
            size = x.double().abs() @ wide.abs() + bias.double().abs()
            assert bool(((found - x.double() @ wide - bias.double()).abs() <= 3 * NEAR[dtype] * size).all())


@pytest.mark.parametrize(("codec", "tail"), [
    *((codec, -3) for codec in ("same", "rows", "sparse", "lowrank", "sign", "full")),
    *((codec, 3) for codec in ("rows", "sign", "full"))])                  # the others store no new rows
def test_vocabularies_that_grew_or_shrank(codec: str, tail: int) -> None:
    change, wanted, _ = changes(codec, torch.float32, (60, 173), False, tail)
    assert change.outputs == 60 + tail
    assert torch.equal(change.block(0, change.outputs), wanted)
    ids = torch.tensor([0, 56, 59 + tail, 7])
    assert torch.equal(change.rows(ids), wanted[ids])
    x = noise(3, 173, seed=5)
    assert torch.allclose(change.multiply(x, None), x @ wanted.T, rtol=1e-4, atol=1e-4)


def test_other_types_are_summed_once_and_kept() -> None:
    base = noise(60, 173)
    tuned = (base + 0.02 * noise(60, 173, seed=1)).to(torch.bfloat16)
    record = record_of("w", "sign", tuned, base, "w")
    stored = encode(record, base, tuned)
    change = change_of(record, stored, base, torch.float32)
    assert isinstance(change, Dense)
    assert torch.equal(change.weight, CODECS["sign"].add(record, stored, base).float())


# ----------------------------------------------------------------------------------------------------- Triton
TRITON = """
import torch
from core import overlay_triton
from core.overlay_launch import Segment
from tests.core.test_overlay import merged, noise, signs_of
for dtype, near in ((torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):   # interpreted bf16 truncates
    for by_input in (False, True):
        for m, n in ((60, 173), (1, 9), (9, 1), (33, 600)):
            for planes, columnwise, biased in ((1, False, True), (1, True, False), (2, True, True)):
                inputs, outputs = (m, n) if by_input else (n, m)
                weight, x = noise(m, n).to(dtype), noise(3, inputs, seed=1).to(dtype)
                signs = torch.stack([signs_of(m, n, p) for p in range(planes)])
                by_row, by_column = noise(planes, m, seed=2).abs() * 0.1, noise(planes, n, seed=3) if columnwise else None
                bias = noise(outputs, seed=4).to(dtype) if biased else None
                y = torch.full((3, outputs + 1), float("nan"), dtype=dtype)
                assert overlay_triton.usable(x)
                overlay_triton.multiply(x, weight, signs, by_row, by_column, bias, y[:, :outputs], by_input)
                wide = merged(Segment(0, outputs, weight, bias, signs, by_row, by_column)).double()
                wide = wide if by_input else wide.T
                wanted = x.double() @ wide + (0 if bias is None else bias.double())
                size = x.double().abs() @ wide.abs() + (0 if bias is None else bias.double().abs())
                assert ((y[:, :outputs].double() - wanted).abs() <= near * size + 1e-30).all(), (dtype, by_input, m, n, planes)
                assert y[:, outputs].isnan().all()
print("as it should be")
"""


def interpreted(code: str) -> str:
    """Run code in a process of its own, in which Triton interprets its kernels."""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False,
                          env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_gpu_kernel_agrees_in_tritons_interpreter() -> None:
    pytest.importorskip("triton")
    assert interpreted(TRITON).strip() == "as it should be"


def test_layers_take_the_gpu_kernel_where_there_is_one() -> None:
    pytest.importorskip("triton")
    code = """
import torch
from tests.core.test_overlay import changes, noise
from core import overlay_triton
used, real = [], overlay_triton.multiply
overlay_triton.multiply = lambda *given: (used.append(1), real(*given))[1]
for conv1d, tail in ((False, 0), (True, 0), (False, 3)):
    change, wanted, record = changes("sign", torch.float32, (60, 173), conv1d, tail)
    x = noise(4, record.inputs, seed=5)
    assert torch.allclose(change.multiply(x, None), x @ (wanted if conv1d else wanted.T), rtol=1e-4, atol=1e-4)
print(len(used))
"""
    assert interpreted(code).strip() == "3"


def test_a_segment_without_scales_is_the_base() -> None:
    table: Any = make_table([(Segment(0, 4, noise(4, 8), None), torch.arange(1))], 4, 8, 4, 1, False)
    assert table[kernels.HEADER + kernels.PLANES] == 0
    assert table.dtype == np.int64
    assert DTYPE_NAMES[torch.float32] == "F32"

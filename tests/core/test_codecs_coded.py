"""Entropy-coded levels: the coder itself, what the codec announces, adds, multiplies and refuses."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.codecs import CODECS, rans
from core.codecs.coded import LARGEST, decoded, dense, steps, unpacked
from core.record import DTYPES, TensorRecord
from tests.core.test_codecs import SHAPES, check_multiply, encoded, gauss, record_for, same_bits

WEIGHTS = st.sampled_from(["BF16", "F16", "F32"])


def coder_case(shape: tuple[int, int], top: int, seed: int, spread: float) -> tuple[Tensor, Tensor, np.ndarray]:
    """Levels (out, in) within -top and top, columns' bytes and the frequencies of the magnitudes that occur."""
    levels = (gauss(*shape, seed=seed) * spread).round().clamp(-top, top).to(torch.int8)
    columns = torch.randint(0, 256, (shape[1],), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    counts = torch.zeros(rans.CLASSES, top + 1, dtype=torch.int64)
    for j in range(shape[1]):
        counts[int(columns[j]) & 15] += torch.bincount(levels[:, j].abs().long(), minlength=top + 1)
    return levels, columns, rans.frequencies_of(counts.numpy())


def coded_case(base: Tensor, top: int = 5, rank: int = 0, output_dimension: int = 0, dtype: str = "BF16", seed: int = 3,
               spare: int = 3) -> tuple[TensorRecord, dict[str, Tensor], Tensor, Tensor]:
    """A record, its stored tensors, the change they stand for by a plain reading of the format (FP64, as stored), the levels."""
    out, n = base.shape[output_dimension], base.shape[1 - output_dimension]
    levels, columns, tables = coder_case((out, n), top, seed, top / 3)
    stream = torch.from_numpy(rans.encode(levels.numpy(), (columns & 15).numpy(), tables))
    stream = torch.nn.functional.pad(stream, (0, spare))
    record = record_for("coded", base, base.to(DTYPES[dtype]), levels=top, rank=rank, count=len(stream),
                        exponents=(-24, -26)[:1 + (rank > 0)], output_dimension=output_dimension)
    stored = {"columns": columns, "tables": torch.from_numpy(tables[..., None] // (1, 256) % 256).to(torch.uint8),
              "scale": gauss(1 + rank, seed=seed + 1).half()}
    wide = [2.0**-24 * float(stored["scale"][0]) * (2 + int(c) // 16 % 2) * 2.0**(int(c) // 32) for c in columns]
    change = levels.double() * torch.tensor(wide, dtype=torch.float64)
    if rank:
        for suffix, shape in (("left", (out, rank)), ("right", (rank, n))):
            stored[suffix] = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        left, right = (stored[s].double() - 128 for s in ("left", "right"))
        change += (left * stored["scale"][1:].double() * 2.0**-26) @ right
    stored["stream"] = stream
    return record, stored, change.T if output_dimension else change, levels


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.integers(1, LARGEST), st.integers(0, 99), st.floats(0.0, 40.0))
def test_streams_come_back(m: int, n: int, top: int, seed: int, spread: float) -> None:
    levels, columns, tables = coder_case((m, n), top, seed, spread)
    used = np.unique((columns & 15).numpy())
    assert ((tables[:, 0] + 2 * tables[:, 1:].sum(1))[used] == rans.TOTAL).all()
    stream = rans.encode(levels.numpy(), (columns & 15).numpy(), tables)
    assert np.array_equal(rans.decode(stream, (m, n), (columns & 15).numpy(), tables), levels.numpy())


def test_streams_are_as_short_as_the_frequencies_say() -> None:
    levels, columns, tables = coder_case((300, 200), 3, 0, 0.4)
    bits = rans.cost(tables)[(columns & 15).numpy()[None].repeat(300, 0), levels.abs().numpy()].sum()
    assert len(rans.encode(levels.numpy(), (columns & 15).numpy(), tables)) - rans.HEADER <= bits / 8 * 1.002 + 4


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=16, max_size=60), st.integers(1, LARGEST))
def test_any_bytes_decode_to_levels_within_reach(raw: bytes, top: int) -> None:
    tables = rans.frequencies_of(np.full((rans.CLASSES, top + 1), 7))
    levels = rans.decode(np.frombuffer(raw, np.uint8), (5, 33), np.arange(33) % 16, tables)
    assert np.abs(levels.astype(int)).max() <= top


def test_frequencies_keep_what_is_rare() -> None:
    counts = np.zeros((1, 64), np.int64)
    counts[0, 1:] = 1
    counts[0, 63] = 10**9
    found = rans.frequencies_of(counts)
    assert found.min() >= 1 and found[0, 0] + 2 * found[0, 1:].sum() == rans.TOTAL


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("output_dimension", [0, 1])
def test_coded(shape: tuple[int, int], rank: int, output_dimension: int) -> None:
    base = gauss(*shape, std=0.05).bfloat16()
    record, stored, change, levels = coded_case(base, rank=rank, output_dimension=output_dimension)
    packed = encoded(record, base, base, stored)
    assert same_bits(unpacked(record, packed)["stream"], stored["stream"])
    assert same_bits(CODECS["coded"].add(record, packed, base), CODECS["coded"].add(record, stored, base))
    assert torch.equal(decoded(record, stored), levels)
    expected = (base.float() + change.float()).bfloat16()
    assert same_bits(CODECS["coded"].add(record, stored, base), expected)
    check_multiply(record, stored, base, change)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 40), st.integers(0, 1), st.integers(1, LARGEST), st.booleans(), WEIGHTS, WEIGHTS,
       st.integers(0, 50))
def test_coded_of_any_shape(m: int, n: int, dimension: int, top: int, low: bool, base_type: str, dtype: str, seed: int) -> None:
    base = gauss(m + 1, n, std=0.05).to(DTYPES[base_type])[:m]
    record, stored, change, _ = coded_case(base, top, int(low), dimension, dtype, seed)
    encoded(record, base, base, stored)
    expected = (base.float() + change.float()).to(DTYPES[dtype])
    assert same_bits(CODECS["coded"].add(record, stored, base), expected)


def test_the_example_of_the_format() -> None:
    base = torch.zeros(1, 2)
    record = record_for("coded", base, base, levels=1, count=16, exponents=(-10,))
    tables = torch.zeros(16, 2, 2, dtype=torch.uint8)
    tables[0] = torch.tensor([[0, 8], [0, 4]])
    states = torch.tensor([0, 8, 1, 0, *[0, 0, 1, 0] * 3], dtype=torch.uint8)
    stored = {"columns": torch.zeros(2, dtype=torch.uint8), "tables": tables, "scale": torch.ones(1).half(), "stream": states}
    assert CODECS["coded"].stored_problem(record, stored) == ""
    assert CODECS["coded"].add(record, stored, base).tolist() == [[0.001953125, 0.0]]


def test_what_is_refused() -> None:
    base = gauss(20, 30).bfloat16()
    record, stored, _, _ = coded_case(base, rank=2)
    codec = CODECS["coded"]
    for spoilt, says in (({"levels": 0}, "levels"), ({"levels": 64}, "levels"), ({"count": 15}, "levels"), ({"rank": 21}, "rank"),
                         ({"rank": -1}, "rank"), ({"exponents": (0,)}, "rank"), ({"exponents": (0, 0, 0)}, "rank"),
                         ({"base_shape": (19, 30)}, "matrix"), ({"shape": (20,)}, "matrix")):
        assert says in codec.problem(msgspec.structs.replace(record, **spoilt))
    tables, none = stored["tables"].clone(), torch.zeros_like(stored["tables"])
    tables[3, 0, 0] += 1
    far = stored["scale"].clone()
    far[0] = 60000
    for changed, says in (({"scale": stored["scale"] * float("nan")}, "not finite"), ({"tables": tables}, "add up"),
                          ({"tables": none}, "unknown class"), ({"stream": torch.zeros_like(stored["stream"])}, "cannot start")):
        assert says in codec.stored_problem(record, {**stored, **changed})
    assert "beyond FP32" in codec.stored_problem(msgspec.structs.replace(record, exponents=(112, 0)), {**stored, "scale": far})
    assert bool(steps(record, stored).isfinite().all()) and dense(record, stored).shape == (20, 30)

"""Every codec over awkward shapes: what it announces, what it rebuilds, what it multiplies."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.codecs import CODECS
from core.codecs.check import record_problem
from core.codecs.contract import index_problem
from core.codecs.lowrank import factors
from core.codecs.scales import EXPONENTS, exponent_for, from_half, to_half
from core.codecs.sign import join_scales, plane_scales, scale_count
from core.record import AXES, DTYPE_NAMES, DTYPES, Slice, TensorRecord

SHAPES = [(830, 545), (256, 700), (60, 173), (1, 37), (37, 1), (3, 1030), (1, 1)]
PAIRS = [("BF16", "BF16"), ("F16", "F16"), ("F32", "F32"), ("F32", "BF16"), ("BF16", "F16"), ("F16", "F32")]
WEIGHTS = st.sampled_from(["BF16", "F16", "F32"])


def gauss(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def record_for(codec: str, base: Tensor | None, tuned: Tensor, **options: object) -> TensorRecord:
    fields: dict[str, object] = {"name": "w", "codec": codec, "shape": tuple(tuned.shape), "dtype": DTYPE_NAMES[tuned.dtype],
                                 "base": None if base is None else "w"}
    if base is not None:
        fields |= {"base_shape": tuple(base.shape), "base_dtype": DTYPE_NAMES[base.dtype]}
    return msgspec.convert(fields | options, TensorRecord)


def same_bits(a: Tensor, b: Tensor) -> bool:
    as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*as_bytes)


def encoded(record: TensorRecord, base: Tensor | None, tuned: Tensor,
            fitted: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What the codec stores, once it is known to be just what it announced and to pass its own checks."""
    codec = CODECS[record.codec]
    stored = codec.encode(record, base, tuned, fitted)
    layout = codec.layout(record)
    assert list(stored) == list(layout)
    for suffix, tensor in stored.items():
        announced = layout[suffix]
        assert announced.name == f"w.{suffix}"
        assert (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) == (announced.dtype, announced.shape)
        assert announced.nbytes == tensor.numel() * tensor.element_size()
    assert record_problem(record) == ""
    assert codec.stored_problem(record, stored) == ""
    return stored


def check_multiply(record: TensorRecord, stored: dict[str, Tensor], base: Tensor | None, change: Tensor) -> None:
    """`multiply` against the dense change, given in the stored layout in FP64."""
    logical = change.T if record.output_dimension else change
    for lead in ((), (2,), (2, 3)):
        x = gauss(*lead, logical.shape[1], seed=9)
        product = CODECS[record.codec].multiply(record, stored, base, x)
        assert product.dtype == torch.float32 and product.shape == (*lead, logical.shape[0])
        expected = x.double() @ logical.T
        scale = float(x.double().abs().reshape(-1, logical.shape[1]).max() * logical.abs().sum(1).max())
        assert float((product - expected).abs().max()) <= 1e-5 * scale + 1e-30


def dense_change(variant: Tensor, base: Tensor) -> Tensor:
    change = variant.double()
    common = min(len(base), len(variant))
    change[:common] -= base[:common].double()
    return change


# ------------------------------------------------------------------------------------------------ exact codecs
@pytest.mark.parametrize("shape", [*SHAPES, (5,), (), (4, 3, 2)])
@pytest.mark.parametrize(("base_type", "dtype"), PAIRS)
def test_same(shape: tuple[int, ...], base_type: str, dtype: str) -> None:
    base = gauss(*shape).to(DTYPES[base_type])
    tuned = base.to(DTYPES[dtype])
    record = record_for("same", base, tuned)
    stored = encoded(record, base, tuned)
    result = CODECS["same"].add(record, stored, base)
    assert stored == {} and same_bits(result, tuned)
    assert result.data_ptr() != base.data_ptr()
    if len(shape) == 2:
        for dimension in (0, 1):
            check_multiply(record_for("same", base, tuned, output_dimension=dimension), stored, base, torch.zeros(shape).double())


def test_same_with_fewer_rows() -> None:
    base = gauss(6, 3)
    record = record_for("same", base, base[:4])
    assert same_bits(CODECS["same"].add(record, {}, base), base[:4])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grown", [-1, 0, 5])
@pytest.mark.parametrize("output_dimension", [0, 1])
def test_rows(shape: tuple[int, int], grown: int, output_dimension: int) -> None:
    base = gauss(*shape).bfloat16()
    rows = max(1, shape[0] + grown)
    tuned = torch.cat([base, gauss(5, shape[1], seed=1).bfloat16()])[:rows].clone()
    tuned[::7] += 1
    common = min(rows, shape[0])
    changed = int((tuned[:common] != base[:common]).any(1).sum()) + rows - common
    record = record_for("rows", base, tuned, count=changed, output_dimension=output_dimension)
    stored = encoded(record, base, tuned)
    assert same_bits(CODECS["rows"].add(record, stored, base), tuned)
    check_multiply(record, stored, base, dense_change(tuned, base))


@pytest.mark.parametrize("shape", [*SHAPES, (9,), (3, 2, 4)])
@pytest.mark.parametrize("output_dimension", [0, 1])
def test_sparse(shape: tuple[int, ...], output_dimension: int) -> None:
    base = gauss(*shape).half()
    tuned = base.clone()
    tuned.view(-1)[::11] += 1
    record = record_for("sparse", base, tuned, count=int((base != tuned).sum()),
                        output_dimension=output_dimension if len(shape) == 2 else 0)
    stored = encoded(record, base, tuned)
    assert stored["index"].dtype == torch.int32
    assert same_bits(CODECS["sparse"].add(record, stored, base), tuned)
    if len(shape) == 2:
        check_multiply(record, stored, base, dense_change(tuned, base))


def test_sparse_counts_in_64_bits_where_32_do_not_reach() -> None:
    record = TensorRecord(name="w", codec="sparse", shape=(2**16, 2**15), dtype="F32", base="w", count=7)
    assert CODECS["sparse"].layout(record)["index"].dtype == "I64"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), WEIGHTS, WEIGHTS, st.data())
def test_exact_codecs_lose_nothing(shape: list[int], base_type: str, dtype: str, data: st.DataObject) -> None:
    count = math.prod(shape)
    bits = data.draw(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=count, max_size=count))
    base = torch.tensor(bits).reshape(shape).to(DTYPES[base_type])
    tuned = base.to(DTYPES[dtype])
    flat = tuned.view(-1)
    for place in data.draw(st.lists(st.integers(0, count - 1), max_size=4)):
        flat[place] = float(data.draw(st.floats(-4, 4, width=16)))
    for codec, counted in (("rows", (base != tuned).reshape(shape[0], -1).any(1).sum()), ("sparse", (base != tuned).sum())):
        record = record_for(codec, base, tuned, count=int(counted))
        stored = encoded(record, base, tuned)
        assert torch.equal(CODECS[codec].add(record, stored, base), tuned)


@pytest.mark.parametrize("shape", [*SHAPES, (5,), ()])
def test_full(shape: tuple[int, ...]) -> None:
    tuned = gauss(*shape).bfloat16()
    record = record_for("full", None, tuned)
    stored = encoded(record, None, tuned)
    result = CODECS["full"].add(record, stored, None)
    assert same_bits(result, tuned) and result.data_ptr() != stored["weight"].data_ptr()
    if len(shape) == 2:
        base = gauss(*shape, seed=1)
        for dimension in (0, 1):
            record = record_for("full", base, tuned, output_dimension=dimension)
            check_multiply(record, stored, base, dense_change(tuned, base))


# ---------------------------------------------------------------------------------------------------- lowrank
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("base_type", "dtype"), PAIRS)
def test_lowrank(shape: tuple[int, int], base_type: str, dtype: str) -> None:
    rank = min(3, *shape)
    left, right = gauss(shape[0], rank, std=0.02), gauss(rank, shape[1], seed=1, std=0.02)
    base = gauss(shape[0] + 1, shape[1], seed=2, std=0.05).to(DTYPES[base_type])       # one row more: it is cut
    tuned = (base[:-1].float() + left @ right).to(DTYPES[dtype])
    exponent = exponent_for(torch.cat([left.flatten(), right.flatten()]))
    for dimension in (0, 1):
        record = record_for("lowrank", base, tuned, rank=rank, exponents=(exponent,), output_dimension=dimension)
        stored = encoded(record, base, tuned, {"left": left, "right": right})
        a, b = (from_half(stored[k], exponent) for k in ("left", "right"))
        change = a.double() @ b.double()
        expected = (base[:-1].float() + change.float()).to(DTYPES[dtype])
        assert same_bits(CODECS["lowrank"].add(record, stored, base), expected)
        check_multiply(record, stored, base, change)


def test_lowrank_sums_do_not_depend_on_order() -> None:
    base = torch.zeros(40, 50)
    left, right = gauss(40, 24), gauss(24, 50, seed=1)
    record = record_for("lowrank", base, base, rank=24, exponents=(exponent_for(torch.cat([left.flatten(), right.flatten()])),))
    stored = encoded(record, base, base, {"left": left, "right": right})
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    turned = {"left": stored["left"][:, order], "right": stored["right"][order]}
    assert same_bits(CODECS["lowrank"].add(record, stored, base), CODECS["lowrank"].add(record, turned, base))


def test_lowrank_finds_its_own_factors() -> None:
    base, change = gauss(30, 40, std=0.05), gauss(30, 2) @ gauss(2, 40, seed=1) * 0.01
    left, right = factors(change, 2)
    assert torch.allclose(left @ right, change, atol=1e-7)
    record = record_for("lowrank", base, base, rank=2, exponents=(exponent_for(torch.cat([left.flatten(), right.flatten()])),))
    stored = encoded(record, base, base + change)
    assert torch.allclose(CODECS["lowrank"].add(record, stored, base), base + change, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- sign
def magnitudes(record: TensorRecord, scales: Tensor) -> Tensor:
    """The definition, piece by piece: FP32 magnitudes (m, n) of one plane in the stored layout."""
    parts, at = [], 0
    for piece in record.slices:
        outputs, inputs = piece.stop - piece.start, record.inputs
        values = scales[at:at + piece.slots]
        at += piece.slots
        parts.append({"scalar": lambda v, k, i: v[:1].expand(k, i), "row": lambda v, k, i: v[:k, None].expand(k, i),
                      "column": lambda v, k, i: v[:i].expand(k, i),
                      "both": lambda v, k, i: v[:k, None] * v[None, k:k + i]}[piece.axis](values, outputs, inputs))
    whole = torch.cat(parts)
    return whole.T if record.output_dimension else whole


def signed_case(base: Tensor, tuned: Tensor, slices: tuple[Slice, ...], planes: int = 1,
                output_dimension: int = 0) -> tuple[TensorRecord, dict[str, Tensor]]:
    """A record and its FP16 scales: of spread 1e-3, some of them negative, the padding zero."""
    record = record_for("sign", base, tuned, slices=slices, planes=planes, output_dimension=output_dimension,
                        exponents=(0,) * planes)
    scales = []
    for plane in range(planes):
        parts = []
        for i, piece in enumerate(slices):
            used = piece.used(record.inputs)
            values = gauss(used, seed=7 * plane + i, std=0.03 if piece.axis == "both" else 1e-3)
            parts.append(torch.nn.functional.pad(values, (0, piece.slots - used)))
        scales.append(torch.cat(parts) * 0.5**plane)
    record = msgspec.structs.replace(record, exponents=tuple(exponent_for(s) for s in scales))
    return record, {"scale": join_scales(record, scales)}


def check_sign(record: TensorRecord, fitted: dict[str, Tensor], base: Tensor, tuned: Tensor) -> None:
    """Signs, sum and product against a plain reading of FORMAT.md."""
    stored = encoded(record, base, tuned, fitted)
    common = record.shape[0] - record.tail
    left = tuned[:common].float() - base[:common].float()
    total, change = base[:common].float(), torch.zeros(left.shape, dtype=torch.float64)
    for scales in plane_scales(record, stored):
        sign = torch.where(left < 0, -1.0, 1.0)
        step = sign * magnitudes(record, scales)
        left, total, change = left - step, total + step, change + step.double()
    expected = torch.cat([total.to(tuned.dtype), tuned[common:]])
    assert same_bits(CODECS["sign"].add(record, stored, base), expected)
    check_multiply(record, stored, base, torch.cat([change, tuned[common:].double()]))


def pair(shape: tuple[int, int], base_type: str = "BF16", dtype: str = "BF16", rows: int = 0) -> tuple[Tensor, Tensor]:
    """A base with `rows` rows (or as many) and a fine-tune, some of whose entries did not move."""
    base = gauss(max(rows, shape[0]), shape[1], std=0.05).to(DTYPES[base_type])
    change = gauss(*shape, seed=1, std=2e-3)
    change[gauss(*shape, seed=2) > 0.5] = 0
    return base[:rows or shape[0]].clone(), (base[:shape[0]].float() + change).to(DTYPES[dtype])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("output_dimension", [0, 1])
@pytest.mark.parametrize("padding", [0, 13])
def test_sign(shape: tuple[int, int], axis: str, output_dimension: int, padding: int) -> None:
    base, tuned = pair(shape)
    outputs = shape[output_dimension]
    piece = Slice(0, outputs, axis, 0)
    piece = msgspec.structs.replace(piece, slots=piece.used(shape[1 - output_dimension]) + padding)
    record, fitted = signed_case(base, tuned, (piece,), output_dimension=output_dimension)
    check_sign(record, fitted, base, tuned)


@pytest.mark.parametrize(("base_type", "dtype"), PAIRS)
@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("axis", ["row", "both"])
def test_sign_of_all_types_and_planes(base_type: str, dtype: str, planes: int, axis: str) -> None:
    base, tuned = pair((60, 173), base_type, dtype)
    for dimension in (0, 1):
        piece = Slice(0, tuned.shape[dimension], axis, 233)
        record, fitted = signed_case(base, tuned, (piece,), planes, dimension)
        check_sign(record, fitted, base, tuned)


@pytest.mark.parametrize("rows", [50, 67])
@pytest.mark.parametrize("planes", [1, 2])
def test_sign_of_grown_and_shrunk_vocabularies(rows: int, planes: int) -> None:
    base, tuned = pair((60, 45), rows=rows)
    record, fitted = signed_case(base, tuned, (Slice(0, min(rows, 60), "row", 60),), planes)
    assert record.tail == max(0, 60 - rows)
    check_sign(record, fitted, base, tuned)


def test_sign_of_slices_that_choose_apart() -> None:
    base, tuned = pair((90, 70))
    slices = (Slice(0, 40, "row", 70), Slice(40, 41, "column", 70), Slice(41, 70, "both", 99), Slice(70, 90, "scalar", 1))
    for planes in (1, 2):
        check_sign(*signed_case(base, tuned, slices, planes), base, tuned)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 80), st.sampled_from(AXES), st.integers(0, 1), st.integers(1, 3), WEIGHTS, WEIGHTS,
       st.integers(0, 3))
def test_sign_of_any_shape(m: int, n: int, axis: str, dimension: int, planes: int, base_type: str, dtype: str, pad: int) -> None:
    base, tuned = pair((m, n), base_type, dtype)
    outputs, inputs = ((m, n), (n, m))[dimension]
    piece = Slice(0, outputs, axis, Slice(0, outputs, axis, 0).used(inputs) + pad)
    check_sign(*signed_case(base, tuned, (piece,), planes, dimension), base, tuned)


def test_sign_keeps_signs_that_a_fit_chose() -> None:
    base, tuned = pair((20, 30))
    record, fitted = signed_case(base, tuned, (Slice(0, 20, "row", 20),))
    chosen = torch.randint(0, 64, (1, 20, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chosen &= torch.tensor([255, 255, 63, 63], dtype=torch.uint8)
    stored = encoded(record, base, tuned, {**fitted, "signs": chosen})
    assert torch.equal(stored["signs"], chosen)


def test_unmoved_entries_count_as_positive() -> None:
    base = torch.ones(2, 9, dtype=torch.bfloat16)
    record, fitted = signed_case(base, base, (Slice(0, 2, "row", 2),))
    assert not encoded(record, base, base, fitted)["signs"].any()


def test_the_example_of_the_format() -> None:
    base = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    record = record_for("sign", base, base, slices=(Slice(0, 1, "row", 1),), exponents=(-21,))
    stored = {"signs": torch.tensor([[[2]]], dtype=torch.uint8), "scale": torch.tensor([24576.0]).half()}
    assert CODECS["sign"].add(record, stored, base).tolist() == [[1.015625, 1.984375]]


# ----------------------------------------------------------------------------------------------------- scales
def test_exponents_put_the_largest_scale_at_the_top_of_the_range() -> None:
    assert exponent_for(torch.tensor([0.0031, -1e-6])) == -23
    assert to_half(torch.tensor([0.0031, 0.0000031]), -23).tolist() == [26000.0, 26.0]
    assert exponent_for(torch.tensor([])) == exponent_for(torch.zeros(3)) == exponent_for(torch.tensor([math.inf])) == 0


@given(st.floats(width=32, min_value=2.0**-149, max_value=2.0**126))
def test_the_largest_scale_is_kept_to_eleven_bits(value: float) -> None:
    exponent = exponent_for(torch.tensor([-value, 0.0]))
    assert exponent in EXPONENTS
    stored = to_half(torch.tensor([value]), exponent)
    if exponent > EXPONENTS[0]:
        assert 2**14 <= float(stored) <= 2**15
    assert abs(float(from_half(stored, exponent)) - value) <= value * 2**-11


@pytest.mark.parametrize("exponent", [EXPONENTS[0], -126 + 15, -24, 0, 15, EXPONENTS[-1]])
def test_every_finite_half_comes_back_exactly(exponent: int) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    values = from_half(torch.from_numpy(halves), exponent)
    assert bool(values.isfinite().all())
    assert np.array_equal(values.double().numpy(), np.ldexp(halves.astype(np.float64), exponent))
    assert torch.equal(to_half(values, exponent), torch.from_numpy(halves))


@settings(deadline=None)
@given(st.lists(st.floats(-2.0**-8, 2.0**-8, width=32), min_size=6, max_size=6), st.integers(1, 3))
def test_join_and_split_scales(values: list[float], planes: int) -> None:
    record = TensorRecord(name="w", codec="sign", shape=(2, 4), dtype="F32", base="w", base_shape=(2, 4), planes=planes,
                          slices=(Slice(0, 2, "both", 6),), exponents=tuple(range(-20, -20 + planes)))
    assert scale_count(record) == 6
    stored = join_scales(record, [torch.tensor(values)] * planes)
    parts = plane_scales(record, {"scale": stored})
    assert len(parts) == planes
    assert torch.equal(join_scales(record, parts), stored)
    for part, exponent in zip(parts, record.exponents, strict=True):
        assert float((part - torch.tensor(values)).abs().max()) <= 2.0**-8 * 2**-11 + 2.0**(exponent - 25)


# -------------------------------------------------------------------------------------- what makes no sense
@pytest.mark.parametrize(("index", "size", "last", "sound"), [
    ([], 5, 0, True), ([], 5, 1, False), ([0, 4], 5, 0, True), ([0, 5], 5, 0, False), ([-1, 3], 5, 0, False),
    ([3, 3], 5, 0, False), ([4, 3], 5, 0, False), ([1, 3, 4], 5, 2, True), ([1, 2, 4], 5, 2, False), ([4], 5, 2, False),
    ([3], 5, 1, False), ([2**31 - 1], 2**31 - 1, 0, False),
])
def test_indices(index: list[int], size: int, last: int, sound: bool) -> None:
    assert (index_problem(torch.tensor(index, dtype=torch.int32), size, last) == "") is sound


SOUND = TensorRecord(name="w", codec="sign", shape=(4, 6), dtype="BF16", base="w", base_shape=(4, 6), base_dtype="BF16",
                     slices=(Slice(0, 4, "row", 4),), exponents=(-20,))


def spoil_scale(at: int, value: float) -> Callable[[dict[str, Tensor]], None]:
    def spoil(stored: dict[str, Tensor]) -> None:
        stored["scale"][at] = value
    return spoil


@pytest.mark.parametrize(("spoil", "says"), [
    (spoil_scale(1, math.nan), "not finite"), (spoil_scale(3, -math.inf), "not finite"),
    (spoil_scale(5, 1.0), "scales that stand"),
    (lambda s: s["signs"].__setitem__((0, 3, 0), 64), "sign bits that stand"),
])
def test_stored_signs_that_make_no_sense(spoil: Callable[[dict[str, Tensor]], None], says: str) -> None:
    record = msgspec.structs.replace(SOUND, slices=(Slice(0, 4, "row", 6),))
    stored = {"signs": torch.full((1, 4, 1), 63, dtype=torch.uint8), "scale": torch.tensor([1.0, 2, 3, 4, 0, 0]).half()}
    assert CODECS["sign"].stored_problem(record, stored) == ""
    spoil(stored)
    assert says in CODECS["sign"].stored_problem(record, stored)

"""The sign-bit layer: layout, packing, and the sum with a base, on every device that is present."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import signs, signs_kernels

GOLDEN = Path(__file__).parent.parent / "golden"
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
SHAPES = (
    (830, 545),
    (256, 700),
    (60, 173),
    (1, 1),
    (1, 1291),
    (997, 1),
    (3, 7),
    (2, 512),
    (5, 576),
    (3, 2048),
)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else []) + (["mps"] if torch.backends.mps.is_available() else [])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests that are about threads ask for more; the others needn't wait for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[*DEVICES, "cpu without kernels"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every device, and the CPU once more by way of plain torch."""
    if request.param == "cpu without kernels":
        monkeypatch.setattr(signs_kernels, "handles", lambda *_: False)
        return "cpu"
    return str(request.param)


def _random(shape: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, negative signs, row scales and column scales."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape
    weights = torch.randn(shape, generator=generator) * 0.02
    negative = torch.rand(shape, generator=generator) < 0.5
    row = torch.rand(rows, generator=generator) * 1e-2
    column = torch.rand(columns, generator=generator) * 1e-2
    return weights, negative, row, column


def _reference_sum(
    base: torch.Tensor,
    negative: torch.Tensor,
    row: torch.Tensor | None,
    column: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    sign = torch.where(negative, -1.0, 1.0)
    by_row = torch.ones(base.shape[0], 1) if row is None else row[:, None]
    by_column = torch.ones(base.shape[1]) if column is None else column
    return (base.float() + sign * (by_row * by_column)).to(dtype)


def _pack_by_the_book(negative: torch.Tensor) -> bytes:
    """The layout as the specification words it, one bit at a time."""
    rows, columns = negative.shape
    packed = bytearray()
    for row in range(rows):
        for left in range(0, columns, 512):
            width = min(512, columns - left)
            stride = (width + 7) // 8
            for j in range(stride):
                bits = [k * stride + j for k in range(8)]
                packed.append(sum(1 << k for k, c in enumerate(bits) if c < width and negative[row, left + c]))
    return bytes(packed)


def _pattern(shape: tuple[int, int]) -> torch.Tensor:
    """A sign pattern that formula and shape determine."""
    i = torch.arange(shape[0])[:, None]
    j = torch.arange(shape[1])[None, :]
    return (31 * i * i + 17 * j * j + 5 * i * j) % 7 < 3


def _same_bits(result: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(result.cpu().view(torch.uint8), expected.view(torch.uint8))


# --------------------------------------------------------------------------------------------- layout
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (0, 0),
        (1, 1),
        (8, 1),
        (9, 2),
        (60, 8),
        (173, 22),
        (512, 64),
        (513, 65),
        (576, 72),
        (830, 104),
        (14336, 1792),
    ],
)
def test_a_row_takes_an_eighth_of_its_columns_rounded_up(columns: int, expected: int) -> None:
    assert signs.row_bytes(columns) == expected
    assert signs.packed_shape((3, columns)) == (3, expected)


def test_worked_example_of_the_layout(device: str) -> None:
    negative = torch.zeros(1, 10, dtype=torch.bool, device=device)
    negative[0, [0, 3, 9]] = True
    assert signs.pack_signs(negative).tolist() == [[1, 18]]


@pytest.mark.parametrize("shape", [(60, 173), (3, 1100), (2, 576), (1, 1)])
def test_packed_bytes_are_the_golden_ones(shape: tuple[int, int], device: str) -> None:
    golden = (GOLDEN / f"signs_{shape[0]}x{shape[1]}.bin").read_bytes()
    packed = signs.pack_signs(_pattern(shape).to(device))
    assert packed.cpu().numpy().tobytes() == golden
    stored = torch.frombuffer(bytearray(golden), dtype=torch.uint8).reshape(signs.packed_shape(shape))
    assert torch.equal(signs.unpack_signs(stored.to(device), shape[1]).cpu() < 0, _pattern(shape))


@pytest.mark.parametrize("shape", [(60, 173), (3, 1100), (2, 576), (1, 1)])
def test_the_golden_bytes_follow_the_specification(shape: tuple[int, int]) -> None:
    assert (GOLDEN / f"signs_{shape[0]}x{shape[1]}.bin").read_bytes() == _pack_by_the_book(_pattern(shape))


@given(rows=st.integers(1, 5), columns=st.integers(1, 1100), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_any_shape_comes_back(rows: int, columns: int, seed: int) -> None:
    _, negative, _, _ = _random((rows, columns), seed)
    packed = signs.pack_signs(negative)
    assert packed.shape == signs.packed_shape(negative.shape)
    assert torch.equal(packed, signs._pack_with_torch(negative))
    assert not signs.has_stray_bits(packed, columns)
    assert torch.equal(signs.unpack_signs(packed, columns) < 0, negative)
    assert torch.equal(signs._unpack_with_torch(packed, columns) < 0, negative)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float64, *FLOATS])
@pytest.mark.parametrize("shape", SHAPES)
def test_signs_unpack_to_plus_and_minus_one(shape: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    if device == "mps" and dtype == torch.float64:
        pytest.skip("this device has no double precision")
    _, negative, _, _ = _random(shape)
    result = signs.unpack_signs(signs.pack_signs(negative.to(device)), shape[1], dtype)
    assert result.dtype == dtype
    assert torch.equal(result.cpu(), torch.where(negative, -1, 1).to(dtype))


@pytest.mark.parametrize("columns", [1, 9, 60, 173, 513, 700])
def test_stray_bits_are_found_and_change_nothing(columns: int, device: str) -> None:
    weights, negative, row, _ = (t.to(device) for t in _random((4, columns)))
    clean = signs.pack_signs(negative)
    dirty = clean.clone()
    dirty[2, -1] |= 128  # the last bit of the last byte stands for no column in any of these widths
    assert not signs.has_stray_bits(clean, columns)
    assert signs.has_stray_bits(dirty, columns)
    assert torch.equal(signs.unpack_signs(dirty, columns), signs.unpack_signs(clean, columns))
    assert torch.equal(signs.add_signs(weights, dirty, row), signs.add_signs(weights, clean, row))


@pytest.mark.parametrize("columns", [8, 64, 512, 576, 1024])
def test_widths_without_spare_bits_have_no_stray_ones(columns: int, device: str) -> None:
    assert not signs.has_stray_bits(torch.full((2, columns // 8), 255, dtype=torch.uint8, device=device), columns)


# -------------------------------------------------------------------------------------------- change
@pytest.mark.parametrize("tuned_dtype", FLOATS)
@pytest.mark.parametrize("base_dtype", FLOATS)
def test_the_change_is_negative_where_tuned_is_below_base(base_dtype: torch.dtype, tuned_dtype: torch.dtype, device: str) -> None:
    for shape in SHAPES:
        weights, _, _, _ = _random(shape)
        base = weights.to(base_dtype).to(device)
        tuned = (base.float().cpu() + torch.randn(shape) * 1e-4).to(tuned_dtype).to(device)  # many stay equal
        packed = signs.pack_change(base, tuned)
        assert torch.equal(signs.unpack_signs(packed, shape[1]) < 0, tuned.float() < base.float())


def test_equal_weights_and_zeros_of_either_sign_count_as_positive(device: str) -> None:
    base = torch.tensor([[0.0, -0.0, 1.0, -1.0, 0.0]], dtype=torch.bfloat16, device=device)
    tuned = torch.tensor([[-0.0, 0.0, 1.0, -1.0, -1e-30]], dtype=torch.float32, device=device)
    assert signs.unpack_signs(signs.pack_change(base, tuned), 5).tolist() == [[1, 1, 1, 1, -1]]


def test_transposed_views_can_be_packed(device: str) -> None:
    weights, negative, _, _ = (t.to(device) for t in _random((600, 90)))
    straight = signs.pack_signs(negative.T.contiguous())
    assert torch.equal(signs.pack_signs(negative.T), straight)
    tuned = torch.where(negative, weights - 1, weights + 1)
    assert torch.equal(signs.pack_change(weights.T, tuned.T), straight)


# ----------------------------------------------------------------------------------------------- add
@pytest.mark.parametrize("scales", ["row", "column", "both"])
@pytest.mark.parametrize("out_dtype", FLOATS)
@pytest.mark.parametrize("base_dtype", FLOATS)
def test_the_sum_is_bit_for_bit_that_of_torch(base_dtype: torch.dtype, out_dtype: torch.dtype, scales: str, device: str) -> None:
    for shape in SHAPES:
        weights, negative, row_scale, column_scale = _random(shape)
        base = weights.to(base_dtype)
        row = None if scales == "column" else row_scale
        column = None if scales == "row" else column_scale
        result = signs.add_signs(
            base.to(device),
            signs.pack_signs(negative).to(device),
            row_scale=None if row is None else row.to(device),
            column_scale=None if column is None else column.to(device),
            out_dtype=out_dtype,
        )
        assert result.dtype == out_dtype
        assert _same_bits(result, _reference_sum(base, negative, row, column, out_dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_overflow_and_subnormals_round_as_in_torch(dtype: torch.dtype, device: str) -> None:
    info = torch.finfo(dtype)
    base = torch.tensor([1.0, 1.0, info.max, -info.max, info.tiny, 0.0, info.smallest_normal * 0.5, -0.0])
    base = base.to(dtype).repeat_interleave(80)[None].repeat(6, 1)  # a full tile and a tail
    row = torch.tensor([info.eps / 2, info.eps * 1.5, info.max, info.max * info.eps / 4, info.tiny / 4, 0.0])
    negative = _pattern((6, 640))
    result = signs.add_signs(base.to(device), signs.pack_signs(negative).to(device), row.to(device))
    expected = _reference_sum(base, negative, row, None, dtype)
    assert bool(expected.isinf().any())
    assert _same_bits(result, expected)


@pytest.mark.parametrize("base_dtype", FLOATS)
def test_a_nan_stays_a_nan(base_dtype: torch.dtype, device: str) -> None:
    """Also the NaN with all bits set, which a careless rounding to bf16 carries over into zero."""
    integers = torch.int32 if base_dtype == torch.float32 else torch.int16
    base = torch.full((2, 600), torch.iinfo(integers).max, dtype=integers).view(base_dtype).to(device)
    packed = torch.zeros(2, signs.row_bytes(600), dtype=torch.uint8, device=device)
    for out_dtype in FLOATS:
        result = signs.add_signs(base, packed, torch.ones(2, device=device), out_dtype=out_dtype)
        assert bool(result.isnan().all())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(37, 1100), (1100, 2048)])  # the second is large enough to stream
def test_misaligned_inputs_and_outputs(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weights, negative, row, column = _random(shape)
    base, packed = weights.to(dtype), signs.pack_signs(negative)
    size = base.numel() * base.element_size()
    buffer = bytearray(size + packed.numel() + 8)
    buffer[3 : 3 + size] = base.view(torch.uint8).numpy().tobytes()
    buffer[3 + size : 3 + size + packed.numel()] = packed.numpy().tobytes()
    mapped = torch.frombuffer(buffer, dtype=dtype, count=base.numel(), offset=3).reshape(shape)
    mapped_packed = torch.frombuffer(buffer, dtype=torch.uint8, count=packed.numel(), offset=3 + size)
    out = torch.zeros(base.numel() + 1, dtype=dtype)[1:].reshape(shape)
    assert mapped.data_ptr() % 2 == 1
    assert out.data_ptr() % 64 != 0
    expected = _reference_sum(base, negative, row, column, dtype)
    signs.add_signs(mapped, mapped_packed.reshape(packed.shape), row, column, out=out)
    assert _same_bits(out, expected)
    aligned = torch.empty(shape, dtype=dtype)
    signs.add_signs(mapped, mapped_packed.reshape(packed.shape), row, column, out=aligned)
    assert _same_bits(aligned, expected)
    assert torch.equal(signs.pack_change(mapped, expected), signs.pack_change(base, expected))


@pytest.mark.parametrize("shape", [(5, 700), (1200, 2048)])
def test_the_output_may_be_the_base(shape: tuple[int, int], device: str) -> None:
    weights, negative, row, column = _random(shape)
    base = weights.bfloat16().to(device)
    expected = _reference_sum(weights.bfloat16(), negative, row, column, torch.bfloat16)
    packed = signs.pack_signs(negative).to(device)
    assert signs.add_signs(base, packed, row.to(device), column.to(device), out=base) is base
    assert _same_bits(base, expected)


def test_ranges_of_rows_give_the_rows_of_the_whole(device: str) -> None:
    weights, negative, row, column = (t.to(device) for t in _random((23, 700)))
    base, packed = weights.bfloat16(), signs.pack_signs(negative)
    whole = signs.add_signs(base, packed, row, column)
    out = torch.zeros_like(base)
    for first, last in ((0, 5), (5, 6), (6, 23)):
        part = slice(first, last)
        signs.add_signs(base[part], packed[part], row[part], column, out=out[part])
    assert torch.equal(out, whole)


def test_several_planes_are_summed_in_float32_and_rounded_once(device: str) -> None:
    weights, first, row, column = _random((19, 1100))
    _, second, other_row, _ = _random((19, 1100), seed=1)
    accumulator = weights.to(device, copy=True)
    signs.add_signs_float32(accumulator, signs.pack_signs(first).to(device), row.to(device), column.to(device))
    signs.add_signs_float32(accumulator, signs.pack_signs(second).to(device), row_scale=other_row.to(device))
    once = _reference_sum(weights, first, row, column, torch.float32)
    assert _same_bits(accumulator, _reference_sum(once, second, other_row, None, torch.float32))


def test_no_gradient_flows_into_a_parameter(device: str) -> None:
    weights, negative, row, _ = (t.to(device) for t in _random((3, 20)))
    parameter = torch.nn.Parameter(weights.clone())
    signs.add_signs(weights, signs.pack_signs(negative), row.requires_grad_(), out=parameter)
    assert torch.equal(parameter.detach(), signs.add_signs(weights, signs.pack_signs(negative), row))
    assert parameter.grad_fn is None


# ------------------------------------------------------------------------------------------- threads
def test_large_tensors_use_as_many_threads_as_torch_may_and_leave_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, negative, row, _ = _random((3001, 1100))
    base, packed = weights.bfloat16(), signs.pack_signs(negative)
    expected = _reference_sum(base, negative, row, None, torch.bfloat16)
    asked: list[int] = []

    def pool(workers: int) -> ThreadPoolExecutor:
        asked.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(signs_kernels, "ThreadPoolExecutor", pool)
    threads_before = threading.active_count()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert _same_bits(signs.add_signs(base, packed, row), expected)
    assert asked == [1]  # for the second thread; the caller's own is the first
    assert threading.active_count() == threads_before


def test_callers_in_two_threads_do_not_disturb_each_other() -> None:
    torch.set_num_threads(2)
    weights, negative, row, column = _random((4096, 2048))
    base, packed = weights.bfloat16(), signs.pack_signs(negative)
    expected = _reference_sum(base, negative, row, column, torch.bfloat16)

    def work(_: int) -> bool:
        packed_again = signs.pack_signs(negative)
        return torch.equal(packed_again, packed) and _same_bits(signs.add_signs(base, packed_again, row, column), expected)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, range(8)))


# -------------------------------------------------------------------------------------------- errors
def _arguments(**changes: Any) -> dict[str, Any]:
    weights, negative, row, column = _random((4, 600))
    good = {"base": weights, "packed": signs.pack_signs(negative), "row_scale": row, "column_scale": column}
    return good | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": torch.zeros(600, 4).T}, ValueError, "base is not contiguous"),
        ({"base": torch.zeros(4, 600, dtype=torch.float64)}, TypeError, "base is of torch.float64"),
        ({"base": torch.zeros(2400)}, ValueError, "two dimensions"),
        ({"base": torch.zeros(4, 600, device="meta")}, ValueError, "same device"),
        ({"packed": torch.zeros(4, 74, dtype=torch.uint8)}, ValueError, r"take \(4, 75\) bytes"),
        ({"packed": torch.zeros(75, 4, dtype=torch.uint8).T}, ValueError, "packed tensor is not contiguous"),
        ({"packed": torch.zeros(4, 75, dtype=torch.int8)}, TypeError, "packed tensor is of torch.int8"),
        ({"row_scale": None, "column_scale": None}, ValueError, "without a scale"),
        ({"row_scale": torch.ones(600)}, ValueError, "row scale"),
        ({"row_scale": torch.ones(4, 1)}, ValueError, "row scale"),
        ({"column_scale": torch.ones(600, dtype=torch.float16)}, ValueError, "column scale"),
        ({"out": torch.zeros(4, 599)}, ValueError, "output is"),
        ({"out": torch.zeros(4, 1200)[:, ::2]}, ValueError, "output is not contiguous"),
        ({"out": torch.zeros(4, 600), "out_dtype": torch.bfloat16}, ValueError, "output is"),
        ({"out_dtype": torch.int32}, TypeError, "output is of torch.int32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        signs.add_signs(**_arguments(**changes))


def test_packing_refuses_what_it_cannot_pack() -> None:
    with pytest.raises(TypeError, match="negative is of"):
        signs.pack_signs(torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="must agree"):
        signs.pack_change(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(TypeError, match="signed type"):
        signs.unpack_signs(torch.zeros(2, 1, dtype=torch.uint8), 8, torch.uint8)
    with pytest.raises(ValueError, match="take"):
        signs.unpack_signs(torch.zeros(2, 1, dtype=torch.uint8), 9)
    with pytest.raises(TypeError, match="accumulator"):
        signs.add_signs_float32(torch.zeros(2, 8, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.uint8))

"""Singular vectors in few bits: packing, sizes, sums and products, and what no record or file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.codecs import bits as bits_module
from core.codecs.bits import has_stray_tail, pack_numbers, packed_bytes, unpack_numbers
from core.codecs.check import record_problem
from core.codecs.svdmix import SVDMIX, WIDTHS, pack, packed_size, unpack
from core.record import DTYPES, Ranks, TensorRecord
from tests.golden.reader import read_pairs


def odd_numbers(count: int, size: int, widths: list[int], seed: int) -> Tensor:
    """(count, size): every odd number of each row's width may occur, its ends always do."""
    generator = torch.Generator().manual_seed(seed)
    rows = [2 * torch.randint(0, 2**w, (size,), generator=generator) + 1 - 2**w for w in widths]
    result = torch.stack(rows).float() if rows else torch.empty(0, size)
    if count and size > 1:
        tops = torch.tensor([2.0**w - 1 for w in widths])
        result[:, 0], result[:, -1] = tops, -tops
    return result


def made(shape: tuple[int, int], ranks: tuple[Ranks, ...], seed: int = 0, *, output_dimension: int = 0, spare: int = 0,
         dtype: str = "F32", exponent: int = -24) -> tuple[TensorRecord, dict[str, Tensor], Tensor]:
    """(record, what is stored, the exact change (m, n) FP64 in the stored orientation)."""
    out, inputs = shape[output_dimension], shape[1 - output_dimension]
    record = TensorRecord(name="w", codec="svdmix", shape=shape, dtype=dtype, base="w", base_shape=shape, base_dtype="F32",
                          output_dimension=output_dimension, exponents=(exponent,), ranks=ranks,
                          packed=packed_size((out, inputs), ranks) + spare)
    pairs = sum(r.count for r in ranks)
    scale = torch.rand(pairs, generator=torch.Generator().manual_seed(seed)).half().float() * 2.0**exponent
    left = odd_numbers(pairs, out, [r.outputs for r in ranks for _ in range(r.count)], seed + 1)
    right = odd_numbers(pairs, inputs, [r.inputs for r in ranks for _ in range(r.count)], seed + 2)
    stored = SVDMIX.encode(record, None, torch.empty(0), {"scale": scale, "outputs": left, "inputs": right})
    change = (left.double() * scale.double()[:, None]).T @ right.double()
    return record, stored, change.T if output_dimension else change


# ---------------------------------------------------------------------------------------------------- packing
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(bits_module.WIDTHS), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_numbers_come_back(width: int, count: int, seed: int) -> None:
    numbers = torch.randint(0, 2**width, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack_numbers(numbers, width)
    assert packed.dtype == torch.uint8 and len(packed) == packed_bytes(count, width) == -(-count * width // 8)
    assert torch.equal(unpack_numbers(packed, count, width).long(), numbers)
    bits = np.unpackbits(packed.numpy(), bitorder="little")            # the specification, literally
    assert not bits[count * width:].any() and not has_stray_tail(packed, count, width)
    assert (bits[:count * width].reshape(count, width) @ (1 << np.arange(width)) == numbers.numpy()).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_in_several_chunks(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits_module, "CHUNK", 16)
    numbers = torch.randint(0, 2**width, (77,), generator=torch.Generator().manual_seed(width))
    assert torch.equal(unpack_numbers(pack_numbers(numbers, width), 77, width).long(), numbers)


@pytest.mark.parametrize("first", range(1, 9))
@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_may_begin_at_any_byte(first: int, width: int) -> None:
    numbers = torch.randint(0, 2**width, (29,), generator=torch.Generator().manual_seed(width))
    shifted = torch.cat([torch.full((first,), 255, dtype=torch.uint8), pack_numbers(numbers, width)])[first:]
    assert torch.equal(unpack_numbers(shifted, 29, width).long(), numbers)


def test_the_specification_s_example() -> None:
    assert pack_numbers(torch.tensor([5, 0, 7, 2]), 3).tolist() == [197, 5]
    record = TensorRecord(name="w", codec="svdmix", shape=(2, 4), dtype="F32", base="w", base_shape=(2, 4), base_dtype="F32",
                          exponents=(-20,), ranks=(Ranks(1, 2, 3),), packed=6)
    stored = {"packed": torch.tensor([0, 60, 12, 197, 5, 0], dtype=torch.uint8)}
    assert record_problem(record) == SVDMIX.stored_problem(record, stored) == ""
    change = SVDMIX.add(record, stored, torch.zeros(2, 4)) * 2.0**20
    assert change.tolist() == [[-9, 21, -21, 9], [9, -21, 21, -9]]
    numbers = torch.tensor([[-3.0, 3.0]]), torch.tensor([[3.0, -7.0, 7.0, -3.0]])
    assert torch.equal(pack(record, torch.tensor([2.0**-20]), *numbers), stored["packed"])


# ------------------------------------------------------------------------------------------------------- codec
SHAPES = [(60, 173), (173, 60), (8, 16), (3, 5), (1, 37), (37, 1), (1, 1)]


def some_ranks(shape: tuple[int, int], seed: int) -> tuple[Ranks, ...]:
    generator = np.random.default_rng(seed)
    left = min(shape)
    result: list[Ranks] = []
    while left and len(result) < 5:
        count = int(generator.integers(1, left + 1))
        outputs, inputs = (int(w) for w in generator.choice(WIDTHS, 2))
        result.append(Ranks(min(count, 9), outputs, inputs))
        left -= min(count, 9)
    return tuple(result)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("output_dimension", [0, 1])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_sums_and_products(shape: tuple[int, int], output_dimension: int, dtype: str) -> None:
    ranks = some_ranks(shape, sum(shape))
    record, stored, change = made(shape, ranks, output_dimension=output_dimension, spare=3, dtype=dtype, exponent=-40)
    assert record_problem(record) == "" and SVDMIX.stored_problem(record, stored) == ""
    layout = SVDMIX.layout(record)["packed"]
    assert (layout.dtype, layout.shape, layout.nbytes) == ("U8", (record.packed,), stored["packed"].numel())
    base = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = SVDMIX.add(record, stored, base)
    assert torch.equal(result, (base + change.float()).to(DTYPES[dtype]))
    # Pair by pair, as a reader without matrix products would: the same bits.
    fields = {"shape": shape, "output_dimension": output_dimension, "exponents": [-40], "ranks": msgspec.to_builtins(ranks)}
    assert torch.equal(torch.from_numpy(read_pairs(fields, stored["packed"].numpy())), change.float())
    logical = change.T if output_dimension else change
    for lead in ((), (2,), (2, 3)):
        x = torch.randn(*lead, logical.shape[1], generator=torch.Generator().manual_seed(2))
        product = SVDMIX.multiply(record, stored, base, x)
        assert product.dtype == torch.float32 and product.shape == (*lead, logical.shape[0])
        # Terms may cancel: the bound goes by their sizes.
        scale, left, right = unpack(record, stored["packed"])
        terms = ((x.abs() @ right.abs().T) * scale) @ left.abs()
        assert bool(((product - x.double() @ logical.T).abs() <= 1e-5 * terms).all())


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 1), st.integers(0, 10**6), st.integers(0, 9))
def test_what_was_packed_comes_back(shape: tuple[int, int], output_dimension: int, seed: int, spare: int) -> None:
    record, stored, change = made(shape, some_ranks(shape, seed), seed, output_dimension=output_dimension, spare=spare)
    assert record_problem(record) == "" and SVDMIX.stored_problem(record, stored) == ""
    scale, left, right = unpack(record, stored["packed"])
    assert torch.equal(pack(record, scale, left, right), stored["packed"])
    assert torch.equal(SVDMIX.encode(record, None, torch.empty(0), stored)["packed"], stored["packed"])
    assert torch.equal(SVDMIX.add(record, stored, torch.zeros(shape)), change.float())


def test_no_pair_is_no_change() -> None:
    record, stored, _ = made((4, 6), (), spare=5)
    assert record_problem(record) == "" and SVDMIX.stored_problem(record, stored) == ""
    base = torch.randn(4, 6)
    assert torch.equal(SVDMIX.add(record, stored, base), base)
    assert torch.equal(SVDMIX.multiply(record, stored, base, torch.randn(3, 6)), torch.zeros(3, 4))


def test_rows_are_added_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.codecs.svdmix.CHUNK", 7)
    record, stored, change = made((30, 11), (Ranks(4, 3, 5),))
    base = torch.randn(32, 11)[:30]
    assert torch.equal(SVDMIX.add(record, stored, base), base + change.float())


# ---------------------------------------------------------------------------------------------------- hostile
GOOD = made((6, 10), (Ranks(2, 3, 4), Ranks(1, 2, 16)), spare=2)


@pytest.mark.parametrize(("changes", "says"), [
    ({"shape": (60,), "base_shape": (60,)}, "no matrix"),
    ({"shape": (9, 10)}, "no matrix of its base's rows"),
    ({"exponents": ()}, "impossible size"),
    ({"exponents": (1, 2)}, "impossible size"),
    ({"exponents": (113,)}, "impossible exponent"),
    ({"packed": 0, "ranks": ()}, "impossible size"),
    ({"packed": -1}, "impossible size"),
    ({"packed": GOOD[0].packed - 3}, "more ranks than its bytes hold"),
    ({"ranks": (Ranks(0, 2, 2),)}, "impossible ranks"),
    ({"ranks": (Ranks(-1, 2, 2), Ranks(3, 2, 2))}, "impossible ranks"),
    ({"ranks": (Ranks(7, 2, 2),), "packed": 10**9}, "impossible ranks"),
    ({"ranks": (Ranks(2**62, 2, 2),), "packed": 2**70}, "impossible ranks"),
    ({"ranks": (Ranks(1, 0, 2),)}, "impossible ranks"),
    ({"ranks": (Ranks(1, 2, 7),)}, "impossible ranks"),
    ({"ranks": (Ranks(1, 2**40, 2),)}, "impossible ranks"),
])
def test_records_that_lie(changes: dict[str, Any], says: str) -> None:
    assert says in record_problem(msgspec.structs.replace(GOOD[0], **changes))


@pytest.mark.parametrize(("at", "value", "says"), [
    (1, 0x7C, "not finite"), (5, 0xFE, "not finite"), (GOOD[0].packed - 1, 1, "bytes that stand for nothing"),
    (GOOD[0].packed - 2, 128, "bytes that stand for nothing"), (10, 0xF0, "bits that stand for nothing"),
    (35, 0xF0, ""),
])
def test_bytes_that_lie(at: int, value: int, says: str) -> None:
    """3 scales in 6 bytes; 12 numbers of 3 bits end in the middle of byte 10."""
    packed = GOOD[1]["packed"].clone()
    packed[at] = value
    found = SVDMIX.stored_problem(GOOD[0], {"packed": packed})
    assert says in found and bool(says) == bool(found)


def test_a_folder_whose_record_asks_for_more(tmp_path: Path) -> None:
    """Through the delta folder: a typed error, and nothing large is read or made."""
    import json
    import shutil

    from core.artifact import CONFIG, open_delta
    from core.checkpoint import open_checkpoint
    from core.errors import DeltaCorrupt
    from tests.hostile.test_hostile_deltas import rewrite
    golden = Path(__file__).parents[1] / "golden"
    folder = tmp_path / "delta"
    shutil.copytree(golden / "delta", folder)
    clean = (folder / CONFIG).read_bytes()
    entry = next(r for r in json.loads(clean)["tensors"] if r["name"] == "zb.svdmix_conv")
    lies: list[dict[str, Any]] = [{"packed": 2**62}, {"packed": entry["packed"] - 4}, {"packed": "many"}, {"ranks": [1, 2]},
                                  {"ranks": [{"count": 2**62, "outputs": 2, "inputs": 2}]}, {"packed": entry["packed"] + 1},
                                  {"ranks": [{"count": 1, "outputs": 2}]}, {"codec": "sign"}, {"codec": "lowrank"}]
    for lie in lies:
        (folder / CONFIG).write_bytes(clean)
        rewrite(folder, lambda c, lie=lie: next(r for r in c["tensors"] if r["name"] == entry["name"]).update(lie))  # type: ignore[misc]
        with pytest.raises(DeltaCorrupt):
            open_delta(folder)
    (folder / CONFIG).write_bytes(clean)
    # Other widths in as many bytes: what is stored no longer makes sense, and that is seen when it is read.
    rewrite(folder, lambda c: next(r for r in c["tensors"] if r["name"] == entry["name"]).update(
        ranks=[{"count": 1, "outputs": 2, "inputs": 2}]))
    with pytest.raises(DeltaCorrupt, match="stand for nothing"), open_checkpoint(golden / "base") as base:
        open_delta(folder).variant(base, entry["name"])

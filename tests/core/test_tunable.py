"""Scales that end-to-end tuning moves: what every codec that offers them promises."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from core.codecs import CODECS, TUNABLE
from core.codecs.scales import exponent_for
from core.methods import METHODS
from core.record import Slice, TensorRecord
from core.signs import unpack_signs
from tests.core.methods.matrices import evidence, plain

OUT, IN = 40, 56
METHOD_OF = {"svdmix": "deltamix-h", "coded": "coded", "sign": "planes"}


def learnt(codec: str, dimension: int = 0) -> tuple[TensorRecord, dict[str, Tensor]]:
    """A matrix as a method stores it in about four bits per weight."""
    found = evidence(OUT, IN, rank=6)
    planned = METHODS[METHOD_OF[codec]].plan(plain(found, dimension), OUT * IN // 2 + 400)
    assert planned is not None and planned.codec == codec
    return METHODS[METHOD_OF[codec]].fit(planned, found)


def change(record: TensorRecord, stored: dict[str, Tensor]) -> Tensor:
    return CODECS[record.codec].add(record, stored, torch.zeros(record.base_shape))


CASES = [(codec, dimension) for codec in TUNABLE for dimension in (0, 1)]


@pytest.mark.parametrize(("codec", "dimension"), CASES)
def test_the_same_scales_are_the_same_bytes(codec: str, dimension: int) -> None:
    record, stored = learnt(codec, dimension)
    scales = TUNABLE[codec].scales(record, stored)
    again, same = TUNABLE[codec].rescaled(record, stored, scales)
    assert again == record
    assert all(torch.equal(same[k], v) for k, v in stored.items()) and set(same) == set(stored)


@pytest.mark.parametrize(("codec", "dimension"), CASES)
def test_slopes_are_what_a_changed_scale_does(codec: str, dimension: int) -> None:
    record, stored = learnt(codec, dimension)
    tunable = TUNABLE[codec]
    scales = tunable.scales(record, stored)
    grad = torch.randn(record.shape, generator=torch.Generator().manual_seed(1))
    slopes = tunable.slopes(record, tunable.opened(record, stored), scales, grad)
    assert slopes.shape == scales.shape
    before = change(record, stored)
    for i in torch.linspace(0, len(scales) - 1, 7).long().unique().tolist():
        other = scales.clone()
        other[i] *= 3                                  # beyond what the old exponent holds
        after_record, after = tunable.rescaled(record, stored, other)
        assert CODECS[codec].problem(after_record) == "" and CODECS[codec].stored_problem(after_record, after) == ""
        moved = float(((change(after_record, after) - before).double() * grad).sum())
        wanted = float(slopes[i] * (tunable.scales(after_record, after)[i] - scales[i]))
        # The other scales may round to another FP16 under a new exponent: a thousandth of all that they hold.
        assert moved == pytest.approx(wanted, rel=2e-3, abs=1e-3 * float((slopes * scales).abs().sum())), i


@pytest.mark.parametrize(("codec", "dimension"), CASES)
@pytest.mark.parametrize(("dtype", "noise"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_step_sees_what_will_be_stored(codec: str, dimension: int, dtype: torch.dtype, noise: float) -> None:
    record, stored = learnt(codec, dimension)
    tunable, base = TUNABLE[codec], torch.zeros(record.base_shape)
    scales = tunable.scales(record, stored) * 1.1
    wanted = change(*tunable.rescaled(record, stored, scales))
    seen = tunable.tuned(record, tunable.opened(record, stored), scales, base, dtype)
    assert seen.dtype == dtype and seen.shape == wanted.shape
    assert float((seen.float() - wanted).norm() / wanted.norm()) < noise
    if dtype == torch.bfloat16:
        same = tunable.tuned(record, tunable.opened(record, stored), scales, base, torch.float32)
        slopes = [tunable.slopes(record, tunable.opened(record, stored), scales, g) for g in (same, same.bfloat16())]
        assert float((slopes[0] - slopes[1]).norm() / slopes[0].norm()) < noise


def test_low_rank_beside_levels_has_scales_of_its_own() -> None:
    record, stored = learnt("coded")
    assert record.rank > 0 and len(TUNABLE["coded"].scales(record, stored)) == 1 + record.rank


@pytest.mark.parametrize("axis", ["scalar", "column", "both"])
def test_signs_of_every_axis(axis: str) -> None:
    generator = torch.Generator().manual_seed(2)
    slots = {"scalar": 1, "column": IN, "both": OUT + IN}[axis]
    piece = Slice(start=0, stop=OUT, axis=axis, slots=slots)
    record = msgspec.structs.replace(plain(evidence(OUT, IN)), codec="sign", slices=(piece,), exponents=(0,))
    values = torch.rand(slots, generator=generator) + 0.5
    record = msgspec.structs.replace(record, exponents=(exponent_for(values),))
    signs = torch.randint(0, 256, (1, OUT, IN // 8), generator=generator, dtype=torch.uint8)
    record, stored = TUNABLE["sign"].rescaled(record, {"signs": signs, "scale": torch.zeros(slots).half()}, values)
    scales = TUNABLE["sign"].scales(record, stored).requires_grad_(True)
    dense = unpack_signs(signs[0], IN, torch.float32) * (scales[:OUT, None] * scales[None, OUT:] if axis == "both" else scales)
    grad = torch.randn(OUT, IN, generator=generator)
    torch.testing.assert_close(dense, change(record, stored), rtol=1e-5, atol=1e-6)
    (dense * grad).sum().backward()
    assert scales.grad is not None
    torch.testing.assert_close(TUNABLE["sign"].slopes(record, stored, scales.detach(), grad), scales.grad, rtol=1e-4, atol=1e-4)

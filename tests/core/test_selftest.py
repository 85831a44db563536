"""The self-test passes where kernels are right, and says so where they are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core import selftest, signs_kernels
from core.codecs import CODECS
from core.record import DTYPES
from tests.core.test_signs import _pack_by_the_book


def test_every_check_passes_here() -> None:
    results = [selftest.perform(check) for check in selftest.checks()]
    assert [r for r in results if r.problem] == []
    names = {r.name for r in results}
    assert {f"codec {name}" for name in CODECS} <= names
    for kind in ("BF16", "F16", "F32"):
        assert {f"signs packed and unpacked, {kind}", f"signs added, {kind}", f"overlay, outputs by inputs, {kind}",
                f"overlay, inputs by outputs, {kind}"} <= names


def test_the_reference_is_the_format() -> None:
    negative = torch.rand((3, 700), generator=torch.Generator().manual_seed(0)) < 0.5
    packed = selftest._book_pack(negative.numpy())
    assert packed.tobytes() == _pack_by_the_book(negative)
    assert ((selftest._book_signs(packed, 700) < 0) == negative.numpy()).all()


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_the_reference_rounds_as_torch_does(name: str) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(-7, 4, 20_000)
    expected = values.to(DTYPES[name]).float()
    assert (selftest._rounded(values.numpy(), name) == expected.numpy()).all()


def _one(name: str) -> selftest.Check:
    return next(c for c in selftest.checks() if c.name == name)


@pytest.mark.parametrize("name", ["signs packed and unpacked, F32", "signs added, F32", "codec sign"])
def test_a_kernel_that_is_off_by_one_bit_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(step: int, packed: torch.Tensor, columns: int, **given: Any) -> None:
        right(step, packed, columns, **given)
        if step in (signs_kernels.COLLECT, signs_kernels.COMPARE):
            packed.view(-1)[3] ^= 16
        else:
            given["b"].view(-1).view(torch.uint8)[0] ^= 1
    right = signs_kernels.run
    monkeypatch.setattr(signs_kernels, "run", run)
    found = selftest.perform(_one(name))
    assert "differ from the reference" in found.problem


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_codec_that_adds_wrongly_is_found(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(CODECS[codec])
    add = kind.add

    def wrong(self: Any, record: Any, stored: Any, base: Any) -> torch.Tensor:
        result = add(self, record, stored, base)
        result.view(-1)[-1] += 1
        return result
    monkeypatch.setattr(kind, "add", wrong)
    assert "differ from the reference" in selftest.perform(_one(f"codec {codec}")).problem


def test_an_overlay_that_forgets_the_change_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that answers with the base's weights is off."""
    from core.overlay_weights import Dense

    monkeypatch.setattr(selftest, "change_of", lambda record, stored, base, dtype: Dense(base, bool(record.output_dimension)))
    assert "values are off" in selftest.perform(_one("overlay, outputs by inputs, F32")).problem


def test_a_codec_without_a_reference_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "new", CODECS["full"])
    assert "no reference" in selftest.perform(_one("codec new")).problem


def test_whatever_a_check_raises_is_its_problem() -> None:
    def broken() -> str:
        raise RuntimeError("no kernel image\nis available")
    assert selftest.perform(selftest.Check("x", "cuda", broken)).problem == "RuntimeError: no kernel image is available"


def test_time_to_make_kernels_ready_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import njit

    def compiling() -> str:
        return "" if njit(lambda x: x + 1)(1) == 2 else "wrong"
    found = selftest.perform(selftest.Check("x", "cpu", compiling))
    assert found.problem == "" and found.preparing > found.seconds > 0
    assert selftest.perform(selftest.Check("x", "cpu", lambda: "")).preparing == 0


def test_kernels_that_call_others_are_found_again_in_the_cache() -> None:
    """What they close over must be the same bytes in every process."""
    import pickle

    from core import overlay_kernels

    for part, name in ((overlay_kernels._fill(1, 8), "fill_1_8"), (overlay_kernels._quick(1, 8), "quick_1_8")):
        assert pickle.loads(pickle.dumps(part)) == f"{name}_{overlay_kernels.VERSION}"

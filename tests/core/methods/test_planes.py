"""The method `planes`: several signs per weight, chosen together."""

from __future__ import annotations

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.codecs import CODECS
from core.codecs.contract import logical
from core.methods import METHODS
from core.methods.planes import combine, refit
from core.moments import Evidence
from core.solve import first_guess
from tests.core.methods.matrices import evidence, plain, stored_bytes

METHOD = METHODS["planes"]


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 4), st.integers(0, 1))
def test_bytes_are_those_planned(out: int, n: int, planes: int, dimension: int) -> None:
    found = evidence(out, n)
    stored_shape = (n, out) if dimension else (out, n)
    room = planes * (stored_shape[0] * -(-stored_shape[1] // 8) + 2 * out)
    planned = METHOD.plan(plain(found, dimension), room)
    assert planned is not None and planned.planes == planes
    record, stored = METHOD.fit(planned, found)
    assert stored_bytes(stored) == room == sum(t.nbytes for t in CODECS["sign"].layout(planned).values())
    assert CODECS["sign"].problem(record) == "" and CODECS["sign"].stored_problem(record, stored) == ""
    change = logical(record, CODECS["sign"].add(record, stored, torch.zeros(stored_shape)))
    assert found.lost(change)[1] < 1


def test_no_plan_where_nothing_fits() -> None:
    found = evidence(40, 60)
    assert METHOD.plan(plain(found), 40 * 8 + 79) is None
    grown = msgspec.structs.replace(plain(found), base_shape=(30, 60))
    assert METHOD.plan(grown, 10_000) is None


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_closer_than_plane_after_plane(planes: int) -> None:
    found = evidence(64, 96)
    left, signs = found.change, torch.zeros(64, 96)
    for _ in range(planes):
        guess = first_guess(left, "row")[:, None]
        step = torch.where(left < 0, -guess, guess)
        left, signs = left - step, signs + step
    planned = METHOD.plan(plain(found), planes * (64 * 12 + 128))
    assert planned is not None
    record, stored = METHOD.fit(planned, found)
    change = CODECS["sign"].add(record, stored, torch.zeros(64, 96))
    assert found.lost(change)[1] < 0.6 * found.lost(signs)[1]


def test_scales_are_the_best_of_their_signs() -> None:
    found = evidence(10, 30)
    signs = torch.where(torch.randn(2, 10, 30, generator=torch.Generator().manual_seed(0)) < 0, -1.0, 1.0)
    h = found.parts[0][0]
    scales = refit(signs, found.change, h, torch.ones(10, 2))
    best = found.target(0).loss(combine(signs, scales))
    for step in (-1e-4, 1e-4):
        assert found.target(0).loss(combine(signs, scales + step)) > best
    assert torch.equal(refit(signs, found.change, h * float("nan"), torch.ones(10, 2)), torch.ones(10, 2))


def test_what_means_nothing_becomes_zeros() -> None:
    found = evidence(40, 60)
    h = torch.zeros(60, 60)
    h[0, 0] = 1.0
    far = Evidence(found.change, (found.parts[0], (h, -4 * h @ found.change.T, found.parts[0][2] + 100)))
    planned = METHOD.plan(plain(found), 900)
    assert planned is not None
    _, stored = METHOD.fit(planned, far)
    assert not stored["scale"].any()

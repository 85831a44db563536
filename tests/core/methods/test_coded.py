"""The method `coded`: bytes to the last, closer than what knows nothing of the inputs, sound where there is nothing to learn."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.codecs import CODECS
from core.codecs.coded import dense
from core.methods import METHODS
from core.moments import Evidence
from core.record import DTYPE_NAMES, TensorRecord
from tests.core.methods.matrices import evidence, plain, stored_bytes

METHOD = METHODS["coded"]


def fitted(found: Evidence, nbytes: int, output_dimension: int = 0) -> tuple[TensorRecord, dict[str, Tensor]]:
    """A plan of at most `nbytes` and its fit, once both are known to be sound and of the bytes that were planned."""
    planned = METHOD.plan(plain(found, output_dimension), nbytes)
    assert planned is not None and planned.method == "coded"
    record, stored = METHOD.fit(planned, found)
    codec = CODECS["coded"]
    assert codec.problem(record) == "" and codec.stored_problem(record, stored) == ""
    layout = codec.layout(record)
    assert list(stored) == list(layout)
    assert all((DTYPE_NAMES[stored[k].dtype], tuple(stored[k].shape)) == (layout[k].dtype, layout[k].shape) for k in layout)
    assert stored_bytes(stored) == sum(t.nbytes for t in codec.layout(planned).values()) <= nbytes
    return record, stored


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.floats(0.3, 5.0), st.integers(0, 5))
def test_bytes_are_those_planned(out: int, n: int, bits: float, seed: int) -> None:
    found = evidence(out, n, seed=seed)
    nbytes = int(out * n * bits / 8) + n + 400
    for dimension in (0, 1):
        fitted(found, nbytes, dimension)


def test_more_bytes_lose_less() -> None:
    found = evidence(60, 100)
    losses = []
    for bits in (0.5, 1.5, 4):
        record, stored = fitted(found, int(60 * 100 * bits / 8) + 200)
        losses.append(found.lost(dense(record, stored))[1])
    assert all(b < 0.7 * a for a, b in itertools.pairwise(losses)) and losses[-1] < 0.03


def test_closer_than_signs_that_know_nothing() -> None:
    found = evidence(96, 160)
    size = found.change.abs().mean(1, keepdim=True)
    plain_signs = torch.where(found.change < 0, -size, size)
    record, stored = fitted(found, 96 * 160 // 8 + 2 * 96)
    assert found.lost(dense(record, stored))[1] < 0.6 * found.lost(plain_signs)[1]


def test_low_rank_takes_what_is_low_rank() -> None:
    found = evidence(96, 160, rank=2)
    record, stored = fitted(found, 96 * 160 // 8)
    assert 1 <= record.rank <= 4
    assert found.lost(dense(record, stored))[1] < 0.01


def test_the_same_bits_each_time() -> None:
    found = evidence(64, 96)
    (_, a), (_, b) = (fitted(found, 1200) for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", ["zeros", "dead", "noise"])
def test_nothing_to_learn(kind: str) -> None:
    found = evidence(40, 60)
    change, parts = found.change, list(found.parts)
    if kind == "zeros":
        change = torch.zeros_like(change)
    if kind == "dead":                                 # no input ever fires
        parts = [(h * 0, ck * 0, e2 * 0) for h, ck, e2 in parts]
    if kind == "noise":                                # what was learnt means nothing on held-out text
        h = torch.zeros(60, 60)
        h[0, 0] = 1.0
        parts[1] = (h, -4 * h @ change.T, parts[1][2] + 100)
    nothing = Evidence(change, tuple(parts))
    record, stored = fitted(nothing, 900)
    effective = dense(record, stored)
    assert bool(effective.isfinite().all())
    assert nothing.target(1).loss(effective) <= 1.0
    assert bool(effective.any()) == (kind == "dead")


def test_no_plan_where_nothing_fits() -> None:
    found = evidence(40, 60)
    assert METHOD.plan(plain(found), 150) is None
    grown = TensorRecord(name="w", codec="full", shape=(50, 60), dtype="F32", base="w", base_shape=(40, 60), base_dtype="F32")
    assert METHOD.plan(grown, 10_000) is None

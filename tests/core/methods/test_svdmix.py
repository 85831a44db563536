"""Widths within a size, and methods of singular vectors: exact bytes, falling losses, the order of methods, odd inputs."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.codecs import CODECS
from core.codecs.svdmix import WIDTHS, packed_size
from core.gptq import inverse_factor, sweep
from core.methods import METHODS
from core.methods.aim import aim
from core.methods.svdmix import DELTA_COME, DELTAMIX
from core.methods.svdmix_vectors import best_inputs, best_outputs, decompose, energies, input_errors, round_rows
from core.methods.svdmix_widths import Program, by_milp, by_multiplier
from core.moments import Evidence
from core.record import Ranks, TensorRecord

NAMES = ("deltamix", "deltamix-h", "delta-come", "lowrank", "lowrank-h")


def record_for(shape: tuple[int, int], output_dimension: int = 0) -> TensorRecord:
    return TensorRecord(name="w", codec="sign", shape=shape, dtype="F32", base="w", base_shape=shape, base_dtype="F32",
                        output_dimension=output_dimension)


@cache
def evidence_for(out: int, inputs: int, seed: int = 0, drift: float = 0.0) -> Evidence:
    """A change of falling singular values and inputs of uneven, correlated sizes; two parts of 4 `inputs` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def gauss(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)
    small = min(out, inputs)
    change = gauss(out, small) * torch.logspace(0, -1.5, small) @ gauss(small, inputs) * 1e-3
    mix = gauss(inputs, inputs) * torch.logspace(0, -1, inputs)
    wrong = gauss(inputs, out) * 1e-3 * drift
    parts = []
    for _ in range(2):
        x = gauss(4 * inputs, inputs) @ mix
        rest = x @ wrong + gauss(4 * inputs, out) * 1e-2 * drift
        parts.append((x.T @ x / len(x), x.T @ rest / len(x), rest.square().mean(0)))
    return Evidence(change, tuple(parts))


def dense_of(name: str, evidence: Evidence, nbytes: int, output_dimension: int = 0) -> tuple[TensorRecord, torch.Tensor]:
    """(record, change (out, in)) as a reader gets it, once bytes and record are known to be as planned."""
    shape = tuple(evidence.change.T.shape if output_dimension else evidence.change.shape)
    planned = METHODS[name].plan(record_for((shape[0], shape[1]), output_dimension), nbytes)
    assert planned is not None and planned.method == name
    record, stored = METHODS[name].fit(planned, evidence)
    codec = CODECS[record.codec]
    layout = codec.layout(planned)
    assert layout == codec.layout(record) and list(stored) == list(layout)
    assert {k: (tuple(t.shape), t.numel() * t.element_size()) for k, t in stored.items()} == {
        k: (s.shape, s.nbytes) for k, s in layout.items()}
    assert sum(s.nbytes for s in layout.values()) <= nbytes
    assert codec.problem(record) == codec.stored_problem(record, stored) == ""
    change = codec.add(record, stored, torch.zeros(shape))
    return record, change.T if output_dimension else change


# ------------------------------------------------------------------------------------------------------ widths
def program_for(pairs: int, shape: tuple[int, int], seed: int) -> Program:
    random = np.random.default_rng(seed)
    worth = np.exp(-random.uniform(1, 7) * np.linspace(0, 1, pairs)) * random.uniform(0.8, 1.2, pairs)
    noise = 4.0 ** -np.array(WIDTHS)
    sides = [worth[:, None] * noise * random.uniform(0.3, 2, (pairs, 1)) * random.uniform(0.9, 1.1, (pairs, 7)) for _ in range(2)]
    return Program(worth, sides[0], sides[1], shape)


@pytest.mark.parametrize(("pairs", "shape", "part", "most"), [
    (1, (60, 173), 0.9, 2), (3, (576, 1536), 0.4, 4), (8, (60, 173), 0.1, 1), (12, (576, 576), 0.5, 2),
    (16, (576, 1536), 0.87, 2), (24, (60, 173), 0.3, 4), (40, (1536, 576), 0.15, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_multiplier_is_within_a_percent_of_the_best(pairs: int, shape: tuple[int, int], part: float, most: int,
                                                        seed: int) -> None:
    program = program_for(pairs, shape, seed)
    bits = int(part * pairs * 6 * sum(shape))
    quick, exact = by_multiplier(program, bits, most), by_milp(program, bits, most)
    for chosen in (quick, exact):
        assert int(program.cost(chosen).sum()) <= bits
        assert len(set(chosen[chosen >= 0].tolist())) <= most
        assert ((chosen[:, 0] < 0) == (chosen[:, 1] < 0)).all()
    assert program.loss(quick) <= program.loss(exact) * 1.01 + 1e-12


def test_more_bits_and_more_widths_lose_less() -> None:
    program = program_for(120, (576, 1536), 3)
    losses = [program.loss(by_multiplier(program, bits)) for bits in range(0, 2_000_000, 100_000)]
    assert losses[0] == pytest.approx(program.dropped.sum()) and losses == sorted(losses, reverse=True)
    by_most = [program.loss(by_multiplier(program, 700_000, most)) for most in range(1, 8)]
    assert all(b <= a * 1.001 for a, b in pairwise(by_most)) and by_most[3] < by_most[0]


# ----------------------------------------------------------------------------------------------------- vectors
@pytest.mark.parametrize("shape", [(20, 33), (33, 20), (1, 9), (9, 1)])
def test_the_weighed_decomposition_is_the_best_of_its_rank(shape: tuple[int, int]) -> None:
    evidence = evidence_for(*shape)
    change, h = evidence.change, evidence.parts[0][0]
    values, vectors = torch.linalg.eigh(h.double())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    found = torch.linalg.svdvals(change.double() @ root)
    for pairs in (1, min(shape) // 2, min(shape)):
        if pairs:
            u, v = decompose(change, h, pairs)
            best = float(found[pairs:].square().sum())
            whole = float(found.square().sum())
            assert float(energies(change - u @ v, h).sum()) <= best * 1.001 + 1e-5 * whole
            assert torch.allclose(u.T @ u, torch.eye(pairs), atol=1e-4)


def test_rows_are_rounded_as_by_the_general_sweep() -> None:
    evidence = evidence_for(24, 150)
    factor = inverse_factor(evidence.parts[0][0], 0.03)
    widths = torch.tensor(WIDTHS).repeat(4)[:24]
    rounded = round_rows(evidence.change, widths, factor)
    top = 2.0**(widths - 1)

    def grid(column: torch.Tensor, _: int) -> torch.Tensor:
        number = (column / (2 * rounded.scale)).floor()
        return (2 * torch.minimum(torch.maximum(number, -top), top - 1) + 1) * rounded.scale
    expected = sweep(evidence.change, factor, grid)
    same = (rounded.values - expected).abs() <= 1e-6 * expected.abs()
    narrow = widths <= 8                               # at 16 bits the last of FP32 decides which of two neighbours is nearer
    assert float(same[narrow].float().mean()) > 0.999
    assert bool((rounded.numbers.abs() <= 2 * top[:, None] - 1).all() and (rounded.numbers % 2 == 1).all())


def test_errors_fall_with_width_and_feedback_beats_plain_rounding() -> None:
    evidence = evidence_for(40, 64)
    h = evidence.parts[0][0]
    _, vectors = decompose(evidence.change, h, 20)
    factor = inverse_factor(h, 0.03)
    errors = input_errors(vectors, h, factor, WIDTHS)
    assert errors.shape == (20, 7) and bool((errors[:, 1:] < errors[:, :-1]).all())
    plain = input_errors(vectors, torch.eye(64), inverse_factor(torch.eye(64), 0.03), WIDTHS)
    rounded = round_rows(vectors, torch.full((20,), 3), inverse_factor(torch.eye(64), 0.03))
    assert torch.allclose(plain[:, 1], (vectors - rounded.values).square().sum(1), rtol=1e-3)
    assert float(errors[:, 1].sum()) < 0.7 * float(energies(vectors - rounded.values, h).sum())


def test_corrected_targets_solve_their_least_squares() -> None:
    evidence = evidence_for(30, 44)
    change, h = evidence.change, evidence.parts[0][0]
    u, v = decompose(change, None, 8)
    rough = round_rows(v, torch.full((8,), 2), inverse_factor(h, 0.03)).values
    target, gram = best_outputs(change, h, rough)
    size = energies(rough, h).sqrt()
    assert torch.allclose(gram.diagonal(), torch.ones(8), atol=1e-4)
    corrected = float(energies(change - target / size @ rough, h).sum())
    assert corrected < 0.98 * float(energies(change - u @ rough, h).sum())
    exact = torch.linalg.lstsq((rough.double() @ h.double() @ rough.T.double()), rough.double() @ h.double() @ change.T.double())
    least = float(energies(change.double() - exact.solution.T @ rough.double(), h.double()).sum())
    assert corrected == pytest.approx(least, rel=1e-3)
    back = best_inputs(change, u)
    assert torch.allclose(back, u.T @ change, atol=2e-4 * float(back.abs().max()))


# ----------------------------------------------------------------------------------------------------- methods
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output_dimension", [0, 1])
def test_bytes_are_as_planned_and_losses_fall_with_them(name: str, output_dimension: int) -> None:
    evidence = evidence_for(60, 173)
    losses = []
    for size in (32, 8, 2):
        record, dense = dense_of(name, evidence, 60 * 173 * 2 // size, output_dimension)
        losses.append(evidence.lost(dense)[1])
        if record.codec == "svdmix":
            assert packed_size((60, 173), record.ranks) <= record.packed == 60 * 173 * 2 // size
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.05 and losses[0] < 0.9


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 24), st.integers(1, 30), st.integers(0, 2000), st.sampled_from(NAMES), st.integers(0, 1))
def test_any_shape_and_size(out: int, inputs: int, nbytes: int, name: str, output_dimension: int) -> None:
    shape = (inputs, out) if output_dimension else (out, inputs)
    planned = METHODS[name].plan(record_for(shape, output_dimension), nbytes)
    least = 2 * (out + inputs) if name.startswith("lowrank") else packed_size((out, inputs), (Ranks(1, 2, 2),))
    assert (planned is None) == (nbytes < least)
    if planned is not None:
        evidence = evidence_for(out, inputs, seed=1, drift=0.5)
        _, dense = dense_of(name, evidence, nbytes, output_dimension)
        assert evidence.target(1).loss(dense) <= 1.0001


def test_methods_rank_as_they_should() -> None:
    """At equal bytes, and without drift: mixed widths under H lose least, plain low rank most."""
    evidence = evidence_for(96, 128)
    for size in (12,):
        lost = {name: evidence.lost(dense_of(name, evidence, 96 * 128 * 2 // size)[1])[1] for name in NAMES}
        assert lost["deltamix-h"] < lost["deltamix"] < lost["delta-come"] < lost["lowrank"]
        assert lost["deltamix-h"] < lost["lowrank-h"] < lost["lowrank"]


@pytest.mark.parametrize(("shape", "size"), [((96, 128), 8), ((160, 80), 16)])
def test_hardly_a_byte_is_left_over(shape: tuple[int, int], size: int) -> None:
    nbytes = math.prod(shape) * 2 // size
    for name in ("deltamix", "deltamix-h"):
        record, _ = dense_of(name, evidence_for(*shape), nbytes)
        assert packed_size(shape, record.ranks) >= 0.99 * record.packed


def test_fits_repeat_to_the_bit() -> None:
    evidence = evidence_for(40, 64, drift=0.3)
    planned = METHODS["deltamix-h"].plan(record_for((40, 64)), 700)
    assert planned is not None
    first, second = (METHODS["deltamix-h"].fit(planned, evidence) for _ in range(2))
    assert first[0] == second[0] and torch.equal(first[1]["packed"], second[1]["packed"])


def test_delta_come_s_groups() -> None:
    planned = DELTA_COME.plan(record_for((576, 1536)), 576 * 1536 * 2 // 16)
    assert planned is not None
    ranks = DELTA_COME.widths(planned)
    assert ranks[:2] == (Ranks(2, 8, 8), Ranks(32, 3, 3)) and (ranks[2].outputs, ranks[2].inputs) == (2, 2)
    more = msgspec.structs.replace(ranks[2], count=ranks[2].count + 1)
    assert packed_size((576, 1536), ranks) <= planned.packed < packed_size((576, 1536), (*ranks[:2], more))


def test_the_aim_goes_as_far_as_held_out_data_follow() -> None:
    evidence = evidence_for(20, 30, drift=2.0)
    target, held_out = aim(evidence), evidence.target(1)
    assert held_out.loss(target) <= held_out.loss(evidence.change) + 1e-6
    h, ck, e2 = evidence.parts[1]
    contrary = Evidence(evidence.change, (evidence.parts[0], (h, -ck, e2)))
    assert torch.equal(aim(contrary), contrary.change)
    assert aim(Evidence(evidence.change, evidence.parts[:1])) is evidence.change


@pytest.mark.parametrize("name", NAMES)
def test_what_is_worse_than_nothing_is_stored_as_zeros(name: str) -> None:
    """Held-out data on which the change does the opposite of what is wanted."""
    evidence = evidence_for(16, 24)
    h, ck, _ = evidence.parts[1]
    against = -2 * h @ evidence.change.T               # X^T R = H D^T + CK = -H D^T
    wanted = energies(evidence.change, h)
    contrary = Evidence(evidence.change, (evidence.parts[0], (h, ck + against, 4 * wanted)))
    record, dense = dense_of(name, contrary, 300)
    assert not bool(dense.any()) and record.ranks == ()


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_singular_moments(name: str) -> None:
    none = Evidence(torch.zeros(12, 20), evidence_for(12, 20).parts)
    assert not bool(dense_of(name, none, 300)[1].any())
    blind = Evidence(evidence_for(12, 20).change, ((torch.zeros(20, 20), torch.zeros(20, 12), torch.zeros(12)),))
    assert bool(dense_of(name, blind, 300)[1].isfinite().all())
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(5))
    few = Evidence(blind.change, ((x.T @ x, torch.zeros(20, 12), torch.zeros(12)),))
    assert few.lost(dense_of(name, few, 300)[1])[0] < 1


def test_a_sparse_vector_keeps_its_peak() -> None:
    """An entry far beyond the others' spread is not cut off at 8 bits."""
    change = torch.randn(30, 40, generator=torch.Generator().manual_seed(0)) * 1e-4
    change[3, 5] = 1.0
    evidence = Evidence(change, ((torch.eye(40), torch.zeros(40, 30), torch.zeros(30)),))
    _, dense = dense_of("deltamix", evidence, 600)
    assert float(dense[3, 5]) == pytest.approx(1.0, rel=0.02)


def test_grown_tensors_and_vectors_are_left_to_others() -> None:
    grown = msgspec.structs.replace(record_for((8, 6)), base_shape=(5, 6))
    vector = msgspec.structs.replace(record_for((8, 6)), shape=(48,), base_shape=(48,))
    assert all(METHODS[name].plan(r, 10**6) is None for name in NAMES for r in (grown, vector))
    assert DELTAMIX.plan(record_for((8, 6)), 10**9) == METHODS["deltamix"].plan(record_for((8, 6)), 10**6)

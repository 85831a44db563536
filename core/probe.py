"""What each way of storing each matrix would cost, before any is chosen: the input of a budget.

Every matrix gets a reference error: what low rank under its inputs' moments leaves of its change, at a rank that takes a
product or two. One pass back through the fine-tune says what that error costs at the end of the model (`sensitivity`). At a
few blocks every candidate is really learnt and judged by the same measure, on tokens it has not seen. What a candidate
costs next to the reference moves slowly with depth, and is interpolated by kind of layer; the reference's cost is each
matrix's own. At blocks that were not probed that foretells the KL of a matrix alone with a standard deviation of .39 in the
logarithm on pirate and .36 on bard; what leaving the change out costs foretells it no better than a constant, .98 and 1.04
(`tests/benchmarks/bench_costs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor

from core.codecs import CODECS
from core.codecs.contract import logical
from core.fit import FEW_TOKENS, RESIDUAL_KINDS, logical_change, residual_scale
from core.methods import METHODS
from core.moments import Evidence, Moments
from core.record import TensorRecord
from core.sensitivity import TOKENS_AT_ONCE, Slope, watch_gradients
from core.stream import Batches, Hidden, advance, cut_batches, levels, start, uses
from core.variant import Variant
from core.weights import StagedModel, Weights

BLOCKS = 3
"""Blocks at which candidates are learnt."""
JUDGE_TOKENS = 1536
"""Tokens that weigh the matrices and judge the candidates."""
LEARN_TOKENS = 6144
"""Tokens that candidates are learnt from."""
REFERENCE_SHARE = 0.1
"""Entries of both reference factors per entry of the matrix."""
POWERS = 3
"""Products with D H D^T that turn random directions into the reference's."""

SIGNS = "signs"
"""The candidate that the streamed fit itself learns: chosen signs on the better axis."""

Factors = tuple[Tensor, Tensor]
"""Of a reference: (out, r) and (r, in), BF16, on the CPU."""


@dataclass(frozen=True)
class Candidate:
    """A method at a size, in bits per weight of the matrix."""

    method: str
    bits: float

    @property
    def key(self) -> str:
        """As a probe's results hold it."""
        return f"{self.method}@{self.bits:g}"


class Probe(msgspec.Struct, frozen=True):
    """What was found; plain data, so that it can be kept."""

    own: dict[str, float]
    """By tensor: what leaving its change out costs, in nats of KL per token by the second-order formula."""
    reference: dict[str, float]
    """By tensor: what its reference error costs."""
    shares: dict[str, dict[str, dict[int, float]]]
    """By kind, candidate and block: what a candidate costs, in units of the reference's."""


@dataclass
class _Matrix:
    """A matrix of a probed block: its change, moments to learn from, slopes to judge by."""

    change: Tensor
    moments: Moments
    slopes: list[Slope] = field(default_factory=list)

    def cost(self, error: Tensor) -> float:
        """Of an error (out, in), over all judging tokens."""
        return sum(s.cost(error) for s in self.slopes)


def probed_blocks(depth: int, count: int = BLOCKS) -> list[int]:
    """Blocks spread evenly over the depth, the middle of each stretch."""
    count = min(count, depth)
    return sorted({int((i + 0.5) * depth / count) for i in range(count)})


def reference_factors(change: Tensor, h: Tensor) -> Factors:
    """Nearly the best low rank of D (out, in) in tr((D - UV) H (D - UV)^T), by subspace iteration on D H D^T."""
    out, n = change.shape
    rank = max(1, min(out - 1, n - 1, int(REFERENCE_SHARE * out * n / (out + n))))
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(out, rank, generator=generator).to(change.device)
    for _ in range(POWERS):
        basis = torch.linalg.qr(change @ (h @ (change.T @ basis)))[0]
    return basis.bfloat16().cpu(), (basis.T @ change).bfloat16().cpu()


def reference_change(factors: Factors, device: torch.device) -> Tensor:
    """What a reference stands for, (out, in) FP32."""
    left, right = (f.to(device).float() for f in factors)
    return left @ right


def probe(model: StagedModel, variant: Variant, tuned: Weights, ids: Tensor, device: torch.device,
          names: Iterable[str], candidates: Iterable[Candidate], *, seed: int = 0,
          tick: Callable[[float], None] = lambda _: None) -> tuple[Probe, dict[str, Factors]]:
    """Weigh the tensors `names` and learn the candidates at some blocks, on sequences `ids` (samples, tokens).

    Returns the references too. `tick` is called with the share that is done.
    """
    wanted, ways = set(names), list(candidates)
    judges = max(1, min(len(ids) // 3, math.ceil(JUDGE_TOKENS / ids.shape[1])))
    learners = ids[judges:][:max(1, LEARN_TOKENS // ids.shape[1])]
    references, matrices = _gather(model, variant, tuned, learners, device, wanted, lambda done: tick(0.3 * done))
    own, costs = _weigh(model, variant, tuned, ids[:judges], device, wanted, references, matrices, seed,
                        lambda done: tick(0.3 + 0.3 * done))
    shares: dict[str, dict[str, dict[int, float]]] = {}
    for i, (name, matrix) in enumerate(matrices.items()):
        record = variant.records[name]
        assert record.block is not None
        for way in ways:
            found = _share(record, way, matrix, ids[:judges].numel() * costs[name])
            if found is not None:
                shares.setdefault(record.kind, {}).setdefault(way.key, {})[record.block] = found
            tick(0.6 + 0.4 * (i + 1) / len(matrices))
    return Probe(own, costs, shares), references


def _places(model: StagedModel, block: int) -> dict[tuple[str, int | None], list[str]]:
    """Tensors on disk by the run-time parameter (and expert) they are part of, in the order in which they lie in it."""
    prefix = model.skeleton.prefix(block)
    found: dict[tuple[str, int | None], list[str]] = {}
    for p in sorted(model.by_stage.get(block, []), key=lambda p: p.part):
        found.setdefault((p.parameter.removeprefix(prefix), p.expert), []).append(p.tensor)
    return found


def _gather(model: StagedModel, variant: Variant, tuned: Weights, ids: Tensor, device: torch.device, wanted: set[str],
            tick: Callable[[float], None]) -> tuple[dict[str, Factors], dict[str, _Matrix]]:
    """References of all matrices, from what enters them in the fine-tune, and the matrices of the probed blocks."""
    batches = cut_batches(ids)
    hidden = start(model.skeleton, tuned, batches, device)
    references: dict[str, Factors] = {}
    found: dict[str, _Matrix] = {}
    probed = probed_blocks(model.skeleton.depth)
    for block in range(model.skeleton.depth):
        parameters = tuned.stage(block)
        places = _places(model, block)
        by_input = _by_input(model, block, parameters, hidden, batches, places)
        moments: dict[tuple[str, int | None], Moments] = {}
        for i in range(len(batches.ids)):
            for use in uses(model.skeleton, block, parameters, hidden[i], batches.calls[i][block]):
                if (lead := (use.parameter, use.expert)) in by_input:
                    if lead not in moments:
                        moments[lead] = Moments.empty(use.inputs.shape[-1], 1, device, drift=False)
                    x = use.inputs.reshape(-1, use.inputs.shape[-1])
                    if use.expert is None and all(variant.records[n].kind in RESIDUAL_KINDS for n in by_input[lead]):
                        x = x * residual_scale(hidden[i])              # as the fit weighs them
                    moments[lead].add(x, None, None)
        learnt: dict[str, str] = {}
        for lead, known in moments.items():
            if known.tokens < FEW_TOKENS:
                continue
            h = known.finish(torch.zeros(1, len(known.h), dtype=torch.float32, device=device))[0]
            for name in sorted(wanted.intersection(by_input[lead])):
                change = logical_change(variant, variant.records[name], device)
                references[name] = reference_factors(change, h)
                if block not in probed:
                    continue
                # One of a kind stands for its block: of experts, the one that most tokens went to.
                other = learnt.get(kind := variant.records[name].kind)
                if other is None or known.tokens > found[other].moments.tokens:
                    found.pop(other or "", None)
                    learnt[kind] = name
                    found[name] = _Matrix(change, known)
        advance(model.skeleton, block, parameters, hidden, batches)
        tick((block + 1) / model.skeleton.depth)
    return references, found


def _by_input(model: StagedModel, block: int, parameters: Mapping[str, Tensor], hidden: Hidden, batches: Batches,
              places: Mapping[tuple[str, int | None], list[str]]) -> dict[tuple[str, int | None], list[str]]:
    """Tensors by the product (parameter, expert) that first reads the input they share."""
    found: dict[tuple[str, int | None], list[str]] = {}
    shared = {p: level.parameters[0] for level in levels(model.skeleton, block, parameters, hidden[0], batches.calls[0][block])
              for p in level.parameters if not level.experts}
    for (parameter, expert), names in places.items():
        found.setdefault((shared.get(parameter, parameter), expert), []).extend(names)
    return found


def _weigh(model: StagedModel, variant: Variant, tuned: Weights, ids: Tensor, device: torch.device, wanted: set[str],
           references: Mapping[str, Factors], matrices: Mapping[str, _Matrix], seed: int,
           tick: Callable[[float], None]) -> tuple[dict[str, float], dict[str, float]]:
    """What leaving out each tensor's change costs, and its reference; keeps the judging slopes of the probed ones."""
    own, costs = dict.fromkeys(sorted(wanted), 0.0), dict.fromkeys(sorted(wanted), 0.0)
    places = {block: _places(model, block) for block in range(model.skeleton.depth)}
    reached: set[str] = set()

    def errors(name: str) -> tuple[Tensor, Tensor]:
        change = logical_change(variant, variant.records[name], device)
        return change, change - reference_change(references[name], device) if name in references else change

    def seen(block: int, parameter: str, expert: int | None, slope: Slope) -> None:
        end = 0
        for name in places[block].get((parameter, expert), ()):
            first, end = end, end + variant.records[name].outputs
            if name not in wanted:
                continue
            reached.add(name)
            whole, left = errors(name)
            part = slope.of(slice(first, end))
            own[name] += part.cost(whole) / ids.numel()
            costs[name] += part.cost(left) / ids.numel()
            if name in matrices:
                matrices[name].slopes.append(part.narrow())
    rounds = max(1, math.ceil(ids.numel() / TOKENS_AT_ONCE)) * 2 * model.skeleton.depth
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tick(min(1.0, done / rounds))
    watch_gradients(model, tuned, ids, device, seen, seed=seed, tick=step)
    for name in own.keys() - reached:
        # An expert that no judging token went to: other text reaches it, so that with bytes enough it is stored.
        kind = variant.records[name].kind
        own[name] = costs[name] = min((own[n] for n in reached if variant.records[n].kind == kind and own[n] > 0), default=0.0)
    return own, costs


def _share(record: TensorRecord, way: Candidate, matrix: _Matrix, cost: float) -> float | None:
    """What a matrix costs in units of its reference when it is stored in a way; None where it can't be.

    `cost` is the reference's, over all judging tokens.
    """
    method = METHODS["planes" if way.method == SIGNS else way.method]
    planned = method.plan(record, nbytes_for(record, way))
    if planned is None or not matrix.slopes or cost <= 0:
        return None
    h, _, _ = matrix.moments.finish(matrix.change)
    zero = torch.zeros_like(matrix.change)
    learnt, stored = method.fit(planned, Evidence(matrix.change, ((h, zero.T, zero[:, 0]),)))
    # A base of zeros in FP32 gives the bare change back, without the rounding of the sum.
    plain = msgspec.structs.replace(learnt, dtype="F32", base_dtype="F32")
    stored = {k: v.to(h.device) for k, v in stored.items()}
    bare = CODECS[learnt.codec].add(plain, stored, torch.zeros(record.base_shape, dtype=torch.float32, device=h.device))
    return matrix.cost(matrix.change - logical(record, bare)) / cost


def nbytes_for(record: TensorRecord, way: Candidate) -> int:
    """Bytes that a candidate may take for a matrix: its bits, and the scales of one FP16 value per output and plane."""
    weights = record.outputs * record.inputs
    return int(weights * way.bits / 8) + 2 * record.outputs * max(1, math.ceil(way.bits)) * (way.bits >= 1) + 16


def share_at(found: Probe, kind: str, key: str, block: int) -> float | None:
    """A probed candidate's share at any block: log-linear between the probed ones, level beyond them."""
    points = sorted(found.shares.get(kind, {}).get(key, {}).items())
    return _log_linear(points, min(max(block, points[0][0]), points[-1][0])) if points else None


def sizes_at(found: Probe, kind: str, method: str, block: int) -> list[tuple[float, float]]:
    """(bits, share) of a method's probed sizes, ascending, at any block."""
    keys = {float(k.rpartition("@")[2]): k for k in found.shares.get(kind, {}) if k.startswith(method + "@")}
    return [(bits, s) for bits, k in sorted(keys.items()) if (s := share_at(found, kind, k, block)) is not None]


def share_between(sizes: Sequence[tuple[float, float]], bits: float) -> float | None:
    """A method's share at any number of bits: log-linear between its probed sizes, and beyond the last one. None where nothing
    is known."""
    if not sizes or (len(sizes) == 1 and sizes[0][0] != bits):
        return None
    return _log_linear(sizes, bits)


def _log_linear(points: Sequence[tuple[float, float]], at: float) -> float:
    """Through ascending points (place, share), and along the last two beyond them."""
    if len(points) == 1:
        return points[0][1]
    after = next((i for i, (place, _) in enumerate(points) if place >= at), len(points) - 1)
    (p0, s0), (p1, s1) = points[max(0, after - 1)], points[max(1, after)]
    t = (at - p0) / (p1 - p0)
    return math.exp((1 - t) * math.log(max(s0, 1e-12)) + t * math.log(max(s1, 1e-12)))

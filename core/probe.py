"""What each way of storing each matrix would lose, before any is chosen: the input of a budget.

One pass back through the fine-tune weighs every matrix's change (`sensitivity`); at a few blocks every candidate is
really learnt and judged on tokens it has not seen. Between these blocks the share that a candidate loses is
interpolated by kind of layer, which moves slowly with depth; the weight of each matrix is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor

from core.codecs import CODECS
from core.codecs.contract import logical
from core.fit import logical_change
from core.methods import METHODS
from core.moments import Evidence, Moments
from core.record import TensorRecord
from core.sensitivity import watch_gradients
from core.stream import advance, cut_batches, levels, start, uses
from core.variant import Variant
from core.weights import StagedModel, Weights, to_device

BLOCKS = 4
"""Blocks at which candidates are learnt."""
JUDGE_TOKENS = 1536
"""Tokens that weigh the matrices and judge the candidates."""
LEARN_TOKENS = 6144
"""Tokens that candidates are learnt from."""

SIGNS = "signs"
"""The candidate that the streamed fit itself learns: chosen signs on the better axis."""
GUESS = "guess"
"""Data-free signs by row: no candidate, but what a forecast is calibrated with."""


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
    shares: dict[str, dict[str, dict[int, float]]]
    """By kind, candidate and block: share of that cost which remains."""


@dataclass
class _Matrix:
    """A matrix of a probed block: its change, moments to learn from, tokens to judge by."""

    change: Tensor
    moments: Moments
    inputs: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


def probed_blocks(depth: int, count: int = BLOCKS) -> list[int]:
    """Blocks spread evenly over the depth, the middle of each stretch."""
    count = min(count, depth)
    return sorted({int((i + 0.5) * depth / count) for i in range(count)})


def probe(model: StagedModel, variant: Variant, tuned: Weights, ids: Tensor, device: torch.device,
          names: Iterable[str], candidates: Iterable[Candidate], *, seed: int = 0,
          tick: Callable[[float], None] = lambda _: None) -> Probe:
    """Weigh the tensors `names` and learn the candidates at some blocks, on sequences `ids` (samples, tokens).

    `tick` is called with the share that is done.
    """
    wanted, ways = set(names), list(candidates)
    judges = max(1, min(len(ids) // 3, math.ceil(JUDGE_TOKENS / ids.shape[1])))
    blocks = probed_blocks(model.skeleton.depth)
    matrices = _gather(model, variant, tuned, ids[judges:][:max(1, LEARN_TOKENS // ids.shape[1])], device, wanted, blocks,
                       lambda done: tick(0.2 * done))
    own = _weigh(model, variant, tuned, ids[:judges], device, wanted, matrices, seed, lambda done: tick(0.2 + 0.3 * done))
    shares: dict[str, dict[str, dict[int, float]]] = {}
    for i, (name, matrix) in enumerate(matrices.items()):
        record = variant.records[name]
        assert record.block is not None
        for way in ways:
            found = _share(record, way, matrix)
            if found is not None:
                shares.setdefault(record.kind, {}).setdefault(way.key, {})[record.block] = found
            tick(0.5 + 0.5 * (i + 1) / len(matrices))
    return Probe(own, shares)


def _places(model: StagedModel, block: int, wanted: set[str]) -> dict[tuple[str, int | None], list[str]]:
    """Tensors on disk by the run-time parameter (and expert) they are part of, in the order in which they lie in it."""
    prefix = model.skeleton.prefix(block)
    found: dict[tuple[str, int | None], list[str]] = {}
    for p in sorted(model.by_stage.get(block, []), key=lambda p: p.part):
        if p.tensor in wanted:
            found.setdefault((p.parameter.removeprefix(prefix), p.expert), []).append(p.tensor)
    return found


def _gather(model: StagedModel, variant: Variant, tuned: Weights, ids: Tensor, device: torch.device, wanted: set[str],
            blocks: list[int], tick: Callable[[float], None]) -> dict[str, _Matrix]:
    """Moments of what enters the matrices of `blocks` in the fine-tune."""
    batches = cut_batches(ids)
    hidden = start(model.skeleton, tuned, batches, device)
    found: dict[str, _Matrix] = {}
    for block in range(max(blocks) + 1):
        parameters = tuned.stage(block)
        if block in blocks:
            places = _places(model, block, wanted)
            found_levels = levels(model.skeleton, block, parameters, hidden[0], batches.calls[0][block])
            shared = {p: level.parameters[0] for level in found_levels for p in level.parameters if not level.experts}
            moments: dict[tuple[str, int | None], Moments] = {}
            for i in range(len(batches.ids)):
                for use in uses(model.skeleton, block, parameters, hidden[i], batches.calls[i][block]):
                    lead = shared.get(use.parameter, use.parameter), use.expert
                    if (use.parameter, use.expert) not in places and lead[0] != use.parameter:
                        continue
                    if lead not in moments:
                        moments[lead] = Moments.empty(use.inputs.shape[-1], 1, device, drift=False)
                    if lead[0] == use.parameter:
                        moments[lead].add(use.inputs.reshape(-1, use.inputs.shape[-1]), None, None)
            for (parameter, expert), tensors in places.items():
                known = moments.get((shared.get(parameter, parameter), expert))
                for name in tensors if known is not None else ():
                    assert known is not None
                    found[name] = _Matrix(logical_change(variant, variant.records[name], device), known)
        if block < max(blocks):
            advance(model.skeleton, block, parameters, hidden, batches)
        tick((block + 1) / (max(blocks) + 1))
    return found


def _weigh(model: StagedModel, variant: Variant, tuned: Weights, ids: Tensor, device: torch.device, wanted: set[str],
           matrices: Mapping[str, _Matrix], seed: int, tick: Callable[[float], None]) -> dict[str, float]:
    """What each tensor's change costs; keeps the judging tokens of the probed ones."""
    own = dict.fromkeys(sorted(wanted), 0.0)
    places = {block: _places(model, block, wanted) for block in range(model.skeleton.depth)}
    cached: dict[int, dict[str, Tensor]] = {}

    def seen(block: int, parameter: str, expert: int | None, inputs: Tensor, weights: Tensor) -> None:
        if block not in cached:
            cached.clear()                             # one block's changes at a time
            cached[block] = {n: logical_change(variant, variant.records[n], device) for ns in places[block].values() for n in ns}
        for name in places[block].get((parameter, expert), ()):
            change = cached[block][name]
            own[name] += 0.5 * float(((inputs @ change.T).square().sum(1) * weights).sum(dtype=torch.float64)) / ids.numel()
            if name in matrices:
                matrices[name].inputs.append(inputs.bfloat16())
                matrices[name].weights.append(weights)
    rounds = max(1, math.ceil(ids.numel() / 1024)) * 2 * model.skeleton.depth
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tick(min(1.0, done / rounds))
    watch_gradients(model, tuned, ids, device, seen, seed=seed, tick=step)
    return own


def _share(record: TensorRecord, way: Candidate, matrix: _Matrix) -> float | None:
    """Share of its change's cost that remains when a matrix is stored in a way; None where it can't be."""
    if not matrix.inputs or matrix.moments.tokens < 8:
        return None
    if way.method == GUESS:
        signs = torch.where(matrix.change < 0, -1.0, 1.0)
        dense = signs * matrix.change.abs().mean(1, keepdim=True)
    else:
        method = METHODS["planes" if way.method == SIGNS else way.method]
        planned = method.plan(record, nbytes_for(record, way))
        if planned is None:
            return None
        h, _, _ = matrix.moments.finish(matrix.change)
        zero = torch.zeros_like(matrix.change)
        learnt, stored = method.fit(planned, Evidence(matrix.change, ((h, zero.T, zero[:, 0]),)))
        # A base of zeros in FP32 gives the bare change back, without the rounding of the sum.
        plain = msgspec.structs.replace(learnt, dtype="F32", base_dtype="F32")
        bare = CODECS[learnt.codec].add(plain, stored, torch.zeros(record.base_shape, dtype=torch.float32))
        dense = logical(record, to_device(bare, h.device))
    x, w = torch.cat(matrix.inputs).float(), torch.cat(matrix.weights)
    left = float(((x @ (matrix.change - dense).T).square().sum(1) * w).sum(dtype=torch.float64))
    whole = float(((x @ matrix.change.T).square().sum(1) * w).sum(dtype=torch.float64))
    return min(1.0, left / whole) if whole > 0 else 0.0


def nbytes_for(record: TensorRecord, way: Candidate) -> int:
    """Bytes that a candidate may take for a matrix: its bits, and the scales of one FP16 value per output and plane."""
    weights = record.outputs * record.inputs
    return int(weights * way.bits / 8) + 2 * record.outputs * max(1, math.ceil(way.bits)) * (way.bits >= 1) + 16


def share_at(found: Probe, kind: str, key: str, block: int) -> float | None:
    """A candidate's share at any block: log-linear between the probed ones, level beyond them."""
    points = sorted((b, max(s, 1e-9)) for b, s in found.shares.get(kind, {}).get(key, {}).items())
    if not points:
        return None
    before = [p for p in points if p[0] <= block]
    after = [p for p in points if p[0] >= block]
    if not before or not after:
        return (after or before)[0 if after else -1][1]
    (b0, s0), (b1, s1) = before[-1], after[0]
    if b0 == b1:
        return s0
    t = (block - b0) / (b1 - b0)
    return math.exp((1 - t) * math.log(s0) + t * math.log(s1))

"""What a job will cost: operations, seconds on this machine, bytes of memory and disk. Estimates, and called so.

Memory is counted stage by stage from what lives there at once, in entries of FP32. For a matrix with `n` inputs and `o`
outputs, fitted together with others of `O` outputs in all that read the same input, the large things are `n^2` (moments,
their factor), `n O` (what drift adds to the targets) and `n o` (the change, what it aims at). Pages of mapped files are not
counted: the system takes them back when it needs them.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from core.devices import has_fast_bf16
from core.distil import LOGITS_AT_ONCE
from core.embeddings import ROWS
from core.fit import KEEP_INPUTS, is_fitted
from core.plan import Plan, record_bytes
from core.probe import BLOCKS, REFERENCE_SHARE
from core.record import TensorRecord
from core.request import Request, sample_counts
from core.stream import SPILL_FROM, TOKENS_AT_ONCE
from core.tune import OPENED_AT_MOST
from core.variant import is_learnt
from core.weights import Lent

FP32 = 4
"""Bytes of an entry."""
PROGRAM = 370 << 20
"""The interpreter with torch, transformers and compiled kernels."""
LOOSE, LOOSE_AT_MOST = 0.1, 250 << 20
"""What the heap keeps between tensors, and the arithmetic library for itself: a share of all tensors. Large ones are given back
whole, so it stops growing. Of half an 8B block's width 0.25 GB were measured, of a tiny model next to nothing."""
TUNED_AT_ONCE = 1024
"""Tokens of a step of tuning."""
DECODING = 1000.0
"""Operations that decoding one level takes the time of."""
_SOLVES = {"chosen": 22.0, "exact": 7.0, "paper": 7.0}
"""Products of n x n by n x o that fitting a matrix takes, by recipe; counted in `core.chosen` and `core.solve`: targets 2, their
rows 2, a gram of the signs, correction and aim 4, what is lost 2, and for each choice of signs (two axes, one or two rounds)
half a product, scales, losses in both parts of the data."""
_TOGETHER = ({"q", "k", "v"}, {"gate", "up"})
"""Kinds that read the same input."""
_ORDER = {"k": 0, "qkv": 0, "o": 1, "gate": 2, "gate_up": 2, "up": 2, "down": 3}
"""Where data reaches a kind; of kinds that read the same input the first by name."""


@dataclass(frozen=True)
class Sizes:
    """How much text a job reads: tokens for fitting (held-out included), tuning, and measuring."""

    fit_tokens: int
    tune_tokens: int
    measure_tokens: int


def sizes_of(request: Request, length: int) -> Sizes:
    """Those of a request, for sequences of `length` tokens."""
    counts = sample_counts(request)
    return Sizes((counts["fit"] + counts["fit_held_out"]) * length, counts["tune"] * length, counts["tune_held_out"] * length)


@dataclass(frozen=True)
class Estimate:
    """Seconds are for this machine as it was for a moment; bytes are peaks."""

    operations: dict[str, float]
    seconds: float
    block_seconds: float
    """Of fitting one block, on average."""
    memory: dict[str, int]
    """Peak of the process's own memory by stage: prepare, fit, tune; `budget` where a curve is predicted first."""
    disk_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Peak over all stages."""
        return max(self.memory.values())


@dataclass(frozen=True)
class Group:
    """Matrices of a block that read the same input, with `inputs` columns: what is fitted from the same moments."""

    inputs: int
    records: tuple[TensorRecord, ...]

    @property
    def outputs(self) -> int:
        """Of all together."""
        return sum(r.outputs for r in self.records)

    @property
    def widest(self) -> int:
        """Outputs of the largest."""
        return max(r.outputs for r in self.records)


def matrices(plan: Plan) -> list[TensorRecord]:
    """Matrices inside blocks: what nearly all arithmetic goes into."""
    return [r for r in plan.records if r.block is not None and len(r.shape) == 2]


def groups(records: Iterable[TensorRecord]) -> list[Group]:
    """The groups of one block, in the order in which data reaches them. Experts are groups of their own."""
    found: dict[tuple[str, str, int], list[TensorRecord]] = {}
    for r in records:
        if len(r.shape) == 2 and is_fitted(r):
            expert = re.search(r"experts\.\d+\.", r.name)
            family = next((sorted(kinds)[0] for kinds in _TOGETHER if r.kind in kinds), r.kind)
            found.setdefault((expert[0] if expert else "", family, r.inputs), []).append(r)
    ordered = sorted(found.items(), key=lambda item: _ORDER.get(item[0][1], 1))
    return [Group(inputs, tuple(members)) for (_, _, inputs), members in ordered]


# ------------------------------------------------------------------------------------------------- arithmetic
def operations(plan: Plan, sizes: Sizes, device: torch.device) -> dict[str, float]:
    """Floating-point operations by stage, in FP32 ones: those in bf16 count half where the device is fast at them."""
    forward = 2.0 * sum(r.shape[0] * r.shape[1] for r in matrices(plan))
    head = 2.0 * max((math.prod(r.shape) for r in plan.records if r.block is None and len(r.shape) == 2), default=0)
    gather = sum(2.0 * min(3 * r.inputs**2, r.inputs**2 + 2 * r.inputs * r.outputs)
                 for r in matrices(plan) if is_fitted(r) and r.kind not in ("k", "v", "up"))
    recipe = plan.options.recipe
    solve = 2.0 * _SOLVES.get(recipe, _SOLVES["chosen"]) * sum(r.inputs**2 * r.outputs for r in matrices(plan) if is_fitted(r))
    fit = sizes.fit_tokens * (2.1 * forward + 0.7 * gather) + solve
    if recipe == "paper":
        fit += sizes.fit_tokens * 2 * 5 * 2 * forward
    narrow = 0.5 if has_fast_bf16(device) else 1.0
    tune = sizes.tune_tokens * (4.7 * forward * narrow + 1.8 * head)
    tune += sizes.tune_tokens / TUNED_AT_ONCE * _remaking(matrices(plan), narrow)
    return {"fit": 0.0 if recipe == "bitdelta" else fit, "tune": tune,
            "measure": sizes.measure_tokens * (4 * forward + 6 * head)}


def _remaking(records: Iterable[TensorRecord], narrow: float) -> float:
    """Of a step of tuning: making weights of pairs and coded levels from their scales, twice, and the slopes of the scales."""
    total = beyond = 0.0
    for r in records:
        if r.codec == "svdmix":
            total += 3 * 2.0 * r.outputs * r.inputs * _pairs(r) * narrow
        beyond += (r.codec == "coded") * r.outputs * r.inputs
    return total + 2 * DECODING * max(0.0, beyond - OPENED_AT_MOST)


def _pairs(record: TensorRecord) -> float:
    """Pairs of vectors that a record's bytes hold, at some four bits an entry; they are chosen later."""
    return min(record.outputs, record.inputs, 2 * record.packed / (record.outputs + record.inputs))


def _opened_bytes(records: Iterable[TensorRecord]) -> int:
    """Bytes of what tuning keeps unpacked: levels in a byte, vectors in two per entry."""
    wanted = sum(r.outputs * r.inputs if r.codec == "coded" else int(2 * (r.outputs + r.inputs) * _pairs(r))
                 for r in records if r.codec in ("coded", "svdmix"))
    return min(wanted, OPENED_AT_MOST)


def machine_speed(device: torch.device) -> float:
    """FP32 multiply-adds of matrix products per second, times two: the better of a few short runs."""
    a, b = (torch.ones(1024, 1024, dtype=torch.float32, device=device) for _ in range(2))
    best = math.inf
    for _ in range(4):
        begin = time.perf_counter()
        float((a @ b)[0, 0])
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024**3 / best


# ----------------------------------------------------------------------------------------------------- memory
def solving(group: Group, recipe: str) -> float:
    """Entries that live at the peak of fitting one matrix after the other of a group from finished moments."""
    n, whole, o = float(group.inputs), group.outputs, group.widest
    square, drifts, own = n * n, n * whole, n * o
    if recipe in ("exact", "paper"):
        # H of both parts, each times the signs' gram; CK of both; change, signs, two intermediate results
        return 4 * square + 2 * drifts + 4 * own
    if any(r.method for r in group.records):
        # H of both parts, factor and what it is made from; CK of both; a sweep's target, rest, result, indices and levels
        planes = max(r.planes for r in group.records)
        return 5 * square + 2 * drifts + (8 + 2 * planes + planes**2) * own
    # H of both parts, the first once more with its ridge, the factor of its inverse; CK of both, and the drift's correction
    held = 4 * square + 3 * drifts
    # change, what it aims at, that under H; signs of both axes in a byte each; gram x H of both parts; signs, a product
    columns = held + 3 * own + 0.5 * own + 2 * square + 2 * own
    # while the factor is made: H of both parts, a triangle, its inverse and the last step's blocks; CK of both
    factor = 4.75 * square + 2 * drifts
    # the correction: two of H, the factor; CK of both; three products and the result
    correction = 3 * square + 6 * drifts
    return max(columns, factor, correction)


def gathering(found: Iterable[Group], recipe: str, tokens: int) -> float:
    """Entries of groups gathered at once (experts; else one): sums of both parts and the fine-tune's weights."""
    total = 0.0
    for g in found:
        n, o = float(g.inputs), g.outputs
        # X^T X, with X^T E and E^T E, or with what X^T E makes of the outputs: for either part; finishing takes CK beside it
        total += n * o + 2 * (3 * n * n if o >= n else n * n + n * o) + (n * o if o >= n else 0)
        if recipe == "paper":
            total += tokens * (n + o)
    return total


def memory(plan: Plan, sizes: Sizes, device: torch.device, width: int, *, forecast: bool = False) -> dict[str, int]:
    """Peak bytes by stage; with `forecast`, of predicting the curve too."""
    blocks: dict[int, list[TensorRecord]] = {}
    for r in plan.records:
        if r.block is not None:
            blocks.setdefault(r.block, []).append(r)
    outer = [r for r in plan.records if r.block is None]
    outer_size = sum(math.prod(r.shape) for r in outer)
    recipe, learnt = plan.options.recipe, sum(record_bytes(r) for r in plan.records if is_learnt(r))
    fixed = learnt                                     # what is learnt stays in memory to the end
    size = max((sum(math.prod(r.shape) for r in b) for b in blocks.values()), default=0)
    most = max((max(r.shape) for r in matrices(plan)), default=width)

    def activations(tokens: int) -> int:
        # gate, its activation, up, their product; the hidden state, normed, attention's parts
        return min(tokens, TOKENS_AT_ONCE) * (4 * most + 6 * width)
    fit = 1.5 * outer_size                             # embeddings of one model at a time, and as they are stored
    for block in blocks.values():
        fit = max(fit, _block_entries(groups(block), block, size, recipe, sizes.fit_tokens, width, activations(sizes.fit_tokens)))
    streams = 2 * sizes.fit_tokens * width
    if streams // 2 * FP32 > SPILL_FROM:
        streams = 0                                    # in a file
    found = {"fit": fixed + int(FP32 * (fit + streams))}
    learnt_outer = [r for r in outer if is_learnt(r)]
    largest = max((math.prod(r.shape) for r in learnt_outer), default=0)
    prepare = 0
    if learnt_outer and recipe != "bitdelta":
        # the metric, with a one added, and its factor while it is made; rows coded together: some twelve of each
        coded = 6 * width * width + min(ROWS, largest // width) * width * 12
        prepare = max(outer_size + size + activations(TOKENS_AT_ONCE), coded)
    found["prepare"] = fixed + FP32 * prepare
    found["tune"] = fixed + _tune_bytes(plan, sizes, device, width, size, outer, activations, len(blocks))
    if forecast:
        some = next(iter(blocks.values()), [])
        moments = sum(float(g.inputs)**2 for g in groups(some))
        # at some blocks each change and H; a candidate being learnt; the references of all matrices, in BF16
        references = REFERENCE_SHARE * sum(r.outputs * r.inputs for r in matrices(plan))
        one = max((solving(g, "chosen") for g in groups(some)), default=0.0)
        probing = min(BLOCKS, len(blocks)) * (size + moments) + one + references / 2
        found["budget"] = max(fixed + int(FP32 * probing), found["tune"])
    return {stage: PROGRAM + tensors + loose(tensors) for stage, tensors in found.items()}


def loose(tensors: int) -> int:
    """Bytes that come on top of so many bytes of tensors: see `LOOSE`."""
    return min(int(LOOSE * tensors), LOOSE_AT_MOST)


def _block_entries(found: list[Group], block: list[TensorRecord], size: int, recipe: str, tokens: int, width: int,
                   activations: int) -> float:
    """Entries at the peak of one block's fit."""
    both = 2 * size                                    # both models' parameters
    solved_beside = both if size * FP32 <= Lent.KEEP else 0
    inputs, results = sum(g.inputs for g in found) * tokens, (sum(r.outputs for r in block if len(r.shape) == 2) + width) * tokens
    kept = inputs if inputs * FP32 <= KEEP_INPUTS else 0
    kept_results = results if results * FP32 <= KEEP_INPUTS else 0
    peak = float(both + activations)                   # both carried on, at the end
    # Results that are remembered are most of what a pass makes: it makes them once.
    passing = activations // 2 if kept_results else activations
    # The fine-tune's parameters come back after the first level only where what it reads was not kept.
    again = size if kept and not solved_beside else both
    experts = [g for g in found if "experts." in g.records[0].name]
    for i, g in enumerate(found):
        if kept:
            kept -= g.inputs * tokens
        beside = gathering(experts if g in experts else [g], recipe, tokens)
        peak = max(peak, (again if i else both) + passing + kept + kept_results + beside)
        others = gathering(experts, recipe, tokens) if g in experts else 0.0
        samples = tokens * (g.inputs + g.outputs) if recipe == "paper" else 0
        if recipe != "bitdelta":
            peak = max(peak, solved_beside + kept + kept_results + others + samples + solving(g, recipe))
    return peak


def _tune_bytes(plan: Plan, sizes: Sizes, device: torch.device, width: int, size: int, outer: list[TensorRecord],
                activations: Callable[[int], int], depth: int) -> int:
    """Bytes of measuring and tuning end to end, but for what is always there."""
    entries = {r.name: math.prod(r.shape) for r in outer}
    whole = sum(entries.values())
    own = sum(entries[r.name] for r in outer if r.codec != "same")        # the rest is the fine-tune's, held once
    head = max(entries.values(), default=0)
    states = (sizes.tune_tokens + 2 * sizes.measure_tokens) * width
    logits = 3 * min(LOGITS_AT_ONCE, head // max(1, width) * max(sizes.measure_tokens, 8))
    # a block made from what is stored (in its own type first), and a pass through it
    measuring = int(1.25 * size) + activations(max(sizes.measure_tokens, 1))
    total = FP32 * (whole + own + states + max(measuring, logits))
    if sizes.tune_tokens:
        narrow = has_fast_bf16(device)
        # the head once more in bf16; each block's input in bf16; a block with gradients and signs of its largest matrices
        step = depth * TUNED_AT_ONCE * width * 2 + (2 if narrow else FP32) * int(2.5 * size)
        step += FP32 * TUNED_AT_ONCE * 2 * (activations(1) + 4 * width)
        total = max(total, FP32 * (whole + own + states) + (2 * head if narrow else 0) + max(step, FP32 * logits))
        total += _opened_bytes(matrices(plan))
    return int(total)


# ------------------------------------------------------------------------------------------------------- both
def estimate(plan: Plan, sizes: Sizes, device: torch.device, width: int, speed: float | None = None, *,
             forecast: bool = False) -> Estimate:
    """What a plan costs on a machine; `forecast`: its curve has to be predicted first.

    `speed` is what `machine_speed` found, where it is known already: so estimates of several plans can be compared.
    """
    ops = operations(plan, sizes, device)
    pace = 1.6 / (speed or machine_speed(device))
    spilled = sizes.fit_tokens * width * FP32
    disk = int(plan.artifact_bytes * 2.1) + (2 * spilled if spilled > SPILL_FROM else 0) + (1 << 20)
    depth = len({r.block for r in plan.records if r.block is not None})
    return Estimate(ops, sum(ops.values()) * pace + 3 + plan.full_bytes / 5e8, ops["fit"] * pace / max(1, depth),
                    memory(plan, sizes, device, width, forecast=forecast), disk)

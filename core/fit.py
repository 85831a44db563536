"""Learn the scales of one block after the other, each level of a block on what the compressed prefix feeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec
import torch
from torch import Tensor

from core.chosen import Metric, with_chosen
from core.codecs.contract import logical
from core.devices import give_back_memory
from core.methods import METHODS
from core.moments import Evidence, Moments, Target
from core.paper import fit_adamw
from core.record import AXES, Losses, Slice, TensorRecord
from core.signs import pack_signs
from core.solve import Fitted, Problem, expand, first_guess
from core.stream import Batches, Hidden, Level, Remembered, Use, observe, uses
from core.variant import Variant
from core.weights import Lent, StagedModel, is_large, to_device

FEW_TOKENS = 8
"""Inputs seen below which a matrix keeps its data-free scales."""

KEEP_INPUTS = 1 << 30
"""Bytes of the fine-tune's layer inputs that may be kept, instead of being made again for each level; and of the
student's results."""

RESIDUAL_KINDS = ("o", "down")
"""Kinds whose outputs are added to the hidden state. Their errors count relative to that state's size, as the next norm
sees them: else the few tokens of huge activations (attention sinks) would decide the fit for all others."""

Emit = Callable[[TensorRecord, int, str, int, float, float], None]
"""Called with (record, slice, axis, iteration, training, held-out) for each point of a curve."""


@dataclass
class Group:
    """Matrices of a level that read the same input: the sign-coded ones, their fine-tuned weights, their moments."""

    names: list[str]
    tuned: Tensor
    """(sum of outputs, in) FP32 of all `names`."""
    parts: list[Moments] = field(default_factory=list)
    """Training, held-out; made at the first input."""
    samples: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """For the recipe `paper`: inputs (tokens, in) and what the fine-tune's outputs add to the base's (tokens, out)."""


class BlockFitter:
    """Fits the levels of one block. Holds what its levels share: both streams and, if small, the fine-tune's inputs."""

    def __init__(self, model: StagedModel, variant: Variant, block: int, streams: tuple[Hidden, Hidden], batches: Batches,
                 tuned: Mapping[str, Tensor], device: torch.device, emit: Emit, tick: Callable[[], None],
                 recipe: str = "exact") -> None:
        self.model, self.variant, self.block, self.batches, self.device = model, variant, block, batches, device
        self.target_stream, self.student_stream = streams
        self.tuned, self.emit, self.tick = tuned, emit, tick
        self.kept: list[dict[str, Tensor]] | None = None
        self.recipe = recipe
        self.scales: list[Tensor] = []
        self.target_moved = False
        """Whether the fine-tune's stream is already behind this block."""
        self.made: dict[str, tuple[bool, Tensor]] = {}
        """The student's tensors, and whether their scales were learnt by then."""
        self.results: list[dict[tuple[str, int], Tensor]] = []
        if self._width(list(tuned)) * batches.tokens * 4 <= KEEP_INPUTS:
            self.results = [{} for _ in batches.ids]
        give_back_memory()

    def _width(self, parameters: list[str]) -> int:
        """Outputs of the matrices among a block's parameters, and of attention."""
        matrices = [self.tuned[p] for p in parameters if self.tuned[p].dim() == 2]
        return sum(max(m.shape) for m in matrices) + max((min(m.shape) for m in matrices), default=0)

    def parameters(self) -> Remembered:
        """The student's parameters of this block as they stand."""
        names = self.model.tensors(self.block)
        open_ones = {n for n in names if self.variant.is_open(self.variant.records[n])}
        for name in names:
            if self.made.get(name, (None,))[0] != (name not in open_ones):
                self.made[name] = name not in open_ones, to_device(self.variant.read(name), self.device)
        parameters = self.model.assemble(self.block, {n: tensor for n, (_, tensor) in self.made.items()})
        prefix = self.model.skeleton.prefix(self.block)
        changing = {p.parameter.removeprefix(prefix) for p in self.model.by_stage[self.block] if p.tensor in open_ones}
        return Remembered(parameters, frozenset(parameters) - changing, self.results)

    def keep_inputs(self, all_levels: list[Level]) -> None:
        """Run the fine-tune's block once and keep what enters each matrix, if that is small enough.

        The same pass moves the fine-tune's stream on: nothing needs its states before the block any more.
        """
        wanted = frozenset(p for level in all_levels if not level.experts for p in level.parameters)
        first = [level.parameters[0] for level in all_levels if not level.experts]
        width = sum(self.tuned[p].numel() // self._outputs(p) for p in first)
        if not wanted or width * self.batches.tokens * 4 > KEEP_INPUTS:
            return
        self.kept = []
        for i in range(len(self.batches.ids)):
            hidden = self.target_stream[i]
            self.scales.append(residual_scale(hidden))
            seen, after = observe(self.model.skeleton, self.block, self.tuned, hidden, self.batches.calls[i][self.block], wanted)
            found = {u.parameter: u.inputs for u in seen}
            self.kept.append({p: found[p] for p in first})
            self.target_stream[i] = after
            self.tick()
        self.target_moved = True

    def _outputs(self, parameter: str) -> int:
        placement = next(p for p in self.model.by_stage[self.block] if p.parameter.endswith(parameter))
        record = self.variant.records[placement.tensor]
        return record.shape[record.output_dimension]

    def _uses(self, parameters: Mapping[str, Tensor], stream: Hidden, i: int, only: frozenset[str],
              whole: bool = False) -> Iterator[Use]:
        return uses(self.model.skeleton, self.block, parameters, stream[i], self.batches.calls[i][self.block], only, whole, i)

    def groups(self, level: Level) -> dict[int | None, Group]:
        """The level's sign-coded matrices by expert."""
        return {expert: Group(names, torch.cat([self._logical_tuned(n) for n in names]))
                for expert, names in self._members(level).items()}

    def _logical_tuned(self, name: str) -> Tensor:
        return logical(self.variant.records[name], to_device(self.variant.tuned.view(name), self.device))

    def names(self, level: Level) -> list[str]:
        """The level's sign-coded tensors, in order of fitting."""
        return [name for group in self._members(level).values() for name in group]

    def _members(self, level: Level) -> dict[int | None, list[str]]:
        prefix = self.model.skeleton.prefix(self.block)
        members = [p for p in self.model.by_stage[self.block] if p.parameter.removeprefix(prefix) in level.parameters]
        order = {name: i for i, name in enumerate(level.parameters)}
        found: dict[int | None, list[str]] = {}
        for p in sorted(members, key=lambda m: (m.expert or 0, order[m.parameter.removeprefix(prefix)], m.part)):
            if is_fitted(self.variant.records[p.tensor]):
                found.setdefault(p.expert, []).append(p.tensor)
        return found

    def gather(self, level: Level, groups: Mapping[int | None, Group]) -> None:
        """Fill the groups' moments from both streams."""
        only = frozenset(level.parameters)
        student = self.parameters()
        lead = level.parameters[0]
        weighed = self.recipe != "paper" and not level.experts and all(     # experts see a part of the tokens only
            self.variant.records[n].kind in RESIDUAL_KINDS for g in groups.values() for n in g.names)
        for i, held_out in enumerate(self.batches.held_out):
            target = None
            if not level.experts:
                if self.kept is not None:
                    target = self.kept[i].pop(lead)    # each level's are asked for once
                else:
                    target = next(u.inputs for u in self._uses(self.tuned, self.target_stream, i, frozenset([lead])))
            wanted = only if level.experts else frozenset([lead])
            for use in self._uses(student, self.student_stream, i, wanted, whole=level.experts):
                if (group := groups.get(use.expert)) is None or use.inputs.numel() == 0:
                    continue
                x = use.inputs.reshape(-1, use.inputs.shape[-1])
                if not group.parts:
                    group.parts = [Moments.empty(x.shape[1], group.tuned.shape[0], self.device, drift=target is not None)
                                   for _ in range(2)]
                aim = None if target is None else target.reshape(x.shape)
                if weighed:
                    scale = self.scales[i] if self.scales else residual_scale(self.target_stream[i])
                    x, aim = x * scale, None if aim is None else aim * scale
                group.parts[held_out].add(x, aim, group.tuned)
                if self.recipe == "paper" and not held_out:
                    wanted_change = x @ self._logical_change(group).T
                    if aim is not None:
                        wanted_change += (aim - x) @ group.tuned.T
                    length = self.batches.ids[i].shape[1] if aim is not None else len(x)
                    group.samples += zip(x.clone().split(length), wanted_change.split(length), strict=True)
            self.tick()

    def _let_go(self) -> None:
        """Forget both models' parameters of a large block while it is solved for: they are read again."""
        if isinstance(self.tuned, Lent):
            self.tuned.let_go()
        if is_large(tensor for _, tensor in self.made.values()):
            self.made = {}

    def _logical_change(self, group: Group) -> Tensor:
        return torch.cat([logical_change(self.variant, self.variant.records[n], self.device) for n in group.names])

    def fit(self, level: Level) -> Iterator[TensorRecord]:
        """Fit a level; yields each record once its scales are learnt."""
        groups = self.groups(level)
        if not groups:
            return
        self.gather(level, groups)
        self._let_go()
        for group in groups.values():
            if not group.parts or group.parts[0].tokens < FEW_TOKENS:
                for name in group.names:
                    yield learn_unseen(self.variant, name, self.device, "No token of the calibration text reached it: "
                                       "scales are the mean change.")
                continue
            finished = [part.finish(group.tuned, last=True) for part in group.parts if part.tokens >= FEW_TOKENS]
            group.tuned = group.tuned.new_empty(0)     # what follows needs all the memory there is
            metric = Metric.of(*finished[0][:2]) if self.recipe == "chosen" else None
            at = 0
            for name in group.names:
                outputs = self.variant.records[name].shape[self.variant.records[name].output_dimension]
                ends = slice(at, at + outputs)
                at += outputs
                if self.variant.records[name].method:
                    yield self._fit_method(name, [(h, ck[:, ends], e2[ends]) for h, ck, e2 in finished])
                    self.tick()
                    continue
                samples = [(x, y[:, ends]) for x, y in group.samples]
                own = None if metric is None else metric.outputs(ends)
                yield self._fit_matrix(name, [(h, ck[:, ends], e2[ends]) for h, ck, e2 in finished], samples, own)
                self.tick()

    def _fit_matrix(self, name: str, moments: list[tuple[Tensor, Tensor, Tensor]],
                    samples: list[tuple[Tensor, Tensor]], metric: Metric | None = None) -> TensorRecord:
        record = self.variant.records[name]
        change = logical_change(self.variant, record, self.device)
        pieces, values, fits = [], [], []
        problems = []
        for i, piece in enumerate(record.slices):
            rows = slice(piece.start, piece.stop)
            aim = None if metric is None else metric.aim(change[rows], moments[-1], rows)
            targets = [Target.of(change[rows], h, ck[:, rows], e2[rows], last=True) for h, ck, e2 in moments]
            problem = Problem(change[rows], targets[0], targets[1] if len(targets) > 1 else None, partial(self.emit, record, i))
            if self.recipe == "paper":
                pairs = [(x, y[:, rows]) for x, y in samples]
                chosen, tried = choose_axis(piece.axis, partial(fit_adamw, problem, samples=pairs), open_axes(piece.axis))
            else:
                solve: Callable[[str], Fitted] = problem.solve
                if aim is not None:
                    solve = with_chosen(problem, aim, open_axes(piece.axis), self.tick)
                chosen, tried = choose_axis(piece.axis, solve, {"scalar", "row", "column", *open_axes(piece.axis)})
            pieces.append(msgspec.structs.replace(piece, axis=chosen.axis))
            values.append(pad_slots(chosen.values, piece.slots))
            fits.append((chosen, tried))
            problems.append(problem)
        record = msgspec.structs.replace(record, slices=tuple(pieces))
        record = self.variant.learn_scales(record, [torch.cat(values)], stored_signs(record, problems, [f for f, _ in fits]))
        return self._with_losses(record, problems, fits)

    def _fit_method(self, name: str, moments: list[tuple[Tensor, Tensor, Tensor]]) -> TensorRecord:
        record = learn_method(self.variant, name, moments, self.device)
        losses = record.losses[0]
        for step, (training, held_out) in enumerate(((1.0, 1.0), (losses.training or 0.0, losses.held_out or 0.0))):
            self.emit(record, 0, record.method, step, training, held_out)
        return record

    def _with_losses(self, record: TensorRecord, problems: list[Problem],
                     fits: list[tuple[Fitted, list[Fitted]]]) -> TensorRecord:
        """Add losses; what is lost of the change is measured as the tensor will be used: FP16 scales, target type."""
        effective = logical(record, to_device(self.variant.read(record.name), self.device)
                            - _base32(self.variant, record, self.device))
        losses = []
        for piece, problem, (_, tried) in zip(record.slices, problems, fits, strict=True):
            left = problem.change - effective[piece.start:piece.stop]
            training, held_out = problem.training.lost(left), problem.held_out.lost(left)
            plain = {f"plain {f.axis}": round(f.plain, 9) for f in tried if f.plain is not None}
            losses.append(Losses(axis={f.axis: round(f.held_out, 9) for f in tried} | plain,
                                 guess={f.axis: round(f.guess, 9) for f in tried},
                                 training=round(training, 9), held_out=round(held_out, 9)))
        record = msgspec.structs.replace(record, losses=tuple(losses))
        self.variant.records[record.name] = record
        return record


def is_fitted(record: TensorRecord) -> bool:
    """Whether the streamed fit learns a record of a block."""
    return record.codec == "sign" or bool(record.method)


def residual_scale(hidden: Tensor) -> Tensor:
    """1 / root mean square of each token's hidden state (samples, tokens, width) -> (samples * tokens, 1)."""
    return hidden.reshape(-1, hidden.shape[-1]).square().mean(1, keepdim=True).clamp_min(1e-12).rsqrt()


def open_axes(axis: str) -> set[str]:
    """The axes a choice leaves open."""
    return {"row", "column"} if axis == "auto" else {axis}


def choose_axis(axis: str, solve: Callable[[str], Fitted], tried: set[str]) -> tuple[Fitted, list[Fitted]]:
    """(the fit to use, all fits). `auto` takes row or column, whichever has the lower held-out loss."""
    fits = [solve(a) for a in AXES if a in tried]
    return min((f for f in fits if f.axis in open_axes(axis)), key=lambda f: f.held_out), fits


def stored_signs(record: TensorRecord, problems: list[Problem], fits: list[Fitted]) -> Tensor | None:
    """Packed signs (1, rows, bytes) as stored, where some slice's are chosen; None where all are the change's own."""
    if all(f.signs is None for f in fits):
        return None
    signs = torch.cat([p.signs if f.signs is None else f.signs for p, f in zip(problems, fits, strict=True)])
    return pack_signs(logical(record, signs) < 0).cpu()[None]      # the transpose is its own inverse


def pad_slots(values: Tensor, slots: int) -> Tensor:
    """Scales padded with zeros to the slots that are stored."""
    return torch.nn.functional.pad(values, (0, slots - values.numel()))


def _base32(variant: Variant, record: TensorRecord, device: torch.device) -> Tensor:
    base = variant.base_view(record)
    assert base is not None
    return to_device(base[:record.shape[0]], device)


def logical_change(variant: Variant, record: TensorRecord, device: torch.device) -> Tensor:
    """W_ft - W_base (out, in) in FP32, over the rows that both have."""
    base = _base32(variant, record, device)
    return logical(record, to_device(variant.tuned.view(record.name)[:base.shape[0]], device) - base)


def keep_guess(variant: Variant, name: str, device: torch.device, note: str = "") -> TensorRecord:
    """Learn the data-free scales of a tensor; where row or column is open, row."""
    record = variant.records[name]
    change = logical_change(variant, record, device)
    pieces: list[Slice] = []
    planes: list[Tensor] = []
    for _ in range(record.planes):
        values = []
        pieces = [msgspec.structs.replace(p, axis="row" if p.axis == "auto" else p.axis) for p in record.slices]
        for piece in pieces:
            part = change[piece.start:piece.stop]
            guess = first_guess(part, piece.axis)
            values.append(pad_slots(guess, piece.slots))
            signs = torch.where(part < 0, -1.0, 1.0)
            change[piece.start:piece.stop] = part - expand(signs, piece.axis, guess)
        planes.append(torch.cat(values))
    record = msgspec.structs.replace(record, slices=tuple(pieces), note=note)
    return variant.learn_scales(record, planes)


def learn_unseen(variant: Variant, name: str, device: torch.device, note: str) -> TensorRecord:
    """Learn a tensor whose inputs no token showed: by the mean change, or by its method with every input alike."""
    record = variant.records[name]
    if not record.method:
        return keep_guess(variant, name, device, note)
    zero = torch.zeros(record.inputs, record.outputs, dtype=torch.float32, device=device)
    record = learn_method(variant, name, [(torch.eye(record.inputs, dtype=torch.float32, device=device), zero, zero[0])], device)
    record = msgspec.structs.replace(record, losses=(), note=note.replace("scales are the mean change", "all inputs count alike"))
    variant.records[name] = record
    return record


def learn_method(variant: Variant, name: str, moments: list[tuple[Tensor, Tensor, Tensor]],
                 device: torch.device) -> TensorRecord:
    """Learn one matrix by the method that its record names, from finished moments (H, CK, e2) of both parts of the data."""
    record = variant.records[name]
    evidence = Evidence(logical_change(variant, record, device), tuple(moments))
    record = variant.learn(*METHODS[record.method].fit(record, evidence))
    effective = logical(record, to_device(variant.read(name), device) - _base32(variant, record, device))
    training, held_out = evidence.lost(effective)
    record = msgspec.structs.replace(record, losses=(Losses(training=round(training, 9), held_out=round(held_out, 9)),))
    variant.records[name] = record
    return record

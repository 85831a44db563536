"""What a job will do, before it does it: pair the tensors, look at each change, choose codecs, count bytes.

Nothing is written here. Whatever can't work is refused with one sentence; what is merely odd becomes a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from core.artifact import weights_bytes
from core.changes import Change, low_rank, measure_change
from core.checkpoint import Checkpoint
from core.codecs import CODECS
from core.errors import ArchitectureMismatch, BadOption, NotFinite, TensorsMissing
from core.record import DTYPE_NAMES, Slice, TensorRecord
from core.skeleton import OUTER, Placement, Skeleton

RECIPES = ("chosen", "exact", "paper", "bitdelta")
UNIFORM = ("planes", "coded", "deltamix", "deltamix-h", "delta-come", "lowrank", "lowrank-h")
"""Recipes that give every matrix the same share of its bytes, by the method of that name; planned like signs first."""
AXIS_CHOICES = ("auto", "row", "column", "both", "scalar")
EMBEDDING_CHOICES = ("auto", "full")

EMBEDDING_PLANES = 2
"""Sign bits per entry of a changed embedding or head: one bit there costs more fidelity than all layers together."""

SIGN_FROM = 1024
"""Matrices with fewer entries are stored exactly: their scales would outweigh what signs save."""

_KINDS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "out_proj": "o", "gate_proj": "gate", "up_proj": "up",
          "down_proj": "down", "qkv_proj": "qkv", "c_attn": "qkv", "query_key_value": "qkv", "gate_up_proj": "gate_up",
          "w1": "gate", "w3": "up", "w2": "down", "dense_h_to_4h": "up", "dense_4h_to_h": "down", "fc1": "up",
          "fc2": "down", "c_fc": "up", "dense": "o"}
_COMPARED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
             "head_dim", "num_local_experts", "num_experts", "n_embd", "n_layer", "n_head", "ffn_dim")


@dataclass(frozen=True)
class PlanOptions:
    """What of a request bears on the plan."""

    recipe: str = "chosen"
    axis: str = "auto"
    embeddings: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (("recipe", self.recipe, RECIPES + UNIFORM), ("axis", self.axis, AXIS_CHOICES),
                                   ("embeddings", self.embeddings, EMBEDDING_CHOICES)):
            if value not in known:
                raise BadOption(f"There is no {name} '{value}'.", "", f"Choose one of: {', '.join(known)}.")

    @property
    def effective_axis(self) -> str:
        """The axis of the sign codec: BitDelta has a scalar only."""
        return "scalar" if self.recipe == "bitdelta" else self.axis


@dataclass(frozen=True)
class Plan:
    """A checked pair and what becomes of each tensor, in the fine-tune's order of names."""

    options: PlanOptions
    records: tuple[TensorRecord, ...]
    sidecars: dict[str, Path]
    warnings: tuple[str, ...]
    full_bytes: int
    """Of the fine-tune's weights, as tensors."""

    @property
    def weights_bytes(self) -> int:
        """Exact bytes of the delta's weight files."""
        return weights_bytes(self.records)

    @property
    def sidecar_bytes(self) -> int:
        """Exact bytes of the config and tokenizer files that differ from the base's."""
        return sum(path.stat().st_size for path in self.sidecars.values())

    @property
    def artifact_bytes(self) -> int:
        """Exact bytes of weight files and sidecars; records and model card (text) come on top."""
        return self.weights_bytes + self.sidecar_bytes


@dataclass(frozen=True)
class Measured:
    """One tensor of the fine-tune beside the base's: what no option changes, so that plans can be made anew at once."""

    record: TensorRecord
    """With codec `full`."""
    change: Change
    is_embedding: bool
    """The embedding, or the head."""
    is_router: bool
    rank: int | None
    """Of the change where it is low rank; None too where it was not looked for."""


@dataclass(frozen=True)
class Survey:
    """A checked pair with each change measured: what plans are made from. Holds no weights."""

    tensors: tuple[Measured, ...]
    config: dict[str, object]
    """The fine-tune's."""
    sidecars: dict[str, Path]
    warnings: tuple[str, ...]
    full_bytes: int


def make_plan(base: Checkpoint, tuned: Checkpoint, options: PlanOptions,
              progress: Callable[[int, int], None] | None = None) -> Plan:
    """Pair two checkpoints and decide how each tensor's change is stored.

    `progress` is called with (tensors looked at, of how many). Raises one of the `Refused` errors when the two are no
    pair, or hold NaN or infinite values.
    """
    return plan_from(survey(base, tuned, progress, ranks=options.recipe != "bitdelta"), options)


def survey(base: Checkpoint, tuned: Checkpoint, progress: Callable[[int, int], None] | None = None, *,
           ranks: bool = True) -> Survey:
    """Pair two checkpoints and measure every change: all of planning that reads weights. Raises as `make_plan`.

    Without `ranks` no change is tested for low rank, which only BitDelta can do without.
    """
    _check_configs(base, tuned)
    skeleton = Skeleton(tuned.config)
    placements = skeleton.place({n: t.shape for n, t in tuned.tensors.items()})
    _check_shapes(base, tuned, skeleton, placements)
    tensors, warnings = [], []
    mixtures = {p.stage for p in placements.values() if p.expert is not None}
    names = [n for n in tuned.tensors if n in placements]
    for i, name in enumerate(names):
        if progress:
            progress(i, len(names))
        source = base_tensor(base, name, skeleton, placements)
        tensors.append(_measure(base, tuned, name, source, skeleton, placements[name],
                                placements[name].stage in mixtures, ranks))
    if progress:
        progress(len(names), len(names))
    default = type(skeleton.config)().get_text_config().tie_word_embeddings     # a config may leave out what is usual
    if tuned.config.get("tie_word_embeddings", default) != base.config.get("tie_word_embeddings", default):
        warnings.append("The head is tied to the embedding in one of the two only; the delta keeps the fine-tune's way.")
    return Survey(tuple(tensors), dict(tuned.config), _sidecars(base, tuned), tuple(warnings),
                  sum(tuned.tensors[n].nbytes for n in names))


def plan_from(found: Survey, options: PlanOptions) -> Plan:
    """The plan for a measured pair; reads no weights, so other options cost next to nothing."""
    records = tuple(_choose(m, found.config, options) for m in found.tensors)
    warnings = list(found.warnings)
    if all(r.codec == "same" for r in records):
        warnings.insert(0, "Every weight equals the base's: the delta will be empty.")
    loud = [r.name for r in records if r.codec == "sign" and r.change > 0.5]
    if loud:
        warnings.append(f"{len(loud)} tensors changed by more than half of their norm (first: '{loud[0]}'): this does not "
                        "look like a fine-tune of that base, and one bit per weight will lose much.")
    return Plan(options, records, found.sidecars, tuple(warnings), found.full_bytes)


def _check_configs(base: Checkpoint, tuned: Checkpoint) -> None:
    kinds = [str(c.config.get("model_type", "")) for c in (base, tuned)]
    if kinds[0] != kinds[1]:
        raise ArchitectureMismatch(f"The base is a '{kinds[0]}' model, the fine-tune a '{kinds[1]}'.",
                                   "A delta needs two checkpoints of one architecture.",
                                   "Choose the base that it was tuned from.")
    for key in _COMPARED:
        values = [c.config.get(key) for c in (base, tuned)]
        if values[0] != values[1] and None not in values:
            raise ArchitectureMismatch(f"{key} is {values[0]} in the base and {values[1]} in the fine-tune.",
                                       "A delta needs two checkpoints of one size.", "Choose the base that it was tuned from.")


def base_tensor(base: Checkpoint, name: str, skeleton: Skeleton, placements: dict[str, Placement]) -> str | None:
    """Name of the base's tensor that `name` is a change of; None where it has none.

    An untied head on a tied base starts from the embedding.
    """
    if name in base.tensors:
        return name
    if placements[name].parameter == skeleton.output_name:
        return next((n for n, p in placements.items() if p.parameter == skeleton.input_name and n in base.tensors), None)
    return None


def _check_shapes(base: Checkpoint, tuned: Checkpoint, skeleton: Skeleton, placements: dict[str, Placement]) -> None:
    may_grow = {skeleton.input_name, skeleton.output_name, (skeleton.output_name or "").replace(".weight", ".bias")}
    missing = [n for n in placements if base_tensor(base, n, skeleton, placements) is None]
    if missing:
        raise TensorsMissing(f"The base lacks {len(missing)} tensor(s) that the fine-tune has, first '{missing[0]}'.",
                             "Without them there is nothing to take the difference from.",
                             "Choose the base that it was tuned from; a merged or extended model is no pair.")
    heads = ("lm_head.weight", "embed_out.weight") if skeleton.tied else ()
    lost = [n for n in base.tensors if n not in tuned.tensors and n not in heads]
    if lost:
        raise TensorsMissing(f"The fine-tune lacks {len(lost)} tensor(s) that the base has, first '{lost[0]}'.",
                             "It would not load as a whole model.", "Get the fine-tune again; a shard may be missing.")
    for name, placement in placements.items():
        source = base_tensor(base, name, skeleton, placements)
        assert source is not None
        a, b = base.tensors[source].shape, tuned.tensors[name].shape
        if a != b and not (placement.parameter in may_grow and a[1:] == b[1:] and len(a) == len(b) and a):
            raise ArchitectureMismatch(f"'{name}' is {list(a)} in the base and {list(b)} in the fine-tune.",
                                       "A delta needs two checkpoints of one size.", "Choose the base that it was tuned from.")


def kind_of(name: str, placement: Placement, skeleton: Skeleton) -> str:
    """Short name of a layer's kind: q, k, v, o, gate, up, down, embed, head, or the last part of its own name."""
    if placement.parameter == skeleton.input_name:
        return "embed"
    if placement.parameter == skeleton.output_name:
        return "head"
    parts = [p for p in name.split(".") if not p.isdigit()]
    leaf = parts[-2] if len(parts) > 1 and parts[-1] in ("weight", "bias") else parts[-1]
    if "norm" in leaf or leaf.startswith("ln_"):
        return "norm"
    if parts[-1] == "bias":
        return "bias"
    if leaf == "c_proj":
        return "o" if "attn" in name else "down"
    return _KINDS.get(leaf, leaf)


def is_router(name: str) -> bool:
    """By its name, a mixture's router: it is small, and a wrong choice of expert costs more than its bytes."""
    return bool(re.search(r"\.(gate|router|gate\.wg|router\.layer)\.weight$", name))


def slices_of(shape: tuple[int, ...], kind: str, axis: str, config: dict[str, object], output_dimension: int,
              outputs: int) -> tuple[Slice, ...]:
    """Output ranges that choose their axis apart: the fused projections of Phi-3 and its kin, else one for all."""
    inputs = shape[1 - output_dimension]
    cuts = [0, outputs]
    if kind == "qkv" and not output_dimension:
        heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
        if isinstance(heads, int) and isinstance(groups, int) and outputs % (heads + 2 * groups) == 0 and groups:
            width = outputs // (heads + 2 * groups)
            cuts = [0, heads * width, (heads + groups) * width, outputs]
    if kind == "gate_up" and not output_dimension and outputs % 2 == 0:
        cuts = [0, outputs // 2, outputs]
    pieces = []
    for start, stop in pairwise(cuts):
        piece = Slice(start, stop, axis, 0)
        pieces.append(Slice(start, stop, axis, piece.used(inputs)))
    return tuple(pieces)


def _measure(base: Checkpoint, tuned: Checkpoint, name: str, source: str | None, skeleton: Skeleton,
             placement: Placement, experts: bool, ranks: bool) -> Measured:
    assert source is not None
    a, b = base.view(source), tuned.view(name)
    change = measure_change(a, b)
    if not change.finite:
        broken = base if not bool(a.float().isfinite().all()) else tuned
        raise NotFinite(f"'{name}' of '{broken.source}' holds NaN or infinite values.", "No model works with them.",
                        "Get the checkpoint again, or use an earlier one of the run.")
    kind = kind_of(name, placement, skeleton)
    shape = tuple(b.shape)
    record = TensorRecord(
        name=name, codec="full", shape=shape, dtype=DTYPE_NAMES[b.dtype], base=source, base_shape=tuple(a.shape),
        base_dtype=DTYPE_NAMES[a.dtype], kind=kind, block=None if placement.stage == OUTER else placement.stage,
        output_dimension=1 if _is_conv1d(skeleton, placement) else 0, change=round(change.relative, 9),
        unchanged=round(change.unchanged, 9))
    embedding = placement.parameter in (skeleton.input_name, skeleton.output_name)
    wanted = ranks and not embedding and _may_take_signs(record, change, tuned.config)
    return Measured(record, change, embedding, experts and is_router(name), low_rank(a, b) if wanted else None)


def _may_take_signs(record: TensorRecord, change: Change, config: dict[str, object]) -> bool:
    """Whether under any option signs, or low rank in their place, are worth a thought."""
    if not _is_matrix(record) or _is_equal(record, change):
        return False
    return record_bytes(_best_exact(record, change)) > record_bytes(_signs(record, "scalar", 1, config))


def _is_conv1d(skeleton: Skeleton, placement: Placement) -> bool:
    owner, _, leaf = placement.parameter.rpartition(".")
    return leaf == "weight" and type(skeleton.model.get_submodule(owner)).__name__ == "Conv1D"


def _choose(measured: Measured, config: dict[str, object], options: PlanOptions) -> TensorRecord:
    """The codec for one change: whatever is exact and no larger than signs, low rank where it is, else signs."""
    record, change, embedding = measured.record, measured.change, measured.is_embedding
    if _is_equal(record, change):
        return msgspec.structs.replace(record, codec="same")
    best = _best_exact(record, change)
    if measured.is_router or (embedding and options.embeddings == "full") or not _is_matrix(record):
        return best
    fine = embedding and options.recipe != "bitdelta"
    sign = _signs(record, "row" if fine else options.effective_axis, EMBEDDING_PLANES if fine else 1, config)
    if record_bytes(best) <= record_bytes(sign):
        return best
    if not embedding and options.recipe != "bitdelta" and measured.rank:
        low = msgspec.structs.replace(record, codec="lowrank", rank=measured.rank, exponents=(0,))
        if record_bytes(low) <= max(2 * record_bytes(sign), record_bytes(record) // 8):
            return low
    return sign


def _is_equal(record: TensorRecord, change: Change) -> bool:
    return change.changed == 0 and not change.new_rows and _casts_exactly(record)


def _is_matrix(record: TensorRecord) -> bool:
    """Whether it is large enough for signs."""
    return len(record.shape) == 2 and min(record.shape) >= 2 and math.prod(record.shape) >= SIGN_FROM


def _best_exact(record: TensorRecord, change: Change) -> TensorRecord:
    """The smallest way of storing a change exactly."""
    replace = msgspec.structs.replace
    exact = [replace(record, codec="full")]
    if len(record.shape) >= 1 and _casts_exactly(record):
        if len(record.shape) == 2:
            exact.append(replace(record, codec="rows", count=change.changed_rows + change.new_rows))
        if not change.new_rows:
            exact.append(replace(record, codec="sparse", count=change.changed))
    return min(exact, key=record_bytes)


def _signs(record: TensorRecord, axis: str, planes: int, config: dict[str, object]) -> TensorRecord:
    return msgspec.structs.replace(record, codec="sign", planes=planes, exponents=(0,) * planes, slices=slices_of(
        record.shape, record.kind, axis, config, record.output_dimension, record.outputs))


def _casts_exactly(record: TensorRecord) -> bool:
    """Whether an unchanged value of the base comes out right when cast to the fine-tune's type."""
    return record.base_dtype == record.dtype or record.dtype == "F32" or record.base_dtype in ("BF16", "F16")


def record_bytes(record: TensorRecord) -> int:
    """Bytes of a record's stored data."""
    return sum(t.nbytes for t in CODECS[record.codec].layout(record).values())


def _sidecars(base: Checkpoint, tuned: Checkpoint) -> dict[str, Path]:
    """The fine-tune's config, and those of its tokenizer files whose content differs from the base's.

    The config always: a base of the same weights under another config (rope, norm) would else make another model.
    """
    theirs = base.sidecars()
    return {name: path for name, path in tuned.sidecars().items()
            if name == "config.json" or name not in theirs or theirs[name].read_bytes() != path.read_bytes()}

"""How faithful a delta is on text that its making has not seen: the variant as it is read back, beside its base.

Which text counts as unseen: a delta notes the source, seed and sequence length of its calibration and how many
sequences it took. Text of another source is used from its beginning. Of the same source the same shuffled stream is
taken up behind what calibration used, so no token is shared by construction (another seed would not do: it shuffles
the same documents). Where too little is left there, sequences follow that were held out while the delta was made:
they were never fitted to, only looked at to choose between finished fits.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.artifact import Delta, check_base, check_whole
from core.calibration import load_tokenizer, resolve_default, split_samples
from core.checkpoint import Checkpoint
from core.devices import choose_device, exact_arithmetic
from core.errors import ArchitectureMismatch, BadOption, CalibrationUnusable, TasksUnavailable
from core.fidelity import LOGITS_AT_ONCE, Report, compare_tokens
from core.generation import Generation, agreement, make_prompts, stop_ids
from core.generation import steps as answer_steps
from core.merge import variant_model
from core.stream import cut_batches
from core.tasks import LoadedTask, TaskReport, load_tasks, run_tasks
from core.weights import StagedModel, TensorWeights, Weights

TOKENS = 20_000
"""Measured at least by default."""

FEWEST_SEQUENCES = 4
"""Below which a standard error says nothing."""

_PARTS = ("fit", "fit_held_out", "tune", "tune_held_out")
"""The order in which a job cuts its parts from the stream."""


@dataclass(frozen=True)
class HeldOutText:
    """Token sequences (sequences, tokens) int64, and where they come from, in words for a report."""

    ids: Tensor
    source: str
    note: str = ""


def held_out_text(delta: Delta, base: Checkpoint, tuned: Checkpoint, source: str = "default", *, tokens: int = TOKENS,
                  sequence_length: int | None = None, offline: bool | None = None) -> HeldOutText:
    """At least `tokens` tokens of `source` that the delta's making has not fitted to, fewer (and a note) if it is short.

    `sequence_length` is the calibration's own unless given. Raises `CalibrationUnusable` when the source can't be read
    or has next to nothing unseen left, `BadOption` for senseless numbers.
    """
    if tokens < 1 or (sequence_length is not None and sequence_length < 8):
        raise BadOption("Tokens must be at least 1 and sequences at least 8 tokens long.", "", "Use larger numbers.")
    made = delta.config.calibration
    source = resolve_default(offline=offline) if source == "auto" else source
    own_length = int(made.get("sequence_length") or 256)
    length = sequence_length or own_length
    count = max(FEWEST_SEQUENCES, math.ceil(tokens / length))
    taken = made.get("samples")
    taken = {k: int(v) for k, v in taken.items()} if isinstance(taken, dict) else {}
    same = _named(source) == _named(str(made.get("source")))
    seed = int(made.get("seed", 0))
    tokenizer = load_tokenizer(tuned.folder) or load_tokenizer(base.folder)
    # A sequence may begin with a token of its own, so cut to another length, calibration may reach one further.
    used = math.ceil(sum(taken.values()) * own_length / length) + (length != own_length) if same else 0
    stream = split_samples(source, tokenizer, counts={"text": used + count}, sequence_length=length, seed=seed,
                           offline=offline).parts["text"]
    pieces = [stream[used:]]
    note = ""
    if len(stream) < used + count and same and length == own_length:
        stops = _ranges(taken)
        for part in ("tune_held_out", "fit_held_out"):
            missing = count - sum(len(p) for p in pieces)
            begin, stop = stops[part]
            if missing > 0 and stop > begin:
                pieces.append(stream[begin:min(stop, begin + missing)])
                note = (f"Calibration left too little of '{source}': the text includes sequences that were held out while the "
                        "delta was made (never fitted to, but used to choose between fits).")
    found = sum(len(p) for p in pieces)
    if found < FEWEST_SEQUENCES:
        raise CalibrationUnusable(f"The text source {source} has too little left that calibration has not used: "
                                  f"{found} sequences of {length} tokens.", "",
                                  "Give another text, or a longer one.")
    ids = torch.cat(pieces)
    if ids.numel() < tokens:
        note = (note + " " if note else "") + f"Only {ids.numel():,} tokens of unseen text were to be had."
    return HeldOutText(ids, _named(source), note)


@dataclass(frozen=True)
class Models:
    """The fine-tune, and what is compared with it, each with where its weights come from."""

    target: tuple[StagedModel, Weights]
    base: tuple[StagedModel, Weights]
    variant: tuple[StagedModel, Weights]
    device: torch.device

    @property
    def others(self) -> dict[str, tuple[StagedModel, Weights]]:
        """Base and variant by name."""
        return {"base": self.base, "variant": self.variant}


def check_fine_tune(delta: Delta, tuned: Checkpoint) -> None:
    """Raise `ArchitectureMismatch` unless `tuned` has the shapes of the fine-tune that the delta was made from."""
    for name, record in delta.records.items():
        info = tuned.tensors.get(name)
        if info is not None and tuple(info.shape) != tuple(record.shape):
            raise ArchitectureMismatch(
                f"'{tuned.source}' can't be the fine-tune of this delta: its '{name}' is {_by(info.shape)}, the delta's is "
                f"{_by(record.shape)}.", "What a delta lost is measured against the fine-tune that it was made from.",
                f"Give the folder of '{delta.config.fine_tuned}'.")
    if not any(name in tuned.tensors for name in delta.records):
        raise ArchitectureMismatch(
            f"'{tuned.source}' can't be the fine-tune of this delta: it has none of its tensors.",
            "What a delta lost is measured against the fine-tune that it was made from.",
            f"Give the folder of '{delta.config.fine_tuned}'.")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def open_models(delta: Delta, base: Checkpoint, tuned: Checkpoint, device: str = "auto") -> Models:
    """All three, block by block from their files; the variant's tensors come from the delta folder. Raises `WrongBase`,
    `ArchitectureMismatch`, `DeltaCorrupt`."""
    check_whole(delta)
    check_fine_tune(delta, tuned)
    check_base(delta, base)
    where = choose_device(device)
    target, student, zero = StagedModel.of(tuned), variant_model(delta, base), StagedModel.of(base)
    return Models((target, TensorWeights(target, tuned.view, where)), (zero, TensorWeights(zero, base.view, where)),
                  (student, TensorWeights(student, lambda name: delta.variant(base, name), where)), where)


def evaluate_delta(delta: Delta, base: Checkpoint, tuned: Checkpoint, text: HeldOutText, *, device: str = "auto",
                   progress: Callable[[int, int], None] | None = None) -> Report:
    """Fidelity of base and variant to the fine-tune on a text; the variant's tensors come from the delta folder.

    `progress` is called with (steps done, of how many) and may raise to stop. Token ids beyond the smallest of the three
    vocabularies count as its last entry, for all alike. Raises `WrongBase`.
    """
    models = open_models(delta, base, tuned, device)
    staged = [model.skeleton for model, _ in (models.target, models.variant, models.base)]
    vocabulary = min(s.vocabulary for s in staged)
    ids = text.ids.clamp_max(vocabulary - 1)
    tick = _counter(_steps(ids, vocabulary, [s.depth for s in staged]), progress)
    with exact_arithmetic():
        found = compare_tokens(models.target, models.others, ids, models.device, tick)
    zero, variant = found.fidelity["base"], found.fidelity["variant"]
    if zero.kl_mean < variant.kl_mean:
        raise BadOption(f"'{tuned.source}' is closer to the base than to the variant (KL {zero.kl_mean:.4g} and "
                        f"{variant.kl_mean:.4g}).", "It is hardly the fine-tune that this delta was made from.",
                        "Give the fine-tune that the delta was made from.")
    return Report(ids.numel(), zero, variant, *found.ppl, found.recovery_error("variant", "base"))


def evaluate_answers(delta: Delta, base: Checkpoint, tuned: Checkpoint, text: HeldOutText, *, prompts: int = 16,
                     tokens: int = 32, device: str = "auto", progress: Callable[[int, int], None] | None = None) -> Generation:
    """How long base and variant give the fine-tune's greedy answers to `prompts` prompts: shipped questions and beginnings of
    `text` (see `core.generation`). Raises `BadOption`, and what `open_models` raises."""
    if prompts < 1 or tokens < 1:
        raise BadOption("At least one prompt and one token of answer are needed.", "", "Use larger numbers.")
    models = open_models(delta, base, tuned, device)
    tokenizer = load_tokenizer(tuned.folder) or load_tokenizer(base.folder)
    given = make_prompts(text.ids, tokenizer, prompts)
    tick = _counter(answer_steps(models.target, models.others, given, tokens), progress)
    with exact_arithmetic():
        return agreement(models.target, models.others, given, models.device, tokens=tokens,
                         stops=stop_ids(tuned.config, tokenizer), tick=tick)


def evaluate_tasks(delta: Delta, base: Checkpoint, tuned: Checkpoint, names: Sequence[str], *, data: Path | None = None,
                   limit: int | None = None, device: str = "auto",
                   progress: Callable[[int, int], None] | None = None) -> list[TaskReport]:
    """Multiple-choice tasks of lm-eval on fine-tune, base and variant (see `core.tasks`). Raises `TasksUnavailable`,
    `BadOption`, and what `open_models` raises."""
    with tempfile.TemporaryDirectory(prefix="deltadeck-tasks-") as scratch:
        tasks = load_tasks(names, Path(scratch), data=data, limit=limit)
        return evaluate_loaded_tasks(delta, base, tuned, tasks, device=device, progress=progress)


def evaluate_loaded_tasks(delta: Delta, base: Checkpoint, tuned: Checkpoint, tasks: Sequence[LoadedTask], *, device: str = "auto",
                          progress: Callable[[int, int], None] | None = None) -> list[TaskReport]:
    """`evaluate_tasks` with what `load_tasks` has read, so that unusable tasks can be refused before anything is measured."""
    tokenizer = load_tokenizer(tuned.folder) or load_tokenizer(base.folder)
    if tokenizer is None:
        raise TasksUnavailable("Neither the fine-tune nor the base has a tokeniser.", "Questions are text.",
                               "Put the tokeniser's files into the fine-tune's folder.")
    models = open_models(delta, base, tuned, device)
    with exact_arithmetic():
        return run_tasks(models.target, models.others, tasks, tokenizer, models.device, progress)


@dataclass(frozen=True)
class LayerRecovery:
    """One fitted matrix: recovery = 1 - the share of its change that is lost on held-out calibration text."""

    name: str
    kind: str
    block: int | None
    codec: str
    recovery: float


def layer_recoveries(delta: Delta) -> list[LayerRecovery]:
    """The matrices that were fitted, worst first, as the delta's own record has them; slices weigh by their outputs."""
    found = []
    for record in delta.records.values():
        parts = [(s.stop - s.start, losses.recovery) for s, losses in zip(record.slices, record.losses, strict=False)]
        known = [(width, value) for width, value in parts if value is not None]
        if known:
            mean = sum(width * value for width, value in known) / sum(width for width, _ in known)
            found.append(LayerRecovery(record.name, record.kind, record.block, record.codec, mean))
    return sorted(found, key=lambda layer: layer.recovery)


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(min(done, total), total)
    return tick


def _steps(ids: Tensor, vocabulary: int, depths: list[int]) -> int:
    """How often `compare` ticks: once per batch and block of each model, once per piece of logits."""
    batches = cut_batches(ids).ids
    rows = max(1, LOGITS_AT_ONCE // (ids.shape[1] * vocabulary))
    return len(batches) * sum(depths) + sum(math.ceil(len(b) / rows) for b in batches)


def _ranges(taken: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """First and last-but-one sequence of each part of a calibration."""
    ranges, at = {}, 0
    for part in _PARTS:
        ranges[part] = (at, at + taken.get(part, 0))
        at += taken.get(part, 0)
    return ranges


def _named(source: str) -> str:
    """A source without its folder: a delta does not tell where on a disk its text lay."""
    return source if source.startswith("hub:") else Path(source).name

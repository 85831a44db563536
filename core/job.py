"""One compression job: plan, prepare, fit, tune, write. Tells events, can be cancelled, goes on after a kill.

A job owns a folder beside its output (`NAME.job`) with its request, its calibration tokens and a journal of finished
steps. Nothing in a delta depends on when or how often the job was interrupted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from core import __version__
from core.artifact import BaseInfo, Delta, DeltaConfig, base_digest, open_delta, write_delta
from core.calibration import fingerprint, load_tokenizer, split_samples
from core.card import model_card
from core.checkpoint import Checkpoint, open_checkpoint
from core.devices import choose_device, exact_arithmetic, retry_smaller
from core.embeddings import fit_rows, head_moment
from core.errors import BadOption, Cancelled, JobMismatch, NoSpace, OutputExists
from core.estimate import Sizes, estimate, operations
from core.events import (AnyEvent, Finished, LayerFitted, LayerStarted, LossPoint, Progress, StageStarted, TunePoint, Warned,
                         Written)
from core.fit import BlockFitter, keep_guess
from core.journal import Journal
from core.plan import Plan, PlanOptions, make_plan, record_bytes
from core.record import TensorRecord
from core.stream import Batches, advance, cut_batches, levels, start
from core.tune import OBJECTIVES, Tuner, TuneState
from core.variant import Variant
from core.weights import StagedModel, TensorWeights

HELD_OUT = 0.2
"""Share of the samples that fitting does not see."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for. Paths as given; `output` is the delta's folder."""

    base: str
    fine_tuned: str
    output: str
    recipe: str = "exact"
    axis: str = "auto"
    embeddings: str = "auto"
    calibration: str = "auto"
    samples: int = 50
    tune_samples: int = 150
    sequence_length: int | None = None
    seed: int = 0
    device: str = "auto"
    objective: str = "kl"

    def options(self) -> PlanOptions:
        """What of it bears on the plan; raises `BadOption`."""
        if self.samples < 2:
            raise BadOption(f"{self.samples} samples are too few.", "One part fits, another judges.", "Use at least 2.")
        if self.tune_samples < 0 or (self.sequence_length is not None and self.sequence_length < 8):
            raise BadOption("A number of samples is negative or sequences are shorter than 8 tokens.", "", "Use larger numbers.")
        if self.objective not in OBJECTIVES:
            raise BadOption(f"There is no objective '{self.objective}'.", "", f"Choose one of: {', '.join(OBJECTIVES)}.")
        return PlanOptions(self.recipe, self.axis, self.embeddings)


@dataclass(frozen=True)
class Result:
    """A finished job."""

    folder: Path
    plan: Plan
    delta: Delta
    seconds: float


def sequence_length(request: Request, config: Mapping[str, Any]) -> int:
    """Tokens per sample: as asked, else 256 for narrow models and 1024 for wide ones, within the model's context."""
    width = int(config.get("hidden_size") or config.get("n_embd") or 0)
    length = request.sequence_length or (256 if width < 1024 else 1024)
    limit = config.get("max_position_embeddings") or config.get("n_positions")
    return min(length, limit) if isinstance(limit, int) and limit > 0 else length


def sample_counts(request: Request) -> dict[str, int]:
    """Sequences by part. The last part judges tuning and gives the delta its own fidelity figures."""
    held_out = max(1, round(request.samples * HELD_OUT))
    judge = max(8, round(request.tune_samples * 0.1))
    return {"fit": request.samples - held_out, "fit_held_out": held_out, "tune": request.tune_samples, "tune_held_out": judge}


class Job:
    """A request being carried out. `tell` gets every event; `cancelled` is asked between steps."""

    def __init__(self, request: Request, tell: Callable[[AnyEvent], None], cancelled: Callable[[], bool] = lambda: False) -> None:
        self.request, self.cancelled = request, cancelled
        self.began = time.monotonic()
        self._tell = tell
        self.output = Path(request.output)
        self.folder = self.output.with_name(self.output.name + ".job")
        self.journal = Journal(self.folder)
        self.warnings: list[str] = []
        self.costs: dict[str, float] = {}
        self.spent = 0.0
        self.resumed_share = 0.0
        self.within = 0.0
        self.order: dict[str, int] = {}
        """Position of each fitted tensor, in order of fitting."""

    # ------------------------------------------------------------------------------------------- telling
    def tell(self, event: AnyEvent) -> None:
        """Stamp and pass on an event; the place where a cancelled job ends."""
        if self.cancelled():
            raise Cancelled("Cancelled.", "Finished layers are kept.", "Run the same command again to go on.")
        self._tell(msgspec.structs.replace(event, time=round(time.monotonic() - self.began, 3)))

    def warn(self, message: str) -> None:
        """A warning, told now and kept in the delta's record."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.tell(Warned(message=message))

    def progress(self, stage: str, done: float, total: int) -> None:
        """Progress of a stage and, by the plan's operations, of the whole job."""
        order = ["prepare", "fit", "tune", "write"]
        whole = sum(self.costs.values()) or 1.0
        before = sum(self.costs.get(s, 0.0) for s in order[:order.index(stage)])
        fraction = min(1.0, (before + self.costs.get(stage, 0.0) * done / max(1, total)) / whole)
        worked = fraction - self.resumed_share
        elapsed = time.monotonic() - self.began
        left = elapsed * (1 - fraction) / worked if worked > 0.01 else None
        self.tell(Progress(stage=stage, done=done, total=total, fraction=round(fraction, 4),
                           seconds_left=None if left is None else round(left, 1)))

    # --------------------------------------------------------------------------------------------- running
    def run(self) -> Result:
        """Carry the request out. Raises `Refused` errors before anything is written, `Cancelled` when asked to stop."""
        options = self.request.options()
        if self.output.exists():
            raise OutputExists(f"'{self.output}' exists already.", "", "Choose another output, or move it away.")
        self.device = choose_device(self.request.device)
        with open_checkpoint(self.request.base) as base, open_checkpoint(self.request.fine_tuned) as tuned, exact_arithmetic():
            self.base, self.tuned = base, tuned
            self.tell(StageStarted(stage="plan", total=len(tuned.tensors)))
            self.plan = make_plan(base, tuned, options, lambda done, total: self.tell(
                Progress(stage="plan", done=done, total=total, fraction=0.0)))
            for message in self.plan.warnings:
                self.warn(message)
            self.length = sequence_length(self.request, tuned.config)
            self._check_room()
            lock = self._job_folder()
            try:
                return self._carry_out()
            finally:
                lock.release()

    def _check_room(self) -> None:
        counts = sample_counts(self.request)
        sizes = Sizes((counts["fit"] + counts["fit_held_out"]) * self.length, counts["tune"] * self.length,
                      counts["tune_held_out"] * self.length)
        ops = operations(self.plan, sizes)
        self.costs = {"prepare": 0.03 * sum(ops.values()), "fit": ops["fit"], "tune": ops["tune"] + ops["measure"],
                      "write": 0.02 * sum(ops.values())}
        width = int(self.tuned.config.get("hidden_size") or self.tuned.config.get("n_embd") or 1024)
        need = estimate(self.plan, sizes, self.device, width).disk_bytes
        where = self.output.absolute().parent
        while not where.exists():
            where = where.parent
        free = shutil.disk_usage(where).free
        if free < need:
            raise NoSpace(f"The job needs {need / 1e6:,.0f} MB on the disk of '{where}', {free / 1e6:,.0f} MB are free.",
                          "", "Free some space, or choose an output on another disk.")

    def _job_folder(self) -> FileLock:
        """Make or reopen the job's folder, held against a second process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as e:
            raise JobMismatch(f"Another process is working on '{self.folder}'.", "", "Wait for it, or stop it first.") from e
        wanted = {"request": msgspec.to_builtins(msgspec.structs.replace(self.request, output=self.output.name)),
                  "version": __version__, "threads": torch.get_num_threads(), "device": str(self.device),
                  "base": _identity(self.base), "fine_tuned": _identity(self.tuned)}
        path = self.folder / "job.json"
        if path.exists():
            try:
                found = msgspec.json.decode(path.read_bytes(), type=dict)
            except msgspec.DecodeError:
                found = {}
            differing = [k for k in wanted if k != "threads" and found.get(k) != wanted[k]]
            if differing:
                lock.release()
                raise JobMismatch(f"'{self.folder}' belongs to another job: its {' and '.join(differing)} differ.",
                                  "Its finished layers would not fit this one.",
                                  f"Delete '{self.folder}' to begin anew, or choose another output.")
            # The number of threads decides in which order sums are taken, and with that the last bits.
            torch.set_num_threads(int(found["threads"]))
        else:
            work = path.with_suffix(".partial")
            work.write_bytes(msgspec.json.format(msgspec.json.encode({**wanted, "full_request": self.request})))
            work.replace(path)
        return lock

    def _carry_out(self) -> Result:
        model = StagedModel.of(self.tuned)
        variant = Variant(self.base, self.tuned, self.plan.records)
        self.parts = self._calibration(model)
        self._prepare(model, variant)
        if self.request.recipe == "bitdelta":
            for record in list(variant.records.values()):
                if record.codec == "sign" and record.name not in variant.learnt:
                    keep_guess(variant, record.name, self.device)
        else:
            retry_smaller(lambda at_once: self._fit(model, variant, at_once), self.device)
        fidelity = retry_smaller(lambda at_once: self._tune(model, variant, at_once), self.device)
        folder = self._write(variant, fidelity)
        shutil.rmtree(self.folder, ignore_errors=True)
        delta = open_delta(folder)
        seconds = time.monotonic() - self.began
        self._tell(Finished(folder=str(folder), weights_bytes=delta.weights_bytes, seconds=round(seconds, 2), time=round(seconds, 3)))
        return Result(folder, self.plan, delta, seconds)

    def _calibration(self, model: StagedModel) -> dict[str, Tensor]:
        entry = self.journal.read("calibration")
        if entry is None:
            tokenizer = load_tokenizer(self.tuned.folder) or load_tokenizer(self.base.folder)
            parts = split_samples(self.request.calibration, tokenizer, counts=sample_counts(self.request),
                                  sequence_length=self.length, seed=self.request.seed)
            tensors = {k: v.clamp_max(model.skeleton.vocabulary - 1).to(torch.int32) for k, v in parts.parts.items()}
            extra = {"source": parts.source, "got": parts.got, "short": parts.is_short}
            self.journal.write("calibration", [], {"parts": tensors}, extra)
            entry = self.journal.read("calibration")
            assert entry is not None
        self.calibration = {"source": source_name(entry.extra["source"]), "sequence_length": self.length, "seed": self.request.seed,
                            "samples": entry.extra["got"],
                            "sha256": fingerprint(torch.cat([v for _, v in sorted(entry.tensors["parts"].items())]).long())}
        if entry.extra["short"]:
            self.warn(f"The calibration text is short: {entry.extra['got']} sequences instead of {sample_counts(self.request)}.")
        return {k: v.long() for k, v in entry.tensors["parts"].items()}

    def _prepare(self, model: StagedModel, variant: Variant) -> None:
        """Hash the base, factor low-rank changes, fit embeddings and head."""
        self.tell(StageStarted(stage="prepare", total=len(self.plan.records)))
        outer = [r for r in self.plan.records if r.codec == "sign" and r.block is None]
        metric: Tensor | None = None
        if any(r.kind in ("embed", "head") for r in outer) and self.request.recipe != "bitdelta":
            metric = head_moment(model, TensorWeights(model, self.tuned.view, self.device), self.parts["fit"], self.device)
        for i, record in enumerate(self.plan.records):
            if record.base and record.base_sha256 == "":
                variant.records[record.name] = msgspec.structs.replace(record, base_sha256=self.base.sha256(record.base))
            self.progress("prepare", i, len(self.plan.records))
        for record in list(variant.records.values()):
            key = f"outer-{record.name}"
            if self._restore(variant, key) or not (record.codec == "lowrank" or (record.codec == "sign" and record.block is None)):
                continue
            begin = time.monotonic()
            if record.codec == "lowrank":
                fitted = variant.learn_factors(record)
            elif record.kind in ("embed", "head") and self.request.recipe != "bitdelta":
                reads_head = record.kind == "head" or model.skeleton.tied
                fitted = fit_rows(variant, record, self._embedding_metric(metric, record, model) if reads_head else None, self.device)
            else:
                fitted = keep_guess(variant, record.name, self.device)
            self.journal.write(key, [fitted], {record.name: variant.learnt[record.name]})
            self._fitted(fitted, time.monotonic() - begin)

    @staticmethod
    def _embedding_metric(metric: Tensor | None, record: TensorRecord, model: StagedModel) -> Tensor | None:
        if metric is None or (record.kind == "head" and not model.skeleton.tied):
            return metric
        return metric + torch.eye(len(metric), device=metric.device)

    def _restore(self, variant: Variant, key: str) -> list[TensorRecord] | None:
        entry = self.journal.read(key)
        if entry is None:
            return None
        for record in entry.records:
            variant.records[record.name] = record
            variant.learnt[record.name] = dict(entry.tensors.get(record.name, {}))
        return entry.records

    def _fitted(self, record: TensorRecord, seconds: float) -> None:
        if record.note:
            self.warn(f"{record.name}: {record.note}")
        held_out = [x.held_out for x in record.losses if x.held_out is not None]
        index = self.order.setdefault(record.name, len(self.order))
        self.tell(LayerFitted(tensor=record.name, block=record.block, kind=record.kind, codec=record.codec,
                              axes=tuple(s.axis for s in record.slices), losses=tuple(x.axis for x in record.losses),
                              recovery=1 - sum(held_out) / len(held_out) if held_out else None, bytes=record_bytes(record),
                              seconds=round(seconds, 3), index=index, total=self.total))

    @property
    def total(self) -> int:
        """Tensors that are fitted."""
        return sum(r.codec in ("sign", "lowrank") for r in self.plan.records)

    def _fit(self, model: StagedModel, variant: Variant, at_once: int) -> None:
        depth = model.skeleton.depth
        self.tell(StageStarted(stage="fit", total=depth))
        names = [r.name for r in self.plan.records if r.codec == "sign" and r.block is not None]
        if not names:
            return
        batches = cut_batches(self.parts["fit"], self.parts["fit_held_out"], at_once)
        weights = (TensorWeights(model, self.tuned.view, self.device), TensorWeights(model, variant.read, self.device))
        streams = (start(model.skeleton, weights[0], batches, self.device, self.folder, "target"),
                   start(model.skeleton, weights[1], batches, self.device, self.folder, "student"))
        live = True
        for block in range(depth):
            tuned, self.within = weights[0].stage(block), 0.0
            fitter = BlockFitter(model, variant, block, streams, batches, tuned, self.device, self._curve,
                                 lambda block=block: self.progress("fit", block + self.within, depth), recipe=self.request.recipe)
            if (done := self._restore(variant, f"block-{block:04d}-done")) is not None:
                for record in done:
                    self.order.setdefault(record.name, len(self.order))
                live = False
            else:
                if not live:
                    self.resumed_share, live = self._share(block, depth), True
                self._fit_block(fitter, variant, block, streams, batches, tuned)
            if block + 1 < depth:
                advance(model.skeleton, block, tuned, streams[0], batches)
                advance(model.skeleton, block, fitter.parameters(), streams[1], batches)
            self.progress("fit", block + 1, depth)
        for stream in streams:
            stream.drop()
        for name in names:
            if name not in variant.learnt:
                self._fitted(keep_guess(variant, name, self.device, "It takes part in no matrix product that could be watched: "
                                        "scales are the mean change."), 0.0)

    def _share(self, block: int, depth: int) -> float:
        whole = sum(self.costs.values()) or 1.0
        return (self.costs["prepare"] + self.costs["fit"] * block / depth) / whole

    def _fit_block(self, fitter: BlockFitter, variant: Variant, block: int, streams: Any, batches: Batches,
                   tuned: Mapping[str, Tensor]) -> None:
        found = levels(fitter.model.skeleton, block, tuned, streams[0][0], batches.calls[0][block])
        fitted: list[TensorRecord] = []
        kept = False
        for number, level in enumerate(found):
            key = f"block-{block:04d}-level-{number}"
            if (records := self._restore(variant, key)) is not None:
                fitted += records
                continue
            if not kept:
                fitter.keep_inputs(found)
                kept = True
            for name in fitter.names(level):
                record = variant.records[name]
                self.tell(LayerStarted(tensor=name, block=block, kind=record.kind, index=len(self.order), total=self.total))
            begin = time.monotonic()
            fresh = []
            for record in fitter.fit(level):
                fresh.append(record)
                self._fitted(record, time.monotonic() - begin)
                begin = time.monotonic()
            self.journal.write(key, fresh, {r.name: variant.learnt[r.name] for r in fresh})
            fitted += fresh
            self.within = 0.8 * (number + 1) / len(found)
        self.journal.write(f"block-{block:04d}-done", fitted, {r.name: variant.learnt[r.name] for r in fitted})
        for number in range(len(found)):
            self.journal.forget(f"block-{block:04d}-level-{number}")

    def _curve(self, record: TensorRecord, piece: int, axis: str, iteration: int, training: float, held_out: float) -> None:
        self.tell(LossPoint(tensor=record.name, slice=piece, axis=axis, iteration=iteration, training=training, held_out=held_out))

    def _tune(self, model: StagedModel, variant: Variant, at_once: int) -> dict[str, Any]:
        """Tune (if asked), and measure on the judging samples: base, before, after."""
        entry = self.journal.read("tuned")
        if entry is not None:
            self._restore(variant, "tuned")
            return dict(entry.extra)
        objective = "mse" if self.request.recipe == "bitdelta" else self.request.objective
        tuner = Tuner(model, variant, TensorWeights(model, self.tuned.view, self.device), self.parts["tune"], self.device,
                      objective=objective, tokens_per_step=min(1024, at_once))
        steps = tuner.steps if tuner.size else 0
        total = 4 + steps
        self.tell(StageStarted(stage="tune", total=steps, message=objective))

        def tick(done: float) -> Callable[[], None]:
            return lambda: self.progress("tune", done, total)
        tuner.prepare(self.parts["tune_held_out"], tick(1))
        state = self._tune_state(tuner)
        if state is None:
            zero = tuner.base_loss(TensorWeights(model, self._base_tensor(variant), self.device), tick(2))
            state = tuner.fresh(tuner.held_out_loss(torch.zeros(tuner.size, device=self.device), tick(3)))
            self.zero = zero
            self._keep_state(state)
        self.tell(TunePoint(step=state.step, total=steps, epoch=0, held_out=state.before))
        saved = time.monotonic()
        while state.step < steps:
            state = tuner.step(state, tick(4 + state.step))
            self.tell(TunePoint(step=state.step, total=steps, epoch=0, training=state.losses[-1]))
            self.progress("tune", 4 + state.step, total)
            if time.monotonic() - saved > 10:
                self._keep_state(state)
                saved = time.monotonic()
        after = tuner.held_out_loss(state.gains, tick(total)) if steps else state.before
        self.tell(TunePoint(step=steps, total=steps, epoch=0, held_out=after))
        better = steps > 0 and after < state.before
        if better:
            tuner.finish(state)
        elif steps:
            self.warn("End-to-end tuning did not lower the held-out loss: the fitted scales are kept.")
        fidelity = {"objective": objective, "base": self.zero, "fitted": state.before, "tuned": after if steps else None,
                    "variant": min(after, state.before), "kept": "tuned" if better else "fitted",
                    "tokens": int(self.parts["tune_held_out"].numel()), "training": [round(x, 9) for x in state.losses]}
        sign = [variant.records[n] for n in tuner.names]
        self.journal.write("tuned", sign, {r.name: variant.learnt[r.name] for r in sign}, fidelity)
        return fidelity

    def _base_tensor(self, variant: Variant) -> Callable[[str], Tensor]:
        """The base in the fine-tune's shape: rows it lacks are the fine-tune's."""
        def read(name: str) -> Tensor:
            record = variant.records[name]
            base, tuned = variant.base_view(record), self.tuned.view(name)
            assert base is not None
            if not record.tail:
                return base[:record.shape[0]] if record.shape else base
            return torch.cat([base.to(tuned.dtype), tuned[base.shape[0]:]])
        return read

    def _tune_state(self, tuner: Tuner) -> TuneState | None:
        entry = self.journal.read("tune-state")
        if entry is None:
            return None
        self.zero = float(entry.extra["zero"])
        kept = {k: v.to(self.device) for k, v in entry.tensors["state"].items()}
        return TuneState(kept["gains"], kept["first"], kept["second"], int(entry.extra["step"]),
                         [float(x) for x in entry.extra["losses"]], float(entry.extra["before"]))

    def _keep_state(self, state: TuneState) -> None:
        self.journal.write("tune-state", [], {"state": {"gains": state.gains, "first": state.first, "second": state.second}},
                           {"step": state.step, "losses": state.losses, "before": state.before, "zero": self.zero})

    def _write(self, variant: Variant, fidelity: dict[str, Any]) -> Path:
        records = tuple(variant.records[r.name] for r in self.plan.records)
        total = self.plan.weights_bytes
        self.tell(StageStarted(stage="write", total=total))
        request = self.request
        config = DeltaConfig(
            tool_version=__version__, fine_tuned=short_name(self.tuned),
            base=BaseInfo(short_name(self.base), self.base.describe().architecture, base_digest(records)),
            method={"recipe": request.recipe, "axis": self.plan.options.effective_axis, "embeddings": request.embeddings,
                    "objective": fidelity["objective"], "samples": request.samples, "tune_samples": request.tune_samples},
            calibration=self.calibration, fidelity=fidelity, warnings=tuple(self.warnings), files={}, tensors=records)
        done = 0

        def wrote(count: int) -> None:
            nonlocal done
            done += count
            self.tell(Written(bytes=done, total=total))
        write_delta(self.output, config, variant.encode, self.plan.sidecars,
                    model_card(config, self.plan.full_bytes, total), progress=wrote)
        return self.output


def short_name(checkpoint: Checkpoint) -> str:
    """What a checkpoint is called in a delta: the hub id, or a folder's own name (never a path)."""
    source = str(checkpoint.source)
    return Path(source).resolve().name if Path(source).is_dir() else source


def source_name(source: str) -> str:
    """What a calibration source is called in a delta: as given, but a file or folder without its path."""
    return source if source.startswith("hub:") else Path(source).name


def _identity(checkpoint: Checkpoint) -> list[Any]:
    """Names, sizes and times of a checkpoint's weight files: whether it is still the one the job began with."""
    files = sorted({info.file for info in checkpoint.tensors.values()})
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]

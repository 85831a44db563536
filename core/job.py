"""One compression job: plan, prepare, fit, tune, write. Tells events, can be cancelled, goes on after a kill.

A job owns a folder beside its output (`NAME.job`) with its request, its calibration tokens and a journal of finished
steps. Nothing in a delta depends on when or how often the job was interrupted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from filelock import FileLock
from torch import Tensor

from core import __version__, job_folder
from core.artifact import BaseInfo, Delta, DeltaConfig, base_digest, open_delta, write_delta
from core.budget import LEFT_OUT, is_item
from core.budget_stage import KEY, allocated, choices_key, forecast_depends, shaped, shortfall
from core.card import model_card
from core.checkpoint import Checkpoint, open_checkpoint
from core.devices import choose_device, exact_arithmetic, retry_smaller
from core.errors import BadOption, Cancelled, NoSpace, OutputExists, Refused, StorageFailed
from core.estimate import estimate, operations, sizes_of
from core.events import (
    AnyEvent,
    Finished,
    LayerFitted,
    LayerStarted,
    LossPoint,
    Progress,
    StageStarted,
    Warned,
    Written,
)
from core.fit import BlockFitter, is_fitted, keep_guess, learn_unseen
from core.fleet_sources import FRESH, Sources
from core.journal import Journal
from core.outer_ways import is_outer
from core.plan import Plan, make_plan, record_bytes
from core.prepare_stage import Preparation, prepare
from core.record import TensorRecord
from core.request import Request, asked_size, identity, parts_sha256, sample_counts, sequence_length
from core.shortage import in_words, memory_warning
from core.stream import Batches, advance, cut_batches, levels, start
from core.tune_stage import Desk, TuneStage
from core.variant import Variant, is_learnt
from core.weights import Lent, StagedModel, TensorWeights


@dataclass(frozen=True)
class Result:
    """A finished job."""

    folder: Path
    plan: Plan
    delta: Delta
    seconds: float


class Job:
    """A request being carried out. `tell` gets every event; `cancelled` is asked between steps."""

    def __init__(self, request: Request, tell: Callable[[AnyEvent], None], cancelled: Callable[[], bool] = lambda: False,
                 forecasts: Path | None = None, sources: Sources = FRESH) -> None:
        """`forecasts`: a folder that keeps what budgets were chosen from; `sources`: what jobs of one batch share."""
        self.request, self.cancelled, self.forecasts, self.sources = request, cancelled, forecasts, sources
        self.expected: dict[str, Any] = {}
        self.given = 0
        """Matrices that a budget leaves nothing to learn for."""
        self.began = time.monotonic()
        self._tell = tell
        self.output = Path(request.output)
        if not self.output.name:
            raise BadOption(f"'{request.output}' is no name for a new folder.", "", "Give the delta's folder a name.")
        self.folder = self.output.with_name(self.output.name + ".job")
        self.journal = Journal(self.folder, self._check_pair)
        self.need = 0
        """Bytes of disk that the job was found to need."""
        self.warnings: list[str] = []
        self.costs: dict[str, float] = {}
        self.pace: tuple[float, float] | None = None
        """Since when, and from which fraction of the job on, its pace is measured."""
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
        # The pace counts from where the long stages begin: planning and what a resume skips say nothing about it.
        if self.pace is None and stage in ("fit", "tune"):
            self.pace = (time.monotonic(), fraction)
        left = None
        if self.pace is not None and fraction - self.pace[1] > 0.005:
            left = (time.monotonic() - self.pace[0]) * (1 - fraction) / (fraction - self.pace[1])
        self.tell(Progress(stage=stage, done=done, total=total, fraction=round(fraction, 4),
                           seconds_left=None if left is None else round(left, 1)))

    # --------------------------------------------------------------------------------------------- running
    def run(self) -> Result:
        """Carry the request out. Raises `Refused` errors before anything is written, `Cancelled` when asked to stop."""
        options = self.request.options()
        left = job_folder.may_be_finished(self.folder, self.output)
        if os.path.lexists(self.output) and not left:
            job_folder.sweep(self.folder)
            raise OutputExists(f"'{self.output}' exists already.", "", "Choose another output, or move it away.")
        self.device = choose_device(self.request.device)
        with (in_words(self.output.absolute().parent, lambda: self.need, self.device),
              self.sources.open_base(self.request.base) as base, open_checkpoint(self.request.fine_tuned) as tuned,
              exact_arithmetic()):
            self.base, self.tuned = base, tuned
            self.tell(StageStarted(stage="plan", total=len(tuned.tensors)))
            self.plan = make_plan(base, tuned, options, lambda done, total: self.tell(
                Progress(stage="plan", done=done, total=total, fraction=0.0)))
            self.plan = shaped(self.plan, self.request)
            for message in self.plan.warnings:
                self.warn(message)
            self.length = sequence_length(self.request, tuned.config)
            if not left:
                self._check_room()
            lock = self._job_folder()
            try:
                # A process that ended between the delta's rename and the clearing left nothing but that to do.
                return self._result(job_folder.finished(self.journal, self.output)) if left else self._carry_out()
            finally:
                lock.release()

    def _check_pair(self) -> None:
        """Raise where a checkpoint is no longer what it was: nothing that was made from it may be kept then."""
        self.base.check()
        self.tuned.check()

    def _check_room(self) -> None:
        sizes = sizes_of(self.request, self.length)
        ops = operations(self.plan, sizes, self.device)
        share = 0.4 if self.request.is_allocated else 0.03
        self.costs = {"prepare": share * sum(ops.values()), "fit": ops["fit"], "tune": ops["tune"] + ops["measure"],
                      "write": 0.02 * sum(ops.values())}
        width = int(self.tuned.config.get("hidden_size") or self.tuned.config.get("n_embd") or 1024)
        cost = estimate(self.plan, sizes, self.device, width, forecast=self.request.is_allocated)
        message = "" if self.need else memory_warning(cost.memory_bytes, self.device)      # said once
        self.need = need = cost.disk_bytes
        if message:
            self.tell(Warned(message=message))         # of this machine as it is now, so not kept in the delta's record
        where = self.output.absolute().parent
        while not where.exists():
            where = where.parent
        free = shutil.disk_usage(where).free
        if free < need:
            raise NoSpace(f"The job needs {need / 1e6:,.0f} MB on the disk of '{where}', {free / 1e6:,.0f} MB are free.",
                          "", "Free some space, or choose an output on another disk.")

    def _job_folder(self) -> FileLock:
        """Make or reopen the job's folder, held against a second process."""
        wanted = {"request": msgspec.to_builtins(msgspec.structs.replace(self.request, output=self.output.name)),
                  "version": __version__, "threads": torch.get_num_threads(), "device": str(self.device),
                  "base": identity(self.base), "fine_tuned": identity(self.tuned)}
        if self.request.is_allocated:                  # another choice of methods would make another plan of the same forecast
            wanted["methods"] = choices_key()
        return job_folder.claim(self.folder, wanted, {"full_request": self.request})

    def _carry_out(self) -> Result:
        model = StagedModel.of(self.tuned)
        self.parts = self._calibration(model)
        self.tell(StageStarted(stage="prepare", total=len(self.plan.records)))
        planned = self.plan
        self._allocate(model)
        variant = Variant(self.base, self.tuned, self.plan.records)
        retry_smaller(lambda _: self._prepare(model, variant), self.device)
        if self.request.recipe == "bitdelta":
            for record in list(variant.records.values()):
                if record.codec == "sign" and record.name not in variant.learnt:
                    keep_guess(variant, record.name, self.device)
        else:
            retry_smaller(lambda at_once: self._fit(model, variant, at_once), self.device)
        desk = Desk(self.request, self.device, self.journal, self.parts, self.tell, self.warn, self.progress)
        stage = TuneStage(desk, self.tuned)
        fidelity = retry_smaller(lambda at_once: stage.run(model, variant, at_once), self.device)
        if short := shortfall(planned, self.request, self.journal, fidelity["variant"], fidelity["base"],
                                 self.expected.get("expected_kl", 0.0)):
            self.warn(short)
        return self._result(open_delta(self._write(variant, fidelity)))

    def _result(self, delta: Delta) -> Result:
        self.clear()
        seconds = time.monotonic() - self.began
        self._tell(Finished(folder=str(delta.folder), weights_bytes=delta.weights_bytes, seconds=round(seconds, 2),
                            time=round(seconds, 3)))
        return Result(delta.folder, self.plan, delta, seconds)

    def clear(self) -> None:
        """Remove the job's own files, and its folder if nothing else is in it."""
        job_folder.clear(self.folder)

    def _calibration(self, model: StagedModel) -> dict[str, Tensor]:
        entry = self.journal.read("calibration")
        if entry is None:
            try:
                drawn = self.sources.draw(self.request, self.base, self.tuned, self.length, model.skeleton.vocabulary)
            except Refused:                            # nothing was begun: leave nothing behind
                self.clear()
                raise
            tensors = drawn.parts
            extra = {"source": drawn.source, "got": drawn.got, "short": drawn.is_short}
            self.journal.write("calibration", [], {"parts": tensors}, extra)
            entry = self.journal.read("calibration")
            if entry is None:
                raise StorageFailed(f"What was just written to '{self.folder}' could not be read again.",
                                    "The disk fails, or something else changes the folder.",
                                    "Check the disk, or choose an output on another one, then run the job again.")
        self.calibration = {"source": source_name(entry.extra["source"]), "sequence_length": self.length,
                            "seed": self.request.seed,
                            "samples": entry.extra["got"],
                            "sha256": parts_sha256(entry.tensors["parts"])}
        if entry.extra["short"]:
            self.warn(f"The calibration text is short: {entry.extra['got']} sequences instead of {sample_counts(self.request)}.")
        return {k: v.long() for k, v in entry.tensors["parts"].items()}

    def _prepare(self, model: StagedModel, variant: Variant) -> None:
        """Hash the base, factor low-rank changes, fit embeddings and head."""
        total = len(self.plan.records)
        prepare(Preparation(self.base, self.tuned, self.request.recipe, self.device, self.journal, self.parts["fit"],
                            self._restore, self._fitted, lambda i: self.progress("prepare", i, total)), model, variant)

    def _allocate(self, model: StagedModel) -> None:
        """Where a size or a fidelity was asked for: choose how each matrix is stored."""
        if not self.request.is_allocated:
            return
        before, known = self.plan.records, self.journal.read(KEY) is not None
        depends = forecast_depends(self.request, self.base, self.tuned, self.length, self.calibration["sha256"], self.device)
        parts = {k: self.parts[k] for k in ("fit", "fit_held_out", "tune_held_out")}
        try:
            self.plan, self.expected = retry_smaller(lambda _: allocated(
                self.plan, self.request, model, (self.base, self.tuned), parts, self.device, self.journal,
                (self.forecasts, depends), lambda done: self.progress("prepare", done, 1)), self.device)
        except Refused:                                # no layer was begun: nothing stands in the way of another size
            self.clear()
            raise
        self._check_room()
        for old, new in zip(before, self.plan.records, strict=True):
            if (is_item(old) or is_outer(old)) and not is_learnt(new):      # left out, or whole: nothing is left to do for it
                self.given += 1
                self._fitted(new, 0.0, restored=known)

    def _restore(self, variant: Variant, key: str) -> list[TensorRecord] | None:
        entry = self.journal.read(key)
        if entry is None:
            return None
        variant.restore(entry)
        for record in entry.records:
            if is_learnt(record):                      # which warns too: the delta's warnings must not depend on a resume
                self._fitted(record, 0.0, restored=True)
        return entry.records

    def _fitted(self, record: TensorRecord, seconds: float, *, restored: bool = False) -> None:
        if record.note and record.note != LEFT_OUT:    # of those the count is told, in what is expected
            self.warn(f"{record.name}: {record.note}")
        held_out = [x.held_out for x in record.losses if x.held_out is not None]
        index = self.order.setdefault(record.name, len(self.order))
        self.tell(LayerFitted(tensor=record.name, block=record.block, kind=record.kind, codec=record.codec,
                              axes=tuple(s.axis for s in record.slices), losses=tuple(x.axis for x in record.losses),
                              recovery=1 - sum(held_out) / len(held_out) if held_out else None, bytes=record_bytes(record),
                              seconds=round(seconds, 3), index=index, total=self.total, restored=restored,
                              method=record.method))

    @property
    def total(self) -> int:
        """Tensors that are fitted."""
        return self.given + sum(map(is_learnt, self.plan.records))

    def _fit(self, model: StagedModel, variant: Variant, at_once: int) -> None:
        depth = model.skeleton.depth
        self.tell(StageStarted(stage="fit", total=depth))
        names = [r.name for r in self.plan.records if is_fitted(r) and r.block is not None]
        if not names:
            return
        variant.forget(names)                          # a second attempt, with smaller batches: finished blocks come back below
        batches = cut_batches(self.parts["fit"], self.parts["fit_held_out"], at_once)
        weights = (TensorWeights(model, self.tuned.view, self.device), TensorWeights(model, variant.read, self.device))
        streams = (start(model.skeleton, weights[0], batches, self.device, self.folder, "target"),
                   start(model.skeleton, weights[1], batches, self.device, self.folder, "student"))
        for block in range(depth):
            tuned, self.within = Lent(weights[0], block), 0.0
            fitter = BlockFitter(model, variant, block, streams, batches, tuned, self.device, self._curve,
                                 partial(self._within_block, block, depth), recipe=self.request.recipe)
            if self._restore(variant, f"block-{block:04d}-done") is not None:
                self.pace = None                       # what is only carried through again has another pace
            else:
                self._fit_block(fitter, variant, block, streams, batches, tuned)
            if block + 1 < depth:
                if not fitter.target_moved:
                    advance(model.skeleton, block, tuned, streams[0], batches)
                advance(model.skeleton, block, fitter.parameters(), streams[1], batches)
            self.progress("fit", block + 1, depth)
        for stream in streams:
            stream.drop()
        for name in names:
            if name not in variant.learnt:
                self._fitted(learn_unseen(variant, name, self.device, "It takes part in no matrix product that could be watched: "
                                          "scales are the mean change."), 0.0)

    def _within_block(self, block: int, depth: int) -> None:
        self.progress("fit", block + self.within, depth)

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
        self.tell(LossPoint(tensor=record.name, slice=piece, axis=axis, iteration=iteration, training=training,
                            held_out=held_out))

    def _write(self, variant: Variant, fidelity: dict[str, Any]) -> Path:
        records = tuple(variant.records[r.name] for r in self.plan.records)
        total = self.plan.weights_bytes
        self.tell(StageStarted(stage="write", total=total))
        request = self.request
        config = DeltaConfig(
            tool_version=__version__, fine_tuned=short_name(self.tuned),
            base=BaseInfo(short_name(self.base), self.base.describe().architecture, base_digest(records)),
            method={"recipe": request.recipe, "axis": self.plan.options.effective_axis, "embeddings": request.embeddings,
                    "objective": fidelity["objective"], "samples": request.samples,
                    "tune_samples": request.tune_samples, **asked_size(request)},
            calibration=self.calibration, fidelity={**fidelity, **self.expected}, warnings=tuple(self.warnings), files={},
            tensors=records)
        done = 0

        def wrote(count: int) -> None:
            nonlocal done
            done += count
            self.tell(Written(bytes=done, total=total))
        write_delta(self.output, config, variant.encode, self.plan.sidecars,
                    model_card(config, self.plan.full_bytes, total), progress=wrote, check=self._check_pair)
        return self.output


def short_name(checkpoint: Checkpoint) -> str:
    """What a checkpoint is called in a delta: the hub id, or a folder's own name (never a path)."""
    source = str(checkpoint.source)
    return Path(source).resolve().name if Path(source).is_dir() else source


def source_name(source: str) -> str:
    """What a calibration source is called in a delta: as given, but a file or folder without its path."""
    return source if source.startswith("hub:") else Path(source).name

"""The job's tuning stage: tune from where the journal stands, measure base, before and after, keep the better."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.checkpoint import Checkpoint
from core.devices import give_back_memory
from core.events import AnyEvent, StageStarted, TunePoint
from core.journal import Journal
from core.record import TensorRecord
from core.request import Request
from core.tune import Tuner, TuneState
from core.variant import Variant
from core.weights import StagedModel, TensorWeights

NOT_LOWERED = "End-to-end tuning did not lower the held-out loss: the fitted scales are kept."

SAVE_EVERY = 10.0
"""Seconds between two savings of the state; what is redone after a kill ends in the same bytes."""


@dataclass(frozen=True)
class Desk:
    """What a stage needs of its job: where to note, whom to tell, what was asked."""

    request: Request
    device: torch.device
    journal: Journal
    parts: dict[str, Tensor]
    tell: Callable[[AnyEvent], None]
    warn: Callable[[str], None]
    progress: Callable[[str, float, int], None]


class TuneStage:
    """One run of the stage."""

    def __init__(self, desk: Desk, tuned: Checkpoint) -> None:
        self.desk, self.tuned = desk, tuned
        self.zero = 0.0
        self.fitted: dict[str, tuple[TensorRecord, dict[str, Tensor]]] = {}
        """What fitting has left of each tensor: an attempt that ran out of memory may have put tuned scales in some places."""

    def run(self, model: StagedModel, variant: Variant, at_once: int) -> dict[str, Any]:
        """Tune (if asked), and measure on the judging samples: base, before, after."""
        entry = self.desk.journal.read("tuned")
        if entry is not None:
            variant.restore(entry)
            if entry.extra["tuned"] is not None and entry.extra["kept"] == "fitted":
                self.desk.warn(NOT_LOWERED)
            return dict(entry.extra)
        self.fitted = self.fitted or {name: (variant.records[name], stored) for name, stored in variant.learnt.items()}
        for name, (record, stored) in self.fitted.items():
            variant.records[name], variant.learnt[name] = record, stored
        give_back_memory()                             # what fitting left free in between
        objective = "mse" if self.desk.request.recipe == "bitdelta" else self.desk.request.objective
        target = TensorWeights(model, self.tuned.view, self.desk.device)
        tuner = Tuner(model, variant, target, self.desk.parts["tune"], self.desk.device,
                      objective=objective, tokens_per_step=min(1024, at_once))
        steps = tuner.steps if tuner.size else 0
        total = 4 + steps
        self.desk.tell(StageStarted(stage="tune", total=steps, message=objective))

        def tick(done: float) -> Callable[[], None]:
            return lambda: self.desk.progress("tune", done, total)
        tuner.prepare(self.desk.parts["tune_held_out"], tick(1))
        give_back_memory()
        state = self._saved(tuner)
        if state is None:
            zero = tuner.base_loss(TensorWeights(model, variant.base_like, self.desk.device, tuner.known), tick(2))
            state = tuner.fresh(tuner.held_out_loss(torch.zeros_like(tuner.start), tick(3)))
            self.zero = zero
            self._save(state)
        self.desk.tell(TunePoint(step=state.step, total=steps, epoch=0, held_out=state.before))
        saved = time.monotonic()
        while state.step < steps:
            state = tuner.step(state, tick(4 + state.step))
            self.desk.tell(TunePoint(step=state.step, total=steps, epoch=0, training=state.losses[-1]))
            self.desk.progress("tune", 4 + state.step, total)
            if time.monotonic() - saved > SAVE_EVERY:
                self._save(state)
                saved = time.monotonic()
        after = tuner.held_out_loss(state.gains, tick(total)) if steps else state.before
        self.desk.tell(TunePoint(step=steps, total=steps, epoch=0, held_out=after))
        better = steps > 0 and after < state.before
        if better:
            tuner.finish(state)
        elif steps:
            self.desk.warn(NOT_LOWERED)
        fidelity = {"objective": objective, "base": self.zero, "fitted": state.before, "tuned": after if steps else None,
                    "variant": min(after, state.before), "kept": "tuned" if better else "fitted",
                    "tokens": int(self.desk.parts["tune_held_out"].numel()), "training": [round(x, 9) for x in state.losses]}
        sign = [variant.records[n] for n in tuner.names]
        self.desk.journal.write("tuned", sign, {r.name: variant.learnt[r.name] for r in sign}, fidelity)
        return fidelity

    def _saved(self, tuner: Tuner) -> TuneState | None:
        entry = self.desk.journal.read("tune-state")
        if entry is None or entry.tensors["state"]["gains"].numel() != tuner.size:
            return None
        self.zero = float(entry.extra["zero"])
        kept = {k: v.to(self.desk.device) for k, v in entry.tensors["state"].items()}
        return TuneState(kept["gains"], kept["first"], kept["second"], int(entry.extra["step"]),
                         [float(x) for x in entry.extra["losses"]], float(entry.extra["before"]))

    def _save(self, state: TuneState) -> None:
        self.desk.journal.write("tune-state", [], {"state": {"gains": state.gains, "first": state.first, "second": state.second}},
                           {"step": state.step, "losses": state.losses, "before": state.before, "zero": self.zero})

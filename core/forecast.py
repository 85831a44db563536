"""The size-against-fidelity curve of a pair before anything is fitted: probes, weighed, turned into expected KL.

The probe's second-order costs add up as if errors of different matrices knew nothing of each other; a fine-tune's changes
work together, so the true KL grows with a power of the share that remains. Two measured points fix it: the base itself
(share 1), and the probe's references everywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from core.artifact import weights_bytes
from core.budget import CANDIDATES, Prices, allocate, curve, is_item, remaining, weight_of
from core.checkpoint import Checkpoint
from core.codecs.contract import logical
from core.embeddings import fit_rows, head_moment, metric_for
from core.errors import BadOption
from core.outer_ways import WAYS, Outer, choices, cost_of, is_outer, stored, ways_of
from core.probe import Probe, probe, reference_change
from core.record import TensorRecord
from core.tune import Tuner
from core.variant import Variant
from core.weights import StagedModel, TensorWeights


class Forecast(msgspec.Struct, frozen=True, dict=True):
    """A probe and the law that turns remaining shares into KL. Plain data."""

    probe: Probe
    zero: float
    """KL(fine-tune || base) on held-out text, nats per token."""
    layers: float
    """The same with the fine-tune's own tensors wherever no budget decides (embeddings, norms)."""
    reference: float
    """The same as `layers` with the probe's references instead of nothing."""
    outer: dict[str, dict[str, float]]
    """By embedding and head, the same with the fine-tune's tensors all but this one, stored in each way (`core.outer_ways`)."""
    reference_share: float
    """The share that the references leave, by the probe."""

    @cached_property
    def _prices(self) -> Prices:
        return Prices(self.probe)

    @property
    def _most(self) -> float:
        """No variant is taken to be further away than the base; what is left out counts apart in the sum, but not in truth."""
        return self.zero if self.zero > 0 else math.inf

    @property
    def power(self) -> float:
        """KL = layers * share**power, through both measured points; 1 where they say nothing."""
        if not (0 < self.reference < self.layers and 0 < self.reference_share < 1):
            return 1.0
        return min(3.0, max(0.5, math.log(self.reference / self.layers) / math.log(self.reference_share)))

    def kl(self, share: float) -> float:
        """Expected KL in nats per token for the matrices' remaining share; before end-to-end tuning, which lowers it."""
        return self.layers * math.pow(min(1.0, max(0.0, share)), self.power)

    def _lines(self, records: Sequence[TensorRecord]) -> list[tuple[Outer, list[tuple[int, float]]]]:
        """For each choice of embeddings and head, (bytes of weight files, expected KL) of the matrices' best uses, ascending."""
        found = [(nbytes, self.kl(share)) for nbytes, share in curve(records, self._prices)]
        rest = [r for r in records if not is_item(r)]
        as_planned = weights_bytes(rest)
        return [(choice, [(nbytes + choice.nbytes - as_planned, min(self._most, kl + choice.kl)) for nbytes, kl in found])
                for choice in choices(rest, self.outer)]

    def points(self, records: Sequence[TensorRecord]) -> list[tuple[int, float]]:
        """(bytes of weight files, expected KL), ascending in bytes and falling."""
        kept: list[tuple[int, float]] = []
        for nbytes, kl in sorted(point for _, line in self._lines(records) for point in line):
            if not kept or kl < kept[-1][1]:
                kept.append((nbytes, kl))
        return kept

    def allocate(self, records: Sequence[TensorRecord], budget: int) -> tuple[TensorRecord, ...]:
        """Planned records of at most `budget` bytes of weight files that are expected to lose least.

        Raises `BadOption`, naming the smallest possible size, where the budget is below it.
        """
        ends = []
        for order, (choice, line) in enumerate(self._lines(records)):
            reached = [kl for nbytes, kl in line if nbytes <= budget]
            ends.append((reached[-1] if reached else math.inf, order, choice))
        return allocate(min(ends)[2].applied(records), self._prices, budget)

    def budget_for(self, records: Sequence[TensorRecord], quality: float) -> int:
        """The smallest size whose expected recovery, 1 - KL / KL of the base, is at least `quality`.

        Raises `BadOption`, naming the best there is, where no size reaches it.
        """
        points, most = self.points(records), (1 - quality) * self.zero
        at, step = next((i for i, (_, kl) in enumerate(points) if kl <= most), len(points)), 1
        while at < len(points):
            # The curve knows files' headers roughly: what it says must hold for a plan.
            if self.expected(records, self.allocate(records, points[at][0])) <= most or at == len(points) - 1:
                return points[at][0]
            at, step = min(at + step, len(points) - 1), 2 * step
        best = 1 - points[-1][1] / self.zero if self.zero > 0 else 1.0
        raise BadOption(f"A recovery of {quality} is more than any size is expected to reach here.",
                        f"The largest leaves {best:.4f}.", "Ask for less, or keep the fine-tune's checkpoint.")

    def expected(self, records: Sequence[TensorRecord], chosen: Sequence[TensorRecord]) -> float:
        """Expected KL of an allocation."""
        return min(self._most, self.kl(remaining(records, chosen, self._prices)) + cost_of(records, chosen, self.outer))


def parse_quality(text: str) -> float:
    """The recovery that is asked for; raises `BadOption` where it is no number above 0 and below 1."""
    try:
        quality = float(text)
    except ValueError:
        quality = math.nan
    if not 0 < quality < 1:
        if quality == 1:
            raise BadOption("1 is no recovery that can be asked for.", "It would be the fine-tune itself, every byte of it: no "
                            "delta is expected to reach that.", "Ask for less, such as 0.999, or keep the checkpoint.")
        raise BadOption(f"'{text}' is no recovery.", "It counts from 0, the base, to 1, the fine-tune; neither can be asked for.",
                        "Write it like 0.98.")
    return quality


def make_forecast(model: StagedModel, base: Checkpoint, tuned: Checkpoint, records: Sequence[TensorRecord],
                  parts: dict[str, Tensor], device: torch.device, *, seed: int = 0,
                  tick: Callable[[float], None] = lambda _: None) -> Forecast:
    """Probe a planned pair on its calibration tokens. `tick` is called with the share that is done."""
    variant = Variant(base, tuned, tuple(records))
    names = [r.name for r in records if is_item(r)]
    ids = torch.cat([parts["fit"], parts["fit_held_out"]])
    weights = TensorWeights(model, tuned.view, device)
    found, references = probe(model, variant, weights, ids, device, names, CANDIDATES, seed=seed,
                              tick=lambda done: tick(0.8 * done))
    tuner = Tuner(model, variant, weights, ids[:0], device)
    tuner.prepare(parts["tune_held_out"], lambda: tick(0.85))
    chosen = set(names)

    def approximate(name: str) -> Tensor:
        base = variant.base_like(name)
        if name not in references:
            return base
        change = logical(variant.records[name], reference_change(references[name], device))
        result = base.to(device, torch.float32, copy=True)
        result[:len(change)] += change                 # rows that the base lacks are left as they are
        return result

    def loss(read: Callable[[str], Tensor], done: float) -> float:
        return tuner.base_loss(TensorWeights(model, read, device), lambda: tick(done))
    zero = loss(variant.base_like, 0.88)
    others = any(r.codec != "same" and r.name not in chosen for r in records)
    layers = loss(lambda n: variant.base_like(n) if n in chosen else tuned.view(n), 0.92) if others else zero
    reference = loss(lambda n: approximate(n) if n in chosen else tuned.view(n), 0.96)
    outer = [r for r in records if is_outer(r)]
    metric = head_moment(model, weights, parts["fit"], device) if outer else None
    costs: dict[str, dict[str, float]] = {r.name: {} for r in outer}
    for i, way in enumerate(WAYS):
        for record in outer:
            if way not in ways_of(record):
                continue
            if way == "whole":
                costs[record.name][way] = 0.0
                continue
            if way != "left out":
                fit_rows(variant, stored(record, way), metric_for(record, metric, model), device, chosen=False)

            def read(name: str, own: str = record.name, how: str = way) -> Tensor:
                if name != own:
                    return tuned.view(name)
                return variant.base_like(name) if how == "left out" else variant.read(name)
            found_kl = loss(read, 0.96 + 0.03 * i / len(WAYS))
            if math.isfinite(found_kl):
                costs[record.name][way] = found_kl
    own = sum(weight_of(found, n) for n in names)
    left = sum(found.reference[n] for n in names)
    return Forecast(found, zero, layers, reference, costs, left / own if own > 0 else 1.0)


def load_forecast(folder: Path | None, key: str) -> Forecast | None:
    """A forecast that was kept under a key, or None."""
    if folder is None:
        return None
    try:
        digest, _, text = (folder / f"{key}.json").read_bytes().partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            return None
        return msgspec.json.decode(text, type=Forecast)
    except (OSError, msgspec.DecodeError):
        return None


def keep_forecast(folder: Path | None, key: str, found: Forecast) -> None:
    """Keep a forecast under a key; a folder that can't be written to keeps none."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = folder / f"{key}.partial"
        text = msgspec.json.encode(found)
        work.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        work.replace(folder / f"{key}.json")
    except OSError:
        return


def forecast_key(*parts: object) -> str:
    """A file name for whatever a forecast depends on."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
